"""A program: new projects pass ruff, hadolint, strict mypy and pyright, with short and with long names."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from cpg_trio.scaffold import Names, NewProject, new_project

PROJECTS = (
    NewProject(Names.of("greeter")),
    NewProject(Names.of("x"), logger=False),
    NewProject(Names.of("a-name-that-is-as-long-as-names-may-be40")),
)


def main() -> int:
    """Write, and check; return 1 if a checker found something."""
    found = 0
    for project in PROJECTS:
        with tempfile.TemporaryDirectory() as top:
            folder = Path(top, "project")
            new_project(project, None, folder)
            found += sum(
                subprocess.run(command, cwd=folder, check=False).returncode for command in _commands()
            )
    return min(found, 1)


def _commands() -> list[list[str]]:
    tools = Path(sys.executable).parent
    return [
        [str(tools / "ruff"), "check", "."],
        [str(tools / "ruff"), "format", "--diff", "."],
        [str(tools / "hadolint"), "Dockerfile"],
        ["env", "MYPYPATH=src", sys.executable, "-m", "mypy", "src", "tests"],
        [str(tools / "basedpyright"), "--level=error", f"--pythonpath={sys.executable}", "src", "tests"],
    ]


if __name__ == "__main__":
    sys.exit(main())
