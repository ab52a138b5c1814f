"""What a server tells of its services to those who ask by reflection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import cache
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2
from cpg_trio.protos.grpc.reflection.v1 import reflection_pb2 as v1
from cpg_trio.protos.grpc.reflection.v1alpha import reflection_pb2 as v1alpha
from cpg_trio.rpc.reflection import NAMES, reflection_of

ECHO = "echo.v1.EchoService"
NOT_FOUND, INVALID_ARGUMENT = 5, 3


async def asked(*questions: Any, services: Sequence[str] = (ECHO,)) -> list[Any]:
    async def requests() -> AsyncIterator[Any]:
        for question in questions:
            yield question

    for_v1, for_v1alpha = reflection_of(services)
    service: Any = for_v1 if isinstance(questions[0], v1.ServerReflectionRequest) else for_v1alpha
    return [answer async for answer in service.server_reflection_info(requests(), None)]


async def answer(*, services: Sequence[str] = (ECHO,), **question: Any) -> v1.ServerReflectionResponse:
    [found] = await asked(v1.ServerReflectionRequest(**question), services=services)
    assert isinstance(found, v1.ServerReflectionResponse)
    return found


@cache
def extended() -> str:
    """Have a service whose file extends a message, at the top and within it; return its name."""
    file = FileDescriptorProto(name="extended.proto", package="extended.v1", syntax="proto2")
    base = file.message_type.add(name="Base")
    base.extension_range.add(start=100, end=200)
    optional_text = {"label": 1, "type": 9, "extendee": ".extended.v1.Base"}
    file.extension.add(name="outer", number=101, **optional_text)
    base.extension.add(name="inner", number=100, **optional_text)
    method = file.service.add(name="Extended").method.add(name="Call")
    method.input_type = method.output_type = ".extended.v1.Base"
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    return "extended.v1.Extended"


def files(response: Any) -> list[str]:
    protos = response.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(each).name for each in protos]


@pytest.mark.parametrize("pb", [v1, v1alpha], ids=["v1", "v1alpha"])
async def test_each_question_of_a_stream_is_answered_in_its_turn(pb: Any) -> None:
    listed, described = await asked(
        pb.ServerReflectionRequest(host="h", list_services="*"),
        pb.ServerReflectionRequest(file_containing_symbol=ECHO),
    )
    assert listed.valid_host == "h"
    assert [each.name for each in listed.list_services_response.service] == [ECHO, *NAMES]
    assert described.original_request.file_containing_symbol == ECHO
    assert files(described) == ["echo/v1/echo.proto"]


@pytest.mark.parametrize("symbol", [ECHO, f"{ECHO}.Echo", "echo.v1.EchoRequest", NAMES[0], NAMES[1]])
async def test_a_file_is_found_by_what_it_declares(symbol: str) -> None:
    assert len(files(await answer(file_containing_symbol=symbol))) == 1


async def test_a_file_brings_those_that_it_imports() -> None:
    names = [admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name]
    found = files(await answer(services=names, file_by_filename="cpgtrio/admin/v1/admin.proto"))
    assert found[0] == "cpgtrio/admin/v1/admin.proto"
    assert "google/protobuf/timestamp.proto" in found
    assert files(await answer(services=names, file_by_filename=found[-1]))[0] == found[-1]


async def test_what_the_services_do_not_need_is_not_shown() -> None:
    for question in (
        {"file_containing_symbol": "cpgtrio.admin.v1.AdminService"},
        {"file_by_filename": "cpgtrio/admin/v1/admin.proto"},
        {"file_containing_symbol": "storage.v1.Storage"},
        {"all_extension_numbers_of_type": "cpgtrio.admin.v1.Plugin"},
        {"file_containing_extension": {"containing_type": "cpgtrio.admin.v1.Plugin", "extension_number": 1}},
    ):
        assert (await answer(**question)).error_response.error_code == NOT_FOUND


async def test_extensions_are_found_by_the_message_that_they_extend() -> None:
    services = [extended()]
    found = await answer(services=services, all_extension_numbers_of_type="extended.v1.Base")
    assert found.all_extension_numbers_response.base_type_name == "extended.v1.Base"
    assert list(found.all_extension_numbers_response.extension_number) == [100, 101]
    for number in (100, 101):
        one = {"containing_type": "extended.v1.Base", "extension_number": number}
        assert files(await answer(services=services, file_containing_extension=one)) == ["extended.proto"]
    one = {"containing_type": "extended.v1.Base", "extension_number": 102}
    assert (
        await answer(services=services, file_containing_extension=one)
    ).error_response.error_code == NOT_FOUND
    assert files(await answer(services=services, file_containing_symbol="extended.v1.Base.inner"))


async def test_what_is_not_there_is_an_error_of_one_line() -> None:
    missing = await answer(file_containing_symbol="no\nsuch." + "x" * 1000)
    assert missing.error_response.error_code == NOT_FOUND
    assert missing.error_response.error_message.startswith(r"not found: no\nsuch.")
    assert len(missing.error_response.error_message) < 300
    assert (await answer(host="h")).error_response.error_code == INVALID_ARGUMENT


async def test_a_service_that_protobuf_does_not_know_is_left_out() -> None:
    found = await answer(services=["made.by.Hand"], list_services="")
    assert [each.name for each in found.list_services_response.service] == list(NAMES)
