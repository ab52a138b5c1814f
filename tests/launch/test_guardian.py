"""Hostile children, and hosts and guardians that are killed: nothing is left, and nobody else is hit."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from cpg_trio.host.supervision import Ended, LaunchError
from cpg_trio.launch import _guarded, guardian
from cpg_trio.launch.process import ProcessLauncher
from tests.descriptors import none_left
from tests.launch.launching import (
    Written,
    assignment,
    children,
    is_alive,
    marked,
    nothing_left,
    parent_of,
    until_none_marked,
)

# Each has a token of the pipe for each fork, so that there is an end to it.
BOMB = """
import os, time
tokens, fill = os.pipe()
os.set_blocking(tokens, False)
os.write(fill, b"x" * 150)
print("ready", flush=True)
while True:
    try:
        os.read(tokens, 1)
    except BlockingIOError:
        time.sleep(60)
    if not os.fork():
        os.setsid()
"""
# Never the same process for long, and never the child of anybody for long.
MOVER = """
import os, time
print("ready", flush=True)
until = time.monotonic() + 30
while time.monotonic() < until:
    if os.fork():
        os._exit(0)
    os.setsid()
"""


@pytest.fixture
def mark() -> str:
    return f"mark-{uuid4().hex}"


@pytest.fixture
def bystander(mark: str) -> Iterator[int]:
    """A child of this process that has nothing to do with any plugin."""
    environment = {**os.environ, "PLUGIN_RUN_ID": "of another run", "HOST_URL": "http://127.0.0.1:8080"}
    with nothing_left(), subprocess.Popen(("sleep", "120"), env=environment) as process:
        yield process.pid
        assert is_alive(process.pid)
        process.kill()


def python(program: str, mark: str) -> ProcessLauncher:
    return ProcessLauncher((sys.executable, "-S", "-c", program), environment={"MARK": mark})


@pytest.mark.parametrize("program", [BOMB, MOVER], ids=["bomb", "mover"])
async def test_what_forks_without_a_pause_ends_with_the_block(
    program: str, mark: str, bystander: int
) -> None:
    written = Written()
    if program is MOVER:  # whose first process ends at once, which by itself would end the run
        program = (
            f"import os\nif os.fork():\n    os.waitpid(-1, 0)\n    import time; time.sleep(60)\n{program}"
        )
    async with python(program, mark).launch(assignment(written.add, plugin=mark)):
        await written.line("ready")
        await trio.sleep(0.05)
        assert marked(mark)
    assert not marked(mark)
    assert is_alive(bystander)


async def test_what_forks_without_a_pause_ends_with_its_killed_guardian(mark: str, bystander: int) -> None:
    written = Written()
    async with python(BOMB, mark).launch(assignment(written.add, plugin=mark)) as running:
        await written.line("ready")
        assert running.pid
        os.kill(parent_of(running.pid), signal.SIGKILL)
        assert await running.wait() == Ended(failed=True, how="its guardian was killed")
    await until_none_marked(mark)
    assert is_alive(bystander)


async def bare_host(mark: str, *what: str) -> trio.Process:
    folder = Path(guardian.__file__).parent
    program = Path(__file__).with_name("bare_host.py")
    return await trio.lowlevel.open_process(
        (sys.executable, "-I", "-S", str(program), str(folder), mark, *what), stdout=subprocess.PIPE
    )


async def test_a_host_that_is_killed_at_any_moment_leaves_nothing(mark: str, bystander: int) -> None:
    for number in range(8):
        host = await bare_host(mark)
        await trio.sleep(0.03 + number * 0.015)
        host.kill()
        await host.wait()
        assert host.stdout
        await host.stdout.aclose()
    await until_none_marked(mark)
    assert is_alive(bystander)


async def test_a_killed_host_is_noticed_though_what_it_has_forked_holds_its_socket(mark: str) -> None:
    host = await bare_host(mark, "fork")
    assert host.stdout
    forked = int(await host.stdout.receive_some(100))
    assert marked(mark)
    host.kill()
    await until_none_marked(mark)
    assert is_alive(forked)
    os.kill(forked, signal.SIGKILL)
    await host.wait()
    await host.stdout.aclose()


async def test_a_guardian_that_is_stopped_is_ended_with_the_block(bystander: int) -> None:
    async with ProcessLauncher(("sleep", "60")).launch(assignment()) as running:
        assert running.pid
        pids = running.pid, parent_of(running.pid)
        os.kill(pids[1], signal.SIGSTOP)
    assert not any(map(is_alive, pids))


async def test_sigterm_of_a_guardian_stops_its_plugin(bystander: int) -> None:
    async with ProcessLauncher(("sleep", "60")).launch(assignment()) as running:
        assert running.pid
        os.kill(parent_of(running.pid), signal.SIGTERM)
        assert (await running.wait()).how == "killed by SIGTERM"


async def test_signals_of_the_terminal_of_the_host_reach_neither_guardian_nor_plugin(bystander: int) -> None:
    async with ProcessLauncher(("sleep", "60")).launch(assignment()) as running:
        assert running.pid
        pids = running.pid, parent_of(running.pid)
        assert len({os.getsid(0), *map(os.getsid, pids)}) == 3
        assert len({os.getpgid(0), *map(os.getpgid, pids)}) == 3


async def test_a_plugin_whose_streams_are_closed_is_one_as_others(bystander: int) -> None:
    script = "exec <&- >&- 2>&-; sleep 0.05; exit 4"
    async with ProcessLauncher(("sh", "-c", script)).launch(assignment()) as running:
        assert (await running.wait()).how == "exit status 4"


async def test_a_pipe_that_somebody_else_holds_keeps_no_run_from_its_end() -> None:
    """A process that is no child of the plugin has got its output: a server that it has sent it to, say."""
    async with ProcessLauncher(("sleep", "60")).launch(assignment()) as running:
        pipe = os.open(f"/proc/{running.pid}/fd/1", os.O_WRONLY)
        running.stop()
        assert (await running.wait()).how == "killed by SIGTERM"
        os.close(pipe)


async def test_a_flood_of_lines_takes_neither_memory_nor_the_loop() -> None:
    written, longest, began = Written(), 0.0, trio.current_time()
    async with ProcessLauncher(("yes",)).launch(assignment(written.add)):
        for _ in range(100):
            before = time.thread_time()  # what others use of the machine does not count
            await trio.sleep(0.002)
            longest = max(longest, time.thread_time() - before)
    assert longest < 1
    assert len(written.lines) < 7_000 + 1_000 * (trio.current_time() - began)
    assert any("lines left out" in line for line in written.lines)


async def test_a_line_without_an_end_is_cut() -> None:
    written = Written()
    script = "head -c 10000000 /dev/zero | tr '\\0' x; echo; echo next"
    async with ProcessLauncher(("sh", "-c", script)).launch(assignment(written.add)) as running:
        await running.wait()
    first, second = written.lines
    assert (len(first) < 20_000, second) == (True, "next")


async def test_a_taker_of_lines_that_fails_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: str) -> None:
        raise ValueError("of the taker")

    async with ProcessLauncher(("echo", "line")).launch(assignment(fail)) as running:
        assert (await running.wait()).how == "exit status 0"
    assert "of the taker" in caplog.text


async def test_an_interpreter_that_starts_no_guardian_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho no module; exit 1")
    monkeypatch.setattr(sys, "executable", str(other))
    with nothing_left():
        with pytest.raises(LaunchError, match="cannot be started: permission denied"):
            await ProcessLauncher(("true",)).launch(assignment()).__aenter__()
        other.chmod(0o700)
        with pytest.raises(LaunchError, match="ended before it started the plugin: no module"):
            await ProcessLauncher(("true",)).launch(assignment()).__aenter__()


async def test_a_guardian_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\nexec sleep 60")
    other.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(other))
    monkeypatch.setattr(_guarded, "_END_S", 0.05)
    with nothing_left(), trio.move_on_after(0.05):
        async with ProcessLauncher(("true",)).launch(assignment()):
            raise AssertionError


async def test_without_descriptors_it_is_refused_and_nothing_is_left() -> None:
    with nothing_left():
        for launcher in (ProcessLauncher(("true",)), ProcessLauncher(("true",), port=0)):
            with none_left(), pytest.raises(LaunchError, match="too many open files"):
                await launcher.launch(assignment()).__aenter__()


async def test_many_runs_leave_no_descriptor_no_task_and_no_zombie(bystander: int) -> None:
    async def run(script: str) -> None:
        async with ProcessLauncher(("sh", "-c", script)).launch(assignment(stop_s=0.05)) as running:
            if "sleep" in script:
                running.stop()
            await running.wait()

    tasks = trio.lowlevel.current_statistics().tasks_living
    with nothing_left():
        for _ in range(4):
            async with trio.open_nursery() as nursery:
                for script in ("exit 1", "sleep 60", "trap '' TERM; sleep 60", "(setsid sleep 60 &)"):
                    nursery.start_soon(run, script)
        assert trio.lowlevel.current_statistics().tasks_living == tasks


def test_an_order_is_read_as_it_was_written() -> None:
    order = guardian.Order(("a", "b c"), ["A=1", "B=ü\udcff"], "/tmp", "1:2:2,3", ["files:7:1:1"], 2.5)
    data = order.encode()
    assert int(data[:8]) == len(data) - 8
    assert vars(guardian.Order.decode(data[8:])) == {**vars(order), "command": ["a", "b c"]}


def test_signals_that_the_host_has_blocked_are_not_blocked_for_the_guardian() -> None:
    ours, theirs = socket.socketpair()
    block = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals());"
    start = f"{block} os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    arguments = ("-I", "-S", guardian.__file__, str(theirs.fileno()), "-1", str(os.getpid()), "label")
    with ours, subprocess.Popen((sys.executable, "-c", start, *arguments), pass_fds=[theirs.fileno()]):
        theirs.close()
        ours.settimeout(20)
        ours.sendall(guardian.Order(("sleep", "0.1"), ["PATH=/usr/bin:/bin"], "/").encode())
        with ours.makefile() as reports:
            assert reports.readline().startswith("pid ")
            assert reports.read() == "ended exited 0\n"


def test_children_are_found_on_a_kernel_that_does_not_list_them(bystander: int) -> None:
    found = guardian._children_by_stat(os.getpid())
    assert found is not None
    assert bystander in found
    assert set(found) == children()
