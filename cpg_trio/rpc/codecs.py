"""Messages as bytes: protobuf's binary format, and its JSON without white space.

connectrpc's JSON codec indents its output, which takes twice the time. Reading is as there: unknown fields
are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from connectrpc.code import Code
from connectrpc.codec import Codec
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from cpg_trio._lines import one_line

_M = TypeVar("_M", bound=Message)

_to_json = json.JSONEncoder(separators=(",", ":")).encode


class UnreadableError(ConnectError):
    """The bytes are not the expected message."""

    def __init__(self, error: Exception) -> None:
        super().__init__(Code.INVALID_ARGUMENT, f"unmarshal message: {one_line(str(error))}")


class CheckedCodec:
    """One of connectrpc's codecs. Every error of reading is a short `invalid_argument`."""

    def __init__(self, codec: Codec[Any, Any]) -> None:
        self.name: Callable[[], str] = codec.name
        self.encode: Callable[[Any], bytes] = codec.encode
        self._decode = codec.decode

    def decode(self, data: bytes | bytearray, message_class: type[_M]) -> _M:
        """Decode a message. Raises: UnreadableError."""
        try:
            message: _M = self._decode(data, message_class)
        except Exception as error:  # noqa: BLE001 - Parsers raise many, e.g. RecursionError and ValueError
            raise UnreadableError(error) from None
        return message


class _CompactJson(CheckedCodec):
    """connectrpc's JSON codec, which writes without white space."""

    def __init__(self) -> None:
        super().__init__(google_protobuf_json_codec())
        self.encode = _written_as_json


def _written_as_json(message: Message) -> bytes:
    return _to_json(MessageToDict(message)).encode()


CODECS: Mapping[str, Codec[Any, Any]] = {
    "proto": CheckedCodec(google_protobuf_binary_codec()),
    "json": _CompactJson(),
}
"""By the name that follows `application/` in a content type."""
