"""Heads to send: header fields, status lines, and what is not allowed in them. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from time import time
from typing import Any
from wsgiref.handlers import format_date_time

from cpg_trio.asgi import HeaderList

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
#: The names of usual fields, in lower case. Caches hold these names alone: others may be an attacker's.
USUAL_NAMES = frozenset(
    {
        *(b"accept", b"accept-encoding", b"allow", b"authorization", b"cache-control"),
        *(b"connect-accept-encoding", b"connect-content-encoding", b"connect-protocol-version"),
        *(b"connect-timeout-ms", b"connection", b"content-encoding", b"content-length", b"content-type"),
        *(b"date", b"etag", b"grpc-accept-encoding", b"grpc-encoding", b"grpc-message", b"grpc-status"),
        *(b"grpc-timeout", b"host", b"location", b"retry-after", b"server", b"te", b"traceparent"),
        *(b"tracestate", b"trailer", b"transfer-encoding", b"user-agent", b"vary", b"x-request-id"),
        *(b"x-content-type-options", b"x-plugin-caller", b"x-plugin-caller-id", b"x-plugin-host-id"),
        *(b"x-plugin-runtime-id", b"x-plugin-undelivered"),
    }
)


def spellings(names: Iterable[bytes]) -> frozenset[bytes]:
    """Return names in the spellings that they usually have."""
    titles = {name.title() for name in names}
    return frozenset({*names, *titles, *(name.replace(b"-Id", b"-ID") for name in titles)})


_now = (0, b"")


def lower(name: bytes) -> bytes:
    """Return a header's name in lower case. Raises: ValueError for what is no name."""
    if name in USUAL_NAMES:
        return name
    if not _NAME.fullmatch(name):
        raise ValueError("a header's name has characters that no name has")
    return name.lower()


def check_fields(fields: Iterable[tuple[bytes, bytes]]) -> None:
    """Check header fields of a response, or trailers. Raises: as `block`."""
    block(fields)


def block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return header fields as lines, in their spelling and order.

    Raises: ValueError for a malformed name, or a value with a line end or a NUL.
    """
    lines = []
    for name, value in fields:
        lower(name)
        lines.append(b"%b: %b\r\n" % (name, value))
    text = b"".join(lines)
    if text.count(b"\n") != len(lines) or text.count(b"\r") != len(lines) or b"\0" in text:
        raise ValueError("a header's value has a line end or a NUL in it")
    return text


def field_lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return fields that were read strictly as lines of an HTTP/1.1 head. Nothing is checked again."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def date() -> bytes:
    """Return the value of a `date` field of now."""
    global _now  # noqa: PLW0603 - the text is made once a second
    second = int(time())
    if _now[0] != second:
        _now = (second, format_date_time(second).encode())
    return _now[1]


def plain_response(status: int, text: str, fields: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """Return a whole response of HTTP/1.1 in plain text."""
    body = text.encode()
    lines = block([*plain_text(len(body)), (b"date", date()), *fields])
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, REASONS.get(status, b""), lines, body)


def plain_text(length: int) -> list[tuple[bytes, bytes]]:
    """Return the fields of a body in plain text that no browser takes for anything else."""
    return [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-length", b"%d" % length),
    ]


class OutgoingHead:
    """Status and header fields of a response, before a protocol gives them its form.

    Several responses may have the same one.

    `fields` are in the order and spelling in which HTTP/1.1 writes them. Those that are for one connection
    only (`connection`, `transfer-encoding`) are the protocol's, and are not among them.
    """

    __slots__ = ("fields", "forms", "has_date", "length", "lines", "reason", "status")

    def __init__(self, status: int, fields: HeaderList, reason: bytes | None = None) -> None:
        """Check the fields. Raises: ValueError for a name or a value that would break the message."""
        self.status: int = status
        self.reason: bytes = REASONS.get(status, b"") if reason is None else reason
        self.fields: HeaderList = fields
        self.lines: bytes = block(fields)
        """The fields as HTTP/1.1 writes them."""
        self.length: int | None = None
        """The length of the body that the fields declare, in bytes."""
        self.has_date: bool = False
        self.forms: dict[Any, Any] = {}
        """How each protocol writes it: a protocol keeps here what it has written once."""
        for name, value in fields:
            lowered = name.lower()
            if lowered == b"content-length":
                self.length = as_length(value)
            elif lowered == b"date":
                self.has_date = True


def as_length(value: bytes) -> int:
    """Return the value of a `content-length`. Raises: ValueError for what is no number."""
    if not value.isdigit():
        raise ValueError("the response's content-length is not a number")
    return int(value)
