"""Orphans that come to this process are reaped, and the ends of its own children are left to who waits."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator

import pytest
import trio

from cpg_trio.launch import _reaper
from tests.launch.launching import children

_SUBREAPER = 36


@pytest.fixture
def _subreaper() -> Iterator[None]:
    """Have this process get orphans, as process 1 does."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_SUBREAPER, 1, 0, 0, 0)
    yield
    prctl(_SUBREAPER, 0, 0, 0, 0)


def child(status: int) -> subprocess.Popen[bytes]:
    """Return a child of this process, which ends at once."""
    return subprocess.Popen(("sh", "-c", f"exit {status}"))


async def orphan() -> int:
    """Return an orphan that has come to this process, and ends at once."""
    found = await trio.run_process(("sh", "-c", "sleep 0.05 >&- & echo $!"), capture_stdout=True)
    return int(found.stdout)


@pytest.mark.usefixtures("_subreaper")
async def test_an_orphan_is_reaped_and_a_child_of_ones_own_is_not() -> None:
    own = child(7)
    async with trio.open_nursery() as nursery:
        with _reaper.own(own.pid):
            nursery.start_soon(_reaper.reap_strangers, 0.1)
            stranger = await orphan()
            with trio.fail_after(20):
                while stranger in children():  # noqa: ASYNC110 - nothing tells it
                    await trio.sleep(0.01)
            assert own.pid in children()
            assert own.wait() == 7
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("_subreaper")
async def test_who_waits_gets_the_end_of_a_child() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_reaper.reap_strangers)
        stranger = await orphan()
        for status in range(5):
            ended = await trio.run_process(("sh", "-c", f"exit {status}"), check=False)
            assert ended.returncode == status
        nursery.cancel_scope.cancel()
    assert stranger in children()
    _reaper._take(stranger)
