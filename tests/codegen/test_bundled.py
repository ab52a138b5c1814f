"""The protos that come with the package: imported without a copy, and beside copies of users."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpg_trio.codegen import GenerationError, bundled
from cpg_trio.codegen.project import Project

ROOT = Path(__file__).parents[2]
OURS = ROOT / "proto"
GREETER = """\
syntax = "proto3";
package greeter.v1;
import "logger/v1/logger.proto";
import "capability/logger/v1/logger.proto";
service Greeter {
  rpc Last(logger.v1.LogRequest) returns (Answer);
}
message Answer {
  logger.v1.LogResponse logged = 1;
  capability.logger.v1.LogRequest line = 2;
}
"""
USE = """\
from cpg_trio.protos.capability.logger.v1.logger_pb2 import LogRequest
from cpg_trio.protos.logger.v1.logger_pb2 import LogResponse
from {package}greeter.v1.greeter_pb2 import Answer
from {package}greeter.v1.greeter_trio import GreeterService
answer = Answer(logged=LogResponse(success=True), line=LogRequest(level="info"))
print(type(answer.logged).__module__)
print(GreeterService.rpcs[0].request.DESCRIPTOR.full_name)
"""


@pytest.fixture
def protos(tmp_path: Path) -> Path:
    """Return a folder of protos that has one, which imports ours."""
    (tmp_path / "proto/greeter/v1").mkdir(parents=True)
    (tmp_path / "proto/greeter/v1/greeter.proto").write_text(GREETER)
    return tmp_path / "proto"


def put(protos: Path, name: str, text: str) -> None:
    (protos / name).parent.mkdir(parents=True, exist_ok=True)
    (protos / name).write_text(text)


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", ["made", ""])
def test_a_proto_imports_ours_without_a_copy(protos: Path, package: str) -> None:
    top = protos.parent
    project = Project(protos, top / package, package)
    made = [path for path in map(str, project.generate()) if not path.endswith("__init__.py")]
    assert made == [f"greeter/v1/greeter_{end}" for end in ("pb2.py", "pb2.pyi", "trio.py")]
    project.write(project.generate())
    used = run(top, sys.executable, "-c", USE.format(package=f"{package}." if package else ""))
    assert used == "cpg_trio.protos.logger.v1.logger_pb2\nlogger.v1.LogRequest\n"


def test_a_copy_of_ours_is_the_same_messages(protos: Path) -> None:
    for name in ("logger/v1/logger.proto", "capability/logger/v1/logger.proto"):
        put(protos, name, "// With a comment of one's own.\n" + (OURS / name).read_text())
    project = Project(protos, protos.parent / "made", "made")
    project.write(project.generate())
    same = (
        "import made.logger.v1.logger_pb2 as theirs, cpg_trio.protos.logger.v1.logger_pb2 as ours,"
        " made.greeter.v1.greeter_trio; print(theirs.LogRequest is ours.LogRequest)"
    )
    assert run(protos.parent, sys.executable, "-c", same) == "True\n"


def test_a_proto_of_the_name_of_an_example_is_taken_as_it_is(protos: Path) -> None:
    other = (
        (OURS / "logger/v1/logger.proto").read_text().replace("message = 1;", "message = 1; string of = 2;")
    )
    put(protos, "logger/v1/logger.proto", other)
    project = Project(protos, protos.parent / "made", "made")
    project.write(project.generate())
    use = "from made.greeter.v1.greeter_trio import *; print(GreeterService.rpcs[0].request(of='x'))"
    used = run(protos.parent, sys.executable, "-c", use)
    assert used == 'of: "x"\n\n'


def test_one_of_that_name_in_an_included_folder_is_imported_from_the_top(
    protos: Path,
) -> None:
    other = protos.parent / "vendor/logger/v1/logger.proto"
    other.parent.mkdir(parents=True)
    ours = (OURS / "logger/v1/logger.proto").read_text()
    other.write_text(ours.replace("message = 1;", "message = 1; string of = 2;"))
    project = Project(protos, protos.parent / "made", "made", [protos.parent / "vendor"])
    texts = {path.name: text for path, text in project.generate().items()}
    for name in ("greeter_pb2.py", "greeter_pb2.pyi", "greeter_trio.py"):
        assert "from logger.v1 import logger_pb2" in texts[name]
        assert "cpg_trio.protos.logger" not in texts[name]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "capability/logger/v1/logger.proto",
            'syntax = "proto3";\npackage other;\nmessage LogRequest {}\n',
            "capability/logger/v1/logger.proto: cpg_trio has another file of this name",
        ),
        (
            "mine.proto",
            'syntax = "proto3";\n\npackage connectplugin.v1;\nmessage A {}\n',
            "mine.proto:3: the package connectplugin.v1 is one of cpg_trio",
        ),
    ],
)
def test_what_could_not_be_loaded_beside_ours_is_refused(
    protos: Path, name: str, text: str, told: str
) -> None:
    (protos / "greeter/v1/greeter.proto").unlink()
    put(protos, name, text)
    with pytest.raises(GenerationError, match=f"^{protos}/{told}"):
        Project(protos, protos.parent / "made", "made").generate()


def test_protoc_finds_them_by_the_folder_that_the_command_prints(protos: Path) -> None:
    top = protos.parent
    include = run(top, sys.executable, "-m", "cpg_trio", "generate", "--print-include").strip()
    assert Path(include, "logger/v1/logger.proto").is_file()
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iproto", f"-I{include}"]
    command += [f"--plugin={Path(sys.executable).with_name('protoc-gen-cpg-trio')}"]
    command += ["--python_out=.", "--cpg-trio_out=.", "greeter/v1/greeter.proto"]
    run(top, *command, "logger/v1/logger.proto", "capability/logger/v1/logger.proto")
    used = run(top, sys.executable, "-c", USE.format(package=""))
    assert used == "cpg_trio.protos.logger.v1.logger_pb2\nlogger.v1.LogRequest\n"


def test_each_of_ours_is_the_one_whose_code_is_in_the_package() -> None:
    names = [str(path.relative_to(OURS)) for path in OURS.rglob("*.proto")]
    assert len(names) > 5
    for name in names:
        assert (ROOT / "cpg_trio/protos" / name.replace(".proto", "_pb2.py")).is_file()
    assert bundled.folder() in {
        OURS,
        ROOT / "cpg_trio/protos",
    }  # of a checkout, or of what a wheel has installed
