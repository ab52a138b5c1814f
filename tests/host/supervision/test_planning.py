"""Plans: what they say, and the order in which they are carried out."""

from __future__ import annotations

import json

import attrs
import pytest

from cpg_trio.host.supervision import (
    ApplyError,
    ChangeKind,
    GraphError,
    OutdatedPlanError,
    Plan,
    PluginSpec,
    Registered,
    RestartPolicy,
    apply,
    plan,
)
from tests.host.supervision.specs import NoLauncher, spec


@attrs.define
class _Done:
    """Notes what is done; what is named in `fails` fails."""

    notes: list[str] = attrs.field(factory=list)
    fails: str = ""

    def _note(self, text: str, actor: str = "me", reason: str = "because") -> None:
        assert (actor, reason) == ("me", "because")
        if text == self.fails:
            raise ValueError("it is broken")
        self.notes.append(text)

    async def add(self, *specs: PluginSpec, actor: str = "", reason: str = "") -> None:
        self._note(f"add {' '.join(each.name for each in specs)}", actor, reason)

    async def remove(self, name: str, *, force: bool = False, actor: str = "", reason: str = "") -> None:
        assert force
        self._note(f"remove {name}", actor, reason)

    async def replace(
        self, name: str, spec: PluginSpec | None = None, *, actor: str = "", reason: str = ""
    ) -> None:
        assert spec is not None
        self._note(f"replace {name}", actor, reason)

    async def scale(self, name: str, replicas: int, *, actor: str = "", reason: str = "") -> None:
        self._note(f"scale {name} {replicas}", actor, reason)

    def adjust(self, spec: PluginSpec) -> None:
        self._note(f"adjust {spec.name}")


def _plan(before: list[PluginSpec], after: list[PluginSpec], *registered: Registered) -> Plan:
    return plan({each.name: each for each in before}, after, registered)


async def _carried_out(made: Plan, fails: str = "") -> list[str]:
    done = _Done(fails=fails)
    await apply(made, made.before, done, actor="me", reason="because")
    return done.notes


def _command(*command: str, **environment: str) -> NoLauncher:
    return NoLauncher(command, environment)


def test_plugins_with_equal_specs_are_not_touched_wherever_they_are_written() -> None:
    made = _plan([spec("a", line=1)], [spec("a", line=7)])
    assert (made.changes, made.unchanged) == ((), ("a",))
    assert str(made) == "1 unchanged: a"
    assert str(_plan([], [])) == "nothing to do"


def test_a_plan_names_what_is_different_and_never_its_value() -> None:
    before = spec("a", launcher=_command("a", SECRET="old", SAME="x"), stop_s=1)
    after = spec("a", launcher=_command("b", SECRET="new", MORE="y", SAME="x"), stop_s=2, replicas=3)
    (change,) = _plan([before], [after]).changes
    assert change.kind is ChangeKind.REPLACE
    assert set(change.differs) == {
        "launcher.command",
        "launcher.environment.SECRET",
        "launcher.environment.MORE",
        "stop_s",
        "replicas",
    }
    assert str(change).endswith("1 → 3 replicas)")
    assert "new" not in str(change)


def test_what_runs_know_nothing_of_is_changed_in_place() -> None:
    before, after = spec("a", stop_s=1), spec("a", stop_s=2, restart=RestartPolicy(first_s=3))
    made = _plan([before], [after])
    assert str(made) == "= adjust a (restart.first_s, stop_s)"
    (scaled,) = _plan([before], [attrs.evolve(after, replicas=2)]).changes
    assert str(scaled) == "# scale a (restart.first_s, stop_s, 1 → 2 replicas)"


def test_a_plan_is_data_for_json() -> None:
    made = _plan([spec("a"), spec("b")], [spec("a"), spec("c", replicas=2)])
    assert json.loads(json.dumps(made.data())) == {
        "changes": [
            {"change": "add", "plugin": "c", "differs": [], "replicas": {"before": 0, "after": 2}},
            {"change": "remove", "plugin": "b", "differs": [], "replicas": {"before": 1, "after": 0}},
        ],
        "unchanged": ["a"],
    }
    assert str(made) == "+ add c (2 replicas)\n- remove b\n1 unchanged: a"


async def test_what_others_stand_on_is_added_and_replaced_first_and_removed_last() -> None:
    new = _command("new")
    made = _plan(
        [
            spec("api", "api", "storage cache"),
            spec("storage", "storage"),
            spec("cache", "cache"),
            spec("old", "old", "older"),
            spec("older", "older"),
        ],
        [
            spec("api", "api", "storage queue", launcher=new),
            spec("storage", "storage", launcher=new),
            spec("worker", "work", "queue"),
            spec("queue", "queue", replicas=2),
        ],
    )
    assert await _carried_out(made) == [
        "add queue worker",
        "replace storage",
        "replace api",
        *("remove old", "remove older", "remove cache"),
    ]


async def test_who_provides_what_an_added_plugin_is_to_provide_goes_first() -> None:
    made = _plan([spec("old", "x"), spec("idle")], [spec("new", "x")])
    assert await _carried_out(made) == ["remove old", "add new", "remove idle"]


async def test_a_plugin_with_another_id_is_removed_and_added() -> None:
    made = _plan([spec("a", "x")], [spec("a", "x", self_id="b")])
    assert await _carried_out(made) == ["remove a", "add a"]
    assert str(made) == "- remove a\n+ add a (self_id)"


async def test_carrying_out_stops_at_what_fails_and_says_what_is_done() -> None:
    made = _plan(
        [spec("a"), spec("b"), spec("z")],
        [spec("a", stop_s=5), spec("b", launcher=_command("new")), spec("c"), spec("d")],
    )
    with pytest.raises(ApplyError) as failed:
        await _carried_out(made, fails="replace b")
    assert str(failed.value) == (
        "could not replace b: it is broken; done before that: adjust a, add c, add d; not done: remove z"
    )
    with pytest.raises(ApplyError, match="could not add c, add d: it is broken"):
        await _carried_out(made, fails="add c d")


async def test_a_plan_of_other_plugins_than_those_that_run_is_refused() -> None:
    made = _plan([spec("a")], [spec("a", stop_s=3)])
    done = _Done()
    with pytest.raises(OutdatedPlanError):
        await apply(made, {"a": spec("a", stop_s=2)}, done)
    assert not done.notes


def test_plugins_that_cannot_run_together_are_refused_before_anything_is_done() -> None:
    with pytest.raises(GraphError, match="a requires x, which nobody provides"):
        _plan([], [spec("a", requires="x")])


def test_what_a_plugin_has_registered_that_is_removed_provides_nothing_to_the_others() -> None:
    with pytest.raises(GraphError, match="a requires x, which nobody provides"):
        _plan([spec("b", "x")], [spec("a", requires="x")], Registered("b", ("x",)))
    _plan([], [spec("a", requires="x")], Registered("b", ("x",)))
