"""Header fields and status lines to send: their form, and what is not allowed in them. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from time import time
from wsgiref.handlers import format_date_time

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
