"""The command `up`, with real processes: what it starts, what it says of it, and what it leaves behind."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import pytest

from cpg_trio import cli
from cpg_trio.cli._host import TABLE
from tests.cli.ended import ended
from tests.cli.processes import process
from tests.platforms import assert_nothing_is_left, platform_file, platform_folder, script
from tests.processes import running


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TABLE:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(short_path: Path) -> Path:
    return platform_folder(short_path)


@pytest.mark.measured_processes
async def test_plugins_start_and_stop_in_their_order_and_nothing_is_left(folder: Path) -> None:
    file = platform_file(
        folder,
        script("second", 'ready = "running"\nafter = ["first"]'),
        script("first"),
        '[plugins.greeter]\nplugin = "up_greeter:plugin"\nlauncher = "process"\nafter = ["second"]',
    )
    async with running("cpg_trio", "up", str(file), cwd=folder) as platform_run:
        await platform_run.until(r"host +listening on http://127\.0\.0\.1:\d+ \(")
        await platform_run.until(r"second +waiting for first")
        await platform_run.until(r"greeter +ready, pid \d+ \(")
        await platform_run.until("first | hello from first")
        assert await platform_run.end(signal.SIGTERM) == 0
        output = await platform_run.whole_output()
    order = [output.index(each) for each in ("first     ready", "second    ready", "greeter   ready")]
    order += [output.index(f"{name:<9} stopped") for name in ("greeter", "second", "first")]
    assert order == sorted(order)
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
def test_what_cannot_be_started_ends_with_the_reason_and_nothing_started(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    tables: list[str],
    last: str,
) -> None:
    file = platform_file(folder, *tables)
    monkeypatch.chdir(folder)
    done = ended(capsys, "up", str(file))
    assert done.status == 1
    *_, line = done.err.splitlines()
    assert line.removeprefix(f"{file}:").startswith(last)
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
    file = platform_file(
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
    file = platform_file(
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


def test_a_call_of_a_service_that_nobody_provides_names_the_one_that_may_be_meant(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = platform_file(folder, '[plugins.logger]\nplugin = "cpg_trio.demo.logger:logger_plugin"')
    monkeypatch.setenv("ADMIN_SOCKET", str(folder / "admin.sock"))
    with process(folder, "up", "cpg_trio", "up", str(file)) as platform_run:
        url = platform_run.url()
        platform_run.until("logger +ready")
        for host, service, hint in (
            (url, "loger", "; logger is there: is that meant?"),
            (f"{url}/", "zzz", ""),
        ):
            done = ended(capsys, "call", service, "--host", host)
            assert (done.status, done.out) == (1, "")
            assert done.err == f'not_found: no providers for service "{service}"{hint}\n'
        assert platform_run.end() == 0
