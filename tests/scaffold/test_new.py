"""The command `new`: what it writes works, and it writes all or nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import ZipFile

import pytest

from cpg_trio import __version__, cli
from cpg_trio.codegen import project as codegen_project
from cpg_trio.codegen.project import Project

ROOT = Path(__file__).parents[2]
WHEEL = f"cpg_trio-{__version__}-py3-none-any.whl"
FILES = {
    *(".dockerignore", ".gitignore", "Dockerfile", "README.md", "platform.toml", "pyproject.toml"),
    *("proto/greeter/v1/greeter.proto", "src/greeter/__init__.py", "src/greeter/plugin.py"),
    *(f"src/greeter/protos/{folder}__init__.py" for folder in ("", "greeter/", "greeter/v1/")),
    *(f"src/greeter/protos/greeter/v1/greeter_{end}" for end in ("pb2.py", "pb2.pyi", "trio.py")),
    "tests/test_greeter.py",
}


def run(words: Sequence[str]) -> int:
    """Run a command line; return its status."""
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def wheel(folder: Path, name: str = WHEEL, content: str = "cpg_trio/__init__.py") -> Path:
    """Write what is a wheel as far as it is looked at."""
    with ZipFile(folder / name, "w") as archive:
        archive.writestr(content, "")
    return folder / name


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no code be generated, which takes a second."""
    monkeypatch.setattr(Project, "generate", lambda _: {})


@pytest.mark.parametrize(("options", "passed"), [((), 10), (("--requires", "none"), 7)])
def test_the_tests_of_a_new_project_pass(
    options: Sequence[str], passed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["new", "greeter", *options]) == 0
    folder = Path("greeter")
    assert files_of(folder) == FILES
    told = capsys.readouterr().out
    assert told.startswith("wrote  greeter/.dockerignore\n")
    assert "package greeter, plugin greeter-plugin, service greeter (greeter.v1.Greeter)\n" in told
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", str(ROOT)])}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    assert f"{passed} passed" in done.stdout, done.stdout + done.stderr


def test_generate_has_nothing_to_change_in_a_new_project(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new", "hello-plugin"]) == 0
    assert run(["generate", "hello-plugin/pyproject.toml", "--check"]) == 0
    assert "6 files, all as the protos have it" in capsys.readouterr().out


@pytest.mark.usefixtures("generated")
def test_a_wheel_goes_into_the_project_which_depends_on_it(tmp_path: Path) -> None:
    assert run(["new", "greeter", "--from", str(wheel(tmp_path))]) == 0
    assert Path(f"greeter/vendor/{WHEEL}").is_file()
    table = tomllib.loads(Path("greeter/pyproject.toml").read_text())
    assert table["project"]["dependencies"] == [f"cpg-trio @ {{root:uri}}/vendor/{WHEEL}"]
    assert table["tool"]["hatch"]["metadata"]["allow-direct-references"]


@pytest.mark.usefixtures("generated")
def test_without_a_wheel_it_depends_on_versions_that_change_no_interface() -> None:
    assert run(["new", "greeter"]) == 0
    table = tomllib.loads(Path("greeter/pyproject.toml").read_text())
    major, minor, _ = __version__.split(".")
    assert table["project"]["dependencies"] == [f"cpg-trio>={__version__},<{major}.{int(minor) + 1}"]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: folder / WHEEL, "is no wheel of cpg-trio: "),
        (lambda folder: folder / "trio-0.31.0-py3-none-any.whl", "is neither a wheel of cpg-trio"),
        (lambda folder: wheel(folder, content="other.py"), "is no wheel of cpg-trio: "),
        (
            lambda folder: wheel(folder, "cpg_trio-0.0.1-py3-none-any.whl"),
            "is version 0.0.1, and this command",
        ),
        (lambda folder: folder, "is no checkout of cpg-trio"),
    ],
)
def test_what_is_no_package_is_refused_and_nothing_is_written(
    make: Callable[[Path], Path], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["new", "greeter", "--from", str(make(tmp_path))]) == 1
    assert "nothing was written: " in (error := capsys.readouterr().err)
    assert told in error
    assert list(Path().iterdir()) == []


def test_without_the_generator_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(codegen_project, "find_spec", lambda _: None)
    assert run(["new", "greeter"]) == 1
    assert "pip install 'cpg-trio[codegen]'" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("generated")
@pytest.mark.parametrize(("environment", "is_told"), [(sys.prefix, False), ("/another", True)])
def test_who_has_not_activated_the_environment_is_told_to(
    environment: str, *, is_told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setenv("VIRTUAL_ENV", environment)
    assert run(["new", "greeter", "--folder", "my folder"]) == 0
    told = capsys.readouterr().out
    assert (f"  . {sys.prefix}/bin/activate\n" in told) is is_told
    assert "  cd 'my folder'\n" in told


def test_a_name_that_cannot_be_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new", "Greeter"]) == 2
    assert "greeter would be one" in capsys.readouterr().err


def test_only_the_logger_is_known_as_a_dependency(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new", "greeter", "--requires", "inventory"]) == 2
    assert "the proto of 'inventory' is not known here" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("the disk is full")])
def test_nothing_is_left_of_a_project_that_was_not_finished(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(Project, "generate", fail)
    assert run(["new", "greeter"]) != 0
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("generated")
def test_a_folder_that_is_not_empty_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Path("greeter").mkdir()
    Path("greeter/own").touch()
    assert run(["new", "greeter"]) == 1
    assert "greeter is not empty: name another one with --folder" in capsys.readouterr().err
    assert files_of(Path()) == {"greeter/own"}
    Path("file").touch()
    assert run(["new", "greeter", "--folder", "file"]) == 1
    assert "file is a file: name another one with --folder" in capsys.readouterr().err
    assert run(["new", "greeter", "--folder", "no/such/place"]) == 1
    assert files_of(Path()) == {"greeter/own", "file"}


@pytest.mark.usefixtures("generated")
def test_an_empty_folder_stays_the_one_that_it_is() -> None:
    before = Path().stat()
    assert run(["new", "greeter", "--folder", "."]) == 0
    assert Path().stat().st_ino == before.st_ino
    assert Path("src/greeter/plugin.py").is_file()
    assert not list(Path().glob(".cpg-trio-new-*"))


@pytest.mark.usefixtures("generated")
def test_what_was_moved_is_moved_back_if_the_rest_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def fail_at_last(path: Path, target: Path) -> Path:
        if path.name == "tests" and path.parent.name == "project":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_at_last)
    assert run(["new", "greeter", "--folder", "."]) == 1
    assert list(Path().iterdir()) == []
