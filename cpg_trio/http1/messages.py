"""HTTP/1.1 messages on their way in: bytes go in as they come, heads and bodies come out.

llhttp (through httptools) reads heads and trailers, without any of its leniencies, so that whatever could be
read in two ways is refused: both framings, a framing twice, a folded line, a lone CR or LF. What llhttp lets
pass and others read differently is refused here.

llhttp is given whole heads and nothing else. Behind a head it goes on to what it takes to be next, which for
a chunked request that asks for an upgrade is another request, and it does not say where that began. So bodies
are read here: a declared length is counted, and the line before a chunk has one narrow form. One object is
one message; what follows the message is given back to the byte.

No I/O. What is held is one head, or what of a body has been fed and not taken. What comes of a message does
not depend on how it was cut on its way.
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
# What llhttp is more liberal about: the spaces, the versions, letters beyond ASCII, and fragments, which some
# cut off and others take for a part of the path.
_REQUEST_LINE = re.compile(rb"[A-Z-]+ [\x21\x22\x24-\x7e]+ HTTP/1\.[01]\r\n")
_LINE_TO_ENCODE = re.compile(rb"([A-Z-]+ )([\x21\x22\x24-\x7e\x80-\xff]+)( HTTP/1\.[01]\r\n)")
_OTHER_VERSION = re.compile(rb"[A-Z-]+ [\x21-\x7e]+ HTTP/(?!1\.[01])[0-9]\.[0-9]\r\n")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
# RFC 3986, 3.2, without the user, and without the comma, which stands between two headers that were joined.
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+;=%:\[\]-]*")
_ABSOLUTE_TARGET = re.compile(rb"(?i:https?)://([^/?]+)(?:[/?].*)?")
_AUTHORITY_TARGET = re.compile(rb"([^/?]+:[0-9]+)")
# To drop one of these, as one does with what `connection` names, would make another message of it.
_VITAL = frozenset({b"content-length", b"host", b"transfer-encoding"})
_NAMES_VITAL = re.compile(rb"(?i)(?:^|,)[ \t]*(?:content-length|host|transfer-encoding)[ \t]*(?:,|$)")
_NAMES_CLOSE = re.compile(rb"(?i)(?:^|,)[ \t]*close[ \t]*(?:,|$)")
# Of the names looked at: te, host, expect, upgrade, connection, content-length and transfer-encoding.
_LENGTHS_OF_NAMES = frozenset({2, 4, 6, 7, 10, 14, 17})
# Any number that everybody holds who reads it: less than 2 to the 63rd.
_LENGTH = re.compile(rb"[0-9]{1,18}")
# Nobody reads an extension; it only matters where it ends. `_BEGUN`: what can still become such a line.
_SIZE = rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e]{0,1000})?\r\n"
_BEGUN = rb"[0-9A-Fa-f]{0,15}|[0-9A-Fa-f]{1,15}(?:;[\t\x20-\x7e]{0,1000})?\r?"
_FIRST_CHUNK, _FIRST_CHUNK_BEGUN = re.compile(_SIZE), re.compile(_BEGUN)
_NEXT_CHUNK, _NEXT_CHUNK_BEGUN = re.compile(rb"\r\n" + _SIZE), re.compile(rb"\r|\r\n(?:" + _BEGUN + rb")")
_SWITCHING_PROTOCOLS = 101  # behind which there is no message


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
    """Whether the sender lets another message follow. Never in HTTP/1.0, where intermediaries pass the
    wish on to somebody whom it was not meant for."""

    _parser: httptools.HttpRequestParser | httptools.HttpResponseParser | None = None  # while it has a head
    _beginning: re.Pattern[bytes]  # of whatever can still become a head
    _declared: bytes | None = None
    _coding: bytes | None = None
    _asks_to_close = False
    _names_vital = False
    _chunk_line, _chunk_line_begun = _FIRST_CHUNK, _FIRST_CHUNK_BEGUN
    _in_chunk = 0  # bytes that have not come yet
    _in_trailers = False
    _held = b""  # what has come of the line before a chunk, or of the trailers with the line end before them

    def __init__(self, max_head_bytes: int = MAX_HEAD_BYTES) -> None:
        self.headers: HeaderList = []
        """In order and spelling as they came; complete once `has_head`."""
        self.trailers: HeaderList = []
        """The same, for what followed a chunked body; complete once the message is."""
        self._max_head_bytes = max_head_bytes
        self._parts: list[bytes] = []

    @property
    def declares_length(self) -> bool:
        """Whether a header says how long the body is."""
        return self._declared is not None

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
        data = self.head_bytes + data
        end = data.find(_BLANK_LINE, seen) + 4
        if end < 4:  # noqa: PLR2004 - there is none
            self._hold_head(data, seen)
            return b""
        if end > self._max_head_bytes:
            raise MalformedError("the head is too large", 431)
        self.head_bytes = self._without_empty_line(data[:end])
        self._read_head(self._checked(self.head_bytes))
        if self._names_vital:
            raise MalformedError("a connection header names what the message depends on")
        self._set_framing()
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

    def _without_empty_line(self, head: bytes) -> bytes:
        """Return a head without what may come before one."""
        return head

    def _checked(self, head: bytes) -> bytes:
        """Check what the parser does not; return the head as the parser is to have it."""
        raise NotImplementedError

    def _new_parser(self) -> httptools.HttpRequestParser | httptools.HttpResponseParser:
        raise NotImplementedError

    def _set_framing(self) -> None:
        raise NotImplementedError

    def _read_head(self, head: bytes) -> None:
        self._parser = self._new_parser()
        try:
            _parse(self._parser, head)
        finally:  # the two refer to each other, which only the garbage collector would undo
            self._parser = None

    def _frame(self) -> bool:
        """Set the framing that the headers declare; return whether they declare one."""
        if self._coding is not None:
            self._check_coding(self._coding)
            self.framing = Framing.CHUNKED
            return True
        if self._declared is None:
            return False
        if not _LENGTH.fullmatch(self._declared):
            raise MalformedError("a length that no body has")
        self.remaining = int(self._declared)
        self.framing = Framing.LENGTH if self.remaining else Framing.NONE
        self.complete = not self.remaining
        return True

    def _check_coding(self, coding: bytes) -> None:
        if self.version != "1.1":
            raise MalformedError("a transfer coding in HTTP/1.0")
        if coding.lower() != b"chunked":
            raise MalformedError("a transfer coding that is not chunked", 501)

    # The parser's callbacks

    def on_headers_complete(self) -> None:
        assert self._parser is not None  # noqa: S101 - for the type checker
        self.version = self._parser.get_http_version()
        self.keep_alive = self.version == "1.1" and not self._asks_to_close

    def on_header(self, name: bytes, value: bytes) -> None:
        value = value.rstrip(b" \t")
        self.headers.append((name, value))
        if len(name) in _LENGTHS_OF_NAMES:
            self._note(name.lower(), value)

    def _note(self, name: bytes, value: bytes) -> None:
        """Look at a header whose name, here in lower case, may be one that says how to read the message."""
        if name == b"content-length":
            self._declared = value
        elif name == b"transfer-encoding":
            self._coding = value if self._coding is None else self._coding + b"," + value
        elif name == b"connection":
            self._note_connection(value)

    def _note_connection(self, value: bytes) -> None:
        self._asks_to_close = self._asks_to_close or bool(_NAMES_CLOSE.search(value))
        self._names_vital = self._names_vital or bool(_NAMES_VITAL.search(value))

    # The body

    def _feed_length(self, data: bytes) -> bytes:
        part = data[: self.remaining]
        self._parts.append(part)
        self.remaining -= len(part)
        self.complete = not self.remaining
        return data[len(part) :]

    def _feed_chunked(self, data: bytes) -> bytes:
        data, at = self._held + data, 0
        self._held = b""
        while at < len(data) and not self.complete:
            if self._in_chunk:
                at = self._take_chunk(data, at)
            elif self._in_trailers:
                at = self._take_trailers(data, at)
            else:
                at = self._take_chunk_line(data, at)
        return data[at:]

    def _take_chunk(self, data: bytes, at: int) -> int:
        """Take what there is of a chunk; return where that ends. The next two do likewise."""
        part = data[at : at + self._in_chunk]
        self._parts.append(part)
        self._in_chunk -= len(part)
        return at + len(part)

    def _take_chunk_line(self, data: bytes, at: int) -> int:
        line = self._chunk_line.match(data, at)
        if line is None:
            if not self._chunk_line_begun.fullmatch(data, at):
                raise MalformedError("not the beginning of a chunk")
            self._held = data[at:]
            return len(data)
        self._in_chunk = int(line[1], 16)
        if not self._in_chunk:
            self._in_trailers = True
            return line.end() - 2  # so that what ends the message is a blank line in any case
        self._chunk_line, self._chunk_line_begun = _NEXT_CHUNK, _NEXT_CHUNK_BEGUN
        return line.end()

    def _take_trailers(self, data: bytes, at: int) -> int:
        end = data.find(_BLANK_LINE, at) + 4
        if end < 4:  # noqa: PLR2004 - there is none
            self._hold_trailers(data[at:])
            return len(data)
        lines = data[at + 2 : end]
        if len(lines) > self._max_head_bytes:
            raise MalformedError("the trailers are too large", 431)
        if len(lines) > 2:  # noqa: PLR2004 - more than the line end
            self.trailers = _read_trailers(lines)
        self.complete = True
        return end

    def _hold_trailers(self, held: bytes) -> None:
        if len(held) - 2 >= self._max_head_bytes:
            raise MalformedError("the trailers are too large", 431)
        if _BARE_LF.search(held):
            raise MalformedError("a line ends without CR")
        self._held = held


class _Trailers:
    """What a parser tells the trailers to."""

    def __init__(self) -> None:
        self.fields: HeaderList = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.rstrip(b" \t")))


def _read_trailers(lines: bytes) -> HeaderList:
    """Read trailers, which are written as a head is. Raises: MalformedError."""
    trailers = _Trailers()
    _parse(httptools.HttpResponseParser(trailers), b"HTTP/1.1 200 OK\r\n" + lines)
    # RFC 9110, 6.5.1: whoever adds trailers to the headers would be told another framing, or another host.
    if any(name.lower() in _VITAL for name, _ in trailers.fields):
        raise MalformedError("a trailer that only a head may have")
    return trailers.fields


def _parse(parser: httptools.HttpRequestParser | httptools.HttpResponseParser, head: bytes) -> None:
    """Have a head parsed. Raises: MalformedError."""
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # only the parser would have gone on to something else
    except httptools.HttpParserInvalidMethodError:
        raise MalformedError("an unknown method", 501) from None
    except httptools.HttpParserError as error:
        # It is one of the parser's constants, and quotes nothing of what it read.
        raise MalformedError(str(error)) from None


class IncomingRequest(Incoming):
    """A request. A head that is wrong is refused before anybody sees it."""

    method = b""
    target = b""
    wants_websocket = False
    """Whether it asks for a WebSocket. What else it may ask for is ignored (RFC 9110, 7.8), and so is that
    of a request with a body."""
    expects_continue = False
    """Whether its sender waits for word to send the body."""
    accepts_trailers = False
    """Whether its sender keeps the trailers of a response (RFC 9110, section 10.1.4)."""

    _beginning = re.compile(rb"(?:\r\n)?[A-Z-]|\r\n?\Z")
    _host: bytes | None = None
    _hosts = 0
    _upgrade = b""
    _wants_upgrade = False

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        assert isinstance(self._parser, httptools.HttpRequestParser)  # noqa: S101 - for the type checker
        self.method = self._parser.get_method()
        self._wants_upgrade = self._parser.should_upgrade()

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._host = value
            self._hosts += 1
        elif name == b"te":
            self.accepts_trailers |= b"trailers" in [part.strip().lower() for part in value.split(b",")]
        elif name == b"upgrade":
            self._upgrade = value.lower()
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"
        else:
            super()._note(name, value)

    def _new_parser(self) -> httptools.HttpRequestParser:
        return httptools.HttpRequestParser(self)

    def _without_empty_line(self, head: bytes) -> bytes:
        # RFC 9112, 2.2: an empty line before a request is ignored. One, not any number of them.
        return head.removeprefix(b"\r\n")

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

    def _set_framing(self) -> None:
        self._check_host()
        if not self.target.startswith(b"/") or self.method == b"CONNECT":
            self._check_authority()
        if not self._frame():
            self.complete = True
        elif self.method == b"CONNECT":
            raise MalformedError("a request for a tunnel has no body")
        upgrades = self._wants_upgrade and self.complete and self.method == b"GET"
        self.wants_websocket = upgrades and self._upgrade == b"websocket"

    def _check_host(self) -> None:
        if self._hosts > 1 or (self._hosts == 0 and self.version == "1.1"):
            raise MalformedError("a request has one host header")
        if self._host is not None and not _HOST.fullmatch(self._host):
            raise MalformedError("a host header that is no host")

    def _check_authority(self) -> None:
        """Check a target that is no path, which may name a host itself."""
        if self.target == b"*" and self.method == b"OPTIONS":
            return
        form = _AUTHORITY_TARGET if self.method == b"CONNECT" else _ABSOLUTE_TARGET
        named = form.fullmatch(self.target)
        if named is None:
            raise MalformedError("a target of no form that we know")
        if self._host is not None and named[1].lower() != self._host.lower():
            raise MalformedError("the target and the host header name two hosts")


class IncomingResponse(Incoming):
    """A response to a request that was, or was not, a HEAD."""

    status = 0

    # A peer of another protocol may say a few bytes, and wait for ours.
    _beginning = re.compile(rb"HTTP/1\.|" + b"|".join(rb"%b\Z" % b"HTTP/1"[:n] for n in range(1, 7)))

    def __init__(self, *, to_head: bool = False, max_head_bytes: int = MAX_HEAD_BYTES) -> None:
        super().__init__(max_head_bytes)
        self._to_head = to_head

    @property
    def interim(self) -> bool:
        """Whether another response to the same request follows it."""
        return self.status < 200 and self.status != _SWITCHING_PROTOCOLS  # noqa: PLR2004

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

    def _checked(self, head: bytes) -> bytes:
        if not _STATUS_LINE.match(head):
            raise MalformedError("not a status line")
        return head

    def _set_framing(self) -> None:
        framed = self._frame()  # which is to be right where it frames nothing, too
        if self.status < 200 or self._to_head or self.status in {204, 304}:  # noqa: PLR2004
            self.framing, self.remaining, self.complete = Framing.NONE, 0, True
        elif not framed:
            self.framing, self.keep_alive = Framing.CLOSE, False
        if self.status == _SWITCHING_PROTOCOLS:
            self.keep_alive = False
