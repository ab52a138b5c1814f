"""HTTP/1.1 messages on their way in: bytes go in as they come, heads and bodies come out.

llhttp (through httptools) reads heads and chunked bodies, without any of its leniencies, so that whatever
could be read in two ways is refused: both framings, a framing twice, a folded line, a lone CR or LF, a chunk
size that is none. What llhttp lets pass and others read differently is refused here. A body of declared
length is counted, not parsed.

One object is one message. llhttp goes on to the next message by itself, and doesn't say where it began; so it
is given no byte beyond the end of its message: a message can only end behind a blank line, or where its
declared length ends.

No I/O. What is held is one head, or what of a body has been fed and not taken.
"""

from __future__ import annotations

import re
from enum import Enum, auto

import httptools

from cpg_trio.asgi import HeaderList

#: Bytes. A head (or the trailers) that is still incomplete at this size is refused.
MAX_HEAD_BYTES = 64 * 1024

_BLANK_LINE = b"\r\n\r\n"
_BARE_LF = re.compile(rb"(?<!\r)\n")
# What llhttp is more liberal about: the spaces, the versions, and letters beyond ASCII.
_REQUEST_LINE = re.compile(rb"[A-Z-]+ [\x21-\x7e]+ HTTP/1\.[01]\r\n")
_LINE_TO_ENCODE = re.compile(rb"([A-Z-]+ )([\x21-\x7e\x80-\xff]+)( HTTP/1\.[01]\r\n)")
_OTHER_VERSION = re.compile(rb"[A-Z-]+ [\x21-\x7e]+ HTTP/[0-9]\.[0-9]\r\n")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_VERSION = b"HTTP/1."
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2}(?: [^\r\n\x00]*)?\r\n")


class MalformedError(Exception):
    """What came in is no message, or could be read as more than one. The sender's fault.

    The message says what is wrong, and repeats none of it.
    """

    def __init__(self, what: str, status: int = 400) -> None:
        super().__init__(what)
        self.status = status
        """The status that answers it, if it was a request."""


class Framing(Enum):
    """How a message says where its body ends."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()
    """With the connection; responses only."""


class Incoming:
    """One message. `feed` it until it is `complete`; `take` what has come of its body meanwhile."""

    has_head = False
    complete = False
    framing = Framing.NONE
    remaining = 0
    """Bytes of a body of declared length that have not come yet."""
    head_bytes = b""
    """The head as it came."""
    version = "1.1"
    keep_alive = False
    """Whether the sender lets another message follow."""

    _parser: httptools.HttpRequestParser | httptools.HttpResponseParser | None
    _declared: bytes | None = None
    _coding: bytes | None = None
    _tail = b""  # of what the parser was fed last: a blank line may come in two pieces
    _unended_bytes = 0  # of a chunked body, since its last data: trailers, which have a limit

    def __init__(self, max_head_bytes: int = MAX_HEAD_BYTES) -> None:
        self.headers: HeaderList = []
        """In order and spelling as they came; complete once `has_head`."""
        self.trailers: HeaderList = []
        """The same, for what followed a chunked body."""
        self._max_head_bytes = max_head_bytes
        self._parts: list[bytes] = []

    @property
    def declares_length(self) -> bool:
        """Whether a header says how long the body is."""
        return self._declared is not None

    @property
    def begun(self) -> bool:
        """Whether anything of it has come."""
        return bool(self.head_bytes)

    def feed(self, data: bytes) -> bytes:
        """Take what came in; return what follows the message, which is nothing unless it is complete.

        Raises: MalformedError. Nothing more is to be fed after that.
        """
        if not self.has_head:
            data = self._feed_head(data)
        if self.complete or not data:
            return data
        if self.framing is Framing.LENGTH:
            return self._feed_length(data)
        if self.framing is Framing.CHUNKED:
            return self._feed_chunked(data)
        self._parts.append(data)
        return b""

    def take(self) -> bytes:
        """Return what has come of the body and not been taken yet."""
        parts = self._parts
        if not parts:
            return b""
        self._parts = []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # The head

    def _feed_head(self, data: bytes) -> bytes:
        seen = max(0, len(self.head_bytes) - 3)
        data = self.head_bytes + data if self.head_bytes else self._first(data)
        end = data.find(_BLANK_LINE, seen) + 4
        if end < 4:  # noqa: PLR2004 - there is none
            self._hold(data, seen)
            return b""
        self.head_bytes = head = data[:end]
        if end > self._max_head_bytes:
            raise MalformedError("the head is too large", 431)
        head = self._checked(head)
        # The two refer to each other, which only the garbage collector would undo.
        self._parser = self._new_parser()
        self._parse(head)
        self.has_head = True
        self._set_framing()
        if self.framing is not Framing.CHUNKED:
            self._parser = None
        return data[end:]

    def _first(self, data: bytes) -> bytes:
        """Return what a message begins with, without what may come before one."""
        return data

    def _hold(self, data: bytes, seen: int) -> None:
        """Hold a head that has not ended."""
        if len(data) > self._max_head_bytes:
            raise MalformedError("the head is too large", 431)
        if _BARE_LF.search(data, seen):  # such a head may never end
            raise MalformedError("a line ends without CR")
        self.head_bytes = data

    def _checked(self, head: bytes) -> bytes:
        """Check what the parser does not; return the head as the parser is to have it."""
        raise NotImplementedError

    def _new_parser(self) -> httptools.HttpRequestParser | httptools.HttpResponseParser:
        raise NotImplementedError

    def _set_framing(self) -> None:
        raise NotImplementedError

    def _parse(self, data: bytes) -> None:
        assert self._parser is not None  # noqa: S101 - for the type checker
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade()
        except httptools.HttpParserInvalidMethodError:
            raise MalformedError("an unknown method", 501) from None
        except httptools.HttpParserError as error:
            # It is one of the parser's constants, and quotes nothing of what it read.
            raise MalformedError(str(error)) from None
        finally:
            if self.complete:
                self._parser = None

    def _upgrade(self) -> None:
        """Hear that another protocol follows."""

    def _frame(self) -> bool:
        """Set the framing that the headers declare; return whether they declare one."""
        if self._coding is not None:
            if self._coding.lower() != b"chunked":
                raise MalformedError("a transfer coding that is not chunked", 501)
            self.framing = Framing.CHUNKED
        elif self._declared is not None:
            self.remaining = int(self._declared)
            self.framing = Framing.LENGTH if self.remaining else Framing.NONE
        else:
            return False
        self.complete = self.framing is Framing.NONE
        return True

    # The parser's callbacks

    def on_headers_complete(self) -> None:
        assert self._parser is not None  # noqa: S101 - for the type checker
        self.version = self._parser.get_http_version()
        self.keep_alive = self._parser.should_keep_alive()

    def on_header(self, name: bytes, value: bytes) -> None:
        field = (name, value.rstrip(b" \t"))
        if self.has_head:
            self.trailers.append(field)
            return
        self.headers.append(field)
        if len(name) in _LENGTHS:
            self._note(name.lower(), field[1])

    def _note(self, name: bytes, value: bytes) -> None:
        """Look at a header whose name may be one that says how to read the message."""
        if name == b"content-length":
            self._declared = value
        elif name == b"transfer-encoding":
            self._coding = value if self._coding is None else self._coding + b"," + value

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)
        self._unended_bytes = 0

    def on_message_complete(self) -> None:
        self.complete = self.has_head  # else it is the end of a head that the parser takes for all

    # The body

    def _feed_length(self, data: bytes) -> bytes:
        remaining = self.remaining
        if len(data) < remaining:
            self.remaining = remaining - len(data)
            self._parts.append(data)
            return b""
        self._parts.append(data[:remaining])
        self.remaining = 0
        self.complete = True
        return data[remaining:]

    def _feed_chunked(self, data: bytes) -> bytes:
        """Feed the parser up to each blank line, behind any of which the message may have ended."""
        start = 0
        while start < len(data):
            end = self._next_possible_end(data, start)
            self._unended_bytes += end - start
            self._parse(data[start:end])
            start = end
            if self.complete:
                break
            if self._unended_bytes > self._max_head_bytes:
                raise MalformedError("the trailers, or the extensions of a chunk, are too large", 431)
        return data[start:]

    def _next_possible_end(self, data: bytes, start: int) -> int:
        tail, self._tail = self._tail, b""
        for missing in (1, 2, 3) if tail else ():  # of a blank line that began in the piece before
            if tail.endswith(_BLANK_LINE[:-missing]) and data.startswith(_BLANK_LINE[-missing:], start):
                return start + missing
        end = data.find(_BLANK_LINE, start)
        if end >= 0:
            return end + 4
        self._tail = (tail + data[start:])[-3:]
        return len(data)


# Of the names that are looked at: `te`, `host`, `expect`, `content-length` and `transfer-encoding`.
_LENGTHS = frozenset({2, 4, 6, 14, 17})


class IncomingRequest(Incoming):
    """A request. A head that is wrong is refused before anybody sees it."""

    method = b""
    target = b""
    wants_upgrade = False
    """Whether it asks for another protocol, or for a tunnel."""
    expects_continue = False
    """Whether its sender waits for word to send the body."""
    accepts_trailers = False
    """Whether its sender keeps the trailers of a response (RFC 9110, section 10.1.4)."""

    _hosts = 0

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        assert isinstance(self._parser, httptools.HttpRequestParser)  # noqa: S101 - for the type checker
        self.method = self._parser.get_method()

    def _new_parser(self) -> httptools.HttpRequestParser:
        return httptools.HttpRequestParser(self)

    def _first(self, data: bytes) -> bytes:
        # RFC 9112, 2.2: an empty line before a request is ignored. One, not any number of them.
        return data.removeprefix(b"\r\n")

    def _checked(self, head: bytes) -> bytes:
        if _REQUEST_LINE.match(head):
            return head
        if line := _LINE_TO_ENCODE.match(head):
            # What its sender should have done; people type such targets at curl, and all read them alike.
            encoded = _NOT_ASCII.sub(lambda byte: b"%%%02X" % byte[0][0], line[2])
            return line[1] + encoded + line[3] + head[line.end() :]
        if _OTHER_VERSION.match(head):
            raise MalformedError("not a version that we speak", 505)
        raise MalformedError("not a request line")

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
        elif name == b"te":
            self.accepts_trailers |= b"trailers" in [part.strip().lower() for part in value.split(b",")]
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"
        else:
            super()._note(name, value)

    def _upgrade(self) -> None:
        self.wants_upgrade = True

    def _set_framing(self) -> None:
        if self._coding is not None and self.version != "1.1":
            raise MalformedError("a transfer coding in HTTP/1.0")
        if self._hosts > 1 or (self._hosts == 0 and self.version == "1.1"):
            raise MalformedError("a request has one host header")
        if not self._frame():
            self.complete = True


class IncomingResponse(Incoming):
    """A response to a request that was, or was not, a HEAD."""

    status = 0

    def __init__(self, *, to_head: bool = False, max_head_bytes: int = MAX_HEAD_BYTES) -> None:
        super().__init__(max_head_bytes)
        self._to_head = to_head

    @property
    def interim(self) -> bool:
        """Whether another response to the same request follows it."""
        return self.status < 200  # noqa: PLR2004

    @property
    def reason(self) -> bytes:
        """The reason phrase, which is empty as often as not."""
        return self.head_bytes[13 : self.head_bytes.index(b"\r\n")]

    def end_of_stream(self) -> None:
        """Note that the peer has closed. Raises: MalformedError if that cuts the message short."""
        if self.framing is Framing.CLOSE:
            self.complete = True
        if not self.complete:
            raise MalformedError("the message was cut short")

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        assert isinstance(self._parser, httptools.HttpResponseParser)  # noqa: S101 - for the type checker
        self.status = self._parser.get_status_code()

    def _new_parser(self) -> httptools.HttpResponseParser:
        return httptools.HttpResponseParser(self)

    def _hold(self, data: bytes, seen: int) -> None:
        # A peer of another protocol may say a few bytes, and wait for ours.
        if not data.startswith(_VERSION[: len(data)]):
            raise MalformedError("not a status line")
        super()._hold(data, seen)

    def _checked(self, head: bytes) -> bytes:
        if not _STATUS_LINE.match(head):
            raise MalformedError("not a status line")
        return head

    def _set_framing(self) -> None:
        if self.interim or self._to_head or self.status in {204, 304}:
            self.complete = True
        elif not self._frame():
            self.framing, self.keep_alive = Framing.CLOSE, False
