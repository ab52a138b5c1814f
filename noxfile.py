"""Everything that is done to this project by command. `nox` alone does what CI does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False  # an interpreter that is not there is not tested on
nox.options.sessions = ["lint", "typecheck", "proto", "tests", "chaos", "demo"]

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
# What is generated from what. Each folder on the right holds generated files only.
GENERATED = {Path("proto"): Path("cpg_trio/_gen"), Path("tests/proto"): Path("tests/_gen")}


def _install(session: nox.Session, *groups: str) -> None:
    session.install("-e", ".", *nox.project.dependency_groups(PROJECT, *groups))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check types, strictly, in the source and in the tests."""
    _install(session, "test", "typecheck")
    session.run("mypy")


@nox.session
def proto(session: nox.Session) -> None:
    """Lint the protos and generate what follows from them; fail if that was not what is there."""
    _install(session, "proto")
    session.run("buf", "lint")
    session.run("buf", "format", "--diff", "--exit-code")
    changed = [str(target) for source, target in GENERATED.items() if _generate(session, source, target)]
    if changed:
        session.error(
            f"{', '.join(changed)} did not follow from the protos. It does now: review and commit it."
        )


def _generate(session: nox.Session, source: Path, target: Path) -> bool:
    """Generate into `target`; return whether that changed it."""
    # Beside it first: the generator is part of the package, which needs what is there now.
    fresh = Path(session.create_tmp()) / target
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    session.run(
        "python",
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={source}",
        f"--python_out={fresh}",
        f"--pyi_out={fresh}",
        f"--connectrpc_out={fresh}",
        "--connectrpc_opt=protobuf=google,io=async",
        f"--cpg-trio_out={fresh}",
        *sorted(str(path.relative_to(source)) for path in source.rglob("*.proto")),
    )
    if _contents(fresh) == _contents(target):
        return False
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(fresh, target)
    return True


def _contents(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*.py*")
        if path.suffix in {".py", ".pyi"}
    }


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the test suite and hold its coverage to the gate. Arguments go to pytest."""
    _install(session, "test")
    env = {"COVERAGE_FILE": str(Path(session.create_tmp()) / "coverage")}
    session.run("coverage", "erase", env=env)
    session.run("coverage", "run", "-m", "pytest", *session.posargs, env=env)
    session.run("coverage", "combine", "--quiet", env=env)
    if not session.posargs:  # a part of the suite covers a part of the source
        session.run("coverage", "report", env=env)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what the documentation has tables of. Arguments go to the benchmark."""
    _install(session, "bench")
    session.run("python", "-m", "benchmarks.watchers", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Run the fault suite: real processes, killed and stopped and cut off. Arguments go to pytest."""
    _install(session, "test")
    session.run("pytest", "tests/chaos", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Build the package, install it as a user does, and run the demo once, away from the source."""
    session.install(".")
    with session.chdir(session.create_tmp()):
        session.run("python", "-m", "cpg_trio.demo", "--once", env={"PYTHONPATH": os.devnull})
