"""Heads of HTTP/1.1 messages: what they say, read strictly; and those that are kept.

llhttp (through httptools) reads heads and trailers, without any of its leniencies, so that whatever could be
read in two ways is refused: both framings, a framing twice, a folded line, a lone CR or LF. What llhttp lets
pass and others read differently is refused here.

No I/O. What comes here is whole: where a head ends is for `messages` to find.
"""

from __future__ import annotations

import re
from enum import Enum, auto

import httptools

from cpg_trio._bounded import BoundedCache
from cpg_trio.asgi import HeaderList
from cpg_trio.http.fields import USUAL_NAMES, spellings
from cpg_trio.http.outgoing import OutgoingHead

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


class Framing(Enum):
    """How a message says where its body ends."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()
    """With the connection; responses only."""


class MalformedError(Exception):
    """What came in is no message, or could be read as more than one. The sender's fault.

    The message says what is wrong, and repeats none of it.
    """

    def __init__(self, what: str, status: int = 400) -> None:
        super().__init__(what)
        self.status = status
        """The status that answers it, if it was a request."""


class Head:
    """What a head says; what a parser tells of it is told to this.

    Messages may share one, which is not to be changed then.
    """

    version = "1.1"
    keep_alive = False
    framing = Framing.NONE
    """How the body is framed, unless it is left out, as in a response to HEAD."""
    length = 0
    """The declared length of the body."""
    declares_body = False
    """Whether a field says how the body is framed, which may be as none."""
    _declared: bytes | None = None  # the length, as it is written
    _coding: bytes | None = None
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
        self._read_framing()

    def _note(self, name: bytes, value: bytes) -> None:
        """Note a header, by its name in lower case."""
        if name == b"content-length":
            self._declared = value
        elif name == b"transfer-encoding":
            self._coding = value if self._coding is None else self._coding + b"," + value
        elif name == b"connection":
            self._asks_to_close = self._asks_to_close or bool(_NAMES_CLOSE.search(value))
            if _NAMES_VITAL.search(value):
                raise MalformedError("a connection header names what the message depends on")

    def _read_framing(self) -> None:
        """Set the framing that the fields declare. Raises: MalformedError."""
        coding, declared = self._coding, self._declared
        if coding is not None:
            if self.version != "1.1":
                raise MalformedError("a transfer coding in HTTP/1.0")
            if coding.lower() != b"chunked":
                raise MalformedError("a transfer coding that is not chunked", 501)
            self.framing = Framing.CHUNKED
        elif declared is not None:
            if not (declared.isdigit() and len(declared) <= _DIGITS):
                raise MalformedError("a length that no body has")
            self.length = int(declared)
            self.framing = Framing.LENGTH if self.length else Framing.NONE
        self.declares_body = coding is not None or declared is not None


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


def read_trailers(lines: bytes) -> HeaderList:
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
        self._read(parser, _checked_request(head))
        self.method = parser.get_method()
        self._check_host()
        if not self.target.startswith(b"/") or self.method == b"CONNECT":
            self._read_other_target()
        self.wants_websocket = (
            self._upgrade == b"websocket"
            and parser.should_upgrade()
            and self.method == b"GET"
            and self.framing is Framing.NONE
        )

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
        if self.declares_body:
            raise MalformedError("a request for a tunnel has no body")
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


_SWITCHING_PROTOCOLS = 101  # behind which there is no message


class ResponseHead(Head):
    """The head of a response."""

    passed_back: OutgoingHead | None = None
    """What a relay has made of it, for all responses that share the head."""

    def __init__(self, head: bytes) -> None:
        super().__init__()
        if not _STATUS_LINE.match(head):
            raise MalformedError("not a status line")
        parser = httptools.HttpResponseParser(self)
        self._read(parser, head)
        self.status = status = parser.get_status_code()
        if status < 200 or status in {204, 304}:  # noqa: PLR2004 - RFC 9112, section 6.3
            self.framing, self.length = Framing.NONE, 0
        elif not self.declares_body:
            self.framing = Framing.CLOSE
        if status == _SWITCHING_PROTOCOLS:
            self.keep_alive = False


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

    def remember(self, key: bytes, head: RequestHead) -> None:
        """Keep a head if it is short and shows no secret."""
        if _worth_keeping(key, head):
            self.keep(key, head, _kept_bytes(key, head))


class ResponseHeads(BoundedCache[bytes, ResponseHead]):
    """Heads of responses. What a peer answers with is often the same, but for the body."""

    def __init__(self) -> None:
        super().__init__(_MOST_KEPT_HEADS, _MOST_KEPT_BYTES)

    def read(self, head: bytes) -> ResponseHead:
        """Return what a head says, and keep it if it is short and shows no secret. Raises: MalformedError."""
        read = ResponseHead(head)
        if _worth_keeping(head, read):
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
