"""Services and messages that are known at run time only, by their descriptors; and calls of them.

files of descriptors ─▶ Descriptions ─▶ a method ─▶ messages from JSON ─▶ DynamicClient ─▶ answers as JSON
"""

from __future__ import annotations

import difflib
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Unpack

import httpx
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.json_format import Error as JsonError, MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cpg_trio._lines import one_line
from cpg_trio.http import Pool
from cpg_trio.rpc.client import CallOptions, ClientConfig, ServiceClient
from cpg_trio.rpc.http_client import HttpClient

_OF_PROTOBUF = "google/protobuf/"  # files that each runtime has
_MOST_NEAR = 5


class DescriptionError(ValueError):
    """Descriptors, a name or a message make no sense. The message is one line that says why."""


class Descriptions:
    """What files declare, in a pool of their own. Raises: DescriptionError for files that do not fit."""

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        self._files = {file.name: file for file in files}
        self._pool = descriptor_pool.DescriptorPool()
        self._added = set[str]()
        for name in self._files:
            self._add(name, ())
        found = [self._pool.FindFileByName(name) for name in self._files]
        self.services: Sequence[ServiceDescriptor] = sorted(
            (service for file in found for service in file.services_by_name.values()),
            key=lambda service: service.full_name,
        )

    def _add(self, name: str, importers: Sequence[str]) -> None:
        """Add a file behind those that it imports."""
        if name in self._added:
            return
        if name in importers:
            raise DescriptionError(f"the descriptors are wrong: {one_line(name)} imports itself")
        file = self._files.get(name) or _file_of_protobuf(name)
        if file is None:
            by = f", which {one_line(importers[-1])} imports" if importers else ""
            raise DescriptionError(f"the descriptors lack {one_line(name)}{by}")
        for each in file.dependency:
            self._add(each, (*importers, name))
        try:
            self._pool.AddSerializedFile(file.SerializeToString())
        except TypeError as error:
            raise DescriptionError(f"the descriptors are wrong: {_short(error)}") from error
        self._added.add(name)

    def method(self, name: str) -> MethodDescriptor:
        """Return a method by its name, short or full: `Greet`, `Greeter.Greet`, `greeter.v1.Greeter/Greet`.

        Raises: DescriptionError for one that is not there, or not the only one.
        """
        wanted = name.strip("/").replace("/", ".")
        methods = [method for service in self.services for method in service.methods]
        found = [method for method in methods if f".{_name(method)}".endswith(f".{wanted}")]
        if len(found) == 1:
            return found[0]
        if found:
            raise DescriptionError(f"{one_line(name)} is ambiguous: {_listed(map(_path, found))}")
        near = _near(wanted, methods)
        hint = f"did you mean {_listed(near)}?" if near else f"there is {_listed(map(_path, methods))}"
        raise DescriptionError(f"there is no method {one_line(name)}: {hint}")

    def message(self, document: Any, method: MethodDescriptor) -> Message:
        """Return the request of a method that a JSON document describes. Raises: DescriptionError."""
        expected = method.input_type.full_name
        if not isinstance(document, dict) and not expected.startswith("google.protobuf."):
            raise DescriptionError(f"the message is no {expected}: it has to be an object, as in {{}}")
        request = _class(method.input_type)()
        try:
            ParseDict(document, request, descriptor_pool=self._pool)
        except (JsonError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise DescriptionError(f"the message is no {expected}: {_short(error)}") from error
        return request

    def json(self, message: Message) -> str:
        """Return a message as one line of JSON, with all fields but those that tell whether they are set.

        Raises: DescriptionError for an Any of an unknown type.
        """
        try:
            found = MessageToDict(
                message, always_print_fields_with_no_presence=True, descriptor_pool=self._pool
            )
            return json.dumps(found, ensure_ascii=False)
        except (JsonError, TypeError, ValueError) as error:
            raise DescriptionError(f"the answer cannot be written as JSON: {_short(error)}") from error


class DynamicClient(ServiceClient):
    """A client for methods that are given by their descriptors. `address` is that of the service itself."""

    service_name: ClassVar[str] = ""

    def __init__(
        self, address: str, http: httpx.AsyncClient | Pool | HttpClient, config: ClientConfig | None = None
    ) -> None:
        super().__init__(address, http, config)
        self._base_url = f"{address.rstrip('/')}/"

    @asynccontextmanager
    async def call(
        self,
        method: MethodDescriptor,
        requests: AsyncIterable[Message],
        **options: Unpack[CallOptions],
    ) -> AsyncIterator[AsyncIterable[Message]]:
        """Call a method; the block has its responses, as they come.

        Requests are sent as they come if the method has a stream of them, otherwise the first one is.
        Raises: ConnectError, on entering and by the responses; what `requests` raises.
        """
        name, returns = method.name, _class(method.output_type)
        idempotent = bool(method.GetOptions().idempotency_level)
        if method.client_streaming and method.server_streaming:
            both = self._bidi_stream(name, requests, returns, options, idempotent=idempotent)
            async with both as stream:
                yield stream
        elif method.server_streaming:
            request = await _first(requests)
            many = self._server_stream(name, request, returns, options, idempotent=idempotent)
            async with many as stream:
                yield stream
        elif method.client_streaming:
            yield _one(await self._client_stream(name, requests, returns, options, idempotent=idempotent))
        else:
            request = await _first(requests)
            yield _one(await self._unary(name, request, returns, options, idempotent=idempotent))


def _class(message: Any) -> type[Message]:
    found: type[Message] = GetMessageClass(message)
    return found


def _file_of_protobuf(name: str) -> FileDescriptorProto | None:
    if not name.startswith(_OF_PROTOBUF):
        return None
    try:
        found = descriptor_pool.Default().FindFileByName(name)
    except KeyError:
        return None
    return FileDescriptorProto.FromString(found.serialized_pb)


def _name(method: MethodDescriptor) -> str:
    return f"{method.containing_service.full_name}.{method.name}"


def _path(method: MethodDescriptor) -> str:
    return f"{method.containing_service.full_name}/{method.name}"


def _near(wanted: str, methods: Iterable[MethodDescriptor]) -> list[str]:
    """Return methods whose own name is similar, the nearest first."""
    by_name = {method.name.lower(): _path(method) for method in methods}
    last = wanted.rpartition(".")[2].lower()
    return [by_name[name] for name in difflib.get_close_matches(last, by_name, _MOST_NEAR)]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _short(error: BaseException) -> str:
    """Return an error's text as one line, without the list of all fields that protobuf puts behind some."""
    text, _, _ = str(error).partition(" Available Fields")
    return one_line(" ".join(text.split()).removeprefix("Failed to parse "), 512)


async def _first(requests: AsyncIterable[Message]) -> Message:
    async for request in requests:
        return request
    raise DescriptionError("there is no message to send")


async def _one(message: Message) -> AsyncIterator[Message]:
    yield message
