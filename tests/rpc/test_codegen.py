"""The stub generator: what it writes, and what it refuses."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from cpg_trio.rpc import Service, codegen
from tests._gen.echo.v1 import echo_pb2, echo_trio


def described(**changes: str) -> FileDescriptorProto:
    """Return a file with one service, of which parts can be changed."""
    file = FileDescriptorProto(name="greeter/v1/greeter.proto", package="greeter.v1", syntax="proto3")
    file.message_type.add(name="GreetRequest")
    file.service.add(name="Greeter").method.add(
        name="Greet",
        input_type=changes.get("input_type", ".greeter.v1.GreetRequest"),
        output_type=".greeter.v1.GreetRequest",
    )
    return file


def generated(*files: FileDescriptorProto) -> CodeGeneratorResponse:
    return codegen.generate(
        CodeGeneratorRequest(proto_file=files, file_to_generate=[file.name for file in files])
    )


def test_what_is_committed_is_what_it_writes() -> None:
    file = FileDescriptorProto()
    echo_pb2.DESCRIPTOR.CopyToProto(file)
    (written,) = generated(file).file
    assert written.name == "echo/v1/echo_trio.py"
    assert written.content == Path(str(echo_trio.__file__)).read_text(encoding="utf-8")


def test_a_file_without_services_gets_no_stubs() -> None:
    assert not generated(FileDescriptorProto(name="types.proto", package="types")).file


def test_a_service_called_service_is_not_called_so_twice() -> None:
    assert issubclass(echo_trio.EchoService, Service)
    assert "class GreeterService(" in generated(described()).file[0].content


@pytest.mark.parametrize(
    "input_type", [".google.protobuf.Empty", ".greeter.v1.Outer.Inner", ".greeter.v10.GreetRequest"]
)
def test_messages_from_elsewhere_are_refused_by_name(input_type: str) -> None:
    response = generated(described(input_type=input_type))
    assert (
        response.error
        == f"greeter/v1/greeter.proto: {input_type} is not a top-level message of the same file"
    )
    assert not response.file


@pytest.mark.parametrize(
    ("name", "snake"),
    [
        ("Store", "store"),
        ("GetHealth", "get_health"),
        ("HTTPChat", "http_chat"),
        ("GetURL", "get_url"),
        ("already_snake", "already_snake"),
        ("V2", "v2"),
    ],
)
def test_names_are_spelled_as_python_spells_them(name: str, snake: str) -> None:
    assert codegen.snake_case(name) == snake


def test_it_speaks_protocs_plugin_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    class Standard:
        def __init__(self, data: bytes = b"") -> None:
            self.buffer = io.BytesIO(data)

    file = described()
    request = CodeGeneratorRequest(proto_file=[file], file_to_generate=[file.name])
    monkeypatch.setattr(sys, "stdin", Standard(request.SerializeToString()))
    monkeypatch.setattr(sys, "stdout", out := Standard())
    codegen.main()
    response = CodeGeneratorResponse.FromString(out.buffer.getvalue())
    assert [f.name for f in response.file] == ["greeter/v1/greeter_trio.py"]
    compile(response.file[0].content, "greeter_trio.py", "exec")
