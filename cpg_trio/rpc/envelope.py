"""The framing of Connect streams: a flag byte, a four-byte big-endian length, a message.

Source: https://connectrpc.com/docs/protocol/#streaming-rpcs.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, AsyncIterator

import attrs
from connectrpc.code import Code
from connectrpc.compression.gzip import GzipCompression
from connectrpc.errors import ConnectError

from cpg_trio.rpc.errors import protocol_error
from cpg_trio.rpc.faults import CallError, Fault

COMPRESSED = 0b01
END_OF_STREAM = 0b10

_PREFIX = struct.Struct(">BI")
_GZIP = GzipCompression()


@attrs.frozen
class Envelope:
    """One frame: its flags, and its content as it was before compression."""

    flags: int
    content: bytes

    @property
    def ends_stream(self) -> bool:
        """Whether this is the last frame, which carries JSON: trailers, and the error if there was one."""
        return bool(self.flags & END_OF_STREAM)


def wrap(content: bytes, *, compress: bool = False) -> bytes:
    """Return a message as a frame."""
    if compress:
        content = _GZIP.compress(content)
    return _PREFIX.pack(COMPRESSED if compress else 0, len(content)) + content


async def unwrap(chunks: AsyncIterator[bytes], max_bytes: int | None) -> AsyncGenerator[Envelope, None]:
    """Yield the frames of a body, however the network cut it.

    `max_bytes` bounds one message, before and after decompression; None is no bound.
    Raises: ConnectError `resource_exhausted` for a larger one, `internal` for bytes that are no frames.
    """
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        while (frame := _take(buffer, max_bytes)) is not None:
            yield frame
    if buffer:
        raise protocol_error("the stream ends in the middle of a message")


def _take(buffer: bytearray, max_bytes: int | None) -> Envelope | None:
    if len(buffer) < _PREFIX.size:
        return None
    flags, length = _PREFIX.unpack_from(buffer)
    if flags & ~(COMPRESSED | END_OF_STREAM):
        raise protocol_error(f"unknown envelope flags {flags:#04x}")
    if max_bytes is not None and length > max_bytes:
        text = f"message of {length} bytes is larger than {max_bytes}"
        raise CallError(Code.RESOURCE_EXHAUSTED, text, fault=Fault.CALLER)
    end = _PREFIX.size + length
    if len(buffer) < end:
        return None
    content = bytes(buffer[_PREFIX.size : end])
    del buffer[:end]
    if flags & COMPRESSED:
        content = decompress(content, max_bytes)
    return Envelope(flags, content)


def decompress(content: bytes, max_bytes: int | None) -> bytes:
    """Return gzipped content as it was.

    Raises: ConnectError `resource_exhausted` beyond `max_bytes`, `internal` if it is not gzip.
    """
    try:
        return _GZIP.decompress(content, max_bytes)
    except ConnectError as error:
        raise CallError(error.code, error.message, fault=Fault.CALLER) from None
    except Exception as error:
        raise protocol_error("the content is not valid gzip") from error
