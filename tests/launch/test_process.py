"""Plugins as processes: what they are given, how they end, and why they cannot be started."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cpg_trio.host.supervision import Ended, LaunchError
from cpg_trio.launch.process import ProcessLauncher, ProcessLimits
from cpg_trio.launch.secrets import SecretReference
from tests.launch.launching import Written, assignment, is_alive, nothing_left, parent_of, shown, until_gone


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


def shell(script: str, **given: object) -> ProcessLauncher:
    return ProcessLauncher(("sh", "-c", script), **given)  # type: ignore[arg-type] # as each test names it


async def end_of(launcher: ProcessLauncher, written: Written | None = None) -> Ended:
    async with launcher.launch(assignment((written or Written()).add)) as running:
        with trio.fail_after(20):
            return await running.wait()


async def refusal(launcher: ProcessLauncher) -> str:
    with pytest.raises(LaunchError) as refused:
        await end_of(launcher)
    assert "\n" not in str(refused.value)
    return str(refused.value)


async def test_a_process_is_given_what_it_needs_and_its_lines_are_read() -> None:
    written = Written()
    script = (
        "echo $HOST_URL $HOSTNAME; echo port $PORT; cat $ENROLMENT_TOKEN_FILE; cat /dev/fd/3; echo >&2 oops"
    )
    async with shell(script).launch(assignment(written.add)) as running:
        assert await running.wait() == Ended(failed=False, how="exit status 0")
    assert written.lines[0] == "http://127.0.0.1:8080 127.0.0.1"
    assert 0 < int(written.lines[1].removeprefix("port ")) < 2**16
    assert written.lines[2:] == ("the-tokenthe-tokenoops",)


async def test_a_process_shares_the_sockets_of_the_host(tmp_path: Path) -> None:
    written = Written()
    async with shell("echo $SOCKET_DIR").launch(assignment(written.add, socket_dir=tmp_path)) as running:
        await running.wait()
    assert written.lines == (str(tmp_path),)


async def test_no_command_line_and_no_environment_has_the_token() -> None:
    async with shell("sleep 60").launch(assignment()) as running:
        assert running.pid
        for pid in (running.pid, parent_of(running.pid)):
            assert b"the-token" not in shown(pid)


async def test_where_no_file_in_memory_is_permitted_the_token_is_in_one_without_a_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: str) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", refuse)
    written = Written()
    await end_of(shell("cat $ENROLMENT_TOKEN_FILE; readlink /dev/fd/3"), written)
    [line] = written.lines
    assert line.startswith("the-token/")
    assert line.endswith("(deleted)")


async def test_only_some_variables_of_the_host_and_none_of_its_secrets_are_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CPG_HOST_KEY", "of the host")
    monkeypatch.setenv("SOME_VARIABLE", "of the host")
    monkeypatch.setenv("LC_TIME", "C")
    written = Written()
    assert not (await end_of(shell("env", environment={"GIVEN": "yes", "HOSTNAME": "own"}), written)).failed
    names = {line.partition("=")[0] for line in written.lines}
    assert {"PATH", "LC_TIME", "GIVEN"} <= names
    assert not {"CPG_HOST_KEY", "SOME_VARIABLE"} & names
    assert "HOSTNAME=own" in written.lines


async def test_a_secret_is_read_at_the_launch_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_HOST", "hush")
    file = tmp_path / "secret"
    file.write_text("first\n")
    launcher = shell(
        "echo $A $B", secrets={"A": SecretReference(file=file), "B": SecretReference(variable="OF_THE_HOST")}
    )
    assert "first" not in repr(launcher)
    for secret in ("first", "second"):
        file.write_text(f"{secret}\n")
        written = Written()
        await end_of(launcher, written)
        assert written.lines == (f"{secret} hush",)


async def test_a_process_inherits_its_three_streams_and_its_token_and_nothing_else(tmp_path: Path) -> None:
    written = Written()
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003 - of the library
        await end_of(
            ProcessLauncher((sys.executable, "-c", "import os; print(os.listdir('/dev/fd'))")), written
        )
    assert written.lines == ("['0', '1', '2', '3', '4']",)  # the last one is of the listing


@pytest.mark.parametrize(
    ("script", "how", "failed"),
    [
        ("exit 3", "exit status 3", True),
        ("kill -SEGV $$", "killed by SIGSEGV", True),
        ("kill -64 $$", "killed by SIGRTMAX", True),
        ("kill -40 $$", "killed by signal 40", True),
        ("true", "exit status 0", False),
    ],
)
async def test_an_end_is_told_in_words(script: str, how: str, *, failed: bool) -> None:
    ended = await end_of(shell(script))
    assert (ended.how, ended.failed) == (how, failed)


async def test_the_last_line_of_a_traceback_explains_the_end() -> None:
    ended = await end_of(ProcessLauncher((sys.executable, "-c", "import no_such_module")))
    assert ended == Ended(
        failed=True, how="exit status 1", detail="ModuleNotFoundError: No module named 'no_such_module'"
    )


async def test_a_stop_is_sigterm_and_no_failure() -> None:
    async with shell("sleep 60").launch(assignment()) as running:
        running.stop()
        running.stop()
        assert await running.wait() == Ended(failed=False, how="killed by SIGTERM")


async def test_what_ignores_sigterm_is_killed_when_its_time_to_stop_is_over() -> None:
    written = Written()
    script = "trap '' TERM; echo ready; while true; do sleep 1; done"
    async with shell(script).launch(assignment(written.add, stop_s=0.2)) as running:
        await written.line("ready")
        running.stop()
        assert (await running.wait()).how == "killed by SIGKILL"


async def test_what_a_stopped_plugin_leaves_behind_has_the_same_time_to_stop() -> None:
    written = Written()
    worker = "trap 'sleep 0.3; echo worker done; exit' TERM; echo ready; while true; do sleep 0.05; done"
    script = f'setsid sh -c "{worker}" & sleep 60'
    async with shell(script).launch(assignment(written.add)) as running:
        await written.line("ready")
        running.stop()
        await running.wait()
    assert "worker done" in written.lines


async def test_a_process_that_is_stopped_by_a_signal_is_ended() -> None:
    async with shell("kill -STOP $$").launch(assignment()) as running:
        running.stop()
        assert (await running.wait()).how == "killed by SIGTERM"
    async with shell("kill -STOP $$").launch(assignment()) as running:
        pid = running.pid
    assert pid
    assert not is_alive(pid)


async def test_all_that_it_has_started_ends_with_the_block() -> None:
    written = Written()
    script = """
        sleep 60 & echo pid $!
        setsid sleep 61 & echo pid $!
        (setsid sh -c 'sleep 62 & echo pid $!; sleep 63' &)
        exec >&- 2>&-
        sleep 64
    """
    async with shell(script).launch(assignment(written.add)) as running:
        await written.until(lambda lines: len(lines) == 3)
        pids = [int(line.removeprefix("pid ")) for line in written.lines]
        assert all(map(is_alive, pids))
        assert running.pid
    assert not any(map(is_alive, [*pids, running.pid]))


async def test_what_it_has_started_ends_when_it_has_ended_by_itself() -> None:
    written = Written()
    async with shell("setsid sleep 60 & echo pid $!").launch(assignment(written.add)) as running:
        assert (await running.wait()).how == "exit status 0"
        assert not is_alive(int(await written.line("pid")))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_when_the_guardian_is_killed_all_ends_as_well(number: signal.Signals) -> None:
    written = Written()
    script = "(setsid sleep 60 & echo pid $!); echo guardian $PPID; sleep 61"
    async with shell(script).launch(assignment(written.add)) as running:
        daemon, guardian = int(await written.line("pid")), int(await written.line("guardian"))
        os.kill(guardian, number)
        assert await running.wait() == Ended(failed=True, how="its guardian was killed")
        assert running.pid
        await until_gone(daemon, running.pid)


async def test_what_is_said_of_an_end_is_printable() -> None:
    ended = await end_of(shell(r"printf '\033]0;title\007 no\n'; exit 1"))
    assert ended.detail == "\\x1b]0;title\\x07 no"


async def test_a_cancelled_launch_leaves_nothing() -> None:
    for delay in (0, 0.001, 0.005, 0.01, 0.02, 0.03):
        with trio.move_on_after(delay):
            async with shell("sleep 60").launch(assignment()):
                await trio.sleep_forever()


async def test_why_it_cannot_be_started_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "plain").write_text("echo")
    (tmp_path / "script").chmod(0o700)
    here = {"directory": tmp_path}
    assert "'no-such' does not exist in PATH" in await refusal(ProcessLauncher(("no-such",)))
    assert "'./no' does not exist in" in await refusal(ProcessLauncher(("./no",), directory=tmp_path))
    assert "may not be executed" in await refusal(ProcessLauncher(("./plain",), directory=tmp_path))
    assert "interpreter" in await refusal(ProcessLauncher(("./script",), directory=tmp_path))
    (tmp_path / "plain").chmod(0o700)
    assert "#!/bin/sh" in await refusal(ProcessLauncher(("./plain",), directory=tmp_path))
    assert "cannot be entered" in await refusal(shell("", directory=tmp_path / "none"))
    assert "user 'nobody-else' does not exist" in await refusal(shell("", user="nobody-else"))
    assert "NUL" in await refusal(shell("\0", **here))
    assert "secret" in await refusal(shell("", secrets={"A": SecretReference(file=tmp_path / "none")}))


async def test_a_port_that_is_taken_is_refused_and_one_that_is_free_is_given() -> None:
    with trio.socket.socket() as listening:
        await listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        assert f"port {port} is taken" in await refusal(shell("", port=port))
    written = Written()
    await end_of(shell("echo $PORT", port=port), written)
    await end_of(shell("echo $PORT", port=0), written)
    assert written.lines == (str(port), "0")


async def test_one_that_waits_for_the_host_is_told_no_host_and_has_an_address() -> None:
    written = Written()
    async with shell("echo $PORT:$HOST_URL", waits_for_host=True).launch(assignment(written.add)) as running:
        await running.wait()
        assert running.url == f"http://127.0.0.1:{written.lines[0].removesuffix(':')}"
    assert "port = 0" in await refusal(shell("", waits_for_host=True, port=0))


async def test_limits_hold() -> None:
    limits = ProcessLimits(memory_bytes=256 * 1024 * 1024, files=50)
    script = (
        "import os\ntry:\n b'x' * 2**29\nexcept MemoryError: print('memory')\n[os.dup(0) for _ in range(60)]"
    )
    written = Written()
    ended = await end_of(ProcessLauncher((sys.executable, "-c", script), limits=limits), written)
    assert written.lines[0] == "memory"
    assert ended.detail == "OSError: [Errno 24] Too many open files"
    written = Written()
    await end_of(shell("ulimit -S -t; ulimit -H -t", limits=ProcessLimits(cpu_s=5)), written)
    assert written.lines == ("5", "6")
    assert "limit of files cannot be set" in await refusal(shell("", limits=ProcessLimits(files=2**40)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_root_can_start_it_as_another_user_with_a_limit_of_processes() -> None:
    assert "does not hold for root" in await refusal(shell("", limits=ProcessLimits(processes=20)))
    written = Written()
    script = "id -un; echo $HOME; cat $ENROLMENT_TOKEN_FILE; ulimit -u"
    launcher = ProcessLauncher(
        ("bash", "-c", script), directory=Path("/"), user="nobody", limits=ProcessLimits(processes=5000)
    )  # more than others run as nobody here
    assert (await end_of(launcher, written)).how == "exit status 0"
    assert written.lines == ("nobody", "/nonexistent", "the-token5000")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may become anybody")
async def test_others_than_root_cannot_start_it_as_another_user() -> None:
    assert "only root" in await refusal(shell("", user="root"))
