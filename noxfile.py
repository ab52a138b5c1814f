"""The tasks of this project. `nox` alone runs what CI runs."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False  # an interpreter that is not there is not tested on
nox.options.sessions = [
    "lint",
    "typecheck",
    "proto",
    "tests",
    "chaos",
    "docs",
    "browser",
    "e2e",
    "chart",
    "release",
]

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
# Files whose tables say what is generated from what.
GENERATED = ["pyproject.toml", "tests/proto.toml"]


DIST = ROOT / "dist"
EXTRAS = sorted(PROJECT["project"]["optional-dependencies"])
# Tests that show a package to be whole: what users write against, and each part that is read from a file.
PUBLIC_TESTS = [
    "tests/codegen",
    "tests/demo",
    "tests/testing",
    "tests/test_cli.py",
    "tests/test_first_steps.py",
]


def _install(session: nox.Session, *groups: str) -> None:
    session.install("-e", f".[{','.join(EXTRAS)}]", *nox.project.dependency_groups(PROJECT, *groups))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting, and the workflows of the forge."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("hadolint", "containers/Dockerfile")
    session.run("zizmor", "--offline", "--quiet", "--persona=pedantic", ".github")
    if actionlint := os.environ.get("ACTIONLINT") or shutil.which("actionlint"):
        session.run(actionlint, "-color", external=True)
    else:  # its package downloads a program as it is built, and so cannot be required
        session.warn("workflows are not checked by actionlint: put it on PATH, or name it in ACTIONLINT")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check types, strictly, in the source and in the tests."""
    _install(session, "test", "chart", "typecheck", "lint")
    session.run("mypy")
    session.run("python", "-m", "tests.codegen.typed")
    session.run("python", "-m", "tests.scaffold.checked")


@nox.session
def proto(session: nox.Session) -> None:
    """Lint the protos and generate code from them; fail if that changes a file."""
    _install(session, "proto")
    session.run("buf", "lint")
    session.run("buf", "format", "--diff", "--exit-code")
    if changed := _generate(session):
        changes = "\n".join(changed)
        session.error(f"{changes}\nThese files follow from the protos now: review and commit them.")


def _generate(session: nox.Session) -> list[str]:
    """Generate all code, and return what that changed."""
    told = [str(session.run("cpg-trio", "generate", table, silent=True)) for table in GENERATED]
    return [line for text in told for line in text.splitlines() if line.startswith(("wrote", "deleted"))]


def _contents(folder: Path, *patterns: str) -> dict[Path, bytes]:
    """Read the files of a folder whose names fit a pattern."""
    found = (path for pattern in patterns for path in folder.rglob(pattern))
    return {path.relative_to(folder): path.read_bytes() for path in found if path.is_file()}


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the test suite and hold its coverage to the gate. Arguments go to pytest."""
    _install(session, "test")
    scratch = Path(session.create_tmp())
    # All workers, and all processes that tests start, compile each module once between them, whatever the
    # environment says: beside the source, as a folder of their own would have nothing of what is installed.
    env = {"COVERAGE_FILE": str(scratch / "coverage"), "PYTHONDONTWRITEBYTECODE": ""}
    session.run("coverage", "erase", env=env)
    # More at once than there are cores, as many tests wait; up to where more would be for nothing.
    options = ["-n", str(min(4, 2 * (os.cpu_count() or 1)))]
    # A worker that has nothing left takes over tests of another one: no core is idle at the end. What the
    # tests of a file share is made in few workers, as each begins with a part in the order of the files.
    options += ["--dist", "worksteal"]
    # A test that hangs ends its process after two minutes, which names it, and not the whole run.
    options += ["-o", "faulthandler_timeout=120", "-o", "faulthandler_exit_on_timeout=true"]
    session.run("coverage", "run", "-m", "pytest", *options, *session.posargs, env=env)
    session.run("coverage", "combine", "--quiet", env=env)
    if not session.posargs:  # a part of the suite covers a part of the source
        session.run("coverage", "report", env=env)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the tables of the documentation. Arguments go to the benchmark; `-- tests` tests it."""
    words = session.posargs
    if words[:1] == ["tests"]:
        _install(session, "test", "bench")
        session.run("pytest", "tests/bench", *words[1:])
        return
    _install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Look for messages that two parsers read differently. Arguments: the kind, and the number of seconds."""
    _install(session, "test", "fuzz")
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session
def conformance(session: nox.Session) -> None:
    """Run the official Connect conformance suite against a server and a client of ours: `-- --runner PATH`.

    The runner and its protos are not part of this project. Without them the session is skipped.
    """
    if not session.posargs:
        session.skip(
            "NOT RUN: the Connect conformance suite needs its runner: nox -s conformance -- --runner PATH"
            " (docs/reference/conformance.md)"
        )
    _install(session, "test")
    session.run("python", "-m", "tests.conformance", *session.posargs)


@nox.session
def abuse(session: nox.Session) -> None:
    """Run hostile clients, a minute each, against a host and a plugin. Arguments go to pytest.

    ABUSE_SECONDS says for how long instead.
    """
    _install(session, "test")
    env = {"ABUSE_SECONDS": os.environ.get("ABUSE_SECONDS", "60")}
    session.run("pytest", "tests/abuse", *session.posargs, env=env)


@nox.session
def chaos(session: nox.Session) -> None:
    """Run the fault suite: real processes, killed, stopped, cut off and starved, and what an operator sees.

    Arguments go to pytest.
    """
    _install(session, "test")
    if session.posargs:
        session.run("pytest", "tests/chaos", *session.posargs)
        return
    # Most of its tests wait more than they work. Those that count shares of the calls are alone: a provider
    # that is held up by other tests is a slow one.
    alone = ["tests/chaos/test_balance.py", "tests/chaos/test_survival.py"]
    session.run("pytest", "tests/chaos", "-n", "3", *(f"--ignore={path}" for path in alone))
    session.run("pytest", *alone)


@nox.session(name="chaos-cluster")
def chaos_cluster(session: nox.Session) -> None:
    """Run several hosts on a real etcd, with faults, and behind balancers. Arguments go to pytest.

    CLUSTER_SECONDS says for how long the random faults come: ten minutes by default.
    """
    _install(session, "test")
    env = {"CLUSTER_SECONDS": os.environ.get("CLUSTER_SECONDS", "600")}
    session.run("pytest", "tests/chaos_cluster", *session.posargs, env=env)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site into build/site, strictly, and check its links.

    With `-- --external` links to other sites are followed. With `-- --into FOLDER` the site is put into a
    folder of versions. `-- serve` serves it, and builds it again when a page changes.
    """
    _install(session, "docs")
    env = {"NO_MKDOCS_2_WARNING": "1"}
    words = session.posargs
    if words[:1] == ["serve"]:
        session.run("python", "-m", "mkdocs", "serve", *words[1:], env=env)
        return
    session.run("python", "-m", "website.generate", "--check")
    versioned = {"DOCS_VERSIONED": "1"} if "--into" in words else {}
    # Without --quiet, which would hide warnings from --strict, too.
    session.run("python", "-m", "mkdocs", "build", "--strict", env=env | versioned)
    external = ["--external"] if "--external" in words else []
    session.run("python", "-m", "website.check", "build/site", *external)
    if versioned:
        session.run("python", "-m", "website.versions", "build/site", words[words.index("--into") + 1])


@nox.session
def browser(session: nox.Session) -> None:
    """Look at the dashboard in a real Chromium: `chromium` on PATH, or CHROMIUM. Arguments go to pytest.

    Where there is none it is skipped as a part of everything, and an error if it was asked for.
    """
    _in_browser(session, "tests/browser", *session.posargs)


@nox.session
def screenshots(session: nox.Session) -> None:
    """Make the pictures of the dashboard that the documentation shows."""
    _in_browser(session, "tests/browser/screenshots.py", *session.posargs)


def _in_browser(session: nox.Session, *arguments: str) -> None:
    """Run tests with a browser."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        asked_for = any(session.name in word for word in sys.argv[1:])
        why_not = "there is no Chromium: install the package `chromium`, or name the program in CHROMIUM"
        (session.error if asked_for else session.skip)(why_not)
    _install(session, "test", "browser")
    # Its own driver comes with Playwright; the browser is the one that is there.
    session.run("pytest", *arguments, env={"CHROMIUM": str(found)})


@nox.session
def e2e(session: nox.Session) -> None:
    """Run the system as containers, and inject faults. Arguments go to pytest.

    Where there is no Docker engine it is skipped as a part of everything, and an error if it was asked for.
    """
    if why_not := _no_docker():
        asked_for = any("e2e" in word for word in sys.argv[1:])
        (session.error if asked_for else session.skip)(why_not)
    _install(session, "test")
    # An end from outside reaches the tests as well, and they have time to clean up in.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    session.run("pytest", "tests/e2e", *session.posargs, interrupt_timeout=20, terminate_timeout=60)


def _no_docker() -> str:
    """Return why containers cannot run here, or an empty string."""
    for command, lacking in (
        (["docker", "info", "--format", "{{.ServerVersion}}"], "no Docker engine that answers"),
        (["docker", "compose", "version"], "no `docker compose`, version 2"),
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return "there is no `docker` command: install Docker, https://docs.docker.com/engine/install"
        if done.returncode:
            return f"there is {lacking}: {done.stderr.strip() or done.stdout.strip()}"
    return ""


@nox.session
def chart(session: nox.Session) -> None:
    """Lint the chart, render it for many values and versions, and validate the objects.

    Where there is no Helm it is skipped as a part of everything, and an error if it was asked for.
    """
    helm = os.environ.get("HELM") or shutil.which("helm")
    if helm is None:
        asked_for = any("chart" in word for word in sys.argv[1:])
        why_not = "there is no Helm: put it on PATH, or name it in HELM (https://helm.sh/docs/intro/install)"
        (session.error if asked_for else session.skip)(why_not)
    _install(session, "test", "chart")
    session.run("pytest", "tests/chart", *session.posargs, env={"HELM": str(helm)})


@nox.session
def k8s(session: nox.Session) -> None:
    """Install the chart on the cluster of KUBECONFIG, and run the commands of the guide."""
    if "KUBECONFIG" not in os.environ:
        session.error("KUBECONFIG does not name a cluster, and no other is to be touched")
    _install(session, "test", "chart")
    session.run("pytest", "tests/k8s", "-x", "-s", *session.posargs)


@nox.session(python="3.13")
def lock(session: nox.Session) -> None:
    """Update the lock files of the container images: the newest versions that fit, with their hashes."""
    session.install("pip-tools>=7.5")
    options = [
        "--upgrade",
        "--generate-hashes",
        "--strip-extras",
        "--allow-unsafe",
        "--no-annotate",
        "--quiet",
    ]
    options += ["--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host"]
    env = {"CUSTOM_COMPILE_COMMAND": "nox -s lock"}
    for name, what in (
        ("requirements", ["--extra=postgres", "--extra=otel", "--extra=etcd"]),
        ("build", ["--build-deps-for=wheel", "--only-build-deps"]),
    ):
        target = f"containers/{name}.lock"
        session.run("pip-compile", *options, *what, f"--output-file={target}", "pyproject.toml", env=env)
        for machine in ("x86_64", "aarch64"):
            _check_wheels(session, target, machine)


def _check_wheels(session: nox.Session, lock: str, machine: str) -> None:
    """Check that each package of a lock file has a wheel for an architecture."""
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in (17, 28)]
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", *platforms]
    session.run("pip", "download", *options, f"--dest={session.create_tmp()}", f"--requirement={lock}")


@nox.session
def notes(session: nox.Session) -> None:
    """Show the notes of the next release as they would be now."""
    session.install(*nox.project.dependency_groups(PROJECT, "release"))
    session.run("towncrier", "build", "--draft", "--version", "Unreleased")


@nox.session
def cut(session: nox.Session) -> None:
    """Cut a release in the files: its notes, and its version in each place. The argument is the version."""
    if len(session.posargs) != 1:
        session.error("which version? `nox -s cut -- 0.3.0`")
    _install(session, "proto", "release")
    session.run("python", "-m", "release.versions", *session.posargs)
    _generate(session)  # generated code says which version has made it
    session.run("towncrier", "build", "--yes", "--version", *session.posargs)


@nox.session
def release(session: nox.Session) -> None:
    """Build the package twice, check it, install it as a user does, and test what is installed.

    `dist/` gets the wheel, the sdist, a bill of materials (CycloneDX) and checksums. Arguments go to pytest:
    it runs the tests of the public interface by default, and all for `-- tests`.
    """
    session.install("--require-hashes", "-r", "containers/build.lock")  # what the images are built with, too
    session.install(*nox.project.dependency_groups(PROJECT, "release"))
    scratch = Path(session.create_tmp()).resolve()
    for folder in (DIST, scratch):
        shutil.rmtree(folder, ignore_errors=True)
    _build(session, DIST)
    _build(session, scratch / "again")
    if _contents(DIST, "*") != _contents(scratch / "again", "*"):
        session.error("building it twice does not give the same bytes")
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    session.run("validate-pyproject", "pyproject.toml")
    session.run("twine", "check", "--strict", str(wheel), str(sdist))
    session.run("check-wheel-contents", "--ignore=W002", str(wheel))  # generated files may well be the same
    session.run("python", "-m", "release.contents", str(DIST))
    python = _environment(session, scratch / "user", str(wheel))
    bill = DIST / f"{'-'.join(wheel.name.split('-')[:2])}.cdx.json"
    options = ["--output-reproducible", "--pyproject=pyproject.toml", "--mc-type=library"]
    session.run("cyclonedx-py", "environment", *options, f"--output-file={bill}", python)
    _add(session, python, f"{wheel}[codegen,demo]")
    session.run(python, "-I", "release/smoke.py", wheel.name.split("-")[1], external=True)
    _try_first_plugin(session, python, scratch / "greeter", wheel)
    _test_installed(session, scratch, wheel, sdist)
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(DIST.iterdir())
    ]
    (DIST / "SHA256SUMS").write_text("".join(sums))


def _build(session: nox.Session, folder: Path) -> None:
    """Build an sdist, and from it a wheel: as old as the last commit, whenever that is done."""
    committed = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], capture_output=True, text=True, check=True
    )
    env = {"SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", committed.stdout.strip())}
    session.run("python", "-m", "build", "--no-isolation", f"--outdir={folder}", env=env, silent=True)


def _environment(session: nox.Session, folder: Path, *requirements: str) -> str:
    """Make an environment that has only what is required. Return its interpreter."""
    session.run("python", "-m", "venv", "--without-pip", str(folder))
    python = str(folder / "bin" / "python")
    _add(session, python, *requirements)
    return python


def _add(session: nox.Session, python: str, *requirements: str) -> None:
    session.run("pip", f"--python={python}", "install", "--quiet", *requirements, silent=True)


def _try_first_plugin(session: nox.Session, python: str, folder: Path, wheel: Path) -> None:
    """Write the project of a plugin, install it, and run its tests, in an environment that has the wheel."""
    command = str(Path(python).parent / "cpg-trio")
    session.run(
        command, "new", "greeter", f"--from={wheel}", f"--folder={folder}", external=True, silent=True
    )
    _add(session, python, "--editable", f"{folder}[dev]")
    with session.chdir(folder):
        session.run(python, "-m", "pytest", "-q", external=True)


def _test_installed(session: nox.Session, scratch: Path, wheel: Path, sdist: Path) -> None:
    """Run tests of the sdist on the installed wheel, which takes the place of the sdist's package."""
    needed = nox.project.dependency_groups(PROJECT, "test")
    python = _environment(session, scratch / "tester", f"{wheel}[{','.join(EXTRAS)}]", *needed)
    session.run("python", "-m", "tarfile", "-e", str(sdist), str(scratch))
    source = scratch / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(source / "cpg_trio")
    (installed,) = (scratch / "tester").glob("lib/python*/site-packages/cpg_trio")
    (source / "cpg_trio").symlink_to(installed)
    env = {"PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"}
    with session.chdir(source):
        tests = session.posargs or PUBLIC_TESTS
        session.run(python, "-m", "pytest", "-q", "-n", "2", *tests, external=True, env=env)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Run the test suite on the lowest versions that the package allows. Arguments go to pytest."""
    session.install("uv>=0.9,<1")
    lowest = Path(session.create_tmp()) / "lowest.txt"
    extras = [f"--extra={extra}" for extra in EXTRAS]
    options = [
        "--quiet",
        "--resolution=lowest-direct",
        "--no-header",
        "--no-annotate",
        "--python-version=3.11",
    ]
    session.run("uv", "pip", "compile", *options, *extras, "pyproject.toml", f"--output-file={lowest}")
    session.install(
        "-e", f".[{','.join(EXTRAS)}]", "-r", str(lowest), *nox.project.dependency_groups(PROJECT, "test")
    )
    options = ["-n", "2", "--dist", "worksteal", "-o", "faulthandler_timeout=120"]
    session.run("pytest", *options, *session.posargs)
