"""The error of an RPC, its codes, and the meaning of an answer that is not Connect.

The error is connectrpc's `ConnectError`, on both sides; a client's also tells whose failure it is (`faults`).
The mapping from HTTP statuses is the one that Connect clients share
(https://connectrpc.com/docs/protocol/#http-to-error-code), so a plain-text answer of a router or a proxy
means the same to a plugin in Go and to one in Python.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeVar, cast

from connectrpc.code import Code
from connectrpc.errors import ErrorDetail
from google.protobuf.message import Message
from protobuf.wkt import Any as PackedAny

from cpg_trio.rpc.faults import CallError, Fault

_M = TypeVar("_M", bound=Message)

_CODE_OF_STATUS: Mapping[int, Code] = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
_TYPE_URL = "type.googleapis.com/"
_LONGEST_TEXT = 200  # of a plain-text answer, in characters, that is worth repeating in a message


def error_from_http(status: int, content_type: str, body: bytes, fault: Fault = Fault.WAY) -> CallError:
    """Return the error for an answer that does not speak Connect (a router, a proxy, another server)."""
    code = _CODE_OF_STATUS.get(status, Code.UNKNOWN)
    text = ""
    if content_type.startswith("text/plain"):
        text = body.decode("utf-8", "replace").strip().partition("\n")[0][:_LONGEST_TEXT]
    return CallError(code, text or _phrase(status), fault=fault)


def error_from_json(data: object, status: int, fault: Fault = Fault.HANDLER) -> CallError:
    """Return the error that a Connect error body (or end-of-stream message) carries.

    A body without a usable code falls back on the HTTP status; details that do not decode are dropped.
    """
    fields: dict[str, Any] = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    try:
        code = Code(fields.get("code"))
    except ValueError:
        code = _CODE_OF_STATUS.get(status, Code.UNKNOWN)
    message, details = str(fields.get("message", "")), _details(fields.get("details"))
    return CallError(code, message, details, fault=fault)


def protocol_error(text: str) -> CallError:
    """Return the error for an answer that breaks the protocol."""
    return CallError(Code.INTERNAL, f"protocol error: {text}", fault=Fault.HANDLER)


def pack_detail(message: Message) -> ErrorDetail:
    """Return a message as a detail for `ConnectError(code, text, details=[...])`."""
    return ErrorDetail(
        PackedAny(type_url=_TYPE_URL + message.DESCRIPTOR.full_name, value=message.SerializeToString())
    )


def unpack_detail(detail: ErrorDetail, message_class: type[_M]) -> _M | None:
    """Return a detail as a message, or None if it is of another type."""
    if detail.type_name != message_class.DESCRIPTOR.full_name:
        return None
    return message_class.FromString(detail.message_bytes)


def _phrase(status: int) -> str:
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"


def _details(items: object) -> list[ErrorDetail]:
    found: list[ErrorDetail] = []
    for item in items if isinstance(items, list) else []:
        try:
            value = b64decode(item["value"] + "===")  # the protocol leaves the padding out
            found.append(ErrorDetail(PackedAny(type_url=_TYPE_URL + item["type"], value=value)))
        except (KeyError, TypeError, ValueError):
            continue
    return found
