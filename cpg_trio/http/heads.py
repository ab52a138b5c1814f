"""Heads of HTTP/1.1 messages, read strictly; and caches of them.

llhttp (through httptools) reads heads and trailers, without any of its leniencies: it refuses what could be
read in two ways, such as both framings, a repeated framing, a folded line, a lone CR or LF. What llhttp
accepts and other parsers read differently is refused here.

No I/O. Heads come whole: `messages` finds where they end.
"""

from __future__ import annotations

import re
from enum import Enum, auto

import httptools

from cpg_trio._bounded import BoundedCache
from cpg_trio.asgi import HeaderList
from cpg_trio.call_context import FIELDS
from cpg_trio.http.differing import KEPT_NAMES, NOWHERE, PROOFS, Places
from cpg_trio.http.outgoing import USUAL_NAMES, OutgoingHead, spellings

# llhttp is more liberal about spaces, versions, letters beyond ASCII, and fragments, which some parsers cut
# off and others take for a part of the path.
_REQUEST_LINE = re.compile(rb"[A-Z-]+ [\x21\x22\x24-\x7e]+ HTTP/1\.[01]\r\n")
_LINE_TO_ENCODE = re.compile(rb"([A-Z-]+ )([\x21\x22\x24-\x7e\x80-\xff]+)( HTTP/1\.[01]\r\n)")
_OTHER_VERSION = re.compile(rb"[A-Z-]+ [\x21-\x7e]+ HTTP/(?!1\.[01])[0-9]\.[0-9]\r\n")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
# RFC 3986, 3.2, without the user, and without the comma, which stands between two headers that were joined.
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+;=%:\[\]-]*")
_ABSOLUTE_TARGET = re.compile(rb"(?i:https?)://([A-Za-z0-9._~!$&'()*+;=%:\[\]-]+)([/?].*)?")
_AUTHORITY_TARGET = re.compile(rb"([^/?]+:[0-9]+)")
# A proxy drops the fields that `connection` names. Without one of these, the message would be another one.
_VITAL = frozenset({b"content-length", b"host", b"transfer-encoding"})
_NAMES_VITAL = re.compile(rb"(?i)(?:^|,)[ \t]*(?:content-length|host|transfer-encoding)[ \t]*(?:,|$)")
_NAMES_CLOSE = re.compile(rb"(?i)(?:^|,)[ \t]*close[ \t]*(?:,|$)")
MAX_DIGITS = 18  # a number of so many fits 63 bits, which every parser can hold


class Framing(Enum):
    """How a message says where its body ends."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()
    """With the connection; responses only."""


class MalformedError(Exception):
    """What was received is no message, or could be read as more than one. The sender is at fault.

    The text says what is wrong, and quotes nothing of it.
    """

    def __init__(self, what: str, status: int = 400) -> None:
        super().__init__(what)
        self.status = status
        """The status of the answer, if it was a request."""


_LONGEST_KEPT_NAMES = 512  # bytes, of all fields of a head that were cut out


class Head:
    """A head. It gets the callbacks of the parser.

    Messages may share one, so it is not changed once it is read.
    """

    version: str = "1.1"
    keep_alive: bool = False
    framing: Framing = Framing.NONE
    """How the body is framed, unless it is left out, as in a response to HEAD."""
    length: int = 0
    """The declared length of the body."""
    declares_body: bool = False
    """Whether a field declares the framing of the body, which may be a length of 0."""
    varies: bool = False
    """Whether it has a field that differs from call to call: its next message has another head."""
    names_others: bool = False
    """Whether a `connection` field names others than those of a connection: they are to be seen with it."""
    places: Places = NOWHERE
    """Where the fields were that were cut out of the message which had this head last."""
    _declared: bytes | None = None  # the length, as it is written
    _coding: bytes | None = None
    _asks_to_close = False

    def __init__(self) -> None:
        self.fields: HeaderList = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def place(self, names: list[bytes]) -> Places:
        """Return where the fields are that were cut out of a message with this head.

        The messages that share a head mostly have the same ones.
        """
        places = Places(names)
        places.fits = places.is_clear and not self.varies and self._may_lack(places)
        if sum(map(len, names)) <= _LONGEST_KEPT_NAMES:
            self.places = places
        return places

    def _may_lack(self, places: Places) -> bool:
        """Whether it means the same without these fields."""
        return not (places.length and self.declares_body)

    def _read(self, parser: httptools.HttpRequestParser | httptools.HttpResponseParser, head: bytes) -> None:
        """Parse a head, and take from it what matters to this side. Raises: MalformedError."""
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
        """Take a field that matters, by its name in lower case."""
        if name == b"content-length":
            self._declared = value
        elif name == b"transfer-encoding":
            self._coding = value if self._coding is None else self._coding + b"," + value
        elif name == b"connection":
            self._asks_to_close = self._asks_to_close or bool(_NAMES_CLOSE.search(value))
            if _NAMES_VITAL.search(value):
                raise MalformedError("a connection header names what the message depends on")
            self.varies = self.varies or bool(_NAMES_VARYING.search(value))
            named = {name.strip(b" \t").lower() for name in value.split(b",")}
            self.names_others = self.names_others or not named <= _OF_CONNECTION
        elif name in _VARYING:
            self.varies = True

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
            if not (declared.isdigit() and len(declared) <= MAX_DIGITS):
                raise MalformedError("a length that no body has")
            self.length = int(declared)
            self.framing = Framing.LENGTH if self.length else Framing.NONE
        self.declares_body = coding is not None or declared is not None


_OF_CONNECTION = frozenset({b"", b"close", b"http2-settings", b"keep-alive", b"te", b"trailer", b"upgrade"})
# Fields that differ from call to call. One that `connection` names is to be seen with the others.
_VARYING = FIELDS | PROOFS
_NAMES_VARYING = re.compile(rb"(?i)(?:^|,)[ \t]*(?:%b)[ \t]*(?:,|$)" % b"|".join(sorted(_VARYING)))
# The fields that matter to this side.
_HEEDED = _VARYING | frozenset(
    {
        b"te",
        b"host",
        b"expect",
        b"origin",
        b"upgrade",
        b"connection",
        b"content-length",
        b"transfer-encoding",
    }
)
_PLAIN = spellings(USUAL_NAMES - _HEEDED)


class _Trailers:
    """Gets the callbacks of the parser for trailers."""

    def __init__(self) -> None:
        self.fields: HeaderList = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.rstrip(b" \t")))


def read_trailers(lines: bytes) -> HeaderList:
    """Read trailers, which have the form of a head. Raises: MalformedError."""
    trailers = _Trailers()
    _parse(httptools.HttpResponseParser(trailers), b"HTTP/1.1 200 OK\r\n" + lines)
    # RFC 9110, 6.5.1: a recipient that merges trailers into the headers would see another framing or host.
    if any(name.lower() in _VITAL for name, _ in trailers.fields):
        raise MalformedError("a trailer that only a head may have")
    return trailers.fields


def _parse(parser: httptools.HttpRequestParser | httptools.HttpResponseParser, head: bytes) -> None:
    """Run a parser on a head. Raises: MalformedError."""
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # the parser stops here; so do we
    except httptools.HttpParserInvalidMethodError:
        raise MalformedError("an unknown method", 501) from None
    except httptools.HttpParserError as error:
        # The text is one of the parser's constants, and quotes nothing.
        raise MalformedError(str(error)) from None


class RequestHead(Head):
    """The head of a request."""

    method: bytes = b""
    target: bytes = b""
    host: bytes | None = None
    origin: bytes | None = None
    """The origin of the web page that sends it (RFC 6454, section 7); several are joined by commas."""
    expects_continue: bool = False
    accepts_trailers: bool = False
    is_kept = False
    """Whether it was kept for other requests (`IncomingRequest.keep_head`), if it is worth that."""
    remembered: object = None
    """What the router has derived from it, for all requests that share it."""
    of_scope: object = None
    """What the scopes of all requests that share it have in common, as the server has derived it."""
    _hosts = 0
    _upgrade = b""

    def __init__(self, head: bytes) -> None:
        super().__init__()
        parser = httptools.HttpRequestParser(self)
        self._read(parser, checked_request(head))
        self.method = parser.get_method()
        self._check_host()
        if not self.target.startswith(b"/") or self.method == b"CONNECT":
            self._read_other_target()
        self.wants_websocket: bool = (
            self._upgrade == b"websocket"
            and parser.should_upgrade()
            and self.method == b"GET"
            and self.framing is Framing.NONE
        )

    def on_url(self, target: bytes) -> None:
        self.target += target

    def _may_lack(self, places: Places) -> bool:
        is_proved = places.authorization or places.caller
        if not is_proved or (places.metadata and self.names_others):
            return False
        # What asks for another protocol, or for a tunnel, is something else with a body.
        is_special = self.wants_websocket or self.method == b"CONNECT"
        return super()._may_lack(places) and not (places.length and is_special)

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
        else:
            super()._note(name, value)

    def _check_host(self) -> None:
        if self._hosts > 1 or (self._hosts == 0 and self.version == "1.1"):
            raise MalformedError("a request has one host header")
        if self.host is not None and not _HOST.fullmatch(self.host):
            raise MalformedError("a host header that is no host")

    def _read_other_target(self) -> None:
        """Read a target that is no path. It may contain a host."""
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
    """Return the path and query of an absolute target, and its host; None if it is not absolute.

    RFC 9112, 3.2.2: a server accepts such a target, and ignores the host header then.
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


def checked_request(head: bytes) -> bytes:
    """Check what the parser does not check; return the head to give to the parser."""
    if _REQUEST_LINE.match(head):
        return head
    if line := _LINE_TO_ENCODE.match(head):
        # The sender should have done this. People type such targets at curl, and all servers read them alike.
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
    texts: list[tuple[str, str]] | None = None
    """Its fields as texts, with names in lower case, for all responses that share the head."""
    code: str = ""
    """What a relay's gateway calls the outcome of all responses that share the head; empty if they differ."""

    def __init__(self, head: bytes) -> None:
        super().__init__()
        if not _STATUS_LINE.match(head):
            raise MalformedError("not a status line")
        parser = httptools.HttpResponseParser(self)
        self._read(parser, head)
        self.status: int
        self.status = status = parser.get_status_code()
        self.has_no_body = status < 200 or status in {204, 304}  # noqa: PLR2004 - RFC 9112, section 6.3
        if self.has_no_body:
            self.framing, self.length = Framing.NONE, 0
        elif not self.declares_body:
            self.framing = Framing.CLOSE
        if status == _SWITCHING_PROTOCOLS:
            self.keep_alive = False

    def _may_lack(self, places: Places) -> bool:
        if places.in_response and self.names_others:
            return False
        return super()._may_lack(places) and not (places.length and self.has_no_body)


_SECRETIVE = re.compile(rb"auth|cookie|key|secret|session|token")
_HARMLESS = spellings([name for name in USUAL_NAMES if not _SECRETIVE.search(name)])

_MOST_KEPT_HEADS = 1024
_MOST_KEPT_BYTES = 2 * 1024 * 1024
_LONGEST_KEPT_HEAD = 1024  # bytes
_HEAD_BYTES, _FIELD_BYTES = 1500, 150  # that a head and a field of it take, beside what is written in them


class RequestHeads(BoundedCache[bytes, RequestHead]):
    """Heads of requests, without the lines that have a secret or differ from call to call.

    A client that calls a method again sends the same head, except sometimes for the length.
    """

    def __init__(self) -> None:
        super().__init__(_MOST_KEPT_HEADS, _MOST_KEPT_BYTES)

    def remember(self, key: bytes, head: RequestHead) -> None:
        """Keep a head if it is short and has no metadata, which may be a secret."""
        if _worth_keeping(key, head) and all(name.lower() in KEPT_NAMES for name, _ in head.fields):
            self.keep(key, head, _kept_bytes(key, head))


class ResponseHeads(BoundedCache[bytes, ResponseHead]):
    """Heads of responses. A peer often sends the same head with another body."""

    def __init__(self) -> None:
        super().__init__(_MOST_KEPT_HEADS, _MOST_KEPT_BYTES)
        self._seen: set[int] = set()  # hashes of heads

    def see(self, head: bytes) -> None:
        """Keep a head as it came, if it has come before: it may come again."""
        seen = hash(head)
        if seen in self._seen:
            self.read(head)
        elif len(self._seen) >= _MOST_KEPT_HEADS:
            self._seen.clear()
        self._seen.add(seen)

    def read(self, head: bytes) -> ResponseHead:
        """Read a head, and keep it if it is short and shows no secret. Raises: MalformedError."""
        read = ResponseHead(head)
        if _worth_keeping(head, read):
            self.keep(head, read, _kept_bytes(head, read))
        return read


def _worth_keeping(head: bytes, read: Head) -> bool:
    """Whether a head may be kept: not one that is long, comes once, or has a field that may be a secret."""
    if len(head) > _LONGEST_KEPT_HEAD or read.varies:
        return False
    unusual = [name for name, _ in read.fields if name not in _HARMLESS]
    return not unusual or not _SECRETIVE.search(b"\n".join(unusual).lower())


def _kept_bytes(head: bytes, read: Head) -> int:
    """Return about how many bytes a head takes: raw, as fields, and as what is derived from it."""
    return 3 * len(head) + _FIELD_BYTES * len(read.fields) + _HEAD_BYTES
