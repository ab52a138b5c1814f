"""Requests, and the bytes that they are on the wire. No I/O.

A request is sent as the caller wrote it, so one that two parsers could read in two ways is refused.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable
from typing import Self

import attrs

from cpg_trio.asgi import HeaderList
from cpg_trio.http.client.errors import InvalidRequestError
from cpg_trio.http.outgoing import USUAL_NAMES

#: Bytes. This much fits the buffers of every transport, so that writing it cannot wait for a peer that waits
#: for us to read. A body up to this is sent together with its head.
ONE_WRITE_BYTES = 16 * 1024

#: RFC 9110, 9.2.2. TRACE is there for completeness.
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_TARGET = rb"[\x21-\x7e]++"
_VALUE = rb"(?:(?![ \t])[\t\x20-\x7e\x80-\xff]++(?<![ \t]))?"
# Atomic, not possessive: Python before 3.11.4 goes on in the middle of a possessive group that has failed.
_HEAD = re.compile(
    rb"%b %b HTTP/1\.1\r\n(?>(?:%b: %b\r\n)*)\r\n" % (_TOKEN, _TARGET, _TOKEN, _VALUE),
)
_A_TOKEN = re.compile(_TOKEN)
_A_TARGET = re.compile(_TARGET)
_A_LENGTH = re.compile(rb"[0-9]{1,18}")

# The headers that this client heeds. The lengths rule most names out before they are made lower case.
_HEEDED = frozenset({b"host", b"expect", b"connection", b"content-length", b"transfer-encoding"})
_HEEDED_LENGTHS = frozenset(len(name) for name in _HEEDED)
_PLAIN_NAMES = frozenset(name.decode() for name in USUAL_NAMES - _HEEDED)
_LINES_OF_PLAIN = 4  # beside its headers: the first one, host, length, and the empty one


@attrs.frozen
class Request:
    """A request, sent as it is.

    `target` is origin-form, or `*`. `headers` go out in this order and spelling, after a `host` if they
    have none. Framing is the caller's: `content-length`, or `transfer-encoding: chunked`, or neither for
    no body. `body` is read no further than its content-length; without a framing header, or with a length
    of 0, an iterable is not touched. A body that is an async generator is closed when sending stops.
    """

    method: bytes
    target: bytes
    headers: HeaderList = attrs.field(repr=False)
    body: AsyncIterable[bytes] | bytes = b""


@attrs.define  # not frozen, which would double the time that making one takes
class PreparedRequest:
    """A checked request, as it goes on the wire. Not to be changed."""

    method: bytes
    start: bytes = attrs.field(repr=False)
    """The head, and what of the body is sent together with it, framed."""
    rest: AsyncIterable[bytes] | bytes | None = None
    """The body behind `start`; None if there is nothing."""
    remaining: int | None = 0
    """The declared length of `rest`; None if it is chunked."""
    expects_continue: bool = False
    closes: bool = False
    """Whether the connection is to end with this request."""

    @classmethod
    def of(cls, request: Request, host: bytes) -> Self:
        """Check a request and write its head. Raises: InvalidRequestError."""
        _check_target(request)
        heeded = _heeded(request.headers)
        headers = request.headers if b"host" in heeded else [(b"host", host), *request.headers]
        head, body = _head(request, headers), request.body
        length = _body_length(body, heeded)
        expects = b"expect" in heeded and length != 0 and b"100-continue" in _tokens(heeded[b"expect"])
        closes = b"connection" in heeded and b"close" in _tokens(heeded[b"connection"])
        if length == 0:
            return cls(request.method, head, closes=closes)
        if isinstance(body, bytes) and len(body) <= ONE_WRITE_BYTES and not expects:
            framed = body if length else chunk(body) + LAST_CHUNK
            return cls(request.method, head + framed, closes=closes)
        return cls(request.method, head, body, length, expects, closes)

    @classmethod
    def plain(
        cls, method: str, target: str, host: str, headers: list[tuple[str, str]], body: bytes
    ) -> Self | None:
        """Write a request of the usual form in one go; return None for any other, as `of` has to check it.

        Its body is here and small, and its headers have usual names that this client does not heed.
        Raises: UnicodeEncodeError for what is not ASCII.
        """
        if len(body) > ONE_WRITE_BYTES or not dict(headers).keys() <= _PLAIN_NAMES:
            return None
        first = f"{method} {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}"
        head = "\r\n".join([first, *map(": ".join, headers), "", ""]).encode("ascii")
        is_one = _HEAD.fullmatch(head) and head.count(b"\n") == len(headers) + _LINES_OF_PLAIN
        if not is_one or method == "CONNECT" or not target.startswith("/"):
            return None
        return cls(method.encode(), head + body)

    @property
    def idempotent(self) -> bool:
        """Whether its method allows to send it twice."""
        return self.method in IDEMPOTENT


def check_request(request: Request) -> None:
    """Check a request that goes on as it is, by whatever way. Raises: InvalidRequestError."""
    _check_target(request)
    _head(request, request.headers)
    _body_length(request.body, _heeded(request.headers))


#: What ends a chunked body.
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes | memoryview) -> bytes:
    """Return a chunk of a chunked body; none for no data, since an empty chunk would be the last."""
    return b"".join((b"%x\r\n" % len(data), data, b"\r\n")) if data else b""


def _heeded(headers: HeaderList) -> dict[bytes, list[bytes]]:
    """Return the values of the headers that this client heeds, by name in lower case."""
    heeded: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if len(name) in _HEEDED_LENGTHS and (lower := name.lower()) in _HEEDED:
            heeded.setdefault(lower, []).append(value)
    return heeded


def _tokens(values: list[bytes]) -> list[bytes]:
    return [token.strip(b" \t").lower() for value in values for token in value.split(b",")]


def _check_target(request: Request) -> None:
    if request.method == b"CONNECT":
        raise InvalidRequestError("CONNECT makes a tunnel, which this client does not do")
    if request.target != b"*" and not request.target.startswith(b"/"):
        raise InvalidRequestError("the request's target must be origin-form: a path that begins with /")


def _head(request: Request, headers: HeaderList) -> bytes:
    lines = [b": ".join(field) for field in headers]
    head = b"\r\n".join([b"%b %b HTTP/1.1" % (request.method, request.target), *lines, b"", b""])
    # The head matches as a whole, has one line for each header, and no name has a colon. So each header, and
    # the request line, is read as it was given.
    good = (
        _HEAD.fullmatch(head)
        and head.count(b"\n") == len(lines) + 2
        and b":" not in b"".join([name for name, _ in headers])
    )
    if not good:
        raise InvalidRequestError(f"not a request that can be sent: {_what_is_wrong(request)}")
    return head


def _what_is_wrong(request: Request) -> str:
    if not _A_TOKEN.fullmatch(request.method):
        return "the method is no token"
    if not _A_TARGET.fullmatch(request.target):
        return "the target has characters that no target has"
    if not all(_A_TOKEN.fullmatch(name) for name, _ in request.headers):
        return "a header's name is no token"
    return "a header's value has control characters, or spaces around it"


def _body_length(body: AsyncIterable[bytes] | bytes, heeded: dict[bytes, list[bytes]]) -> int | None:
    """Return the declared length, None for chunked.

    Repeated fields are refused, even equal ones: two parsers could read them in two ways.
    """
    if len(heeded.get(b"host", ())) > 1:
        raise InvalidRequestError("a request has one host header")
    lengths, codings = heeded.get(b"content-length", []), heeded.get(b"transfer-encoding", [])
    if len(lengths) + len(codings) > 1:
        raise InvalidRequestError("a request has one content-length, or one transfer-encoding, or neither")
    if codings:
        if codings[0].lower() != b"chunked":
            raise InvalidRequestError("the only transfer-encoding of a request is chunked")
        return None
    if lengths and not _A_LENGTH.fullmatch(lengths[0]):
        raise InvalidRequestError("the request's content-length is not a number")
    length = int(lengths[0]) if lengths else 0
    if isinstance(body, bytes) and len(body) != length:
        raise InvalidRequestError(f"the request declares a body of {length} bytes, but has {len(body)}")
    return length
