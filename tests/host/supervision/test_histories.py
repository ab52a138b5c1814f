"""Random histories: whatever plugins, launchers and operators do, what must always hold does."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from hypothesis import given, settings, strategies as st
from trio.testing import MockClock

from cpg_trio.host.supervision import (
    Assignment,
    LaunchError,
    ManageError,
    Phase,
    PluginSpec,
    Replica,
    Restart,
    RestartPolicy,
)
from tests.host.supervision.memory import Memory, Script, Scripts

NAMES = ("a", "b", "c")
_PLUGINS_STAY = 0.7


def random_script(rng: random.Random) -> Script:
    """Return what one run does: most are well, and each thing that can go wrong is likely."""

    def some(likely: float, most_s: float) -> float | None:
        return rng.uniform(0.0, most_s) if rng.random() < likely else None

    return Script(
        starts_in=some(0.3, 12.0) or 0.0,
        refuses="it is refused" if rng.random() < 0.1 else "",
        breaks=rng.choice(("enter", "wait", "leave")) if rng.random() < 0.1 else "",
        comes_in=some(0.9, 3.0),
        self_id="another" if rng.random() < 0.05 else "",
        dies_in=some(0.4, 60.0),
        failed=rng.random() < 0.7,
        hangs_in=some(0.2, 60.0),
        revoked_in=some(0.2, 60.0),
        comes_again=rng.random() < 0.5,
        obeys_in=some(0.7, 3.0),
        leaves_in=some(0.2, 2.0) or 0.0,
    )


class History:
    """A host whose plugins do what chance says, and operators who do the same."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.memory = Memory()
        self.plugins = self.memory.plugins
        self.launchers = {name: self.launcher(name) for name in NAMES}
        self.was_ready = set[str]()
        self.tokens = list[str]()
        self.restarted = dict[str, bool]()
        self.plugins.changes.add(self.changed)

    def launcher(self, name: str) -> Scripts:
        made = Scripts(self.memory, (name,), draw=lambda: random_script(self.rng))
        made.on_launch = self.launched
        return made

    def spec(self, name: str) -> PluginSpec:
        before = NAMES[: NAMES.index(name)]
        return PluginSpec(
            name=name,
            launcher=self.launchers[name],
            after=tuple(each for each in before if each in self.plugins.specs() and self.rng.random() < 0.5),
            replicas=self.rng.randint(1, 2),
            start_s=10.0,
            stop_s=self.rng.choice((0.0, 2.0)),
            restart=RestartPolicy(when=self.rng.choice(list(Restart)), first_s=1.0, most_s=8.0, reset_s=20.0),
        )

    def changed(self, replica: Replica) -> None:
        if replica.phase is Phase.READY:
            self.was_ready.add(replica.plugin)
            assert replica.runtime_id
        if replica.phase in (Phase.STOPPED, Phase.FAILED, Phase.BACKING_OFF):
            # What has ended has ended: no run, no identity.
            alive = self.launchers[replica.plugin].alive
            assert not [run for run in alive if run.assignment.replica == replica.number]
            assert not replica.runtime_id
            assert replica.pid is None

    def launched(self, assignment: Assignment) -> None:
        spec = self.plugins.specs()[assignment.plugin]
        if not self.restarted.get(assignment.plugin):
            assert self.was_ready.issuperset(spec.after)
        self.tokens.append(assignment.enrolment_token)

    async def operate(self) -> None:
        """Do one thing that an operator can do."""
        name, plugins = self.rng.choice(NAMES), self.plugins
        with suppress(ManageError, LaunchError), trio.move_on_after(self.rng.choice((0.5, 5.0, 100.0))):
            if name not in plugins.specs():
                self.was_ready.discard(name)
                self.restarted[name] = False
                await plugins.add(self.spec(name), wait=self.rng.random() < 0.5)
            elif self.rng.random() < _PLUGINS_STAY:
                self.restarted[name] = True  # by an operator, who waits for nobody
                await plugins.restart(name)
            elif not any(name in each.after for each in plugins.specs().values()):
                await plugins.remove(name)
                assert not self.launchers[name].alive

    async def operators(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(self.operate)
                await trio.sleep(self.rng.expovariate(1 / 8.0))

    def check_end(self) -> None:
        assert not any(launcher.alive for launcher in self.launchers.values())
        assert all(most <= 1 for each in self.launchers.values() for most in each.most_alive.values())
        assert len(set(self.tokens)) == len(self.tokens)
        assert len(self.memory.identities) == 0
        assert not self.memory.registry.plugins()


async def in_good_order(history: History) -> None:
    with trio.fail_after(10_000.0):
        async with history.memory.serving():
            await history.operators()
    assert not history.plugins.specs()


async def by_force(history: History) -> None:
    with trio.fail_after(10_000.0), trio.move_on_after(history.rng.uniform(0.0, 60.0)):
        async with history.memory.plugins.running("http://127.0.0.1:1"):
            await history.operators()
            await trio.sleep_forever()


async def while_it_stops(history: History) -> None:
    """The first signal, and the second one before all has ended."""
    with trio.fail_after(10_000.0):
        async with history.memory.plugins.running("http://127.0.0.1:1"):
            with trio.move_on_after(history.rng.uniform(0.0, 60.0)):
                await history.operators()
            with trio.move_on_after(history.rng.uniform(0.0, 3.0)):
                await history.plugins.stop()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((in_good_order, by_force, while_it_stops)))
def test_there_is_one_run_of_a_replica_and_none_is_left(
    seed: int, end: Callable[[History], Awaitable[None]]
) -> None:
    history = History(random.Random(seed))
    trio.run(end, history, clock=MockClock(autojump_threshold=0))
    history.check_end()
