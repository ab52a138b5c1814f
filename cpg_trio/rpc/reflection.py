"""gRPC server reflection, v1 and v1alpha: which services there are, and the files that describe them.

Only what the services named need is shown: the files that declare them, and what those import. Other files
that the process has loaded stay unknown, as they tell of what is not offered.

Source of the contract: https://grpc.io/docs/guides/reflection. The face of the room leaves this module out:
the generated code registers names with protobuf that another library of the process may have registered, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, ServiceDescriptor

from cpg_trio._lines import one_line
from cpg_trio.protos.grpc.reflection.v1 import reflection_pb2 as pb
from cpg_trio.protos.grpc.reflection.v1.reflection_trio import ServerReflectionService
from cpg_trio.protos.grpc.reflection.v1alpha import reflection_pb2 as pb_alpha
from cpg_trio.protos.grpc.reflection.v1alpha.reflection_trio import (
    ServerReflectionService as AlphaReflectionService,
)
from cpg_trio.rpc.context import Context
from cpg_trio.rpc.server import Service

#: The full names of the services of `reflection_of`.
NAMES = (ServerReflectionService.service_name, AlphaReflectionService.service_name)

_INVALID_ARGUMENT = 3  # status codes of gRPC
_NOT_FOUND = 5


def reflection_of(service_names: Iterable[str]) -> Sequence[Service]:
    """Return the services that describe others, and themselves.

    A service that protobuf does not know by its name is left out: it was not generated from a .proto file.
    """
    described = _Described([*service_names, *NAMES])
    return _V1(described), _V1Alpha(described)


class _V1(ServerReflectionService):
    def __init__(self, described: _Described) -> None:
        self._described = described

    async def server_reflection_info(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], _ctx: Context, /
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        async for request in requests:
            yield self._described.answer(request)


class _V1Alpha(AlphaReflectionService):
    """The same messages under another name."""

    def __init__(self, described: _Described) -> None:
        self._described = described

    async def server_reflection_info(
        self, requests: AsyncIterator[pb_alpha.ServerReflectionRequest], _ctx: Context, /
    ) -> AsyncIterator[pb_alpha.ServerReflectionResponse]:
        async for request in requests:
            answer = self._described.answer(
                pb.ServerReflectionRequest.FromString(request.SerializeToString())
            )
            yield pb_alpha.ServerReflectionResponse.FromString(answer.SerializeToString())


class _Described:
    """Services, and all files that they need."""

    def __init__(self, service_names: Iterable[str]) -> None:
        self._pool = descriptor_pool.Default()
        services = [service for name in service_names if (service := self._service(name)) is not None]
        self._services = sorted({service.full_name for service in services})
        self._files = {file.name: file for service in services for file in _with_imports(service.file)}
        self._symbols = {name: file for file in self._files.values() for name in _declared(file)}

    def _service(self, name: str) -> ServiceDescriptor | None:
        try:
            return self._pool.FindServiceByName(name)
        except KeyError:
            return None

    def answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        """Answer one question."""
        response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            self._fill(response, request)
        except KeyError:
            response.error_response.error_code = _NOT_FOUND
            response.error_response.error_message = f"not found: {_what(request)}"
        return response

    def _fill(self, response: pb.ServerReflectionResponse, request: pb.ServerReflectionRequest) -> None:
        """Set what answers a question. Raises: KeyError for what is not there."""
        match request.WhichOneof("message_request"):
            case "list_services":
                listed = [pb.ServiceResponse(name=name) for name in self._services]
                response.list_services_response.service.extend(listed)
            case "file_by_filename":
                _set_files(response, self._files[request.file_by_filename])
            case "file_containing_symbol":
                _set_files(response, self._symbols[request.file_containing_symbol])
            case "file_containing_extension":
                number = request.file_containing_extension.extension_number
                extensions = self._extensions(request.file_containing_extension.containing_type)
                _set_files(response, extensions[number])
            case "all_extension_numbers_of_type":
                numbers = sorted(self._extensions(request.all_extension_numbers_of_type))
                response.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
                response.all_extension_numbers_response.extension_number.extend(numbers)
            case _:
                response.error_response.error_code = _INVALID_ARGUMENT
                response.error_response.error_message = "the request has no question that is known here"

    def _extensions(self, message_type: str) -> dict[int, FileDescriptor]:
        """Return the files of the extensions of a message, by number. Raises: KeyError for no message."""
        if message_type not in self._symbols:
            raise KeyError(message_type)
        return {
            each.number: file
            for file in self._files.values()
            for each in _extensions_in(file)
            if each.containing_type is not None and each.containing_type.full_name == message_type
        }


def _with_imports(file: FileDescriptor) -> Iterable[FileDescriptor]:
    """Return a file, and behind it what it imports, directly and indirectly, each once."""
    found = {file.name: file}
    left = [file]
    while left:
        for each in left.pop(0).dependencies:
            if each.name not in found:
                found[each.name] = each
                left.append(each)
    return found.values()


def _declared(file: FileDescriptor) -> Iterable[str]:
    """Yield the full names of what a file declares."""
    for service in file.services_by_name.values():
        yield service.full_name
        yield from (method.full_name for method in service.methods)
    for message in _messages(file):
        yield message.full_name
        yield from (each.full_name for each in message.enum_types)
    yield from (each.full_name for each in file.enum_types_by_name.values())
    yield from (each.full_name for each in _extensions_in(file))


def _messages(file: FileDescriptor) -> Iterable[Descriptor]:
    """Yield the messages of a file, and those within them."""
    left = list(file.message_types_by_name.values())
    while left:
        message = left.pop()
        yield message
        left += message.nested_types


def _extensions_in(file: FileDescriptor) -> Iterable[FieldDescriptor]:
    yield from file.extensions_by_name.values()
    for message in _messages(file):
        yield from message.extensions


def _set_files(response: pb.ServerReflectionResponse, file: FileDescriptor) -> None:
    files = [each.serialized_pb for each in _with_imports(file)]
    response.file_descriptor_response.file_descriptor_proto.extend(files)


def _what(request: pb.ServerReflectionRequest) -> str:
    """Return what was asked for, short enough for an error."""
    if request.HasField("file_containing_extension"):
        extension = request.file_containing_extension
        return f"extension {extension.extension_number} of {one_line(extension.containing_type)}"
    asked = request.WhichOneof("message_request")
    return one_line(str(getattr(request, asked))) if asked else ""
