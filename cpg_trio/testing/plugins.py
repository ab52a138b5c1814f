"""Checks of a plugin: what it goes through in its life must not harm it, or anybody else."""

from __future__ import annotations

import math
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from pathlib import Path

import trio
import trio.testing

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.rpc import Service
from cpg_trio.testing import _plugin_checks
from cpg_trio.testing._checks import checks_of, run_check
from cpg_trio.testing._plugin_check import MakePlugin, TestedPlugin

_TIMEOUT_S = 3600.0  # of one check, virtual time
_IDLE_S = 0.001  # real seconds between two looks at what is at work, or waits for no moment
# With threads at work virtual time is slower, as what they do takes real time.
_IDLE_WITH_THREADS_S = 0.01
_MOST_WITH_THREADS_S = 1.0  # of virtual time that passes then
_AT_WORK = frozenset("RD")  # states of proc(5)
_IDLE_THREAD = "Trio thread"  # how Trio names those that it keeps for later


def check_plugin(make_plugin: MakePlugin, fakes: Mapping[str, Service] | None = None) -> None:
    """Put a plugin through its paces, with a host in memory and in virtual time. It runs Trio itself.

    `make_plugin` returns the plugin, or an async context manager of it: a new one each time. `fakes` are
    implementations of the services that it requires, by service type.

    The plugin starts before its host, loses it and comes back; loses each dependency and gets it back; stops
    in order, also with a stream open; and is cancelled at many of its steps.

    Raises: AssertionError, which says which check has failed, and why.
    """
    tested = TestedPlugin(make_plugin, fakes or {})
    for check in checks_of(_plugin_checks, TestedPlugin):
        clock = trio.testing.MockClock()
        trio.run(_run, clock, partial(run_check, check, tested, _TIMEOUT_S), clock=clock)


async def _run(clock: trio.testing.MockClock, check: Callable[[], Awaitable[None]]) -> None:
    async with open_plain_nursery() as nursery:
        others = {each for each in threading.enumerate() if not each.name.startswith(_IDLE_THREAD)}
        nursery.start_soon(_pass_time, clock, others)
        await check()
        nursery.cancel_scope.cancel()


async def _pass_time(clock: trio.testing.MockClock, others: Collection[threading.Thread]) -> None:
    """Have virtual time pass whenever nothing happens. `others` are threads that are not the plugin's."""
    limiter = trio.to_thread.current_default_thread_limiter()
    idle_s = 0.0
    while True:
        await trio.testing.wait_all_tasks_blocked(idle_s)
        wait_s = trio.lowlevel.current_statistics().seconds_to_next_deadline
        threads = [each for each in threading.enumerate() if each not in others]
        if any(not each.name.startswith(_IDLE_THREAD) for each in threads):
            await trio.testing.wait_all_tasks_blocked(_IDLE_WITH_THREADS_S)
            wait_s = min(trio.lowlevel.current_statistics().seconds_to_next_deadline, _MOST_WITH_THREADS_S)
        is_busy = limiter.borrowed_tokens or any(map(_is_at_work, threads))
        has_passed = 0 < wait_s < math.inf and not is_busy
        idle_s = 0.0 if has_passed else _IDLE_S
        if has_passed:
            clock.jump(wait_s)


def _is_at_work(thread: threading.Thread) -> bool:
    """Whether a thread computes, or waits for a disk; False where the system does not say it."""
    try:
        stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text(encoding="ascii")
    except OSError:  # it has ended, or the system is another one
        return False
    return stat.rpartition(")")[2].split()[0] in _AT_WORK
