"""Received HTTP/1.1 messages: bytes go in as they arrive, heads and bodies come out.

`heads` reads heads and trailers, with llhttp, which gets whole heads and nothing else. Behind a head llhttp
would go on with what it takes to be next: for a chunked request that asks for an upgrade that is another
request, and llhttp does not tell where it began. So bodies are read here: a declared length is counted, and
the line before a chunk has one narrow form. One object is one message, and returns the bytes that follow it.

No I/O. It holds one head, or the part of a body that was fed and not taken. The result does not depend on how
the bytes were split on the network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Generic, TypeVar

from cpg_trio.asgi import HeaderList
from cpg_trio.http.differing import cut, cut_usual_of_request, cut_usual_of_response, has_proof
from cpg_trio.http.heads import (
    MAX_DIGITS,
    Framing,
    Head,
    MalformedError,
    RequestHead,
    RequestHeads,
    ResponseHead,
    ResponseHeads,
    read_trailers,
)

#: Bytes. A head (or the trailers) that is still incomplete at this size is refused.
MAX_HEAD_BYTES = 64 * 1024

# A member of an Enum takes ten times as long to look up as a global name.
_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing.NONE, Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE

_BLANK_LINE = b"\r\n\r\n"
_BARE_LF = re.compile(rb"(?<!\r)\n")
# The extension is skipped; only its end matters. `_BEGUN`: what can still become such a line.
_SIZE = rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e]{0,1000})?\r\n"
_BEGUN = rb"[0-9A-Fa-f]{0,15}|[0-9A-Fa-f]{1,15}(?:;[\t\x20-\x7e]{0,1000})?\r?"
_FIRST_CHUNK, _FIRST_CHUNK_BEGUN = re.compile(_SIZE), re.compile(_BEGUN)
_NEXT_CHUNK, _NEXT_CHUNK_BEGUN = re.compile(rb"\r\n" + _SIZE), re.compile(rb"\r|\r\n(?:" + _BEGUN + rb")")


def body_too_large(most: float) -> str:
    """Return the answer to a request whose body is larger than so many bytes."""
    return f"request body too large (max: {most:.0f} bytes)"


_H = TypeVar("_H", bound=Head)
_Data = TypeVar("_Data", bytes, memoryview)


class Incoming(Generic[_H]):
    """One message. `feed` it until it is `complete`; `take` what has come of its body meanwhile."""

    has_head: bool = False
    head: _H
    """The head, once `has_head`. Messages that have the same head share it, if it is kept. Then it is without
    the lines that differ from call to call: `authorization`, `context`, `metadata` and `declared`, and the
    `x-request-id` of a response."""
    declared: bytes = b""
    """The length that it declares for its body, in digits; empty if it declares none, or if that is among the
    head's fields."""
    metadata: HeaderList = []  # noqa: RUF012 - not to be changed
    """The application's own fields, and timeouts; none if there are none, or if they are among the head's."""
    complete: bool = False
    framing: Framing = _NONE
    remaining: int = 0
    """Bytes of a body of declared length that have not come yet."""
    head_bytes: bytes = b""
    """The head as it came."""
    to_head = False
    """Whether it is a response to HEAD, which has no body; to be set before it is fed."""
    version: str = "1.1"
    keep_alive: bool = False
    """Whether another message may follow. Never in HTTP/1.0, where an old proxy may have forwarded a
    `keep-alive` that was meant for itself."""

    _beginning: re.Pattern[bytes]  # of whatever can still become a head
    _parts_of_head: list[bytes] | None = None  # in turns: what messages share, a name, and its value
    _chunk_line, _chunk_line_begun = _FIRST_CHUNK, _FIRST_CHUNK_BEGUN
    _in_chunk = 0  # bytes that have not come yet
    _in_trailers = False
    _body_bytes = 0  # that have come in chunks
    _most_body_bytes = math.inf
    _held = b""  # what has come of the line before a chunk, or of the trailers with the line end before them

    def __init__(self, max_head_bytes: int = MAX_HEAD_BYTES) -> None:
        self.trailers: HeaderList = []
        """As `headers`, for what followed a chunked body; complete once the message is."""
        self._max_head_bytes = max_head_bytes
        self._parts: list[bytes] = []

    @property
    def headers(self) -> HeaderList:
        """The header fields, in order and spelling as they came; none until `has_head`. Not to be changed."""
        if not self.has_head:
            return []
        parts, fields = self._parts_of_head, self.head.fields
        if parts is None:
            return fields
        merged, at = HeaderList(), 0
        for before, name, value in zip(parts[:-1:3], parts[1::3], parts[2::3], strict=True):
            count = before.count(b"\r\n")
            merged += [*fields[at : at + count], (name, value)]
            at += count
        return merged + fields[at:]

    def differing(self) -> HeaderList:
        """Return the fields that are not among the head's, in their order, with names in lower case."""
        parts = self._parts_of_head
        if parts is None:
            return []
        return [(name.lower(), value) for name, value in zip(parts[1::3], parts[2::3], strict=True)]

    @property
    def declares_body(self) -> bool:
        """Whether a field declares the framing of the body, which may be a length of 0."""
        return bool(self.declared) or self.head.declares_body

    @property
    def begun(self) -> bool:
        """Whether anything of it has come, other than an empty line."""
        return bool(self.head_bytes.strip())

    def feed(self, data: bytes) -> bytes:
        """Take what came in; return what follows the message, which is nothing unless it is complete.

        Raises: MalformedError. Nothing more is to be fed after that.
        """
        if not self.has_head:
            data = self._feed_head(data)
        if self.complete or not data:
            return data
        if self.framing is _CHUNKED:
            return self._feed_chunked(self._held + data, self._parts)
        rest = b""
        if self.framing is _LENGTH:
            left = self.remaining - len(data)
            if left < 0:
                data, rest, left = data[:left], data[left:], 0
            self.remaining = left
            self.complete = not left
        self._parts.append(data)
        return rest

    def pass_through(self, data: bytes | memoryview) -> tuple[bytes | memoryview, bytes]:
        """Feed what came in behind the head, when all before it has been taken, and take what is the body's.

        Return that, which may be `data` itself, and what follows the message. Raises: MalformedError.
        """
        size = len(data)
        if self.framing is _LENGTH and size <= self.remaining:
            self.remaining -= size
            self.complete = not self.remaining
        elif self.framing is _CHUNKED and size <= self._in_chunk:
            self._in_chunk -= size
            self._count_body(size)
        elif self.framing is _CHUNKED and not self._held:
            return self._pass_chunks(memoryview(data))
        elif self.framing is not _CLOSE:
            rest = self.feed(bytes(data))
            return self.take(), rest
        return data, b""

    def _pass_chunks(self, data: memoryview) -> tuple[bytes | memoryview, bytes]:
        parts: list[memoryview] = []
        try:
            rest = self._feed_chunked(data, parts)
        except MalformedError:
            self._parts = [b"".join(parts)]  # is to be taken before the error is told
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts), rest

    def limit_body(self, most: int) -> None:
        """Take no more than so many bytes of a body of which nothing has been taken yet.

        Raises: MalformedError, also later from `feed`, for a larger one.
        """
        come = sum(map(len, self._parts))
        self._check_body(come + self.remaining, most)
        self._most_body_bytes, self._body_bytes = most, come

    def _count_body(self, size: int) -> None:
        self._body_bytes += size
        self._check_body(self._body_bytes, self._most_body_bytes)

    def _check_body(self, size: int, most: float) -> None:
        if size > most:
            raise MalformedError(body_too_large(most), 413)

    def take(self) -> bytes:
        """Return what has come of the body and not been taken yet."""
        parts = self._parts
        if not parts:
            return b""
        self._parts = []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # The head

    def _feed_head(self, data: bytes) -> bytes:
        seen = 0
        if self.head_bytes:
            seen = max(0, len(self.head_bytes) - 3)
            data = self.head_bytes + data
        end = data.find(_BLANK_LINE, seen) + 4
        if end < 4:  # noqa: PLR2004 - there is none
            self._hold_head(data, seen)
            return b""
        if end > self._max_head_bytes:
            raise MalformedError("the head is too large", 431)
        self.head_bytes = data[:end]
        self.head = head = self._read_head()
        self.version = head.version
        if self.declared and not self.to_head:
            self.remaining = int(self.declared)
            self.framing = _LENGTH if self.remaining else _NONE
        elif not self.to_head:
            self.framing, self.remaining = head.framing, head.length
        self.complete = self.framing is _NONE
        self.keep_alive = head.keep_alive and self.framing is not _CLOSE
        self.has_head = True
        return data[end:]

    def _hold_head(self, data: bytes, seen: int) -> None:
        """Hold a head that has not ended, unless it is plain that it never will, or not as one."""
        if len(data) >= self._max_head_bytes:
            raise MalformedError("the head is too large", 431)
        if data and not self._beginning.match(data):
            raise MalformedError("not the beginning of a message")
        if _BARE_LF.search(data, seen):
            raise MalformedError("a line ends without CR")
        self.head_bytes = data

    def _read_head(self) -> _H:
        """Return the head, read now or before. Raises: MalformedError."""
        raise NotImplementedError

    def _set_apart(self, parts: list[bytes], length: int, metadata: list[tuple[bytes, int]]) -> bool:
        """Note what was cut out of a head, unless the length is none."""
        if length:
            declared = parts[length]
            if not (declared.isdigit() and len(declared) <= MAX_DIGITS):
                return False
            self.declared = declared
        if metadata:
            self.metadata = [(name, parts[at]) for name, at in metadata]
        self._parts_of_head = parts
        return True

    # The body

    def _feed_chunked(self, data: _Data, parts: list[_Data]) -> bytes:
        self._held, at = b"", 0
        while at < len(data) and not self.complete:
            if self._in_chunk:
                at = self._take_chunk(data, at, parts)
            elif self._in_trailers:
                at = self._take_trailers(data, at)
            else:
                at = self._take_chunk_line(data, at)
        return bytes(data[at:])

    def _take_chunk(self, data: _Data, at: int, parts: list[_Data]) -> int:
        """Take what there is of a chunk; return where that ends. The next two do likewise."""
        part = data[at : at + self._in_chunk]
        self._count_body(len(part))
        parts.append(part)
        self._in_chunk -= len(part)
        return at + len(part)

    def _take_chunk_line(self, data: bytes | memoryview, at: int) -> int:
        line = self._chunk_line.match(data, at)
        if line is None:
            if not self._chunk_line_begun.fullmatch(data, at):
                raise MalformedError("not the beginning of a chunk")
            self._held = bytes(data[at:])
            return len(data)
        self._in_chunk = int(line[1], 16)
        if not self._in_chunk:
            self._in_trailers = True
            return line.end() - 2  # so that what ends the message is a blank line in any case
        self._chunk_line, self._chunk_line_begun = _NEXT_CHUNK, _NEXT_CHUNK_BEGUN
        return line.end()

    def _take_trailers(self, data: bytes | memoryview, at: int) -> int:
        left = bytes(data[at:])
        end = left.find(_BLANK_LINE) + 4
        if end < 4:  # noqa: PLR2004 - there is none
            self._hold_trailers(left)
            return len(data)
        lines = left[2:end]
        if len(lines) > self._max_head_bytes:
            raise MalformedError("the trailers are too large", 431)
        if len(lines) > 2:  # noqa: PLR2004 - more than the line end
            self.trailers = read_trailers(lines)
        self.complete = True
        return at + end

    def _hold_trailers(self, held: bytes) -> None:
        if len(held) - 2 >= self._max_head_bytes:
            raise MalformedError("the trailers are too large", 431)
        if _BARE_LF.search(held):
            raise MalformedError("a line ends without CR")
        self._held = held


class IncomingRequest(Incoming[RequestHead]):
    """A request. A malformed head is refused as a whole."""

    method: bytes = b""
    target: bytes = b""
    wants_websocket: bool = False
    """Whether it asks for a WebSocket. Other upgrades are ignored (RFC 9110, 7.8), as is one with a body."""
    expects_continue: bool = False
    """Whether its sender waits for a 100 before it sends the body."""
    accepts_trailers: bool = False
    """Whether its sender accepts trailers in the response (RFC 9110, section 10.1.4)."""
    heads: RequestHeads | None = None
    """The heads that were kept before, to be set before it is fed."""
    authorization: bytes = b""
    """The value of that line; empty if there is none, or if it is among the head's other fields."""
    context: HeaderList = []  # noqa: RUF012 - not to be changed
    """The fields of `call_context.FIELDS`; none if there are none, or if they are among the head's others."""

    _beginning = re.compile(rb"(?:\r\n)?[A-Z-]|\r\n?\Z")

    def keep_head(self) -> None:
        """Keep the head for other requests that have the same one, if it is short and shows no secret.

        Only for a sender that has proved its identity: nobody else may fill the cache.
        """
        parts = self._parts_of_head
        if self.heads is not None and parts is not None:
            self.heads.remember(b"".join(parts[::3]), self.head)

    def _read_head(self) -> RequestHead:
        # RFC 9112, 2.2: an empty line before a request is ignored. One, not any number of them.
        self.head_bytes = self.head_bytes.removeprefix(b"\r\n")
        head = self._known_head()
        self.method = head.method
        self.target = head.target
        # Set only where they differ: beyond 30 attributes Python gives each object a dictionary of its own.
        if head.accepts_trailers:
            self.accepts_trailers = True
        if head.expects_continue:
            self.expects_continue = True
        if head.wants_websocket:
            self.wants_websocket = True
        return head

    def _known_head(self) -> RequestHead:
        """Read the head; if one of the lines that differ from call to call has a secret, apart from those."""
        data, heads = self.head_bytes, self.heads
        parts = cut_usual_of_request(data)
        head = None if heads is None else heads.get(b"".join(parts[::3]))
        if head is None:
            parts = cut(data)
            key = b"".join(parts[::3])
            head = None if heads is None else heads.get(key)
            if head is None:
                if not has_proof(b"\n".join(parts[1::3])):
                    return RequestHead(data)
                head = RequestHead(key)
        places = head.places
        if places.names != (names := parts[1::3]):
            places = head.place(names)
        if not places.fits or not self._set_apart(parts, places.length, places.metadata):
            return RequestHead(data)
        if places.authorization:
            self.authorization = parts[places.authorization]
        if context := places.context:
            self.context = [(name, parts[at]) for name, at in context]
        return head


class IncomingResponse(Incoming[ResponseHead]):
    """A response."""

    status: int = 0
    heads: ResponseHeads | None = None
    """The heads that were kept before, among which its own is kept; to be set before it is fed."""

    # A peer of another protocol may send a few bytes, and wait for ours.
    _beginning = re.compile(rb"HTTP/1\.|" + b"|".join(rb"%b\Z" % b"HTTP/1"[:n] for n in range(1, 7)))

    def following(self) -> IncomingResponse:
        """Return a response that follows this interim one, of which nothing has come."""
        message = IncomingResponse(self._max_head_bytes)
        message.heads, message.to_head = self.heads, self.to_head
        return message

    @property
    def reason(self) -> bytes:
        """The reason phrase, which is often empty."""
        return self.head_bytes[13 : self.head_bytes.index(b"\r\n")]

    def texts(self) -> list[tuple[str, str]]:
        """Return the header fields as texts, with names in lower case.

        They are in order, but a length and a request id may be the last ones.
        """
        head, parts = self.head, self._parts_of_head
        if self.metadata:
            return _as_texts(self.headers)
        texts = head.texts
        if texts is None:
            texts = head.texts = _as_texts(head.fields)
        return [*texts] if parts is None else texts + _as_texts(zip(parts[1::3], parts[2::3], strict=True))

    def end_of_stream(self) -> None:
        """Note that the peer has closed. Raises: MalformedError if that cuts the message short."""
        if self.framing is _CLOSE:
            self.complete = True
        if not self.complete:
            raise MalformedError("the message was cut short")

    def _read_head(self) -> ResponseHead:
        head = self._known_head()
        self.status = head.status
        return head

    def _known_head(self) -> ResponseHead:
        """Read the head, apart from the lines that differ from call to call."""
        data = self.head_bytes
        if (heads := self.heads) is None:
            return ResponseHead(data)
        if (head := heads.get(data)) is not None:
            return head
        parts = cut_usual_of_response(data)
        head = heads.get(b"".join(parts[::3]))
        if head is None:
            parts = cut(data)
            key = b"".join(parts[::3])
            head = heads.get(key) or heads.read(key)
        places = head.places
        if places.names != (names := parts[1::3]):
            places = head.place(names)
        if not places.fits or not self._set_apart(parts, places.length, places.in_response):
            return ResponseHead(data)
        if places.has_length_only:
            heads.see(data)
        return head


def _as_texts(fields: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in fields]
