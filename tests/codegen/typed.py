"""A program: the code that is generated for the corpus passes a strict check of types, as users run it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from cpg_trio.codegen.project import Project

CORPUS = Path(__file__).parent / "corpus"


def main() -> int:
    """Generate, and check; return the status of mypy."""
    with tempfile.TemporaryDirectory() as top:
        project = Project(CORPUS, Path(top, "made", "here"), "made.here")
        project.write(project.generate())
        command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--package=made"]
        return subprocess.run(command, cwd=top, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
