"""The code that a response of Connect, gRPC or gRPC-Web ends with, as far as what is at hand tells.

For those that pass responses on, or count them. Nothing is read for it, and nothing raises: a body that is
not in one piece, is compressed or is long says nothing, and then the HTTP status decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from connectrpc.code import Code

from cpg_trio.rpc.errors import error_from_http, error_from_json

OK = "ok"

_MOST_BYTES = 16 * 1024  # of an error that is read
_PREFIX = 5  # bytes of an envelope: flags and length
_CONNECT_END, _GRPC_WEB_END = 0x02, 0x80
_GRPC_CODES = (
    OK,
    *(
        code.value
        for code in (
            Code.CANCELED,
            Code.UNKNOWN,
            Code.INVALID_ARGUMENT,
            Code.DEADLINE_EXCEEDED,
            Code.NOT_FOUND,
            Code.ALREADY_EXISTS,
            Code.PERMISSION_DENIED,
            Code.RESOURCE_EXHAUSTED,
            Code.FAILED_PRECONDITION,
            Code.ABORTED,
            Code.OUT_OF_RANGE,
            Code.UNIMPLEMENTED,
            Code.INTERNAL,
            Code.UNAVAILABLE,
            Code.DATA_LOSS,
            Code.UNAUTHENTICATED,
        )
    ),
)
_Fields = Iterable[tuple[bytes, bytes]]


def code_of_status(status: int) -> str:
    """Return the code of a response of which only the HTTP status is known."""
    return OK if status < 400 else error_from_http(status, "", b"").code.value  # noqa: PLR2004 - client errors


def code_of_head(status: int, fields: _Fields) -> str:
    """Return the code of a response whose head alone tells it; empty if what follows may tell it."""
    content_type = _field(fields, b"content-type").lower()
    if content_type.startswith((b"application/grpc", b"application/connect+")):
        return _code_of_grpc(fields) if status == 200 else code_of_status(status)  # noqa: PLR2004
    if status < 400 or not content_type.startswith(b"application/json"):  # noqa: PLR2004
        return code_of_status(status)
    return ""


def code_of_end(status: int, fields: _Fields, trailers: _Fields, body: bytes) -> str:
    """Return the code of a response that has ended. `body` is the last piece of its body."""
    content_type = _field(fields, b"content-type").lower()
    if content_type.startswith(b"application/connect+"):
        return _code_of_json(_last_envelope(body, _CONNECT_END), "error") or OK
    if content_type.startswith(b"application/grpc-web"):
        return _code_of_grpc(_lines(_last_envelope(body, _GRPC_WEB_END))) or Code.UNKNOWN.value
    if content_type.startswith(b"application/grpc"):
        return _code_of_grpc(trailers) or Code.UNKNOWN.value
    return _code_of_json(body) or code_of_status(status)


def _field(fields: _Fields, name: bytes) -> bytes:
    return next((value for key, value in fields if key.lower() == name), b"")


def _code_of_grpc(fields: _Fields) -> str:
    status = _field(fields, b"grpc-status").strip()
    if not status:
        return ""
    known = status.isdigit() and len(status) <= 2 and int(status) < len(_GRPC_CODES)  # noqa: PLR2004 - digits
    return _GRPC_CODES[int(status)] if known else Code.UNKNOWN.value


def _code_of_json(body: bytes, member: str = "") -> str:
    """Return the code of an error in JSON, which a member of the object may be; empty if there is none."""
    if not body.startswith(b"{") or len(body) > _MOST_BYTES:
        return ""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    error = data.get(member) if member else data
    return error_from_json(error, 0).code.value if isinstance(error, dict) and "code" in error else ""


def _last_envelope(body: bytes, flag: int) -> bytes:
    """Return the content of an envelope at the end of a body that has a flag; empty if there is none."""
    at = len(body)
    while (at := body.rfind(flag, max(0, len(body) - _MOST_BYTES), at)) >= 0:
        content = body[at + _PREFIX :]
        if len(body) - at >= _PREFIX and int.from_bytes(body[at + 1 : at + _PREFIX]) == len(content):
            return content
    return b""


def _lines(block: bytes) -> list[tuple[bytes, bytes]]:
    """Return the fields of a block of trailers."""
    return [(name, value) for name, _, value in (line.partition(b":") for line in block.split(b"\r\n"))]
