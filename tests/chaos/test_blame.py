"""A breaker opens on who fails, and not on a healthy provider for what its host or its caller lacks."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
import trio

from cpg_trio.rpc import Code
from tests.chaos.fleet import fleet
from tests.chaos.test_host_starved import FILES, crowd
from tests.chaos.test_once import Stage, stage
from tests.chaos.trial import tell
from tests.descriptors import none_left
from tests.shortener_processes import MODULES

WAYS = ["routed", "direct"]
CALLERS = 6
MOST_FAILURES = 3  # in a row open a breaker


def _ejections(it: Stage) -> list[int]:
    """Return how often breakers have opened, by caller."""
    for caller in it.callers:
        tell(f"{caller.dependency.statistics()}")
    return [caller.dependency.statistics().ejections for caller in it.callers]


async def test_a_host_without_descriptors_opens_no_breaker(tmp_path: Path) -> None:
    host = ("tests.abuse.confinement", *MODULES["host"])
    async with stage(tmp_path, ("first", "third"), CALLERS, direct=False, host=host, files=FILES) as it:
        numbers = count()
        async with crowd(it.system.port):
            for _ in range(10):
                await trio.sleep(0.1)
                async with trio.open_nursery() as nursery:
                    for caller in it.callers * 10:  # more at once than the host has connections for
                        nursery.start_soon(caller.call, next(numbers))
        assert _ejections(it) == [0] * CALLERS


@pytest.mark.parametrize("way", WAYS)
async def test_a_caller_without_descriptors_opens_no_breaker(tmp_path: Path, way: str) -> None:
    # None behind the cutter, which is in this process, and would hold up and cut calls without descriptors.
    async with stage(tmp_path, ("second", "third"), CALLERS, direct=way == "direct") as it:
        numbers = count()
        for _ in range(3):
            with none_left():
                async with trio.open_nursery() as nursery:
                    for caller in it.callers * 5:
                        nursery.start_soon(caller.call, next(numbers))
        assert _ejections(it) == [0] * CALLERS
        ended = [how for caller in it.callers for how in caller.ended.values()]
        assert set(ended) <= {"ok", "unavailable", "resource_exhausted", "deadline_exceeded"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "code", [Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.PERMISSION_DENIED, Code.RESOURCE_EXHAUSTED]
)
async def test_errors_that_are_the_callers_open_no_breaker(way: str, code: Code) -> None:
    async with fleet(2, 2, direct=way == "direct") as running:
        for replica in running.replicas.values():
            replica.error = code
        for consumer in running.consumers:
            consumer.ended.clear()
            for _ in range(20):
                await consumer.call()
            assert consumer.dependency.statistics().ejections == 0
    assert set(running.ended) == {code.value}


@pytest.mark.parametrize("way", WAYS)
async def test_a_deadline_that_is_too_short_opens_no_breaker(way: str) -> None:
    async with fleet(2, 2, direct=way == "direct") as running:
        for replica in running.replicas.values():
            replica.delay_s = 5.0
        for consumer in running.consumers:
            consumer.ended.clear()
            for _ in range(10):
                await consumer.call(timeout_s=0.02)
            assert consumer.dependency.statistics().ejections == 0
        for replica in running.replicas.values():
            replica.delay_s = 0.0
    assert set(running.ended) == {Code.DEADLINE_EXCEEDED.value}


@pytest.mark.parametrize("way", WAYS)
async def test_a_provider_that_fails_is_out_and_the_others_are_not(way: str) -> None:
    async with fleet(3, 4, direct=way == "direct", failing=Code.INTERNAL) as running:
        for consumer in running.consumers:
            for _ in range(60):
                await consumer.call()
            statistics = consumer.dependency.statistics()
            (failing, *well) = sorted(statistics.providers, key=lambda p: -p.failures)
            assert 0 < failing.failures <= MOST_FAILURES
            assert [(p.failures, p.state.value) for p in well] == [(0, "closed")] * 2
