"""Asking a server for the descriptors of its services, by gRPC server reflection. See `reflection`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import ClassVar

import trio
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError

from cpg_trio._lines import one_line
from cpg_trio.protos.grpc.reflection.v1 import reflection_pb2 as pb
from cpg_trio.protos.grpc.reflection.v1.reflection_trio import ServerReflectionClient
from cpg_trio.rpc.response import ResponseStream

_NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_MOST_FILES = 10_000


class _AlphaClient(ServerReflectionClient):
    """v1alpha, whose messages are the same."""

    service_name: ClassVar[str] = _NAMES[1]


async def descriptors_of(
    client_of: Callable[[type[ServerReflectionClient]], ServerReflectionClient],
) -> Sequence[FileDescriptorProto]:
    """Return the files that describe the services of a server, but for those of the reflection itself.

    `client_of` returns a client of that server.
    Raises: ConnectError, `unimplemented` for a server without reflection.
    """
    try:
        return await _asked(client_of(ServerReflectionClient))
    except ConnectError as error:
        if error.code is not Code.UNIMPLEMENTED:
            raise
    return await _asked(client_of(_AlphaClient))


async def _asked(client: ServerReflectionClient) -> Sequence[FileDescriptorProto]:
    questions, waiting = trio.open_memory_channel[pb.ServerReflectionRequest](1)
    with questions, waiting:
        questions.send_nowait(pb.ServerReflectionRequest(list_services="*"))
        async with client.server_reflection_info(waiting) as answers:
            files = await _Conversation(questions, answers).files()
            questions.close()
            async for _ in answers:  # to its end, or the call would count as broken off
                pass
            return files


class _Conversation:
    """Questions and answers, one after the other, on one stream."""

    def __init__(
        self,
        questions: trio.MemorySendChannel[pb.ServerReflectionRequest],
        answers: ResponseStream[pb.ServerReflectionResponse],
    ) -> None:
        self._questions = questions
        self._answers = aiter(answers)
        self._files: dict[str, FileDescriptorProto] = {}

    async def files(self) -> Sequence[FileDescriptorProto]:
        """Ask for all files that the services need; the list of these has been asked for."""
        listed = await self._answer()
        for service in listed.list_services_response.service:
            if service.name not in _NAMES:
                self._take(await self._ask(pb.ServerReflectionRequest(file_containing_symbol=service.name)))
        async for name in self._missing():
            self._take(await self._ask(pb.ServerReflectionRequest(file_by_filename=name)))
        return list(self._files.values())

    async def _missing(self) -> AsyncIterator[str]:
        """Yield the names of imported files that have not come: servers may send a file alone."""
        asked = set[str]()
        while names := {each for file in self._files.values() for each in file.dependency} - {*self._files}:
            if (name := min(names)) in asked:
                raise ConnectError(Code.INTERNAL, f"the server does not describe {one_line(name)}")
            asked.add(name)
            yield name

    async def _ask(self, question: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        await self._questions.send(question)
        return await self._answer()

    async def _answer(self) -> pb.ServerReflectionResponse:
        try:
            answer: pb.ServerReflectionResponse = await anext(self._answers)
        except StopAsyncIteration:
            raise ConnectError(Code.INTERNAL, "the server left a question of reflection unanswered") from None
        if answer.HasField("error_response"):
            raise ConnectError(Code.INTERNAL, f"reflection: {one_line(answer.error_response.error_message)}")
        return answer

    def _take(self, answer: pb.ServerReflectionResponse) -> None:
        for content in answer.file_descriptor_response.file_descriptor_proto:
            try:
                file = FileDescriptorProto.FromString(content)
            except DecodeError as error:
                raise ConnectError(Code.INTERNAL, "the server sends descriptors that are none") from error
            self._files.setdefault(file.name, file)
        if len(self._files) > _MOST_FILES:
            raise ConnectError(Code.INTERNAL, "the server describes more files than any service needs")
