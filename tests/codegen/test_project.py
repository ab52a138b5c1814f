"""Projects: where the code of protos goes, what is wrong with a table, and what is written again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cpg_trio.codegen import GenerationError
from cpg_trio.codegen.project import Project

PROTO = """\
syntax = "proto3";
package greeter.v1;
service Greeter {
  rpc Greet(Text) returns (Text);
}
message Text {
  string text = 1;
}
"""
TABLE = '[tool.cpg-trio]\noutput = "src/greeter/_gen"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a project with one proto."""
    (tmp_path / "proto/greeter/v1").mkdir(parents=True)
    (tmp_path / "proto/greeter/v1/greeter.proto").write_text(PROTO)
    (tmp_path / "pyproject.toml").write_text(TABLE)
    return tmp_path


def generate(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cpg_trio", "generate", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_writes_what_has_changed_and_deletes_what_has_no_proto(folder: Path) -> None:
    made = "src/greeter/_gen/greeter/v1/greeter"
    folders = ("", "greeter/", "greeter/v1/")
    told = "".join(f"wrote  src/greeter/_gen/{folder}__init__.py\n" for folder in folders)
    told += "".join(f"wrote  {made}{end}\n" for end in ("_pb2.py", "_pb2.pyi", "_trio.py"))
    assert generate(folder, "--check").returncode == 1
    assert not (folder / "src").exists()
    assert (done := generate(folder)).stdout == told, done.stderr
    assert generate(folder, "--check").stdout == "src/greeter/_gen: 6 files, all as the protos have it\n"

    own = folder / "src/greeter/_gen/own_trio.py"
    own.write_text("# not generated\n")
    other = folder / "proto/greeter/v1/greeter.proto"
    other.rename(other.with_name("other.proto"))
    assert "deleted  " + made + "_trio.py" in generate(folder).stdout
    assert own.exists()
    assert not (folder / f"{made}_pb2.py").exists()


def test_a_file_in_the_way_that_was_not_generated_stays(folder: Path) -> None:
    made = folder / "src/greeter/_gen/greeter/v1"
    made.mkdir(parents=True)
    (made / "greeter_trio.py").write_text("# by hand\n")
    (made / "__init__.py").write_text("# by hand\n")
    assert "greeter_trio.py: the code of a proto goes here, and this file was not" in generate(folder).stderr
    assert len(list(made.iterdir())) == 2
    (made / "greeter_trio.py").unlink()
    assert generate(folder).returncode == 0
    assert (made / "__init__.py").read_text() == "# by hand\n"


def test_modules_import_each_other_where_they_are(folder: Path) -> None:
    (folder / "proto/user.proto").write_text(
        'syntax = "proto3";\nimport "greeter/v1/greeter.proto";\nmessage User { greeter.v1.Text text = 1; }\n'
        "service Users { rpc Get(greeter.v1.Text) returns (User); }\n"
    )
    texts = {
        str(path): text for path, text in Project.from_file(folder / "pyproject.toml").generate().items()
    }
    for name in ("user_pb2.py", "user_pb2.pyi", "user_trio.py"):
        assert "from greeter._gen.greeter.v1 import greeter_pb2" in texts[name], name


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("", "there is no table [tool.cpg-trio]"),
        ("[tool.cpg-trio]", 'has to say where the code goes: output = "src/greeter/_gen"'),
        (TABLE + 'proto = "a"', "[tool.cpg-trio] has no 'proto'; it has include, output, package, protos"),
        (TABLE + "protos = 3", "protos in [tool.cpg-trio] is a text, and not 3"),
        (TABLE + 'include = "a"', "include is a list of folders"),
        (TABLE + 'protos = "none"', "none: there are no .proto files"),
        ("[tool", "pyproject.toml: "),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_what_is_wrong(folder: Path, table: str, told: str) -> None:
    (folder / "pyproject.toml").write_text(table)
    with pytest.raises(GenerationError) as refused:
        Project.from_file(folder / "pyproject.toml").generate()
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("rpc Greet(Text) returns (Txet);", 'greeter/v1/greeter.proto:4:28: "Txet" is not defined.'),
        (
            "rpc Greet(Text) returns (Text); rpc greet(Text) returns (Text);",
            "greeter/v1/greeter.proto:4: greeter.v1.Greeter/greet and Greet would both be greet() in Python",
        ),
    ],
)
def test_a_proto_that_is_wrong_is_refused_with_its_line(folder: Path, wrong: str, told: str) -> None:
    path = folder / "proto/greeter/v1/greeter.proto"
    path.write_text(PROTO.replace("rpc Greet(Text) returns (Text);", wrong))
    done = generate(folder)
    assert done.returncode == 1
    assert told in done.stderr
    assert not done.stdout
    assert not (folder / "src").exists()
