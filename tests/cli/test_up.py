"""The command `up`, with real processes: what it starts, what it says of it, and what it leaves behind."""

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

from cpg_trio import cli
from cpg_trio.cli._host import TABLE
from tests.processes import running

SCRIPT = """\
import signal, sys, time
print("hello from", sys.argv[1], flush=True)
time.sleep(1000)
"""
GREETER = """
from cpg_trio import Plugin
plugin = Plugin("greeter-plugin", version="1.0.0")
"""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TABLE:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "up_greeter.py").write_text(GREETER)
    return tmp_path


def platform(folder: Path, *tables: str, host: str = "") -> Path:
    """Write a platform file; return it."""
    file = folder / "platform.toml"
    socket_path = folder / "admin.sock"
    file.write_text(f'[host]\nport = 0\nadmin_socket = "{socket_path}"\n{host}\n' + "\n".join(tables))
    return file


def script(name: str, more: str = 'ready = "running"') -> str:
    """Return the table of a script, which is no plugin."""
    return f'[plugins.{name}]\ncommand = ["{sys.executable}", "script.py", "{name}"]\n{more}\n'


def processes_of(folder: Path) -> list[int]:
    """Return the processes that run in a folder."""
    found = []
    for each in Path("/proc").iterdir():
        try:
            if (
                each.name.isdigit()
                and int(each.name) != os.getpid()
                and each.joinpath("cwd").readlink() == folder
            ):
                found.append(int(each.name))
        except OSError:
            continue
    return found


async def until_nothing_runs(folder: Path) -> None:
    with trio.fail_after(20):
        while processes_of(folder):  # noqa: ASYNC110 - processes have no event
            await trio.sleep(0.05)


def assert_nothing_is_left(folder: Path) -> None:
    assert processes_of(folder) == []
    assert not (folder / "admin.sock").exists()


async def test_plugins_start_and_stop_in_their_order_and_nothing_is_left(folder: Path) -> None:
    file = platform(
        folder,
        script("second", 'ready = "running"\nafter = ["first"]'),
        script("first"),
        '[plugins.greeter]\nplugin = "up_greeter:plugin"\nlauncher = "process"\nafter = ["second"]',
    )
    async with running("cpg_trio", "up", str(file), cwd=folder) as platform_run:
        await platform_run.until(r"host +listening on http://127\.0\.0\.1:\d+ \(")
        await platform_run.until("second +waits for first")
        await platform_run.until(r"greeter +ready, pid \d+ \(")
        await platform_run.until("first | hello from first")
        assert await platform_run.end(signal.SIGTERM) == 0
        output = await platform_run.whole_output()
    order = [output.index(each) for each in ("first     ready", "second    ready", "greeter   ready")]
    order += [output.index(f"{name:<9} stopped") for name in ("greeter", "second", "first")]
    assert order == sorted(order)
    assert_nothing_is_left(folder)


async def test_a_second_signal_ends_it_at_once_and_leaves_nothing(folder: Path) -> None:
    (folder / "script.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\ntime.sleep(1000)"
    )
    file = platform(folder, script("stubborn", 'ready = "running"\nstop = "600s"'))
    async with running("cpg_trio", "up", str(file), cwd=folder) as platform_run:
        await platform_run.until("stubborn [|] deaf")
        platform_run.process.send_signal(signal.SIGINT)
        await platform_run.until("stubborn +stopping")
        assert await platform_run.end(signal.SIGINT) == 128 + signal.SIGINT
    await until_nothing_runs(folder)


async def test_json_has_one_document_for_each_change(folder: Path) -> None:
    file = platform(folder, script("first"))
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
    file = platform(
        folder, script("silent", 'start = "300ms"\nrestart = { when = "never" }'), script("other")
    )
    async with running("cpg_trio", "up", str(file), cwd=folder) as platform_run:
        await platform_run.until("silent +failed: not ready within 0.3 s: it has not come for its identity")
        await platform_run.until("other +ready")
        assert await platform_run.end(signal.SIGINT) == 0
    assert_nothing_is_left(folder)


@pytest.mark.parametrize(
    ("tables", "last"),
    [
        (
            ['[plugins.x]\nplugn = "up_greeter:plugin"'],
            "6: plugins.x.plugn: is not a key here; plugin is: is that meant?",
        ),
        (['[plugins.x]\nplugin = "up_greter:plugin"'], "6: plugins.x.plugin: there is no module up_greter"),
        (
            ['[plugins.x]\ncommand = ["no-such-program"]'],
            "6: plugins.x.command: there is no program 'no-such-program'",
        ),
        (
            [script("a", 'after = ["b"]'), script("b", 'after = ["a"]')],
            "a cycle, in which each waits for the next: ",
        ),
    ],
)
async def test_what_cannot_be_started_ends_with_the_reason_and_nothing_started(
    folder: Path, tables: list[str], last: str
) -> None:
    file = platform(folder, *tables)
    async with running("cpg_trio", "up", str(file), cwd=folder) as platform_run:
        assert await platform_run.end() == 1
        *_, line = (await platform_run.whole_output()).splitlines()
    assert line.removeprefix(f"{file}:").startswith(last)
    assert_nothing_is_left(folder)


async def test_a_port_of_the_host_that_is_taken_starts_nothing(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        file = platform(folder, script("first"))
        port = {"PORT": str(server.getsockname()[1])}
        async with running("cpg_trio", "up", str(file), environment=port, cwd=folder) as platform_run:
            assert await platform_run.end() == 1
            output = await platform_run.whole_output()
    assert "address already in use" in output.splitlines()[-1]
    assert "hello" not in output
    assert_nothing_is_left(folder)


def checked(capsys: pytest.CaptureFixture[str], file: Path, *flags: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["up", str(file), "--check", *flags])
    out, err = capsys.readouterr()
    assert not err
    return int(ended.value.code or 0), out


def test_a_check_prints_the_plugins_and_their_order_and_imports_nothing_here(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    file = platform(
        folder,
        script("second", 'provides = ["s"]\nrequires = []\nafter = ["first"]'),
        script("first", "provides = []\nrequires = []"),
        '[plugins.greeter]\nplugin = "up_greeter:plugin"',
    )
    status, out = checked(capsys, file)
    assert (status, out.splitlines()[0]) == (0, "a platform would start with this")
    assert "order: the host, then first and greeter, then second" in out
    assert re.search(r"^greeter +task +1 +- +- +- +.*platform.toml:\d+$", out, re.MULTILINE)
    assert "up_greeter" not in sys.modules
    status, out = checked(capsys, file, "--json", "--processes")
    told = json.loads(out)
    assert (status, told["ok"], told["errors"]) == (0, True, [])
    assert told["order"] == [["first", "greeter"], ["second"]]
    second, _, greeter = told["plugins"]
    assert (greeter["id"], greeter["launcher"], second["waits_for"]) == (
        "greeter-plugin",
        "process",
        ["first"],
    )
    assert next(each for each in told["settings"] if each["name"] == "PORT")["source"] == "file"


def test_a_check_names_all_that_is_wrong(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    file = platform(
        folder,
        '[plugins.x]\nplugin = "up_greeter:no"',
        script("y", "files.A = 'no'"),
        host="lease_s = 'soon'",
    )
    status, out = checked(capsys, file)
    errors = [line for line in out.splitlines() if line.startswith("error: ")]
    assert status == 1
    assert out.startswith("a platform does not start with this\n")
    assert [re.search(r"platform.toml:\d+", each) is not None for each in errors] == [True] * 3
    assert "LEASE_S must be" in errors[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--check", "--reload"], "cpg-trio: --check starts nothing"),
        (["--chek"], "cpg-trio up: Unknown option: --chek"),
    ],
)
def test_flags_that_make_no_sense_are_a_usage_error(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["up", *words])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file: name the platform file"),
        (b"\xff", ":1: it is not text in UTF-8"),
        (b"[", ":1: it is not TOML"),
    ],
)
def test_a_file_that_is_none_ends_with_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "platform.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        cli.main(["up", str(file)])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"{file}:")
    assert said in err
