"""From a platform file to what a host starts: launchers, names, and what is wrong that only a look shows."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

import pytest

from cpg_trio.host.supervision import Enrol, PluginSpec, Ready, Restart
from cpg_trio.http import StartError
from cpg_trio.launch.external import ExternalLauncher
from cpg_trio.launch.places import PlatformFileError
from cpg_trio.launch.platform import FileSource, Platform
from cpg_trio.launch.process import ProcessLauncher, ProcessLimits
from cpg_trio.launch.secrets import SecretReference
from cpg_trio.launch.task import TaskLauncher

GREETER = """
from cpg_trio import Plugin
plugin = Plugin("greeter-plugin", version="1.0.0")
plugin.require("logger")
plugin.require("storage", required=False)
number = 3
"""
LOCKING = """
from contextlib import asynccontextmanager
from pathlib import Path
from cpg_trio import Plugin

@asynccontextmanager
async def opened():
    if Path(__file__).with_name("lock").exists():
        raise OSError("somebody else has it")
    yield Plugin("locking-plugin", version="1.0.0")
"""
ABOUT = 'provides = ["a"]\nrequires = []\nid = "x-plugin"'  # so that nobody has to be asked


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "spec_greeter", raising=False)
    (tmp_path / "spec_greeter.py").write_text(GREETER)
    (tmp_path / "program").write_text("#!/bin/sh\n")
    (tmp_path / "program").chmod(0o700)
    (tmp_path / "data").write_text("x")
    return tmp_path / "platform.toml"


def written(file: Path, text: str, mode: int = 0o600) -> Path:
    file.write_text(text)
    file.chmod(mode)
    return file


async def specs(file: Path, text: str, *, processes: bool = False) -> list[PluginSpec]:
    return list(await FileSource(written(file, text), processes).read())


async def problems(file: Path, text: str) -> list[str]:
    with pytest.raises(PlatformFileError) as raised:
        await specs(file, text)
    return [each.replace(f"{file.parent}/", "") for each in raised.value.problems]


async def test_a_plugin_says_itself_what_it_is(file: Path) -> None:
    text = '[plugins.greeter]\nplugin = "spec_greeter:plugin"'
    [task] = await specs(file, text)
    assert isinstance(task.launcher, TaskLauncher)
    [process] = await specs(file, text, processes=True)
    assert isinstance(process.launcher, ProcessLauncher)
    assert process.launcher.command == (sys.executable, "-m", "cpg_trio.launch.run", "spec_greeter:plugin")
    assert process.launcher.environment["PYTHONPATH"].split(os.pathsep)[0] == str(file.parent)
    for spec in (task, process):
        assert (spec.name, spec.self_id, spec.provides) == ("greeter", "greeter-plugin", ())
        assert (spec.requires, spec.uses, spec.source) == (("logger",), ("storage",), f"{file}:1")


async def test_the_file_says_it_in_place_of_the_plugin(file: Path) -> None:
    text = '[plugins.x]\nplugin = "spec_greeter:plugin"\nprovides = ["a"]\nrequires = []\nuses = []'
    [spec] = await specs(file, text)
    assert (spec.self_id, spec.provides, spec.requires, spec.uses) == ("greeter-plugin", ("a",), (), ())


async def test_each_key_is_in_the_spec(file: Path) -> None:
    [spec] = await specs(
        file,
        """[plugins.x]
        command = ["./program", "-v"]
        environment = { A = 1 }
        files = { DATA = "data" }
        secrets = { B = { file = "data" }, C = { environment = "PATH" } }
        limits = { memory = "1MiB", processes = 2, files = 3, cpu = 4 }
        restart = { when = "never", first = 1, most = 2, reset = 3, loop_after = 4 }
        replicas = 0
        start = 5
        stop = 6
        ready = "running"
        enrol = "name"
        waits_for_host = true
        """,
    )
    assert spec.launcher == ProcessLauncher(
        (str(file.parent / "program"), "-v"),
        directory=file.parent,
        environment={"A": "1", "DATA": str(file.parent / "data")},
        secrets={"B": SecretReference(file.parent / "data"), "C": SecretReference(variable="PATH")},
        limits=ProcessLimits(memory_bytes=2**20, processes=2, files=3, cpu_s=4),
        waits_for_host=True,
    )
    assert (spec.replicas, spec.start_s, spec.stop_s) == (0, 5, 6)
    assert (spec.ready, spec.enrol) == (Ready.RUNNING, Enrol.NAME)
    policy = spec.restart
    assert (policy.when, policy.first_s, policy.most_s, policy.reset_s) == (Restart.NEVER, 1, 2, 3)
    assert policy.loop_after == 4


async def test_an_external_plugin_is_expected_by_its_name(file: Path) -> None:
    [spec] = await specs(file, '[plugins.x]\nlauncher = "external"\nurl = "http://127.0.0.1:1"')
    assert (spec.launcher, spec.enrol) == (ExternalLauncher("http://127.0.0.1:1"), Enrol.NAME)


async def test_the_same_file_has_equal_specs_each_time_that_it_is_read(file: Path) -> None:
    text = '[plugins.x]\ncommand = ["./program"]\n[plugins.y]\nplugin = "spec_greeter:plugin"\n'
    text += 'secrets = { A = { environment = "PATH" } }\n[plugins.z]\nlauncher = "external"'
    first = await specs(file, text)
    assert first == await specs(file, "# a line more\n" + text)
    assert first != await specs(file, text.replace('"PATH"', '"HOME"'))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('plugin = "spec_greter:plugin"', "2: plugins.x.plugin: there is no module spec_greter: neither in "),
        (
            'plugin = "spec_greeter:plugn"',
            "2: plugins.x.plugin: spec_greeter has no plugn; plugin is: is that meant?",
        ),
        (
            'plugin = "spec_greeter:number"',
            "2: plugins.x.plugin: spec_greeter:number is no plugin, and no function",
        ),
        (
            'plugin = "spec_greeter:plugn"\nlauncher = "process"',
            "2: plugins.x.plugin: spec_greeter has no plugn; plugin is: is that meant?",
        ),
        (
            'plugin = "spec_greeter:plugin"\nid = "other"',
            "3: plugins.x.id: the plugin calls itself greeter-plugin",
        ),
        (
            'command = ["no-such-program"]',
            "2: plugins.x.command: there is no program 'no-such-program' in PATH",
        ),
        (
            'command = ["program"]',
            "2: plugins.x.command: there is no program 'program' in PATH; ./program is there: is",
        ),
        ('command = ["./programm"]', "2: plugins.x.command: there is no program programm"),
        ('command = ["./data"]', "2: plugins.x.command: data is not executable (chmod +x …)"),
        ('command = ["./program"]\ndirectory = "no"', "3: plugins.x.directory: there is no directory no"),
        ('command = ["./program"]\nfiles.A = "no"', "3: plugins.x.files.A: there is no file no"),
        (
            'command = ["./program"]\nuser = "nobody-here"',
            "3: plugins.x.user: there is no user 'nobody-here'",
        ),
        (
            'command = ["./program"]\nsecrets.A.file = "no"',
            "3: plugins.x.secrets.A: a secret cannot be read in no: no such file or directory",
        ),
        (
            'command = ["./program"]\nsecrets.A.environment = "NOT_SET_HERE"',
            "3: plugins.x.secrets.A: a secret is not there: NOT_SET_HERE is not set for the host",
        ),
    ],
)
async def test_what_is_not_there_is_named_with_its_line(file: Path, text: str, said: str) -> None:
    found = await problems(file, f"[plugins.x]\n{text}")
    assert found[0].startswith(f"platform.toml:{said}")
    assert not [each for each in found if "data" not in each and "x" * 3 in each]


async def test_all_of_it_is_named_at_once(file: Path) -> None:
    found = await problems(
        file,
        '[plugins.a]\nplugin = "nowhere:x"\n[plugins.b]\ncommand = ["./nothing"]\n[plugins.c]\n'
        'plugin = "spec_greeter:no"\nlauncher = "process"',
    )
    assert [re.sub(r": .*", "", each) for each in found] == [f"platform.toml:{line}" for line in (2, 4, 6)]


async def test_secrets_that_others_read_are_warned_of_and_never_told(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = written(file.parent / "data", "a-s3cret-value", 0o644)
    [spec] = await specs(file, '[plugins.x]\ncommand = ["./program"]\nsecrets.A.file = "data"')
    assert f"everybody may read {secret}: take that away" in caplog.text
    assert "s3cret" not in caplog.text + repr(spec)


def plugins(*tables: str) -> str:
    return "[host]\nport = 0\nadmin_socket = 'off'\n" + "\n".join(tables)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            plugins(
                '[plugins.a]\ncommand = ["./program"]\nprovides = ["a"]\nrequires = ["b"]',
                '[plugins.b]\ncommand = ["./program"]\nprovides = ["b"]\nrequires = ["a"]',
            ),
            r"a cycle, in which each waits for the next: a → b → a .*platform.toml:4, .*platform.toml:8",
        ),
        (
            plugins('[plugins.a]\ncommand = ["./program"]\nprovides = []\nrequires = ["nothing"]'),
            r"a \(.*platform.toml:4\) requires nothing, which nobody provides",
        ),
        (
            plugins(
                '[plugins.a]\ncommand = ["./program"]\nprovides = ["s"]\n'
                '[plugins.b]\ncommand = ["./program"]\nprovides = ["s"]'
            ),
            r"a \(.*platform.toml:4\) and b \(.*platform.toml:7\) provide s, which only one may",
        ),
        (
            plugins().replace("port = 0", "lease_s = 'soon'"),
            r"LEASE_S must be .* \(LEASE_S is lease_s in .*toml:2\)",
        ),
    ],
)
async def test_what_cannot_run_together_is_named_before_anything_is_started(
    file: Path, text: str, said: str
) -> None:
    with pytest.raises(StartError, match=said):
        await (await Platform.from_file(written(file, text))).serve()


async def test_a_port_that_is_taken_is_named_with_its_line(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = plugins(f'[plugins.a]\ncommand = ["./program"]\nport = {port}')
        with pytest.raises(StartError, match=rf"platform.toml:6: plugins.a.port: {port} is taken: end what"):
            await (await Platform.from_file(written(file, text))).serve()


async def test_a_plugin_that_runs_is_not_disturbed_to_be_asked_again(file: Path) -> None:
    (file.parent / "spec_locking.py").write_text(LOCKING)
    for processes in (False, True):
        source = FileSource(written(file, '[plugins.x]\nplugin = "spec_locking:opened"'), processes)
        first = await source.read()
        written(file.parent / "lock", "")  # as a plugin that runs holds it
        assert await source.read() == first
        assert first[0].self_id == "locking-plugin"
        (file.parent / "lock").unlink()
