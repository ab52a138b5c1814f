"""Asking servers for their descriptors: of both versions, and servers that answer one file at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from cpg_trio.http import Pool
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2
from cpg_trio.protos.grpc.reflection.v1 import reflection_pb2 as pb
from cpg_trio.protos.grpc.reflection.v1.reflection_trio import ServerReflectionService
from cpg_trio.rpc import Code, ConnectError, Context, Service, application
from cpg_trio.rpc.reflection import reflection_of
from cpg_trio.rpc.reflection_client import descriptors_of
from tests.http.apps import served
from tests.rpc.echo import Echo

ADMIN = "cpgtrio.admin.v1.AdminService"

Answer = Callable[[pb.ServerReflectionRequest], pb.ServerReflectionResponse | None]


class Scripted(ServerReflectionService):
    """Answers as a test says; None ends the stream."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def server_reflection_info(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], _ctx: Context, /
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        async for request in requests:
            if (answer := self._answer(request)) is None:
                return
            yield answer


async def described(*services: Service) -> list[str]:
    async with served(application(services)) as url, Pool() as pool:
        return [file.name for file in await descriptors_of(lambda client: client(url, pool))]


async def refused(*services: Service) -> ConnectError:
    async with served(application(services)) as url, Pool() as pool:
        with pytest.raises(ConnectError) as caught:
            await descriptors_of(lambda client: client(url, pool))
    return caught.value


def response_of(file: bytes) -> pb.ServerReflectionResponse:
    files = pb.FileDescriptorResponse(file_descriptor_proto=[file])
    return pb.ServerReflectionResponse(file_descriptor_response=files)


def one_file(name: str) -> pb.ServerReflectionResponse:
    pool = admin_pb2.DESCRIPTOR.pool
    file = pool.FindFileByName(name)
    return response_of(file.serialized_pb)


def listing(*names: str) -> pb.ServerReflectionResponse:
    services = [pb.ServiceResponse(name=name) for name in names]
    return pb.ServerReflectionResponse(list_services_response=pb.ListServiceResponse(service=services))


@pytest.mark.parametrize("version", [0, 1], ids=["v1", "v1alpha"])
async def test_the_files_of_all_services_come_with_what_they_import(version: int) -> None:
    found = await described(reflection_of([ADMIN, Echo.service_name])[version])
    assert {"cpgtrio/admin/v1/admin.proto", "echo/v1/echo.proto"} < set(found)
    assert "google/protobuf/timestamp.proto" in found


async def test_files_that_do_not_come_by_themselves_are_asked_for() -> None:
    asked: list[str] = []

    def answer(request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        match request.WhichOneof("message_request"):
            case "list_services":
                return listing(ADMIN, ServerReflectionService.service_name)
            case "file_containing_symbol":
                return one_file("cpgtrio/admin/v1/admin.proto")
            case _:
                asked.append(request.file_by_filename)
                return one_file(request.file_by_filename)

    found = await described(Scripted(answer))
    assert asked == sorted(each.name for each in admin_pb2.DESCRIPTOR.dependencies)
    assert found[0] == "cpgtrio/admin/v1/admin.proto"


async def test_a_server_without_reflection_does_not_implement_it() -> None:
    assert (await refused(Echo())).code is Code.UNIMPLEMENTED


def refusing(request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
    if request.HasField("list_services"):
        return listing("a.B")
    error = pb.ErrorResponse(error_code=5, error_message="no\nsuch file")
    return pb.ServerReflectionResponse(error_response=error)


def ending(request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse | None:
    return listing("a.B") if request.HasField("list_services") else None


def lying(request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
    if request.HasField("list_services"):
        return listing("a.B")
    return pb.ServerReflectionResponse(
        file_descriptor_response=pb.FileDescriptorResponse(file_descriptor_proto=[b"\xff"])
    )


def lacking(request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
    if request.HasField("list_services"):
        return listing("a.B")
    file = FileDescriptorProto(name="a.proto", dependency=["b.proto"]).SerializeToString()
    return pb.ServerReflectionResponse(
        file_descriptor_response=pb.FileDescriptorResponse(file_descriptor_proto=[file])
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (refusing, r"reflection: no\nsuch file"),
        (ending, "the server left a question of reflection unanswered"),
        (lying, "the server sends descriptors that are none"),
        (lacking, "the server does not describe b.proto"),
    ],
)
async def test_answers_that_make_no_sense_are_errors(answer: Answer, why: str) -> None:
    error = await refused(Scripted(answer))
    assert (error.code, error.message) == (Code.INTERNAL, why)
