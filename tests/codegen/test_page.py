"""The page of the generator: its commands print what it says, and what is refused is told in its words."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cpg_trio import codegen
from cpg_trio._version import __version__
from cpg_trio.codegen import bundled
from cpg_trio.rpc.stubs import FORMAT, check_stubs
from tests.codegen.test_refusals import told

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/generator.md").read_text()
GREETER = (
    'syntax = "proto3";\npackage greeter.v1;\nservice Greeter { rpc Greet(A) returns (A); }\nmessage A {}\n'
)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the folder of a project with the table of the page."""
    (tmp_path / "proto/greeter/v1").mkdir(parents=True)
    (tmp_path / "proto/greeter/v1/greeter.proto").write_text(GREETER)
    (tmp_path / "pyproject.toml").write_text(blocks("toml")[0])
    (tmp_path / "vendor/protos").mkdir(parents=True)
    return tmp_path


def run(folder: Path, command: str) -> str:
    """Return what a line of shell prints, with the programs of this environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_print_what_the_page_shows(project: Path) -> None:
    (block, *_) = blocks("console")
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
        assert run(project, command) == shown
    assert 'package = "greeter._gen"' in blocks("toml")[0]


def test_the_proto_of_the_page_goes_through_protoc_as_it_says(project: Path) -> None:
    (proto,) = blocks("proto")
    (project / "proto/greeter/v1/greeter.proto").write_text(proto)
    (command,) = [block for block in blocks("console") if "grpc_tools.protoc" in block]
    assert run(project, command.removeprefix("$ ")) == ""
    used = "from greeter.v1.greeter_trio import GreeterClient; print(GreeterClient.last_line.__doc__)"
    printed = run(project, f"{shlex.quote(sys.executable)} -c {shlex.quote(used)}")
    assert printed == "The last line that a greeting has logged.\n"


def test_what_is_refused_is_told_in_the_words_of_the_page() -> None:
    (shown,) = blocks("text")
    assert len(shown.splitlines()) > 3
    assert set(shown.splitlines()) <= {f"proto/{response.error}" for response in told().values()}


def test_the_page_names_each_folder_of_our_protos_and_what_stubs_of_another_version_say() -> None:
    tops = {path.relative_to(bundled.folder()).parts[0] for path in bundled.folder().rglob("*.proto")}
    assert all(f"`{top}/" in PAGE for top in tops)
    with pytest.raises(ImportError) as refused:
        check_stubs("greeter.protos.greeter.v1.greeter_trio", FORMAT + 1, "9.0.0")
    assert f"ImportError: {refused.value}".replace(__version__, "0.2.0") in PAGE
    assert codegen.snake_case("GetURL") == "get_url"
