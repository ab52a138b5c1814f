"""Random histories: whatever plugins, launchers and operators do, what must always hold does."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import trio
from hypothesis import given, settings, strategies as st
from trio.testing import MockClock

from cpg_trio.host.supervision import (
    Assignment,
    GraphError,
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
        self.wrong = list[str]()
        self.launches = set[tuple[str, int]]()
        """The replicas that have been launched since they were added, or that operators have restarted."""
        self.replaced = set[str]()
        """The plugins of which there may have been several runs with one number, of which one takes over."""
        self.plugins.changes.add(self.changed)

    def launcher(self, name: str) -> Scripts:
        made = Scripts(self.memory, (name,), draw=lambda: random_script(self.rng))
        made.on_launch = self.launched
        return made

    def spec(self, name: str, added: Sequence[str]) -> PluginSpec:
        there = [each for each in NAMES[: NAMES.index(name)] if each in added or each in self.plugins.specs()]
        return PluginSpec(
            name=name,
            launcher=self.launchers[name],
            after=tuple(each for each in there if self.rng.random() < 0.5),
            replicas=self.rng.randint(1, 2),
            start_s=10.0,
            stop_s=self.rng.choice((0.0, 2.0)),
            restart=RestartPolicy(when=self.rng.choice(list(Restart)), first_s=1.0, most_s=8.0, reset_s=20.0),
        )

    def changed(self, replica: Replica) -> None:
        what = f"{replica.plugin}/{replica.number} is {replica.phase.value}"
        if replica.phase is Phase.READY:
            self.was_ready.add(replica.plugin)
            self.must(replica.runtime_id, f"{what} without an identity")
        if replica.phase in (Phase.STOPPED, Phase.FAILED, Phase.BACKING_OFF):
            self.must(not replica.runtime_id, f"{what}, and has an identity")
            if replica.plugin in self.replaced:
                return
            alive = self.launchers[replica.plugin].alive
            runs = [run for run in alive if run.assignment.replica == replica.number]
            self.must(not runs, f"{what}, and its run is still there")

    def launched(self, assignment: Assignment) -> None:
        specs, run = self.plugins.specs(), (assignment.plugin, assignment.replica)
        if run not in self.launches:
            after = {
                each for each in specs[assignment.plugin].after if each in specs and specs[each].replicas
            }
            self.must(self.was_ready >= after, f"{assignment.plugin} has not waited for {after}")
        self.launches.add(run)
        self.tokens.append(assignment.enrolment_token)

    def must(self, holds: object, otherwise: str) -> None:
        """Note what does not hold. Where this is called, an error would count as that of a launcher."""
        if not holds:
            self.wrong.append(otherwise)

    async def operate(self) -> None:
        """Do one thing that an operator can do."""
        name, plugins = self.rng.choice(NAMES), self.plugins
        with (
            suppress(ManageError, LaunchError, GraphError),
            trio.move_on_after(self.rng.choice((0.5, 5.0, 100.0))),
        ):
            if name not in plugins.specs():
                await plugins.add(*self.added(name), wait=self.rng.random() < 0.5)
            elif self.rng.random() < 0.3:
                self.launches |= {(name, number) for number in range(1, 4)}
                self.replaced.add(name)
                await self.rng.choice((plugins.replace, self.scale))(name)
            elif self.rng.random() < _PLUGINS_STAY:
                self.launches |= {(name, 1), (name, 2)}  # an operator waits for nobody
                await plugins.restart(name)
            elif not any(name in each.after for each in plugins.specs().values()):
                await plugins.remove(name)
                self.must(not self.launchers[name].alive, f"{name} runs, and is removed")

    async def scale(self, name: str) -> None:
        await self.plugins.scale(name, self.rng.randint(0, 3))

    def added(self, name: str) -> Sequence[PluginSpec]:
        """Return what is added: a plugin, and often all others that are not there."""
        others = [each for each in NAMES if each not in self.plugins.specs()]
        names = others if self.rng.random() < 0.7 else [name]
        for each in names:
            self.was_ready.discard(each)
            self.launches -= {(each, 1), (each, 2)}
        return [self.spec(each, names) for each in names]

    async def operators(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(self.operate)
                await trio.sleep(self.rng.expovariate(1 / 8.0))

    def check_end(self) -> None:
        assert not self.wrong
        assert not any(launcher.alive for launcher in self.launchers.values())
        for name, launcher in self.launchers.items():
            assert name in self.replaced or set(launcher.most_alive.values()) <= {1}
        assert len(set(self.tokens)) == len(self.tokens)
        assert len(self.memory.identities) == 0
        assert not self.memory.registry.plugins()


async def in_good_order(history: History) -> None:
    with trio.fail_after(10_000.0):
        async with history.memory.serving():
            await history.operators()
    assert not history.plugins.specs()


async def in_the_middle(history: History) -> None:
    with trio.fail_after(10_000.0):
        async with history.memory.plugins.running("http://127.0.0.1:1"), trio.open_nursery() as nursery:
            nursery.start_soon(history.operators)
            await trio.sleep(history.rng.uniform(0.0, 60.0))
            await history.plugins.stop()
            history.must(not history.plugins.specs(), "there are plugins after the stop")
            history.must(not any(each.alive for each in history.launchers.values()), "runs are left")


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


ENDS = (in_good_order, in_the_middle, by_force, while_it_stops)


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from(ENDS))
def test_there_is_one_run_of_a_replica_and_none_is_left(
    seed: int, end: Callable[[History], Awaitable[None]]
) -> None:
    history = History(random.Random(seed))
    trio.run(end, history, clock=MockClock(autojump_threshold=0))
    history.check_end()
