"""Platform files for tests, and what a platform leaves behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

SCRIPT = """\
import signal, sys, time
print("hello from", sys.argv[1], flush=True)
time.sleep(1000)
"""
GREETER = """
from cpg_trio import Plugin
plugin = Plugin("greeter-plugin", version="1.0.0")
"""


def platform_folder(folder: Path) -> Path:
    """Put a script, and a plugin, in a folder; return it."""
    (folder / "script.py").write_text(SCRIPT)
    (folder / "up_greeter.py").write_text(GREETER)
    return folder


def platform_file(folder: Path, *tables: str, host: str = "", port: int = 0) -> Path:
    """Write a platform file; return it."""
    file = folder / "platform.toml"
    socket_path = folder / "admin.sock"
    file.write_text(f'[host]\nport = {port}\nadmin_socket = "{socket_path}"\n{host}\n' + "\n".join(tables))
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
