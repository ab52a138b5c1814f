"""Python plugins by name: what they say of themselves, and what is said where there is none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cpg_trio.launch.describe import Description, NoPluginError, describe, described_apart, plugin_of
from cpg_trio.launch.run import main as runner
from tests.processes import running

MODULE = """
import os
from contextlib import asynccontextmanager
from cpg_trio import Plugin

print("this is no part of any answer")
plugin = Plugin("greeter-plugin", version="1.0.0")
plugin.require("storage")
plugin.require("logger", required=False)
number = 3

def make():
    return plugin

def named(environment):
    return Plugin(environment["NAME"], version="1.0.0")

@asynccontextmanager
async def opened(environment=None):
    if environment.get("AWAY"):
        raise OSError("the database is away")
    yield plugin

@asynccontextmanager
async def empty():
    yield 3

async def coroutine():
    return plugin

def failing():
    raise RuntimeError("no luck")

def leaving():
    raise SystemExit("bye")
"""
GREETER = Description("greeter-plugin", (), ("storage",), ("logger",))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("described", "needing", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "described.py").write_text(MODULE)
    (tmp_path / "needing.py").write_text("\n\nimport not_there")
    (tmp_path / "broken.py").write_text("plugin = (")
    return tmp_path


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("name", ["plugin", "make", "opened"])
async def test_a_plugin_is_described_however_it_is_made(name: str) -> None:
    assert await describe(f"described:{name}", {}) == GREETER


@pytest.mark.usefixtures("module")
async def test_a_function_that_takes_an_argument_is_given_the_environment() -> None:
    assert (await describe("described:named", {"NAME": "ada"})).self_id == "ada"


@pytest.mark.usefixtures("module")
async def test_what_only_the_run_can_tell_is_not_an_error() -> None:
    found = await describe("described:opened", {"AWAY": "1"})
    assert found.provides is None
    assert re.match(
        r"described:opened failed: OSError: the database is away \(.*described.py:\d+\)", found.failure
    )


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "descried:plugin",
            r"there is no module descried: neither in .* nor installed; described is: is that meant\?",
        ),
        ("cpg_trio.demos:plugin", r"cpg_trio has no module demos; demo is: is that meant\?"),
        ("described.more:plugin", "described is a module without modules in it: there is no described.more"),
        ("described:plugn", r"described has no plugn; plugin is: is that meant\?"),
        ("described:number", "described:number is no plugin, and no function .*: it is of the class int"),
        ("described:Plugin", r"described:Plugin failed: TypeError: .* missing .*"),
        ("described:coroutine", "described:coroutine is no plugin, .*: it is of the class coroutine"),
        ("described:empty", "described:empty is no plugin, .*: it is of the class int"),
        ("described:failing", r"described:failing failed: RuntimeError: no luck \(.*described.py:\d+\)"),
        ("described:leaving", r"described:leaving failed: SystemExit: bye"),
        (
            "needing:plugin",
            r"importing needing failed: ModuleNotFoundError: .*'not_there' \(.*needing.py:3\)",
        ),
        ("broken:plugin", r"importing broken failed: SyntaxError: .* \(.*broken.py:1\)"),
    ],
)
async def test_where_there_is_no_plugin_one_line_says_why(target: str, said: str) -> None:
    with pytest.raises(NoPluginError, match=said) as raised:
        async with plugin_of(target, {}):
            pass
    assert "\n" not in str(raised.value)


@pytest.mark.measured_processes
async def test_a_process_of_its_own_says_the_same(module: Path) -> None:
    environment = {name: os.environ[name] for name in os.environ if name in {"PATH", "PYTHONPATH"}}
    environment["PYTHONPATH"] = f"{module}:{Path(__file__).parents[2]}"
    assert await described_apart("described:make", module, environment) == GREETER
    assert "described" not in sys.modules
    with pytest.raises(NoPluginError, match=r"importing broken failed: SyntaxError: "):
        await described_apart("broken:plugin", module, environment)


async def test_the_runner_runs_a_plugin_and_says_in_one_line_why_it_cannot(module: Path) -> None:
    environment = {"PORT": "0", "HOST_URL": ""}
    async with running(
        "cpg_trio.launch.run", "cpg_trio.demo.logger:logger_plugin", environment=environment
    ) as run:
        await run.url()
        await run.until("waits for a managing host")
    async with running("cpg_trio.launch.run", "nowhere:x", environment=environment, cwd=module) as run:
        assert await run.end() == 1
        assert (await run.whole_output()).startswith("there is no module nowhere: neither in ")


def test_a_runner_without_a_plugin_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner([]) == 2
    assert capsys.readouterr().err.startswith("usage: python -m cpg_trio.launch.run ")


def test_a_process_of_a_plugin_has_no_host_in_it() -> None:
    imported = (
        "import sys, cpg_trio.launch.run; print([m for m in sys.modules if m.startswith('cpg_trio.host')])"
    )
    done = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
