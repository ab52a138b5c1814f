"""What others lose when a plugin goes."""

from __future__ import annotations

import random

import pytest

from cpg_trio.host.supervision import Impact, LessProvided, Loser, Member, RemovalRefusedError, impact_of
from cpg_trio.versions import Requirement


def _member(
    plugin: str, provides: str = "", requires: str = "", uses: str = "", *, gets_calls: bool = True
) -> Member:
    """Return a member; names are separated by blanks, a version comes after a colon."""
    types = {each.partition(":")[0]: each.partition(":")[2] or "1.0.0" for each in provides.split()}
    accepts = {each.partition(":")[0]: each.partition(":")[2] for each in requires.split()}
    return Member(
        plugin=plugin,
        provides=types,
        gets_calls=gets_calls,
        requires=tuple(accepts),
        uses=tuple(uses.split()),
        accepts={name: Requirement.parse("", version) for name, version in accepts.items()},
    )


def _impact(plugin: str, *members: Member, runs: int | None = None) -> Impact:
    """Return the impact if all runs of a plugin go, or the first `runs` of them."""
    return impact_of(plugin, [each for each in members if each.plugin == plugin][:runs], members)


def test_those_that_require_what_is_lost_go_down_and_then_those_that_require_them() -> None:
    impact = _impact(
        "logger",
        _member("logger", "log"),
        _member("storage", "storage", "log"),
        _member("api", "api", "storage"),
        _member("other", "other"),
    )
    assert impact.services == (LessProvided("log", {}),)
    assert impact.losers == (
        Loser(plugin="storage", requires=("log",), step=1),
        Loser(plugin="api", later=("storage",), step=2),
    )
    assert impact.order == ["logger", "storage", "api"]
    assert impact.leaves_somebody_without
    assert list(impact.lines()) == [
        "log: nobody is left who provides it",
        "storage is left without log, which it requires",
        "api requires storage, whose providers lack something then",
    ]


def test_a_service_with_another_provider_is_not_lost_and_nobody_goes_down() -> None:
    members = [_member("a", "x"), _member("b", "x"), _member("b", "x"), _member("c", "", "x")]
    impact = _impact("a", *members)
    assert impact.services == (LessProvided("x", {"b": 2}),)
    assert (impact.losers, impact.leaves_somebody_without) == ((), False)
    assert list(impact.lines()) == ["x: still provided by b (2)"]


def test_a_provider_that_gets_no_calls_is_no_other_provider() -> None:
    impact = _impact("a", _member("a", "x"), _member("b", "x", gets_calls=False), _member("c", "", "x"))
    assert [each.plugin for each in impact.losers] == ["c"]


def test_a_provider_of_a_version_that_is_not_accepted_is_no_other_provider() -> None:
    members = [
        _member("a", "x:2.0.0"),
        _member("b", "x:1.0.0"),
        _member("c", "", "x:>=2"),
        _member("d", "", "x"),
    ]
    impact = _impact("a", *members)
    assert impact.services == (LessProvided("x", {"b": 1}),)
    assert [each.plugin for each in impact.losers] == ["c"]
    assert _impact("b", *members).losers == ()


def test_one_of_several_replicas_is_missed_by_nobody() -> None:
    members = [_member("a", "x"), _member("a", "x"), _member("c", "", "x")]
    impact = _impact("a", *members, runs=1)
    assert (impact.services, impact.losers) == ((LessProvided("x", {"a": 1}),), ())
    assert (impact.runs, impact.left) == (1, 1)
    assert _impact("a", *members).leaves_somebody_without


def test_who_does_without_a_service_loses_it_and_stays_up() -> None:
    impact = _impact("a", _member("a", "x"), _member("b", "y", uses="x"), _member("c", "", "y"))
    assert impact.losers == (Loser(plugin="b", uses=("x",)),)
    assert (impact.order, impact.leaves_somebody_without) == (["a"], False)


def test_a_plugin_that_provides_what_it_requires_keeps_it() -> None:
    assert _impact("a", _member("a", "x"), _member("b", "x y", "x")).losers == ()


def test_two_that_require_each_other_go_down_only_if_one_loses_something_else() -> None:
    pair = [_member("a", "x", "y z"), _member("b", "y", "x")]
    impact = _impact("c", _member("c", "z w"), _member("d", "", "w"), *pair)
    assert impact.order == ["c", "a", "d", "b"]
    assert _impact("c", _member("c", "w"), _member("d", "", "w"), *pair).order == ["c", "d"]


def test_a_replica_that_does_not_run_is_left_without_too() -> None:
    waiting = Member(plugin="b", requires=("x",))
    assert _impact("a", Member(plugin="a", provides={"x": ""}), waiting).leaves_somebody_without


def test_a_refused_removal_says_who_requires_what() -> None:
    impact = _impact("a", _member("a", "x y"), _member("b", "", "x y"), _member("c", "", "y"))
    text = "a is not removed: b requires x and y; c requires y, and nobody else provides that"
    assert str(RemovalRefusedError(impact)) == text


@pytest.mark.parametrize("seed", range(50))
def test_what_goes_down_is_what_goes_down_when_each_stops_that_lacks_something(seed: int) -> None:
    rng = random.Random(seed)
    types = [f"t{number}" for number in range(6)]
    members = [
        _member(
            f"p{max(0, number - 2)}",
            " ".join(rng.sample(types, rng.randint(0, 2))),
            " ".join(rng.sample(types, rng.randint(0, 2))),
        )
        for number in range(12)
    ]

    def lacks(member: Member, there: list[Member]) -> set[str]:
        return {each for each in member.requires if not any(each in other.provides for other in there)}

    lacked = {member: lacks(member, members) for member in members}
    there = [member for member in members if member.plugin != "p0"]
    down = list[set[str]]()
    while newly := [member for member in there if lacks(member, there) - lacked[member]]:
        there = [member for member in there if member not in newly]
        down.append({member.plugin for member in newly})
    impact = _impact("p0", *members)
    for step, plugins in enumerate(down, start=1):
        assert {each.plugin for each in impact.losers if each.step == step} == plugins
    assert max((each.step for each in impact.losers), default=0) == len(down)
