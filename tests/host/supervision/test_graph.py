"""The graph of what plugins provide and require."""

from __future__ import annotations

import random

import pytest

from cpg_trio.host.supervision import Graph, GraphError, PluginSpec, Registered
from tests.host.supervision.specs import spec


def _problems(*specs: PluginSpec, registered: tuple[Registered, ...] = ()) -> list[str]:
    try:
        Graph(specs, registered).check()
    except GraphError as error:
        return list(error.problems)
    return []


def test_a_plugin_waits_for_the_providers_of_what_it_requires_and_for_those_it_comes_after() -> None:
    graph = Graph(
        [
            spec("api", "api", "storage", after="migrate"),
            spec("storage-1", "storage", "logger"),
            spec("logger", "logger"),
            spec("migrate"),
        ]
    )
    graph.check()
    assert graph.waits_for("api") == ("migrate", "storage-1")
    assert graph.waits_for("storage-1") == ("logger",)
    assert graph.waited_for_by("logger") == ("storage-1",)
    order = graph.start_order()
    assert order.index("logger") < order.index("storage-1") < order.index("api")
    assert order.index("migrate") < order.index("api")


def test_what_a_spec_does_not_say_is_taken_from_what_has_registered() -> None:
    specs = [spec("api", None, None), spec("logs", None, None, self_id="logger")]
    assert Graph(specs).waits_for("api") == ()
    registered = [Registered("api", ("api",), ("logger",)), Registered("logger", ("logger",))]
    assert Graph(specs, registered).waits_for("api") == ("logs",)


def test_a_plugin_that_requires_what_it_provides_waits_for_nobody() -> None:
    specs = [spec("a", "x", "x"), spec("b", "x", "x")]
    graph = Graph(specs)
    assert graph.waits_for("a") == graph.waits_for("b") == ()
    graph.check(lambda *_: True)


def test_a_cycle_is_named_with_its_whole_path_its_reasons_and_its_lines() -> None:
    problems = _problems(
        spec("api", "api", "storage", line=3),
        spec("store", "storage", "logger", line=8),
        spec("logger", "logger", after="api", line=14),
    )
    (problem,) = problems
    assert problem == (
        "a cycle, in which each waits for the next: api → store → logger → api "
        "(api requires storage of store, store requires logger, logger comes after api) "
        "(platform.toml:3, platform.toml:8, platform.toml:14)"
    )


def test_all_cycles_are_named_that_have_no_wait_in_common() -> None:
    problems = _problems(*(spec(a, after=b) for a, b in ("ab", "ba", "cd", "dc")))
    assert len(problems) == 2
    assert "a → b → a" in problems[0]
    assert "c → d → c" in problems[1]


def test_those_that_wait_for_each_other_are_stopped_in_any_order_and_others_in_theirs() -> None:
    graph = Graph([spec("a", after="b"), spec("b", after="a"), spec("c", after="b")])
    assert graph.waited_for_by("a") == ()
    assert graph.waited_for_by("b") == ("c",)
    assert graph.start_order().index("b") < graph.start_order().index("c")


def test_a_service_that_nobody_provides_is_named_unless_somebody_may_still_come_who_does() -> None:
    api = spec("api", "api", "storage", line=3)
    assert _problems(api) == ["api (platform.toml:3) requires storage, which nobody provides"]
    assert not _problems(api, spec("thumbs", None, None))
    assert not _problems(api, registered=(Registered("other", ("storage",)),))
    known = Registered("thumbs", ("thumbs",))
    assert _problems(api, spec("thumbs", None, None), registered=(known,))
    assert not _problems(spec("api", "api", None), registered=(Registered("api", (), ("storage",)),))


def test_a_plugin_without_replicas_provides_nothing_and_requires_nothing() -> None:
    idle = spec("store", "storage", "disk", replicas=0, line=9)
    (problem,) = _problems(spec("api", "api", "storage", after="store"), idle)
    assert problem == "api requires storage, which nobody provides: store (platform.toml:9) has no replicas"
    assert Graph([spec("api", after="store"), idle]).waits_for("api") == ()


def test_two_that_provide_the_same_are_named_unless_the_policy_lets_them() -> None:
    specs = [spec("a", "x", line=1), spec("b", "x", self_id="a", line=4)]
    (problem,) = _problems(*specs)
    assert problem.startswith("a (platform.toml:1) and b (platform.toml:4) provide x, which only one may")
    Graph(specs).check(lambda self_id, service_type: (self_id, service_type) == ("a", "x"))
    (problem,) = _problems(specs[0], registered=(Registered("stranger", ("x",)),))
    assert "stranger (which has registered it already)" in problem


def test_what_a_plugin_of_the_same_id_has_registered_is_its_own() -> None:
    assert not _problems(spec("a", "x"), registered=(Registered("a", ("x",)),))


def test_an_unknown_name_in_after_the_own_name_and_a_name_that_is_there_twice_are_problems() -> None:
    assert _problems(spec("a", after="b a", line=1), spec("c", line=2), spec("c", line=3)) == [
        "a (platform.toml:1) comes after itself: remove its own name from `after`",
        "2 plugins are named c (platform.toml:2, platform.toml:3): give each its own name",
        "a (platform.toml:1) comes after b, but no plugin has that name",
    ]


@pytest.mark.parametrize("seed", range(50))
def test_a_graph_is_refused_if_and_only_if_it_has_a_cycle(seed: int) -> None:
    rng = random.Random(seed)
    names = [f"p{number}" for number in range(rng.randint(1, 12))]
    after = {name: rng.sample(names, rng.randint(0, min(2, len(names)))) for name in names}
    after = {name: [other for other in others if other != name] for name, others in after.items()}
    graph = Graph([spec(name, after=" ".join(after[name])) for name in names])

    def reaches_itself(name: str) -> bool:
        seen, todo = set[str](), list(after[name])
        while todo:
            if (each := todo.pop()) not in seen:
                seen.add(each)
                todo += after[each]
        return name in seen

    if any(map(reaches_itself, names)):
        with pytest.raises(GraphError):
            graph.check()
    else:
        graph.check()
        order = graph.start_order()
        assert sorted(order) == sorted(names)
        assert all(order.index(other) < order.index(name) for name in names for other in after[name])
