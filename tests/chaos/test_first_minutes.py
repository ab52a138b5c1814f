"""The way of a newcomer, command by command, with real processes: new, its tests, up, a call, a change."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cpg_trio.cli._host import TABLE
from tests.platforms import processes_of
from tests.processes import assert_no_traceback, running

ROOT = Path(__file__).parents[2]
PLACES = {"PYTHONPATH": os.pathsep.join(["src", str(ROOT)])}
TUTORIAL = (ROOT / "docs/guides/writing-a-plugin.md").read_text()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TABLE:
        monkeypatch.delenv(name, raising=False)


async def output_of(*arguments: str, cwd: Path) -> str:
    """Return what `python -m` with these arguments writes. Raises: AssertionError if it fails."""
    async with running(*arguments, cwd=cwd, environment=PLACES) as run:
        status = await run.end()
        output = await run.whole_output()
    assert status == 0, output
    return output


def test_the_commands_of_the_tutorial_are_those_that_are_run_here() -> None:
    commands = re.findall(r"^\$ (cpg-trio .*?)(?:    #.*)?$", TUTORIAL, re.MULTILINE)
    assert commands == [
        'cpg-trio new greeter --from "$CPG_TRIO"',
        "cpg-trio up --reload",
        """cpg-trio call greeter Greet '{"name": "Ada"}'""",
        "cpg-trio call greeter",
        """cpg-trio call greeter Greet '{"name": "Ada"}'""",
    ]


async def test_from_nothing_to_a_change_that_is_called(short_path: Path) -> None:
    await output_of("cpg_trio", "new", "greeter", cwd=short_path)
    folder = short_path / "greeter"
    assert "10 passed" in await output_of("pytest", "-q", cwd=folder)
    assert "order: the host, then logger, then greeter" in await output_of(
        "cpg_trio", "up", "--check", cwd=folder
    )

    file = folder / "platform.toml"
    file.write_text(file.read_text().replace("port = 8080", f'port = 0\nadmin_socket = "{short_path}/admin"'))
    async with running("cpg_trio", "up", "--reload", cwd=folder, environment=PLACES) as up:
        url = (await up.until(r"listening on (http://\S+) \("))[1]
        await up.until(r"greeter +ready, pid \d+")
        await up.until("watching for changes of greeter, logger")

        async def greeting() -> str:
            return await output_of(
                "cpg_trio", "call", "greeter", "Greet", '{"name": "Ada"}', f"--host={url}", cwd=folder
            )

        assert await greeting() == '{"text": "Hello, Ada, from cpg-trio-call!"}\n'
        (change,) = re.findall(r"^\$ (sed .*)$", TUTORIAL, re.MULTILINE)
        await trio.run_process(["sh", "-c", change], cwd=folder)
        await up.until(r"greeter +stopped, pid \d+")
        assert await greeting() == '{"text": "Good morning, Ada, from cpg-trio-call!"}\n'
        assert await up.end(signal.SIGTERM) == 0
        assert_no_traceback(await up.whole_output())
    assert processes_of(folder) == []


def test_ctrl_c_while_a_project_is_written_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cpg_trio", "new", "greeter"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for delay_s in (0.1, 0.3, 0.5, 0.7, 0.9):
        # A group of its own, as the terminal has it, so that what it has started is interrupted as well.
        with subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        ) as process:
            try:
                process.wait(delay_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=30)
        assert b"Traceback" not in err
        if process.returncode == 0 or b"  cd greeter\n" in out:  # it is written, and says so
            break
        assert list(tmp_path.iterdir()) == []
