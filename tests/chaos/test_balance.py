"""Calls go where there is room: shares of the calls that replicas get, through the host and directly."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from cpg_trio.rpc import Code
from tests.chaos.fleet import Consumer, Fleet, fleet
from tests.chaos.trial import tell

CONSUMERS = 30
PER_S = 6.0  # calls of each consumer
USUAL_S, SLOW_S = 0.01, 0.2  # a replica becomes 20 times slower
SETTLED_S = 5.0  # after which a new replica has its share
WINDOW_S = 5.0
MEANT_FOR_ALL = 10  # calls of a consumer, in which it finds out who fails
CALLS = 260  # of each consumer: a trial now and then is under one per cent of them
FREQUENT_PER_S = 25.0

ways = pytest.mark.parametrize("way", ["routed", "direct"])


@asynccontextmanager
async def in_steady_load(running: Fleet, per_s: float) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for consumer in running.consumers:
            nursery.start_soon(consumer.load, per_s)
        yield
        nursery.cancel_scope.cancel()


@ways
async def test_a_replica_that_joins_gets_its_share_and_one_that_becomes_slow_gets_little(
    way: str,
) -> None:
    async with fleet(2, CONSUMERS, direct=way == "direct") as running:
        for replica in running.replicas.values():
            replica.delay_s = USUAL_S
        async with in_steady_load(running, PER_S):
            await trio.sleep(1)
            third = await running.add_replica("third")
            third.delay_s = USUAL_S
            joined = trio.current_time()
            await trio.sleep(SETTLED_S + WINDOW_S)
            share = running.share("third", joined + SETTLED_S)
            tell(f"5 to 10 s after it has joined, the third replica has {share:.1%} of the calls")
            third.delay_s = SLOW_S
            slow_since = trio.current_time()
            await trio.sleep(WINDOW_S)
            slow_share = running.share("third", slow_since)
            tell(f"20 times slower, it has {slow_share:.1%}")
    assert 0.25 <= share <= 0.4
    assert slow_share < 0.1
    assert set(running.ended) == {"ok"}


@pytest.mark.parametrize(
    ("way", "code"),
    [
        ("routed", Code.UNAVAILABLE),
        ("routed", Code.UNKNOWN),
        ("direct", Code.INTERNAL),
        ("direct", Code.DATA_LOSS),
    ],
)
async def test_a_replica_that_fails_every_call_gets_hardly_any_of_each_consumer(way: str, code: Code) -> None:
    async with (
        fleet(3, 10, direct=way == "direct", failing=code) as running,
        trio.open_nursery() as nursery,
    ):
        for consumer in running.consumers:
            nursery.start_soon(consumer.load, FREQUENT_PER_S, CALLS)
    shares = Counter({c.name: _share_after_the_first(c, running, "replica-0") for c in running.consumers})
    tell(f"shares of its calls that a consumer gave to the one that fails: {shares.most_common()}")
    assert max(shares.values()) < 0.01
    assert sum(replica.since(0) for replica in running.replicas.values()) == running.calls


def _share_after_the_first(consumer: Consumer, running: Fleet, name: str) -> float:
    given = {
        name: sum(a.consumer == consumer.name and a.number >= MEANT_FOR_ALL for a in replica.arrivals)
        for name, replica in running.replicas.items()
    }
    return given[name] / sum(given.values())
