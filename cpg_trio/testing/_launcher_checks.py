"""What every launcher has to do. Each function is a check; its name says what holds."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import trio

from cpg_trio.host.supervision import Ended
from cpg_trio.testing import launched
from cpg_trio.testing._checks import at_each_step, expect
from cpg_trio.testing._launcher_check import (
    Output,
    Run,
    Tested,
    command_lines,
    lives,
    refusal,
    resources,
    until,
)

_ROUNDS = 4
_QUIET_S = 0.3
_AT_ONCE_S = 5.0


async def launchers_of_the_same_are_equal_and_others_are_not(tested: Tested) -> None:
    one, same = tested.launcher(launched.serves), tested.launcher(launched.serves)
    expect(one == same, f"two launchers of the same differ: {one!r}, {same!r}")
    expect(one != tested.launcher(launched.ticks), f"launchers of two plugins are equal: {one!r}")
    expect(re.fullmatch(r"[a-z][a-z-]*", one.kind), f"its kind is no word: {one.kind!r}")


async def a_plugin_that_is_started_comes_to_its_host_with_the_token_of_its_run(tested: Tested) -> None:
    async with tested.run(launched.serves) as run:
        await tested.until_healthy()
        expect(run.running.where, "it does not say where the run is")
        expect("\n" not in run.running.where, "where the run is has more than one line")


async def a_plugin_that_is_asked_to_stop_leaves_its_host_and_ends_in_order(tested: Tested) -> None:
    async with tested.run(launched.serves) as run:
        await tested.until_healthy()
        run.running.stop()
        run.running.stop()
        ended = await run.ended()
        expect(not ended.failed, f"a plugin that was stopped has failed: {ended}")
        expect(not tested.host.registry.providers(launched.SERVICE), "it has not unregistered")


async def one_that_is_asked_as_soon_as_it_is_started_ends_as_well(tested: Tested) -> None:
    async with tested.run(launched.serves) as run:
        run.running.stop()
        await run.ended()


async def who_waits_is_told_the_same_however_many_and_whenever(tested: Tested) -> None:
    told: list[Ended] = []

    async def wait(run: Run) -> None:
        told.append(await run.ended())

    async with tested.run(launched.ends) as run:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, run)
            nursery.start_soon(wait, run)
        await wait(run)
        run.running.stop()  # which is too late, and no error
    await wait(run)
    expect(len(set(map(str, told))) == 1, f"those who waited were told different things: {told}")
    expect(not told[0].failed, f"a plugin that has ended in order has failed: {told[0]}")
    expect(told[0].how, "how it has ended is not said")


async def a_crash_is_its_own_and_says_why(tested: Tested) -> None:
    async with tested.run(launched.crashes) as run:
        ended = await run.ended()
        expect(ended.failed, f"a plugin that has crashed has ended in order: {ended}")
        expect(ended.how, "how it has ended is not said")
        written = [ended.how, ended.detail, *run.output.lines]
        expect(any(launched.FAULT in line for line in written), f"why is not said: {ended}, {written}")
        expect("\n" not in ended.how + ended.detail, f"how it has ended has more than one line: {ended}")


async def what_does_not_exist_is_refused_in_one_line(tested: Tested) -> None:
    why = await refusal(tested, tested.make(f"{launched.__name__}:there_is_no_such_thing"))
    expect("there_is_no_such_thing" in why, f"it does not say what does not exist: {why!r}")
    expect("\n" not in why, f"why has more than one line: {why!r}")


async def all_lines_are_passed_on_in_their_order_as_they_are(tested: Tested) -> None:
    async with tested.run(launched.writes) as run:
        await run.output.until(f"line {launched.LINES - 1}. {launched.UNICODE}")
        lines = run.output.lines
    numbers = [int(found[1]) for line in lines if (found := re.search(r"line (\d+)\. ", line))]
    expect(numbers == list(range(launched.LINES)), f"lines are missing, or out of order: {numbers[:20]}")
    expect(not any("\n" in line or "\r" in line for line in lines), "lines have their ends")


async def when_the_block_is_left_nothing_of_it_goes_on(tested: Tested) -> None:
    for target in (launched.ticks, launched.ignores_stop):
        async with tested.run(target) as run:
            await tested.until_healthy()
            if target is launched.ignores_stop:
                run.running.stop()
            await run.output.until(launched.READY, 3)
        lines = len(run.output.lines)
        await trio.sleep(_QUIET_S)
        expect(len(run.output.lines) == lines, f"{target.__name__}: it writes on after its end")
        pid = run.running.pid
        expect(pid is None or not lives(pid), f"{target.__name__}: its process {pid} is still there")
        await run.ended()  # which is known now, and does not wait
        await tested.forget()


async def what_a_process_has_started_ends_with_it(tested: Tested) -> None:
    async with tested.run(launched.leaves_a_child) as run:
        child = int((await run.output.until("child ")).rpartition("child ")[2].rstrip("."))
        if run.running.pid is None:  # a task has no children; what it starts is its own to end
            os.kill(child, signal.SIGKILL)
            await trio.to_thread.run_sync(os.waitpid, child, 0)
            return
        expect(lives(child), "the child has not lived")
    await until(lambda: not lives(child), "the child of a process has ended with it", _AT_ONCE_S)


class _OwnError(Exception):
    """Of who has started a run."""


async def who_leaves_with_an_error_gets_that_error(tested: Tested) -> None:
    pids: list[int | None] = []

    async def leave() -> None:
        async with tested.run(launched.ticks) as run:
            await run.output.until(launched.READY)
            pids.append(run.running.pid)
            raise _OwnError

    try:
        await leave()
    except _OwnError:
        expect(pids[0] is None or not lives(pids[0]), "its process is still there")
    else:
        expect(condition=False, why="the error is swallowed")


async def two_runs_of_one_launcher_do_not_know_each_other(tested: Tested) -> None:
    async with tested.run(launched.serves) as stays:
        await tested.until_healthy()
        async with tested.run(launched.serves, 2) as goes:
            await tested.until_healthy(2)
            goes.running.stop()
            await goes.ended()
        async with tested.run(launched.crashes, 2) as crashes:
            await crashes.ended()
        expect(tested.healthy(), "the other has left its host")
        with trio.move_on_after(_QUIET_S):
            expect(condition=False, why=f"the other has ended: {await stays.running.wait()}")


async def the_token_is_on_no_command_line(tested: Tested) -> None:
    async with tested.run(launched.serves):
        await tested.until_healthy()
        shown = [line for line in command_lines() if tested.token.encode() in line]
        expect(not shown, "the enrolment token is on a command line")
    expect(tested.token not in repr(tested.launcher(launched.serves)), "a launcher shows the token")


async def who_is_cancelled_at_any_step_leaves_nothing_behind(tested: Tested) -> None:
    output = Output()

    async def launch() -> None:
        async with tested.launcher(launched.serves).launch(tested.assignment(output.add)):
            pass

    before = resources()

    async def is_clean() -> None:
        await tested.forget()
        await until(lambda: resources() <= before, f"{before} descriptors and tasks again", _AT_ONCE_S)

    await at_each_step(launch, is_clean)


async def nothing_is_left_of_many_runs(tested: Tested) -> None:
    async def one(target: Callable[..., object]) -> None:
        async with tested.run(target) as run:
            if target is launched.ticks:
                await run.output.until(launched.READY)
            else:
                await run.ended()
        await tested.forget()

    await one(launched.crashes)  # what is made once, such as threads, is there now
    before = resources()
    for target in (launched.crashes, launched.ends, launched.ticks) * _ROUNDS:
        await one(target)
    after = resources()
    await until(lambda: resources() <= before, f"{before} descriptors and tasks again, not {after}")
