"""Reap the children that this process has not started: as process 1 of a container it gets all orphans.

A child of this process's own is left to whoever waits for it. Its end is looked at without taking it
(`WNOWAIT`), and only those ends are taken for which nobody has come in a while. That cannot be seen at once:
the kernel does not tell an orphan that came from a child of one's own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import trio

from cpg_trio._nursery import open_plain_nursery

_own: set[int] = set()


@contextmanager
def own(pid: int) -> Iterator[None]:
    """Leave a child alone within the block, however long its end is not taken."""
    _own.add(pid)
    try:
        yield
    finally:
        _own.discard(pid)


@asynccontextmanager
async def reaping_orphans() -> AsyncIterator[None]:
    """Reap orphans within the block, if this is process 1: of a container, say."""
    async with open_plain_nursery() as nursery:
        if os.getpid() == 1:
            nursery.start_soon(reap_strangers)
        yield
        nursery.cancel_scope.cancel()


async def reap_strangers(wait_s: float = 5.0) -> None:
    """Reap what others leave to this process, until this is cancelled. Linux only.

    `wait_s`: seconds from the end of a child in which whoever has started it in this process has to wait for
    it; guardians are exempt.
    """
    ended: dict[int, float] = {}
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        while True:
            ended = _reap(ended, wait_s)
            with trio.move_on_after(wait_s if ended else float("inf")):
                async for _ in signals:
                    break


def _reap(before: dict[int, float], wait_s: float) -> dict[int, float]:
    """Reap those that have been there for long enough; return the others, and since when they have."""
    now, ended = trio.current_time(), {}
    for pid in _children():
        if pid in _own or not _has_ended(pid):
            continue
        since = before.get(pid, now)
        if now - since >= wait_s:
            _take(pid)
        else:
            ended[pid] = since
    return ended


def _children() -> Iterator[int]:
    for children in Path("/proc/self/task").glob("*/children"):
        try:
            yield from map(int, children.read_text().split())
        except OSError:  # the thread has ended, and its children are another's
            continue


def _has_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _take(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
