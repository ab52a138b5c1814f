"""What no code can be made of is refused, with the file and the line that it is about."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import Edition, FileDescriptorSet

from cpg_trio import codegen
from cpg_trio.codegen import GenerationError
from cpg_trio.codegen.project import Project
from cpg_trio.codegen.refusals import check_modules

# By the name of a file: what is in it after its first line, and what is told.
REFUSED = {
    "bases": (
        "service Foo {}\nservice FooService {}\nservice FooBase {}",
        "bases.proto:4: the services Foo and FooBase would both have the base class FooBaseService: rename",
    ),
    "methods": (
        "message A {}\nservice S {\n  rpc DoIt(A) returns (A);\n  rpc do_it(A) returns (A);\n}",
        "methods.proto:5: methods.S/do_it and DoIt would both be do_it() in Python: rename one of them",
    ),
    "message": (
        "\nmessage _builder {}",
        "message.proto:3: each module of protobuf has another _builder: rename it",
    ),
    "enum": (
        "enum DESCRIPTOR { A = 0; }",
        "enum.proto:2: each module of protobuf has another DESCRIPTOR: rename it",
    ),
    "features": (
        'import "google/protobuf/go_features.proto";',
        "features.proto:2: protobuf has no code for Python of google/protobuf/go_features.proto",
    ),
    "nested": (
        "message A { message DESCRIPTOR {} }\nservice S {\n  rpc Do(A) returns (A.DESCRIPTOR);\n}",
        "nested.proto:4: S/Do has a message DESCRIPTOR, and each message has another one in Python",
    ),
}


@cache
def told() -> Mapping[str, CodeGeneratorResponse]:
    """Return what the plugin answers for each of these files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (text, _) in REFUSED.items():
            Path(folder, f"{name}.proto").write_text(f'syntax = "proto3"; package {name};\n{text}\n')
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", "--include_source_info"]
        command += ["--include_imports", f"--descriptor_set_out={folder}/set"]
        subprocess.run([*command, *(f"{name}.proto" for name in REFUSED)], check=True, timeout=60)
        files = FileDescriptorSet.FromString(Path(folder, "set").read_bytes()).file
    return {
        name: codegen.generate(CodeGeneratorRequest(proto_file=files, file_to_generate=[f"{name}.proto"]))
        for name in REFUSED
    }


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_are_taken_in_python_are_refused_by_line(name: str) -> None:
    response = told()[name]
    assert response.error.startswith(REFUSED[name][1])
    assert not response.file


def test_an_edition_that_is_too_new_is_refused_by_line() -> None:
    request = CodeGeneratorRequest(file_to_generate=["new.proto"])
    file = request.proto_file.add(name="new.proto", syntax="editions", edition=Edition.EDITION_UNSTABLE)
    file.source_code_info.location.add(path=[14], span=[0, 0, 17])
    assert codegen.generate(request).error == (
        "new.proto:1: edition UNSTABLE: the newest that can be read is 2024"
    )


@pytest.mark.parametrize(
    ("protos", "refusal"),
    [
        (["2a.proto"], "2a.proto: its code would be 2a_pb2, and '2a_pb2' is no name of Python"),
        (["a b.proto"], "a b.proto: its code would be a b_pb2, and 'a b_pb2' is no name"),
        (["größe.proto"], "größe.proto: its code would be größe_pb2, and 'größe_pb2' is no name"),
        (["v1.2/a.proto"], r"v1\.2/a\.proto: its code would be v1\.2\.a_pb2, and '2' is no name"),
        (
            ["a-b.proto", "a_b.proto"],
            "a_b.proto: its code would be a_b_pb2, as that of a-b.proto",
        ),
        (["a.b.proto", "a/b.proto"], r"a/b.proto: its code would be a\.b_pb2, as that of a\.b\.proto"),
    ],
)
def test_a_file_whose_code_could_not_be_imported_is_refused(protos: list[str], refusal: str) -> None:
    with pytest.raises(GenerationError, match=f"^{refusal}"):
        check_modules(protos)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (
            'import "b/none.proto";\nmessage M { b.X x = 1; }',
            "2:1: there is no b/none.proto in {protos}",
        ),
        ('import "a.proto";', "2:1: File recursively imports itself: a.proto -> a.proto"),
        ("message M {\n  string x 1;\n}", "3:12: Missing field number."),
        ("message M {\n  // gr\xfcn\n}", "3: it is not UTF-8: invalid start byte"),
        ("enum E { A = 0; }\nservice S { rpc Do(E) returns (E); }", '3:20: "E" is not a message type.'),
    ],
)
def test_what_protoc_refuses_is_told_once_and_with_its_place(tmp_path: Path, text: str, refusal: str) -> None:
    (tmp_path / "a.proto").write_bytes(f'syntax = "proto3";\n{text}\n'.encode("latin-1"))
    with pytest.raises(GenerationError) as refused:
        Project(tmp_path, tmp_path / "out", "made").generate()
    assert str(refused.value).startswith(f"{tmp_path / 'a.proto'}:{refusal.format(protos=tmp_path)}")


def test_a_folder_that_would_stand_behind_another_package_is_refused_unless_a_package_is_named(
    tmp_path: Path,
) -> None:
    (tmp_path / "email").mkdir()
    (tmp_path / "email/a.proto").write_text('syntax = "proto3"; package email;')
    with pytest.raises(GenerationError, match=r"email/a\.proto: its code would be in a package email, and"):
        Project(tmp_path, tmp_path / "out").generate()
    assert Project(tmp_path, tmp_path / "out", "made").generate()
