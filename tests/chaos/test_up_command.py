"""The command `up` while it runs: signals, changes of its file and of others, and what is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest
import trio

from tests.platforms import (
    GREETER,
    assert_nothing_is_left,
    platform_file,
    platform_folder,
    processes_of,
    script,
    until_nothing_runs,
)
from tests.processes import running

ROOT = Path(__file__).parents[2]
ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return platform_folder(tmp_path)


async def test_a_second_signal_ends_it_at_once_and_leaves_nothing(folder: Path) -> None:
    (folder / "script.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\ntime.sleep(1000)"
    )
    file = platform_file(folder, script("stubborn", 'ready = "running"\nstop = "600s"'))
    async with running("cpg_trio", "up", str(file), cwd=folder) as platform_run:
        await platform_run.until("stubborn [|] deaf")
        platform_run.process.send_signal(signal.SIGINT)
        await platform_run.until("stubborn +stopping")
        assert await platform_run.end(signal.SIGINT) == 128 + signal.SIGINT
    await until_nothing_runs(folder)


async def test_json_has_one_document_for_each_change(folder: Path) -> None:
    file = platform_file(folder, script("first"))
    async with running("cpg_trio", "up", str(file), "--json", cwd=folder) as platform_run:
        await platform_run.until('"state": "ready"')
        assert await platform_run.end(signal.SIGINT) == 0
        output = await platform_run.whole_output()
    told = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [each["state"] for each in told if each.get("plugin")] == [
        "waiting",
        "starting",
        "ready",
        "stopping",
        "stopped",
    ]
    assert [each["state"] for each in told if each["name"] == "host"] == ["listening", "stopping"]
    ready = next(each for each in told if each["state"] == "ready")
    assert (ready["plugin"], ready["replica"], ready["runs"]) == ("first", 1, 1)
    assert ready["where"] == f"pid {ready['pid']}"


async def test_a_plugin_that_never_registers_is_named_and_the_rest_goes_on(folder: Path) -> None:
    file = platform_file(
        folder, script("silent", 'start = "300ms"\nrestart = { when = "never" }'), script("other")
    )
    async with running("cpg_trio", "up", str(file), cwd=folder) as platform_run:
        why = (
            "not ready within 0.3 s: it has not come for its identity; give it a longer `start`, or ready = "
        )
        await platform_run.until(rf"silent +failed: {why}.*platform.toml:5\)")
        await platform_run.until("other +ready")
        assert await platform_run.end(signal.SIGINT) == 0
    assert_nothing_is_left(folder)


async def test_a_port_of_the_host_that_is_taken_is_named_and_nothing_is_started(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        file = platform_file(folder, script("first"), port=server.getsockname()[1])
        async with running("cpg_trio", "up", str(file), cwd=folder) as platform_run:
            assert await platform_run.end() == 1
            output = await platform_run.whole_output()
    *_, last = output.splitlines()
    assert "address already in use" in last
    assert f"(PORT is port in {file}:2)" in last
    assert "hello" not in output
    assert_nothing_is_left(folder)


async def test_a_hangup_applies_the_file_and_touches_only_what_has_changed(folder: Path) -> None:
    file = platform_file(folder, script("stays"), script("goes"))
    async with running("cpg_trio", "up", str(file), cwd=folder) as platform_run:
        stays = (await platform_run.until(r"stays +ready, pid (\d+)"))[1]
        await platform_run.until("goes +ready")
        platform_file(folder, script("stays"), script("comes"))
        platform_run.process.send_signal(signal.SIGHUP)
        await platform_run.until("comes +ready")
        await platform_run.until("goes +stopped")
        platform_file(folder, script("stays"), "[plugins.wrong]")
        platform_run.process.send_signal(signal.SIGHUP)
        await platform_run.until("not applied: .*platform.toml:.*plugins.wrong: needs `plugin` or `command`")
        assert await platform_run.end(signal.SIGINT) == 0
        output = await platform_run.whole_output()
    assert len(re.findall(r"stays +ready, pid", output)) == 1
    assert f"stays     stopping, pid {stays}" in output


async def test_changed_files_restart_their_plugin_and_broken_ones_do_not(folder: Path) -> None:
    file = platform_file(
        folder,
        '[plugins.greeter]\nplugin = "up_greeter:plugin"',
        script("watching", 'ready = "running"\nwatch = ["data"]'),
    )
    (folder / "data").mkdir()
    async with running("cpg_trio", "up", str(file), "--reload", cwd=folder) as run:
        first = (await run.until(r"greeter +ready, pid (\d+)"))[1]
        await run.until("watching +ready")
        await run.until("watching for changes")
        (folder / "up_greeter.py").write_text(GREETER + "plugin = (")
        await run.until("greeter goes on as it is until its files change again: .*SyntaxError")
        assert int(first) in processes_of(folder)
        async with running("cpg_trio", "status", "--admin", str(folder / "admin.sock")) as status:
            assert await status.end() == 3
            await status.until("greeter runs its former code, .*SyntaxError")
        (folder / "up_greeter.py").write_text(GREETER + "# better")
        await run.until(rf"greeter +ready, pid (?!{first}\b)\d+")
        await run.until(r"greeter +stopped")
        async with running("cpg_trio", "status", "--admin", str(folder / "admin.sock")) as status:
            await status.until("greeter|healthy")
            assert await status.end() == 0, await status.whole_output()
        (folder / "data" / "new").write_text("x")
        await run.until(r"(?s)watching +ready.*watching +ready")
        assert await run.end(signal.SIGINT) == 0
    assert_nothing_is_left(folder)


async def test_a_terminal_that_is_gone_stops_the_platform_in_good_order(folder: Path) -> None:
    file = platform_file(folder, script("first"))
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", ON_TERMINAL, sys.executable, "-m", "cpg_trio", "up", str(file)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(theirs)
        shown = ""
        while "hello from first" not in shown:
            await trio.lowlevel.wait_readable(terminal)
            shown += os.read(terminal.fileno(), 4096).decode()
    with trio.fail_after(20):
        assert await process.wait() == 0
    assert_nothing_is_left(folder)
