"""`cpg-trio up`: its plugins are killed, stopped and multiplied, and so is it; nothing is left of them.

UP_CYCLES says how often what is repeated is repeated: a thousand times to find what leaks slowly.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import stat
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest
import trio

from cpg_trio.demo import __main__ as demo
from tests.chaos.platforms import END_S, LEASE_S, Process, Up, below, platform, processes
from tests.chaos.trial import tell
from tests.plugin.running import unused_port
from tests.processes import assert_no_traceback, running

CYCLES = int(os.environ.get("UP_CYCLES", "4"))
EXAMPLE = Path(__file__).parents[2] / "examples" / "shortener"
SHORTENER = ("logger", "storage", "api")

PROGRAMS = """
    [host]
    [plugins.quiet]
    command = ["sleep", "600"]
    ready = "running"
    environment = {{ {{mark}} }}
    stop = "2s"

    [plugins.program]
    command = ["sh", "-c", '''
    {script}
    ''']
    ready = "running"
    environment = {{ {{mark}} }}
    restart = {{ first = "0.05s", most = "0.2s" }}
    stop = "1s"
"""
"""A platform of two programs that are no plugins: one that sleeps, and one that does something."""


def programs(script: str) -> str:
    return dedent(PROGRAMS.format(script=dedent(script)))


def example(folder: Path) -> str:
    """Copy the example into a folder; return its file, with ports of the test, and a mark for each plugin."""
    canary = folder / "canary.sh"
    shutil.copy(EXAMPLE / "canary.sh", canary)
    canary.chmod(canary.stat().st_mode | stat.S_IXUSR)
    text = (EXAMPLE / "platform.toml").read_text().replace("8083", str(unused_port()))
    text = text.replace("environment = { ", "environment = { {mark}, ")
    for line in ('"cpg_trio.demo.logger:logger_plugin"', '"cpg_trio.demo.api:api_plugin"', '["./canary.sh"]'):
        assert line in text
        text = text.replace(line, f"{line}\nenvironment = {{ {{mark}} }}\nrestart = {{ first = '0.1s' }}")
    return text


async def test_the_example_comes_back_whoever_is_killed_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    async with platform(tmp_path, example(tmp_path)) as up:
        await up.until_ready(*SHORTENER, "canary")
        for name in (*SHORTENER, "canary"):
            await up.kill(name)
            await up.reaps()
        tell("SIGSTOP to storage, which hangs then")
        await up.kill("storage", signal.SIGSTOP)
        await up.until_ready(*SHORTENER, "canary")
        assert await up.end(signal.SIGINT) == 0
        order = [d["plugin"] for d in up.told if d.get("state") == "stopped"]
        assert order.index("api") < order.index("storage") < order.index("logger")


async def test_what_crashes_in_a_loop_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    async with platform(tmp_path, programs("echo the disk is full; exit 3")) as up:
        await up.until(lambda: up.last("program").get("crash_loop"), "a crash loop")
        runs = up.last("program")["runs"]
        await up.until(lambda: up.last("program")["runs"] > runs, "it is tried again")
        assert [d for d in up.told if d.get("crash_loop") and "exit status 3" in d["why"]]
        assert up.last("quiet")["state"] == "ready"
        await up.reaps()
        assert await up.end() == 0


BOMB = """
    # A hundred processes, half of them in sessions of their own, whose parents have ended.
    n=0
    while [ $n -lt 50 ]; do
      (setsid sleep 600 &)
      (sh -c 'trap "" TERM HUP INT; sleep 600' &)
      n=$((n + 1))
    done
    echo all are there
    {end}
"""


@pytest.mark.parametrize(
    "end",
    [pytest.param("exit 1", id="that ends"), pytest.param("sleep 600", id="that stays")],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["stopped", "killed"])
async def test_no_child_of_a_fork_bomb_outlives_it_or_the_host(
    tmp_path: Path, end: str, number: signal.Signals
) -> None:
    async with platform(tmp_path, programs(BOMB.format(end=end))) as up:
        await up.until(lambda: up.last("program").get("runs", 0) >= (3 if "exit" in end else 1), "it runs")
        await up.until(lambda: len(up.left()) > 50, "there are many")
        await up.end(number)
        await up.leaves_nothing()


async def test_a_program_that_leaves_its_group_closes_its_output_and_becomes_a_daemon_ends_as_well(
    tmp_path: Path,
) -> None:
    script = """
        exec python3 - <<'PROGRAM'
        import os, signal, time
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if os.fork():
            os.closerange(0, 64)
            time.sleep(600)
        os.setsid()
        if os.fork():
            os._exit(0)
        os.setpgid(0, 0)
        os.closerange(0, 64)
        time.sleep(600)
        PROGRAM
    """
    async with platform(tmp_path, programs(script)) as up:
        await up.until(lambda: len(up.left()) >= 5, "the daemon is there")
        assert await up.end() == 0
        await up.leaves_nothing()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_a_guardian_that_is_ended_by_force_leaves_nothing_of_its_run(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with platform(tmp_path, programs("(setsid sleep 600 &) ; sleep 600")) as up:
        await up.until_ready("program", "quiet")
        run = Process.at(up.last("program")["pid"])
        assert run
        of_run = [run, *below(run.parent)]
        os.kill(run.parent, number)
        if number is signal.SIGKILL:
            await up.until_ready("program", runs=2)
            await up.until(lambda: not any(each.is_there for each in of_run), "its run is gone", END_S)
        assert await up.end() == 0
        await up.leaves_nothing()


FLOOD = "while :; do echo 'the same line again and again, which nobody wants to read'; done"


async def test_a_flood_of_output_costs_the_others_nothing(tmp_path: Path) -> None:
    async with platform(tmp_path, programs(FLOOD), environment={"LOG_LEVEL": "error"}) as up:
        await up.until_ready("quiet", "program")
        await trio.sleep(2)
        memory = up.memory_bytes()
        await trio.sleep(2)
        assert up.memory_bytes() - memory < 20 * 2**20
        await up.kill("quiet")
        assert await up.end() == 0


def chain(length: int = 5) -> str:
    """Return a platform of programs that start one after the other, each with a child out of its group."""
    text, after = "[host]\n", "[]"
    for number in range(length):
        text += f"""
            [plugins.p{number}]
            command = ["sh", "-c", "(setsid sleep 600 &) ; sleep 0.05; exec sleep 600"]
            ready = "running"
            after = {after}
            environment = {{ {{mark}} }}
            stop = "2s"
        """
        after = f'["p{number}"]'
    return dedent(text)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
async def test_a_platform_that_is_ended_at_any_moment_of_its_start_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    for step in range(CYCLES):
        folder = tmp_path / str(step)
        folder.mkdir()
        async with platform(folder, chain()) as up:
            await _some_moment(up, 2 * step)
            status = await up.end(number)
            assert status == (-number if number is signal.SIGKILL else 0), up.story()
            await up.leaves_nothing()


async def _some_moment(up: Up, step: int) -> None:
    """Wait until it has told of so many changes, and a little longer."""
    with trio.move_on_after(20):
        await up.until(lambda: len(up.told) >= max(1, step), f"{step} changes", 20)
    await trio.sleep(random.uniform(0, 0.05))


async def test_a_signal_before_anything_has_started_leaves_nothing(tmp_path: Path) -> None:
    for step in range(CYCLES):
        async with platform(tmp_path, chain()) as up:
            await trio.sleep(step * 1.2 / CYCLES)
            status = await up.end(signal.SIGINT)
            # Before it runs anything of this project, the interpreter ends in ways of its own.
            is_ours = "cpg_trio" in up.errors
            assert status in {0, 128 + signal.SIGINT} or not is_ours, (status, up.story())
            assert "Traceback" not in up.errors or not is_ours, up.story()
            await up.leaves_nothing()


async def test_a_second_signal_ends_at_once_what_does_not_stop(tmp_path: Path) -> None:
    script = "trap '' TERM INT; while :; do sleep 600; done"
    text = programs(script).replace('stop = "1s"', 'stop = "600s"')
    async with platform(tmp_path, text) as up:
        await up.until_ready("program", "quiet")
        up.process.send_signal(signal.SIGINT)
        await up.until(lambda: up.last("program").get("state") == "stopping", "it is being stopped")
        assert await up.end(signal.SIGINT) == 128 + signal.SIGINT
        await up.leaves_nothing()


async def test_a_host_that_is_killed_at_any_moment_of_a_replacement_leaves_nothing(tmp_path: Path) -> None:
    slow = "sleep 0.2; trap 'sleep 0.2; exit 0' TERM; while :; do sleep 0.05; done"
    for step in range(CYCLES):
        folder = tmp_path / str(step)
        folder.mkdir()
        async with platform(folder, programs(slow)) as up:
            await up.until_ready("program", "quiet")
            socket = {"ADMIN_SOCKET": str(folder / "host.sock")}
            async with running("cpg_trio", "replace", "program", "--yes", environment=socket):
                known = set(up.seen)
                await up.until(partial(up.seen.difference, known), "the new run has a process")
                await trio.sleep(step * 0.5 / CYCLES)
                await up.end(signal.SIGKILL)
            await up.leaves_nothing()


async def test_a_plugin_is_replaced_and_scaled_and_taken_away_and_leaves_nothing(tmp_path: Path) -> None:
    async with platform(tmp_path, programs("exec sleep 600")) as up:
        await up.until_ready("program", "quiet")
        first = Process.at(up.last("program")["pid"])
        assert first
        for command in (("replace", "program"), ("scale", "program", "3"), ("restart", "program")):
            await _admin(up, *command, "--yes")
        assert not first.is_there
        await up.until(lambda: _sleepers(up) == 4, "all are there")
        await _admin(up, "remove", "program", "--yes")
        assert _sleepers(up) == 1
        await up.reaps()
        assert await up.end() == 0


def _sleepers(up: Up) -> int:
    return sum(each.command.split(" ")[0].endswith("sleep") for each in below(up.pid))


async def test_a_change_of_the_file_touches_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "platform.toml"
    async with platform(tmp_path, programs("exec sleep 600")) as up:
        await up.until_ready("program", "quiet")
        quiet, program = up.last("quiet")["pid"], up.last("program")["pid"]
        file.write_text(file.read_text().replace("exec sleep 600", "exec sleep 601"))
        up.process.send_signal(signal.SIGHUP)
        await up.until(
            lambda: [d for d in up.told if d.get("state") == "stopped" and d["plugin"] == "program"],
            "the program is replaced",
        )
        assert Process.at(program) is None
        file.write_text(file.read_text().replace("[plugins.program]", "[plugins."))
        up.process.send_signal(signal.SIGHUP)
        await up.until(lambda: "platform.toml:" in up.errors, "what is wrong is said, and where")
        assert up.last("quiet")["pid"] == quiet
        assert await up.end() == 0


async def test_a_hangup_while_it_starts_is_no_end(tmp_path: Path) -> None:
    async with platform(tmp_path, example(tmp_path)) as up:
        await up.until(lambda: up.told, "it has begun")
        for _ in range(10):
            up.process.send_signal(signal.SIGHUP)
            await trio.sleep(0.1)
        await up.until_ready(*SHORTENER, "canary")
        assert up.last("logger")["runs"] == 1
        assert await up.end() == 0


async def test_a_hangup_while_it_stops_ends_nothing(tmp_path: Path) -> None:
    async with platform(tmp_path, programs("exec sleep 600")) as up:
        await up.until_ready("program", "quiet")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hang_up_until_the_end, up)
            assert await up.end() == 0
            nursery.cancel_scope.cancel()


async def _hang_up_until_the_end(up: Up) -> None:
    while up.process.poll() is None:
        await trio.sleep(0.005)
        up.process.send_signal(signal.SIGHUP)


WITNESS = """
import os, signal, sys, time
if sys.argv[1] == "apart":
    os.setsid()
everything = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
signal.pthread_sigmask(signal.SIG_BLOCK, everything)
print("here", flush=True)
while (got := signal.sigtimedwait(everything, 600)) is not None:
    print("signal", got.si_signo, "from", got.si_pid, flush=True)
"""


async def test_no_other_process_is_touched(tmp_path: Path) -> None:
    (tmp_path / "witness.py").write_text(WITNESS)
    environment = {"PYTHONPATH": str(tmp_path)}
    async with (
        running("witness", "beside", environment=environment) as beside,
        running("witness", "apart", environment=environment) as apart,
        platform(tmp_path, programs("sleep 0.05; exit 1")) as up,
    ):
        for witness in (beside, apart):
            await witness.until("here")
        await up.until(lambda: up.last("program").get("runs", 0) > CYCLES, "many restarts")
        await up.end(signal.SIGKILL)
        await up.leaves_nothing(2 * LEASE_S)
        for witness in (beside, apart):
            assert witness.process.returncode is None
            assert witness.output == "here\n"


async def test_with_processes_the_demo_tells_the_same_story(tmp_path: Path) -> None:
    async with running("cpg_trio.demo", "--once", "--processes", cwd=tmp_path) as run:
        assert await run.end() == 0
        await run.until("host has stopped")
    for line in (
        r"host    storage-plugin-[0-9a-f]{4}… reports HEALTHY",
        r"router  api-plugin-[0-9a-f]{4}… → storage-plugin-[0-9a-f]{4}… /Store \(service: storage\)",
        r"logger  \[LOG\] STORE [0-9a-f]{8} → " + re.escape(demo.EXAMPLE_URL) + "\n",
        r"✓ " + re.escape(demo.EXAMPLE_URL) + r" ⇄ [0-9a-f]{8}",
    ):
        assert re.search(line, run.output), run.output
    assert_no_traceback(run.output)


async def test_secrets_are_in_the_environment_of_their_plugin_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "of-file").write_text("secret-of-a-file\n")
    (tmp_path / "of-file").chmod(0o600)
    text = programs('test "$ONE" = secret-of-a-file && test "$TWO" = secret-of-the-host && exec sleep 600')
    given = """
        [plugins.program.secrets]
        ONE = { file = "of-file" }
        TWO = { environment = "OF_HOST" }
    """
    async with platform(tmp_path, text + dedent(given), environment={"OF_HOST": "secret-of-the-host"}) as up:
        await up.until_ready("program", "quiet")
        has_them = Process.at(up.last("program")["pid"])
        assert has_them
        assert b"secret-of-a-file" in has_them.environment()
        for each in processes():
            assert "secret-of-" not in each.command
            if each != has_them and each.pid != up.pid:
                assert b"secret-of-a-file" not in each.environment(), each
        assert b"secret-of-" not in Process.at(up.last("quiet")["pid"]).environment()  # type: ignore[union-attr]
        said = [await _admin(up, *command) for command in SHOWING]
        assert "program" in said[0]
        assert await up.end() == 0
        for text in (*said, up.errors, str(up.told)):
            assert "secret-of-" not in text


SHOWING = (
    ("plugins", "program"),
    ("plugins", "--json"),
    ("config", "--json"),
    ("events", "--json"),
    ("logs", "program"),
    ("apply", "--plan", "--json"),
)


async def _admin(up: Up, *command: str) -> str:
    """Return what a command of an operator prints."""
    async with running(
        "cpg_trio", *command, environment={"ADMIN_SOCKET": str(up.folder / "host.sock")}
    ) as run:
        await run.end()
        return await run.whole_output()
