"""Methods and messages by their descriptors, which may come from anywhere."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2
from cpg_trio.rpc.dynamic import DescriptionError, Descriptions
from cpg_trio.rpc.proto_text import definitions, shape, signature
from tests._gen.echo.v1 import echo_pb2

ECHO = FileDescriptorProto.FromString(echo_pb2.DESCRIPTOR.serialized_pb)
ADMIN = FileDescriptorProto.FromString(admin_pb2.DESCRIPTOR.serialized_pb)


def greeter(package: str, *imports: str, method: str = "Greet") -> FileDescriptorProto:
    file = FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3", dependency=imports)
    request = file.message_type.add(name="Request")
    request.field.add(name="any", number=1, label=1, type=11, type_name=".google.protobuf.Any")
    file.dependency.append("google/protobuf/any.proto")
    service = file.service.add(name="Greeter")
    service.method.add(name=method, input_type=f".{package}.Request", output_type=f".{package}.Request")
    return file


@pytest.mark.parametrize("name", ["Echo", "EchoService.Echo", "EchoService/Echo", "echo.v1.EchoService/Echo"])
def test_a_method_is_found_by_each_of_its_names(name: str) -> None:
    found = Descriptions([ECHO]).method(name)
    assert found.full_name == "echo.v1.EchoService.Echo"


def test_a_name_that_two_methods_have_is_refused_with_both() -> None:
    described = Descriptions([greeter("a"), greeter("b")])
    with pytest.raises(DescriptionError, match=r"^Greet is ambiguous: a.Greeter/Greet, b.Greeter/Greet$"):
        described.method("Greet")
    assert described.method("b.Greeter/Greet").containing_service.full_name == "b.Greeter"


@pytest.mark.parametrize("name", ["greet", "Great", "", "/", "ho.Greeter/Greet", "reet"])
def test_a_name_that_no_method_has_is_refused(name: str) -> None:
    with pytest.raises(DescriptionError, match=r"a.Greeter/Greet"):
        Descriptions([greeter("a")]).method(name)


def test_files_may_come_in_any_order_without_those_of_protobuf() -> None:
    described = Descriptions([greeter("b", "a.proto"), greeter("a"), ADMIN])
    assert [each.full_name for each in described.services][:2] == ["a.Greeter", "b.Greeter"]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ([greeter("a", "b.proto")], r"lack b.proto, which a.proto imports"),
        ([greeter("a", "google/protobuf/none.proto")], "lack google/protobuf/none.proto"),
        ([greeter("a", "b.proto"), greeter("b", "a.proto")], r"a.proto imports itself"),
        ([greeter("a"), greeter("a", method="A"), FileDescriptorProto(name="c", dependency=["a"])], "lack a"),
        (
            [
                FileDescriptorProto(
                    name="c", message_type=[DescriptorProto(name="A"), DescriptorProto(name="A")]
                )
            ],
            "are wrong: ",
        ),
    ],
)
def test_descriptors_that_do_not_fit_are_refused(files: list[FileDescriptorProto], why: str) -> None:
    with pytest.raises(DescriptionError, match=why) as refused:
        Descriptions(files)
    assert "\n" not in str(refused.value)


def test_messages_are_read_and_written_as_json() -> None:
    described = Descriptions([ADMIN])
    method = described.method("GetStatus")
    assert described.json(described.message({}, method)) == "{}"
    echo = Descriptions([ECHO]).method("Echo")
    with pytest.raises(DescriptionError, match=r'^the message is no echo.v1.EchoRequest: .* field named "x"'):
        described.message({"x": 1}, echo)


def test_an_any_of_an_unknown_type_is_an_error() -> None:
    described = Descriptions([greeter("a")])
    method = described.method("Greet")
    with pytest.raises(DescriptionError, match=r"the message is no a.Request: "):
        described.message({"any": {"@type": "type.googleapis.com/no.Such"}}, method)
    unknown = AnyMessage(type_url="type.googleapis.com/no.Such", value=b"1")
    with pytest.raises(DescriptionError, match="the answer cannot be written as JSON: "):
        described.json(unknown)


def test_methods_and_messages_are_written_as_in_a_proto_file() -> None:
    described = Descriptions([ECHO, ADMIN])
    chat = described.method("HTTPChat")
    assert signature(chat) == "HTTPChat(stream HTTPChatRequest) returns (stream HTTPChatResponse)"
    assert shape(described.method("Echo").input_type) == '{"text": string, "data": bytes}'
    text = definitions([described.method("ListPlugins")])
    assert "message cpgtrio.admin.v1.Plugin {\n" in text
    assert "enum cpgtrio.admin.v1.PluginState {\n" in text
    assert "  map<string, string> metadata = " in text
    assert "google.protobuf.Timestamp {" not in text
