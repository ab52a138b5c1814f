"""Messages to and from the runner, and what the suite's own types are in ours."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, TypeVar

from conformance_stubs.connectrpc.conformance.v1 import config_pb2, service_pb2
from google.protobuf.message import Message
from protobuf.wkt import Any as Packed
from trio.lowlevel import FdStream

from cpg_trio import rpc

_M = TypeVar("_M", bound=Message)
_LENGTH = struct.Struct(">I")


async def received(kind: type[_M], stream: FdStream) -> AsyncIterator[_M]:
    """Yield the messages of a stream, each behind its length, until its end."""
    buffer = bytearray()
    async for data in stream:
        buffer += data
        while len(buffer) >= _LENGTH.size and len(buffer) >= (end := _end(buffer)):
            yield kind.FromString(bytes(buffer[_LENGTH.size : end]))
            del buffer[:end]


def _end(buffer: bytearray) -> int:
    return _LENGTH.size + int(_LENGTH.unpack_from(buffer)[0])


def framed(message: Message) -> bytes:
    """Return a message behind its length."""
    content = message.SerializeToString()
    return _LENGTH.pack(len(content)) + content


def headers_of(headers: rpc.Headers) -> list[Any]:
    """Return headers or trailers as the suite has them."""
    return [service_pb2.Header(name=name, value=headers.getall(name)) for name in dict.fromkeys(headers)]


def add_headers(given: Iterable[Any], headers: rpc.Headers) -> rpc.Headers:
    """Add headers or trailers of the suite's to ours, and return these."""
    for header in given:
        for value in header.value:
            headers.add(header.name, value)
    return headers


def error_of(error: rpc.ConnectError) -> Any:
    """Return an error as the suite has it."""
    found = service_pb2.Error(code=config_pb2.Code.Value(f"CODE_{error.code.name}"), message=error.message)
    for detail in error.details:
        found.details.add(type_url=f"type.googleapis.com/{detail.type_name}", value=detail.message_bytes)
    return found


def raised(error: Any, *details: Message) -> rpc.ConnectError:
    """Return an error of the suite's as one to be raised, with more details."""
    name = config_pb2.Code.Name(error.code).removeprefix("CODE_")
    given = [rpc.ErrorDetail(Packed(type_url=each.type_url, value=each.value)) for each in error.details]
    return rpc.ConnectError(rpc.Code[name], error.message, [*given, *map(rpc.pack_detail, details)])


def written(path: Path, content: bytes) -> Path | None:
    """Write a certificate or a key to a file if there is one."""
    if not content:
        return None
    path.write_bytes(content)
    return path
