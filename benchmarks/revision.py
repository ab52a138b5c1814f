"""Another commit of this project, built in a folder: its own files, environment and dependencies.

The interpreter is the one that runs this. The repository is only read.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

import attrs
import trio

from .hosts import HostProgram
from .peers import Peer

ROOT = Path(__file__).parents[1]
_BUILT = "built"  # a file that is written at the end
_VERSIONS = """
import json
from importlib.metadata import distributions
print(json.dumps({found.name: found.version for found in distributions()}))
"""


class RevisionError(Exception):
    """There is no such commit, or it cannot be built."""


@attrs.frozen
class Revision:
    """A commit that has been built."""

    name: str
    """Its short hash."""
    folder: Path

    @property
    def python(self) -> str:
        """The interpreter of its environment."""
        return str(self.folder / "environment" / "bin" / "python")

    @property
    def interpreter(self) -> tuple[str, ...]:
        """How it is run: without the working directory, and what PYTHONPATH names, on the path."""
        return (self.python, "-I")

    def peer(self) -> Peer:
        return Peer.of(self.name, f"cpg_trio host at {self.name}", HostProgram.python({}, self.interpreter))

    async def differing(self) -> list[str]:
        """Return the dependencies that have another version there: `name theirs → ours`."""
        theirs: dict[str, str] = json.loads(await _output([*self.interpreter, "-c", _VERSIONS]))
        ours = {found.name: found.version for found in distributions()}
        theirs.pop("cpg-trio", None)
        return [
            f"{name} {version} → {ours[name]}"
            for name, version in sorted(theirs.items())
            if ours.get(name, version) != version
        ]


async def built(revision: str, folder: Path) -> Revision:
    """Build a commit in a folder, unless that has been done there. Raises: RevisionError."""
    commit = ["git", "-C", str(ROOT), "rev-parse", "--short", "--verify", f"{revision}^{{commit}}"]
    name = (await _output(commit)).strip()
    it = Revision(name, folder / f"commit-{name}")
    if not (it.folder / _BUILT).exists():
        print(f"builds {name} …", file=sys.stderr, flush=True)
        await _build(it)
        (it.folder / _BUILT).touch()
    await _check(it)
    return it


async def _build(it: Revision) -> None:
    source, environment = it.folder / "source", it.folder / "environment"
    source.mkdir(parents=True, exist_ok=True)
    archive = it.folder / "source.tar"
    await _output(["git", "-C", str(ROOT), "archive", f"--output={archive}", it.name])
    await _output(["tar", "-xf", str(archive), "-C", str(source)])
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    extras = ",".join(sorted(project.get("optional-dependencies", {})))
    await _output([sys.executable, "-m", "venv", "--clear", str(environment)])
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    await _output([it.python, *install, f"{source}[{extras}]" if extras else str(source)])


async def _check(it: Revision) -> None:
    """Raise RevisionError if another package than the one that was built would be measured."""
    code = "import cpg_trio; print(cpg_trio.__file__)"
    found = Path((await _output([*it.interpreter, "-c", code])).strip())
    if not found.is_relative_to(it.folder):
        raise RevisionError(f"the environment of {it.name} has the package of {found.parent}")


async def _output(command: Sequence[str]) -> str:
    """Run a command; return what it says. Raises: RevisionError with what it says if it fails."""
    try:
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    except FileNotFoundError as error:
        raise RevisionError(f"{command[0]} is not installed") from error
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()[-20:]
        raise RevisionError("\n".join([f"{subprocess.list2cmdline(command)} failed:", *said]))
    return done.stdout.decode()
