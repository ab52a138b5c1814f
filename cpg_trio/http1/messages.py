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

import math
import re
from collections.abc import Mapping
from enum import Enum, auto

import httptools

from cpg_trio._bounded import BoundedCache
from cpg_trio.asgi import HeaderList

from .fields import USUAL_NAMES, spellings

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
_ABSOLUTE_TARGET = re.compile(rb"(?i:https?)://([A-Za-z0-9._~!$&'()*+;=%:\[\]-]+)([/?].*)?")
_AUTHORITY_TARGET = re.compile(rb"([^/?]+:[0-9]+)")
# To drop one of these, as one does with what `connection` names, would make another message of it.
_VITAL = frozenset({b"content-length", b"host", b"transfer-encoding"})
_NAMES_VITAL = re.compile(rb"(?i)(?:^|,)[ \t]*(?:content-length|host|transfer-encoding)[ \t]*(?:,|$)")
_NAMES_CLOSE = re.compile(rb"(?i)(?:^|,)[ \t]*close[ \t]*(?:,|$)")
_DIGITS = 18  # of a number that everybody holds who reads it: less than 2 to the 63rd
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


def body_too_large(most: float) -> str:
    """Return what is said of a request whose body is larger than so many bytes."""
    return f"request body too large (max: {most:.0f} bytes)"


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

    _beginning: re.Pattern[bytes]  # of whatever can still become a head
    _head: Head
    _chunk_line, _chunk_line_begun = _FIRST_CHUNK, _FIRST_CHUNK_BEGUN
    _in_chunk = 0  # bytes that have not come yet
    _in_trailers = False
    _body_bytes = 0  # that have come in chunks
    _most_body_bytes = math.inf
    _held = b""  # what has come of the line before a chunk, or of the trailers with the line end before them

    def __init__(self, max_head_bytes: int = MAX_HEAD_BYTES) -> None:
        self.trailers: HeaderList = []
        """As `headers`, for what followed a chunked body; complete once the message is."""
        self._head = _NO_HEAD
        self._max_head_bytes = max_head_bytes
        self._parts: list[bytes] = []

    @property
    def headers(self) -> HeaderList:
        """The header fields, in order and spelling as they came; none until `has_head`. Not to be changed."""
        return self._head.fields

    @property
    def declares_length(self) -> bool:
        """Whether a header says how long the body is."""
        return self._head.declared is not None

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

    def limit_body(self, most: int) -> None:
        """Take no more than so many bytes of a body of which nothing has been taken yet.

        Raises: MalformedError, also later from `feed`, for a larger one.
        """
        come = sum(map(len, self._parts))
        self._check_body(come + self.remaining, most)
        self._most_body_bytes, self._body_bytes = most, come

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
        self.head_bytes = self._without_empty_line(data[:end])
        self._read_head()
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

    def _read_head(self) -> None:
        """Read the head, and what follows from it. Raises: MalformedError."""
        raise NotImplementedError

    def _take_over(self, head: Head) -> None:
        self._head = head
        self.version = head.version
        self.keep_alive = head.keep_alive

    def _frame(self, head: Head) -> bool:
        """Set the framing that a head declares; return whether it declares one."""
        if head.coding is not None:
            self.framing = Framing.CHUNKED
        elif head.declared is not None:
            self.remaining = int(head.declared)
            self.framing = Framing.LENGTH if self.remaining else Framing.NONE
            self.complete = not self.remaining
        else:
            return False
        return True

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
        self._body_bytes += len(part)
        self._check_body(self._body_bytes, self._most_body_bytes)
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


class Head:
    """What a head says; what a parser tells of it is told to this.

    Messages may share one, which is not to be changed then.
    """

    version = "1.1"
    keep_alive = False
    declared: bytes | None = None
    """The length of the body, as it is written."""
    coding: bytes | None = None
    _asks_to_close = False

    def __init__(self) -> None:
        self.fields: HeaderList = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def _read(self, parser: httptools.HttpRequestParser | httptools.HttpResponseParser, head: bytes) -> None:
        """Have a head parsed, and heed what it says. Raises: MalformedError."""
        _parse(parser, head)
        if b" \r\n" in head or b"\t\r\n" in head:
            self.fields = [(name, value.rstrip(b" \t")) for name, value in self.fields]
        for name, value in self.fields:
            if name not in _PLAIN and (lower := name.lower()) in _HEEDED:
                self._note(lower, value)
        self.version = parser.get_http_version()
        self.keep_alive = self.version == "1.1" and not self._asks_to_close
        self._check_framing()

    def _note(self, name: bytes, value: bytes) -> None:
        """Note a header, by its name in lower case."""
        if name == b"content-length":
            self.declared = value
        elif name == b"transfer-encoding":
            self.coding = value if self.coding is None else self.coding + b"," + value
        elif name == b"connection":
            self._asks_to_close = self._asks_to_close or bool(_NAMES_CLOSE.search(value))
            if _NAMES_VITAL.search(value):
                raise MalformedError("a connection header names what the message depends on")

    def _check_framing(self) -> None:
        if self.coding is not None:
            if self.version != "1.1":
                raise MalformedError("a transfer coding in HTTP/1.0")
            if self.coding.lower() != b"chunked":
                raise MalformedError("a transfer coding that is not chunked", 501)
        elif self.declared is not None and not (self.declared.isdigit() and len(self.declared) <= _DIGITS):
            raise MalformedError("a length that no body has")


_NO_HEAD = Head()
# The headers that say something to us.
_HEEDED = frozenset(
    {
        b"te",
        b"host",
        b"expect",
        b"origin",
        b"upgrade",
        b"connection",
        b"authorization",
        b"content-length",
        b"transfer-encoding",
    }
)
_PLAIN = spellings(USUAL_NAMES - _HEEDED)


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


class RequestHead(Head):
    """The head of a request."""

    method = b""
    target = b""
    host: bytes | None = None
    origin: bytes | None = None
    """Of the web page that sends it (RFC 6454, section 7); several with commas between."""
    expects_continue = False
    accepts_trailers = False
    remembered: object = None
    """What somebody has made of it, who has to do with many alike; see `IncomingRequest.keep_head`."""
    has_authorization = False
    """Whether a field of it shows who sends it."""
    _hosts = 0
    _upgrade = b""

    def __init__(self, head: bytes) -> None:
        super().__init__()
        parser = httptools.HttpRequestParser(self)
        self._read(parser, head)
        self.method = parser.get_method()
        self._check_host()
        if not self.target.startswith(b"/") or self.method == b"CONNECT":
            self._read_other_target()
        self.wants_websocket = self._upgrade == b"websocket" and parser.should_upgrade()

    def on_url(self, target: bytes) -> None:
        self.target += target

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self.host = value
            self._hosts += 1
        elif name == b"te":
            self.accepts_trailers |= b"trailers" in [part.strip().lower() for part in value.split(b",")]
        elif name == b"upgrade":
            self._upgrade = value.lower()
        elif name == b"origin":
            self.origin = value if self.origin is None else self.origin + b", " + value
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"
        elif name == b"authorization":
            self.has_authorization = True
        else:
            super()._note(name, value)

    def _check_host(self) -> None:
        if self._hosts > 1 or (self._hosts == 0 and self.version == "1.1"):
            raise MalformedError("a request has one host header")
        if self.host is not None and not _HOST.fullmatch(self.host):
            raise MalformedError("a host header that is no host")

    def _read_other_target(self) -> None:
        """Read a target that is no path, which may name a host itself."""
        if self.target == b"*" and self.method == b"OPTIONS":
            return
        if self.method == b"CONNECT":
            self._check_tunnel()
        elif (absolute := origin_form(self.method, self.target)) is None:
            raise MalformedError("a target of no form that we know")
        else:
            self.target, self.host = absolute
            self.fields = with_host(self.fields, self.host)

    def _check_tunnel(self) -> None:
        named = _AUTHORITY_TARGET.fullmatch(self.target)
        if named is None:
            raise MalformedError("a target of no form that we know")
        if self.host is not None and named[1].lower() != self.host.lower():
            raise MalformedError("the target and the host header name two hosts")


def origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes] | None:
    """Return an absolute target as path and query, and the host that it names; None for one that is none.

    RFC 9112, 3.2.2: a server takes such a target, and then ignores the host header.
    """
    named = _ABSOLUTE_TARGET.fullmatch(target)
    if named is None:
        return None
    authority, rest = named[1], named[2] or b""
    if rest.startswith(b"/"):
        return rest, authority
    if not rest and method == b"OPTIONS":
        return b"*", authority  # RFC 9112, 3.2.4
    return b"/" + rest, authority


def with_host(fields: HeaderList, host: bytes) -> HeaderList:
    """Return the fields of a request with another host."""
    names = [name.lower() for name, _ in fields]
    if b"host" not in names:
        return [*fields, (b"host", host)]
    at = names.index(b"host")
    return [*fields[:at], (fields[at][0], host), *fields[at + 1 :]]


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
    head: RequestHead
    """Its head, without the one line that has `authorization`. Requests whose heads are the same but for that
    share it, once it is kept."""
    heads: RequestHeads | None = None
    """The heads that were kept before, to be set before it is fed."""
    authorization = b""
    """The value of that line; empty if there is none, or if it is among the head's other fields."""

    _authorization_at = -1  # the line end before it
    _without_authorization = b""  # the head, as the cache has it
    _beginning = re.compile(rb"(?:\r\n)?[A-Z-]|\r\n?\Z")

    def keep_head(self) -> None:
        """Keep the head for the requests that have the same one, if it is short and shows no secret.

        Only for a sender who has proved who it is: nobody else fills the cache.
        """
        key = self._without_authorization
        if self.heads is not None and key and _worth_keeping(key, self.head):
            self.heads.keep(key, self.head, _kept_bytes(key, self.head))

    def _without_empty_line(self, head: bytes) -> bytes:
        # RFC 9112, 2.2: an empty line before a request is ignored. One, not any number of them.
        return head.removeprefix(b"\r\n")

    def _read_head(self) -> None:
        head = self._known_head()
        self._take_over(head)
        self.head = head
        self.method = head.method
        self.target = head.target
        self.accepts_trailers = head.accepts_trailers
        self.expects_continue = head.expects_continue
        if not self._frame(head):
            self.complete = True
        elif self.method == b"CONNECT":
            raise MalformedError("a request for a tunnel has no body")
        self.wants_websocket = head.wants_websocket and self.complete and self.method == b"GET"

    def _known_head(self) -> RequestHead:
        """Read the head, apart from the line with the caller's secret."""
        line = _AUTHORIZATION.search(self.head_bytes)
        if line is not None:
            key = self.head_bytes[: line.start()] + self.head_bytes[line.end() :]
            known = None if self.heads is None else self.heads.get(key)
            head = known or RequestHead(_checked_request(key))
            if not head.has_authorization:
                self._authorization_at, self.authorization = line.start(), line[1]
                self._without_authorization = key
                return head
        return RequestHead(_checked_request(self.head_bytes))

    @property
    def headers(self) -> HeaderList:
        """The header fields, in order and spelling as they came; none until `has_head`. Not to be changed."""
        at, fields = self._authorization_at, self._head.fields
        if at < 0:
            return fields
        before = self.head_bytes.count(b"\r\n", 0, at)
        name = self.head_bytes[at + 2 : self.head_bytes.index(b":", at)]
        return [*fields[:before], (name, self.authorization), *fields[before:]]


def _checked_request(head: bytes) -> bytes:
    """Check what the parser does not; return the head as the parser is to have it."""
    if _REQUEST_LINE.match(head):
        return head
    if line := _LINE_TO_ENCODE.match(head):
        # What its sender should have done; people type such targets at curl, and all read them alike.
        encoded = _NOT_ASCII.sub(lambda byte: b"%%%02X" % byte[0][0], line[2])
        return line[1] + encoded + line[3] + head[line.end() :]
    if _OTHER_VERSION.match(head):
        raise MalformedError("not a version that we speak", 505)
    raise MalformedError("not a request line")


class ResponseHead(Head):
    """The head of a response."""

    kept = False
    """Whether it is in a cache, so that what is made of it may be, too."""
    passed_back: Mapping[tuple[bool, bool], tuple[bytes, bool]] = {}
    """How a relay passes it back, and whether that has a date: by whether chunks follow, and other requests.
    Empty unless it is kept."""

    def __init__(self, head: bytes) -> None:
        super().__init__()
        if not _STATUS_LINE.match(head):
            raise MalformedError("not a status line")
        parser = httptools.HttpResponseParser(self)
        self._read(parser, head)
        self.status = parser.get_status_code()


# One line of printable letters, so that a head without it is read as it is with it.
_AUTHORIZATION = re.compile(rb"\r\n(?i:authorization):[ \t]*([\x21-\x7e]+(?: [\x21-\x7e]+)*)(?=\r\n)")
_SECRETIVE = re.compile(rb"auth|cookie|key|secret|session|token")
_HARMLESS = spellings([name for name in USUAL_NAMES if not _SECRETIVE.search(name)])

_MOST_KEPT_HEADS = 1024
_MOST_KEPT_BYTES = 2 * 1024 * 1024
_LONGEST_KEPT_HEAD = 1024  # bytes
_HEAD_BYTES, _FIELD_BYTES = 1500, 150  # that a head and a field of it take, beside what is written in them


class RequestHeads(BoundedCache[bytes, RequestHead]):
    """Heads of requests, without the line of each that has a secret.

    Who calls a method again and again sends what is the same, but for the body and sometimes its length.
    """

    def __init__(self) -> None:
        super().__init__(_MOST_KEPT_HEADS, _MOST_KEPT_BYTES)


class ResponseHeads(BoundedCache[bytes, ResponseHead]):
    """Heads of responses. What a peer answers with is often the same, but for the body."""

    def __init__(self) -> None:
        super().__init__(_MOST_KEPT_HEADS, _MOST_KEPT_BYTES)

    def read(self, head: bytes) -> ResponseHead:
        """Return what a head says, and keep it if it is short and shows no secret. Raises: MalformedError."""
        read = ResponseHead(head)
        if _worth_keeping(head, read):
            read.kept = True
            self.keep(head, read, _kept_bytes(head, read))
        return read


def _worth_keeping(head: bytes, read: Head) -> bool:
    """Whether a head may be kept: one that is long, or looks as if it had a secret, may not."""
    if len(head) > _LONGEST_KEPT_HEAD:
        return False
    unusual = [name for name, _ in read.fields if name not in _HARMLESS]
    return not unusual or not _SECRETIVE.search(b"\n".join(unusual).lower())


def _kept_bytes(head: bytes, read: Head) -> int:
    """Return about what a head takes: as it came, in fields, and as what is made of it."""
    return 3 * len(head) + _FIELD_BYTES * len(read.fields) + _HEAD_BYTES


class IncomingResponse(Incoming):
    """A response to a request that was, or was not, a HEAD."""

    status = 0
    head: ResponseHead
    """Its head, which it shares with responses that have the same one, if it is kept."""

    # A peer of another protocol may say a few bytes, and wait for ours.
    _beginning = re.compile(rb"HTTP/1\.|" + b"|".join(rb"%b\Z" % b"HTTP/1"[:n] for n in range(1, 7)))

    def __init__(
        self,
        *,
        to_head: bool = False,
        max_head_bytes: int = MAX_HEAD_BYTES,
        heads: ResponseHeads | None = None,
    ) -> None:
        """Look for the head among `heads`, and keep it there; without them no head is kept."""
        super().__init__(max_head_bytes)
        self._to_head = to_head
        self._heads = heads

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

    def _read_head(self) -> None:
        heads, data = self._heads, self.head_bytes
        head = ResponseHead(data) if heads is None else heads.get(data) or heads.read(data)
        self.head = head
        self._take_over(head)
        self.status = status = head.status
        if status < 200 or self._to_head or status in {204, 304}:  # noqa: PLR2004
            self.complete = True
        elif not self._frame(head):
            self.framing, self.keep_alive = Framing.CLOSE, False
        if status == _SWITCHING_PROTOCOLS:
            self.keep_alive = False
