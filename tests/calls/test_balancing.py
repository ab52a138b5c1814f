"""Who gets a call: by name of the balancer, and over thousands of calls in virtual time."""

from __future__ import annotations

import random
from collections import Counter

import attrs
import pytest

from cpg_trio.calls import CallPolicy
from cpg_trio.calls.balancing import BALANCERS, Balancer, balancer
from cpg_trio.calls.load import Load
from cpg_trio.rpc import HttpRequest
from tests.calls.simulation import Fleet, Replica, share


@attrs.frozen(eq=False)
class One:
    """A candidate."""

    id: str
    sequence: int
    load: Load = attrs.field(factory=Load)


def ones(count: int) -> list[One]:
    return [One(f"p-{sequence}", sequence) for sequence in range(1, count + 1)]


def made(name: str) -> Balancer[One]:
    return balancer(name, random.Random(1))


@pytest.mark.parametrize("name", BALANCERS)
@pytest.mark.parametrize("key", ["", "k"])
def test_who_is_alone_is_chosen(name: str, key: str) -> None:
    alone = ones(1)
    assert made(name).choose(alone, key, 0) is alone[0]


def test_first_chooses_the_one_that_came_first() -> None:
    three, first = ones(3), made("first")
    assert {first.choose(three, "", 0).id for _ in range(9)} == {"p-1"}


def test_round_robin_chooses_each_in_turn_and_skips_none_when_they_come_and_go() -> None:
    four, turns = ones(4), made("round-robin")
    assert [turns.choose(four[:3], "", 0).sequence for _ in range(4)] == [1, 2, 3, 1]
    assert [turns.choose([four[0], *four[2:]], "", 0).sequence for _ in range(4)] == [3, 4, 1, 3]


@pytest.mark.parametrize("name", ["random", "least-loaded"])
@pytest.mark.parametrize("count", [2, 3, 20])
def test_those_that_are_alike_get_as_many_calls(name: str, count: int) -> None:
    several, chooser = ones(count), made(name)
    calls = Counter(chooser.choose(several, "", 0).id for _ in range(1000 * count))
    assert all(850 < calls[one.id] < 1150 for one in several)


def test_least_loaded_chooses_the_less_busy_one_most_of_the_time() -> None:
    (idle, busy), chooser = two, _ = ones(2), made("least-loaded")
    busy.load.in_flight = 3
    calls = Counter(chooser.choose(two, "", 0).id for _ in range(1000))
    assert 900 < calls[idle.id] < 980  # sixteen chances to one


def test_an_unknown_balancer_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'fastest'.*least-loaded, first"):
        made("fastest")
    with pytest.raises(ValueError, match="balance"):
        CallPolicy(balance="fastest")


# Consistent hash


def owners(several: list[One], keys: int = 3000) -> dict[str, str]:
    chooser = made("consistent-hash")
    return {f"key-{key}": chooser.choose(several, f"key-{key}", 0).id for key in range(keys)}


@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_hash_spreads_keys_and_moves_those_of_the_one_that_leaves_only(count: int) -> None:
    several = ones(count)
    before = owners(several)
    assert all(0.8 < calls * count / 3000 < 1.2 for calls in Counter(before.values()).values())
    after = owners(several[1:])
    moved = {key for key in before if before[key] != after[key]}
    assert moved == {key for key, owner in before.items() if owner == "p-1"}


def test_a_hash_is_the_same_for_all_callers_whatever_the_order_of_the_providers() -> None:
    several = ones(5)
    again = [One(one.id, 10 - one.sequence) for one in reversed(several)]
    assert owners(several, 100) == owners(again, 100)
    assert [*owners(ones(3), 5).values()] == ["p-1", "p-2", "p-1", "p-1", "p-2"]  # in each process


def test_a_key_moves_to_the_next_one_while_its_own_is_far_busier_than_the_others() -> None:
    several, chooser = ones(4), made("consistent-hash")
    own = chooser.choose(several, "hot", 0)
    own.load.in_flight = 15  # no one is known to be busy below that
    assert chooser.choose(several, "hot", 0) is own
    own.load.in_flight = 30
    assert chooser.choose(several, "hot", 0) is not own
    for one in several:
        one.load.in_flight = 20
    own.load.in_flight = 30
    assert chooser.choose(several, "hot", 0) is own


def test_the_key_of_a_call_is_a_header_or_what_a_function_returns() -> None:
    request = HttpRequest("POST", "/t/M", [("accept", "*"), ("X-Tenant", "blue")], b"abc")
    assert CallPolicy().key_of(request) == ""
    assert CallPolicy(balance_key="x-TENANT").key_of(request) == "blue"
    assert CallPolicy(balance_key="x-other").key_of(request) == ""
    assert CallPolicy(balance_key=lambda request: request.url).key_of(request) == "/t/M"
    with pytest.raises(ValueError, match="x-"):
        CallPolicy(balance_key="authorization")


# Thousands of calls

RATES = pytest.mark.parametrize("rate", [2, 25])


@RATES
def test_a_third_provider_has_its_share_of_the_calls_after_five_seconds(rate: float) -> None:
    fleet = Fleet(30, rate, [Replica("a"), Replica("b")])
    assert 0.4 < share(fleet.run(10), "a") < 0.6
    fleet.join(Replica("c"))
    assert share(fleet.run(1), "c") < 0.2
    fleet.run(4)
    assert 0.25 < share(fleet.run(5), "c") < 0.4


@RATES
def test_a_provider_that_becomes_slow_gets_few_calls_and_its_share_again_when_it_recovers(
    rate: float,
) -> None:
    fleet = Fleet(30, rate, [Replica("a"), Replica("b"), Replica("c")])
    fleet.run(10)
    slow = fleet.replicas["c"]
    slow.latency_s *= 20
    fleet.run(5)
    calls = fleet.run(20)
    assert 0 < share(calls, "c") < 0.05
    slow.latency_s /= 20
    fleet.run(50)
    assert 0.25 < share(fleet.run(10), "c") < 0.4


def test_providers_that_differ_a_little_share_the_calls() -> None:
    fleet = Fleet(10, 20, [Replica("a", 0.004), Replica("b", 0.006)])
    assert 0.2 < share(fleet.run(30), "b") < 0.45


@pytest.mark.parametrize(("rate", "for_s"), [(2, 300), (22, 12)])
def test_a_provider_that_fails_each_call_gets_under_one_percent(rate: float, for_s: float) -> None:
    fleet = Fleet(30, rate, [Replica("a"), Replica("b"), Replica("c", failing=True)])
    fleet.run(for_s)
    for names in fleet.by_caller():
        assert names[10:].count("c") < 0.01 * len(names[10:])
    ends = {(member.calls, member.in_flight) for group in fleet.groups for member in group.members}
    assert all(calls and in_flight <= 2 for calls, in_flight in ends)


def test_calls_wait_little_at_providers_with_room_for_few() -> None:
    """Four providers with room for two calls each, at 80 % of what they can do: a choice by chance queues."""
    latencies = {}
    for balance in ("random", "least-loaded"):
        fleet = Fleet(1, 1280, [Replica(name, room=2) for name in "abcd"], policy=CallPolicy(balance=balance))
        queued = 0
        for _ in range(200):
            fleet.run(0.05)
            queued += sum(len(replica.waiting) for replica in fleet.replicas.values())
        latencies[balance] = queued
    assert latencies["least-loaded"] < latencies["random"] / 2
