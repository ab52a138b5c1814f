"""Messages that attack whoever reads them, and good ones that look like it. Data; nothing runs here.

A server that stands in front of others must not read a message as something else than they do. What is
refused here is known to have been read in two ways by somebody: see RFC 9112, section 11, RFC 9110, section
17, and the published work on request smuggling, on desynchronisation and on differences between parsers.
`why` says it in a few words. An entry needs no context: it is the first thing that comes in.
"""

from __future__ import annotations

import attrs

MAX_HEAD_BYTES = 64 * 1024
"""What the sizes of oversized entries are about; the limit that servers here have."""

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"
"""The request that an attack tries to get past somebody."""


@attrs.frozen
class Bad:
    """A message to be refused."""

    name: str
    data: bytes
    why: str


@attrs.frozen
class Good:
    """A request to be accepted. `rest`: what of the data is not part of it any more."""

    name: str
    data: bytes
    why: str
    body: bytes = b""
    rest: bytes = b""


@attrs.frozen
class GoodResponse:
    """A response to be accepted. `closed`: it ends with its connection. `to_head`: it answers a HEAD."""

    name: str
    data: bytes
    body: bytes = b""
    rest: bytes = b""
    closed: bool = False
    to_head: bool = False


def get(*lines: bytes, target: bytes = b"/") -> bytes:
    """Make a GET with these lines behind its host."""
    return _head(b"GET " + target + b" HTTP/1.1", b"Host: h", *lines)


def post(*lines: bytes, body: bytes = b"") -> bytes:
    """Make a POST with these lines behind its host, and then whatever bytes."""
    return _head(b"POST / HTTP/1.1", b"Host: h", *lines) + body


def chunked(body: bytes, *lines: bytes) -> bytes:
    """Make a POST that says it is chunked, with whatever bytes for a body."""
    return post(b"Transfer-Encoding: chunked", *lines, body=body)


def response(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    """Make a response of these lines, and then whatever bytes."""
    return _head(status, *lines) + body


def _head(*lines: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def padded(size: int, *, lines: int = 1) -> bytes:
    """Make a GET whose head has exactly `size` bytes, made up of so many lines."""
    empty = get(*(b"X-Pad: ",) * lines)
    each, more = divmod(size - len(empty), lines)
    return get(*(b"X-Pad: " + b"x" * (each + (more if line == 0 else 0)) for line in range(lines)))


_LAST = b"0\r\n\r\n"
_CHUNK = b"5\r\nhello\r\n"
_SMUGGLED = _LAST + HIDDEN
_SIZE_OF_SMUGGLED = b"%d" % len(_SMUGGLED)


def _coding(name: str, line: bytes, why: str) -> Bad:
    return Bad(f"TE.TE: {name}", post(line, body=_CHUNK + _SMUGGLED), why)


def _length(name: str, value: bytes, why: str) -> Bad:
    return Bad(f"length: {name}", post(b"Content-Length: " + value, body=b"hello" + HIDDEN), why)


def _size(name: str, line: bytes, why: str) -> Bad:
    return Bad(f"chunk: {name}", chunked(line + b"hello\r\n" + _SMUGGLED), why)


def _trailer(name: str, line: bytes, why: str) -> Bad:
    return Bad(f"trailer: {name}", chunked(_CHUNK + b"0\r\n" + line + b"\r\n\r\n"), why)


def _line(name: str, line: bytes, why: str) -> Bad:
    return Bad(f"request line: {name}", line + b"Host: h\r\n\r\n", why)


def _target(name: str, target: bytes, why: str) -> Bad:
    return Bad(f"target: {name}", get(target=target), why)


def _field(name: str, line: bytes, why: str) -> Bad:
    return Bad(f"field: {name}", get(line, b"Last: 1"), why)


_FRAMINGS = (
    Bad(
        "CL.TE",
        post(b"Content-Length: " + _SIZE_OF_SMUGGLED, b"Transfer-Encoding: chunked", body=_SMUGGLED),
        "the first reader counts, the second ends at the last chunk",
    ),
    Bad(
        "TE.CL",
        post(b"Transfer-Encoding: chunked", b"Content-Length: 4", body=b"23\r\n" + HIDDEN + b"\r\n" + _LAST),
        "the first reader takes chunks, the second four bytes",
    ),
    Bad(
        "CL.TE that agree",
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=_LAST),
        "both framings are an attack even where they agree",
    ),
    Bad(
        "CL.0 with a coding",
        post(b"Content-Length: 0", b"Transfer-Encoding: chunked", body=_SMUGGLED),
        "to one reader there is no body",
    ),
    Bad(
        "GET with both",
        get(b"Content-Length: 5", b"Transfer-Encoding: chunked") + _LAST,
        "readers that expect no body of a GET",
    ),
    _coding("x-chunked", b"Transfer-Encoding: xchunked", "readers that look for a part of the word"),
    _coding("identity, chunked", b"Transfer-Encoding: identity, chunked", "readers that look at the first"),
    _coding("chunked, identity", b"Transfer-Encoding: chunked, identity", "readers that look at the last"),
    _coding("chunked, chunked", b"Transfer-Encoding: chunked, chunked", "chunked once or twice?"),
    _coding("gzip, chunked", b"Transfer-Encoding: gzip, chunked", "a coding that we do not undo"),
    _coding("identity", b"Transfer-Encoding: identity", "a coding that is no longer one"),
    _coding("comma behind", b"Transfer-Encoding: chunked,", "an empty member of a list"),
    _coding("comma before", b"Transfer-Encoding: ,chunked", "an empty member of a list"),
    _coding("parameter", b"Transfer-Encoding: chunked;q=1", "readers that cut parameters off"),
    _coding("quoted", b'Transfer-Encoding: "chunked"', "readers that take quotes off"),
    _coding("quoted half", b"Transfer-Encoding: 'chunked", "readers that clean up"),
    _coding("empty", b"Transfer-Encoding:", "a framing without a word"),
    _coding("space before the colon", b"Transfer-Encoding : chunked", "is it part of the name?"),
    _coding("tab before the colon", b"Transfer-Encoding\t: chunked", "is it part of the name?"),
    _coding("tab behind", b"Transfer-Encoding: chunked\t", "allowed, and yet missed by some"),
    _coding("vertical tab", b"Transfer-Encoding: \x0bchunked", "readers for whom it is a space"),
    _coding("form feed", b"Transfer-Encoding: chunked\x0c", "readers for whom it is a space"),
    _coding("NUL behind", b"Transfer-Encoding: chunked\x00", "readers for whom a string ends there"),
    _coding("NUL within", b"Transfer-Encoding: chun\x00ked", "readers that leave it out"),
    _coding(
        "no-break space", b"Transfer-Encoding: chunked\xa0", "readers that strip what is a space in Latin-1"
    ),
    _coding("long s", b"Tran\xc5\xbffer-Encoding: chunked", "readers that fold case beyond ASCII"),
    _coding("Kelvin sign", b"Transfer-Encoding: chun\xe2\x84\xaaed", "readers that fold case beyond ASCII"),
    _coding("underscore and both", b"Transfer_Encoding: chunked\r\nTransfer-Encoding: x", "one name or two?"),
    _coding("folded value", b"Transfer-Encoding:\r\n chunked", "is the second line a part of the first?"),
    _coding("folded from before", b"X: a\r\n Transfer-Encoding: chunked", "a header to who does not unfold"),
    _coding(
        "folded by a tab", b"Transfer-Encoding: \r\n\tchunked", "is the second line a part of the first?"
    ),
    _coding("twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "first, last or both?"),
    _coding("twice, other first", b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked", "first or last?"),
    _coding("twice, other last", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "first or last?"),
    _coding("behind a bare LF", b"X: a\nTransfer-Encoding: chunked", "a header to who takes a bare LF"),
    _coding("behind a bare CR", b"X: a\rTransfer-Encoding: chunked", "a header to who takes a bare CR"),
    _coding("behind CR CR LF", b"X: a\r\r\nTransfer-Encoding: chunked", "one line end, or two?"),
    _coding(
        "behind a bare colon", b": x\r\nTransfer-Encoding: chunked", "readers that stop at a nameless line"
    ),
    _coding("leading space", b" Transfer-Encoding: chunked", "folded, a header, or nothing?"),
    _coding("byte order mark", b"\xef\xbb\xbfTransfer-Encoding: chunked", "readers that drop it"),
    Bad(
        "TE in HTTP/1.0",
        b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + _SMUGGLED,
        "HTTP/1.0 has no codings, so half of the world ignores it",
    ),
    Bad(
        "TE in HTTP/1.0, kept alive",
        b"POST / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
        + _SMUGGLED,
        "the same, where another request may follow",
    ),
)

_LENGTHS = (
    Bad(
        "length: twice, equal",
        post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
        "a proxy that joins them makes another header of it",
    ),
    Bad(
        "length: twice, different",
        post(b"Content-Length: 5", b"Content-Length: 38", body=b"hello" + HIDDEN),
        "first or last?",
    ),
    Bad(
        "length: twice, different spelling",
        post(b"Content-Length: 0", b"content-length: 5", body=b"hello"),
        "readers that keep headers by their name as it came",
    ),
    Bad(
        "length: twice, equal but for a zero",
        post(b"Content-Length: 5", b"Content-Length: 05", body=b"hello"),
        "equal as numbers, not as strings",
    ),
    _length("list, equal", b"5, 5", "a number, or the first of a list?"),
    _length("list, different", b"5, 38", "first or last?"),
    _length("plus", b"+5", "what many languages' number parsers take"),
    _length("minus", b"-5", "a length below nothing"),
    _length("minus zero", b"-0", "what many languages' number parsers take"),
    _length("hexadecimal", b"0x5", "readers that find the base themselves"),
    _length("hexadecimal digit", b"5a", "readers that stop at what is no digit"),
    _length("exponent", b"5e0", "readers that take a floating-point number"),
    _length("fraction", b"5.0", "readers that take a floating-point number"),
    _length("underscore", b"1_0", "what Python's own number parser takes"),
    _length("other digits", "\u0665".encode(), "what Python's own number parser takes, too"),
    _length("superscript", b"\xb2", "a digit in Latin-1"),
    _length("empty", b"", "none, or nothing?"),
    _length("space", b" ", "none, or nothing?"),
    _length("space within", b"5 0", "readers that stop at a space, or drop it"),
    _length("tab within", b"5\t0", "readers that stop at a space, or drop it"),
    _length("comma", b"5,", "an empty member of a list"),
    _length("semicolon", b"5;x", "readers that cut parameters off"),
    _length("quoted", b'"5"', "readers that take quotes off"),
    _length("NUL behind", b"5\x00", "readers for whom a string ends there"),
    _length("vertical tab before", b"\x0b5", "readers for whom it is a space"),
    _length("chunked", b"chunked", "a word where a number belongs"),
    _length("2 to the 63rd", b"9223372036854775808", "negative where numbers are signed"),
    _length("2 to the 64th", b"18446744073709551616", "nothing where it wraps around"),
    _length("2 to the 64th, and 5", b"18446744073709551621", "five where it wraps around"),
    _length("2 to the 32nd, and zeros", b"00000000004294967301", "more digits than a length has"),
    _length("thousand digits", b"1" * 1000, "costs the reader that makes a number of it"),
    _length("thousand zeros", b"0" * 1000 + b"5", "readers with a limit for digits"),
    Bad(
        "length: space before the colon",
        post(b"Content-Length : 5", body=b"hello"),
        "is it part of the name?",
    ),
    Bad(
        "length: folded",
        post(b"Content-Length:\r\n 5", body=b"hello"),
        "is the second line part of the first?",
    ),
    Bad("length: behind a bare LF", post(b"X: a\nContent-Length: 5", body=b"hello"), "is it a header?"),
    Bad("length: NUL in the name", post(b"Content-Length\x00: 5", body=b"hello"), "does the name end there?"),
)

_CHUNKS = (
    _size("0x", b"0x5\r\n", "readers that find the base themselves"),
    _size("plus", b"+5\r\n", "what many languages' number parsers take"),
    _size("minus", b"-5\r\n", "a size below nothing"),
    _size("underscore", b"0_5\r\n", "what Python's own number parser takes"),
    _size("space before", b" 5\r\n", "readers that strip"),
    _size("space behind", b"5 \r\n", "readers that strip"),
    _size("space before an extension", b"5 ;a\r\n", "allowed once, and read in two ways since"),
    _size("tab behind", b"5\t\r\n", "readers that strip"),
    _size("missing", b"\r\n", "nothing, or the end?"),
    _size("no number", b"xyz\r\n", "readers that stop at what is no digit"),
    _size("digits behind something", b"5g\r\n", "readers that stop at what is no digit"),
    _size("only an extension", b";a=b\r\n", "nothing, or the end?"),
    _size("2 to the 64th, and 5", b"10000000000000005\r\n", "five where it wraps around"),
    _size("2 to the 63rd", b"8000000000000000\r\n", "negative where numbers are signed"),
    _size("thousand zeros", b"0" * 1000 + b"5\r\n", "readers with a limit for digits"),
    _size("bare LF", b"5\n", "readers for whom it ends a line"),
    _size("bare CR", b"5\r", "readers for whom it ends a line"),
    _size("CR CR LF", b"5\r\r\n", "one line end, or two?"),
    _size("NUL", b"5\x00\r\n", "readers for whom a string ends there"),
    _size("other digits", "\uff15\r\n".encode(), "what Python's own number parser takes"),
    _size("extension with a bare LF", b"5;a\nb\r\n", "TERM.EXT: the line ends early for one"),
    _size("extension with a bare CR", b"5;a\rb\r\n", "EXT.TERM: the line ends early for one"),
    _size("extension that ends with a bare LF", b"5;\n", "the line ends there for one"),
    _size("extension with NUL", b"5;a\x00b\r\n", "readers for whom a string ends there"),
    _size("extension quoted across lines", b'5;a="\r\n"\r\n', "readers that honour quotes"),
    _size("very long extension", b"5;" + b"a" * 8192 + b"\r\n", "costs much, and says nothing"),
    Bad(
        "chunk: extension around a hidden request",
        chunked(b"2;\nxx\r\n4e\r\n0\r\n\r\n" + HIDDEN),
        "the line that ends early for one hides a size from the other",
    ),
    Bad(
        "chunk: data longer than said",
        chunked(b"3\r\nhello\r\n" + _SMUGGLED),
        "readers that skip to a line end",
    ),
    Bad("chunk: data shorter than said", chunked(b"7\r\nhello\r\n" + _SMUGGLED), "readers that do not look"),
    Bad("chunk: data without a line end", chunked(b"5\r\nhello" + _SMUGGLED), "readers that do not insist"),
    Bad("chunk: data before a bare LF", chunked(b"5\r\nhello\n" + _SMUGGLED), "readers that take a bare LF"),
    Bad(
        "chunk: data before two line ends",
        chunked(b"5\r\nhello\r\n\r\n" + _SMUGGLED),
        "readers that skip them",
    ),
    Bad(
        "chunk: data before any two bytes",
        chunked(b"5\r\nhelloXX" + _SMUGGLED),
        "readers that skip two bytes",
    ),
    Bad(
        "chunk: last one with a bare LF", chunked(_CHUNK + b"0\n\r\n" + HIDDEN), "readers that take a bare LF"
    ),
    Bad(
        "chunk: last one and two bare LF",
        chunked(_CHUNK + b"0\r\n\n\n" + HIDDEN),
        "readers that take a bare LF",
    ),
    Bad("chunk: no size at all", chunked(HIDDEN), "readers that give up, and begin anew"),
    Bad(
        "chunk: a request, behind an upgrade",
        chunked(HIDDEN, b"Connection: Upgrade", b"Upgrade: h2c"),
        "readers that take what follows for another message, and not for a body",
    ),
    _trailer("transfer-encoding", b"Transfer-Encoding: chunked", "readers that add trailers to headers"),
    _trailer("content-length", b"Content-Length: 5", "readers that add trailers to headers"),
    _trailer("host", b"hOST: other", "readers that add trailers to headers"),
    _trailer("space before the colon", b"X : a", "is it part of the name?"),
    _trailer("folded", b"X: a\r\n b", "is the second line a part of the first?"),
    _trailer("folded from the size", b" X: a", "is it a part of the size?"),
    _trailer("bare LF", b"X: a\nY: b", "readers for whom it ends a line"),
    _trailer("bare CR", b"X: a\rY: b", "readers for whom it ends a line"),
    _trailer("no colon", b"GET /hidden HTTP/1.1", "a request, to who expects no trailers"),
    _trailer("nameless", b": a", "readers that stop at a nameless line"),
    _trailer("NUL", b"X: \x00", "readers for whom a string ends there"),
    _trailer("one long line", b"X: " + b"x" * MAX_HEAD_BYTES, "memory"),
    _trailer("many lines", b"X: y\r\n" * (MAX_HEAD_BYTES // 6) + b"X: y", "memory"),
)

_LINES = (
    _line("HTTP/0.9", b"GET /\r\n", "the whole answer is a body"),
    _line("HTTP/0.9 said", b"GET / HTTP/0.9\r\n", "a version without headers"),
    _line("HTTP/1.2", b"GET / HTTP/1.2\r\n", "a version that there is not"),
    _line("HTTP/1.10", b"GET / HTTP/1.10\r\n", "1.1 and a zero, or ten?"),
    _line("HTTP/2.0", b"GET / HTTP/2.0\r\n", "a version with other framing"),
    _line("HTTP/3", b"GET / HTTP/3\r\n", "a version with other framing"),
    _line("HTTP/01.1", b"GET / HTTP/01.1\r\n", "readers that take numbers"),
    _line("HTTP/1,1", b"GET / HTTP/1,1\r\n", "readers that do not look"),
    _line("http/1.1", b"GET / http/1.1\r\n", "the name of the protocol has a case"),
    _line("HTP/1.1", b"GET / HTP/1.1\r\n", "readers that do not look"),
    _line("RTSP/1.0", b"GET / RTSP/1.0\r\n", "another protocol"),
    _line("ICE/1.0", b"SOURCE / ICE/1.0\r\n", "another protocol"),
    _line("version twice", b"GET / HTTP/1.1 HTTP/1.1\r\n", "a target with a space in it?"),
    _line("space behind", b"GET / HTTP/1.1 \r\n", "readers that strip"),
    _line("space before", b" GET / HTTP/1.1\r\n", "readers that strip"),
    _line("two spaces before the target", b"GET  / HTTP/1.1\r\n", "an empty target?"),
    _line("two spaces behind the target", b"GET /  HTTP/1.1\r\n", "a target that ends with a space?"),
    _line("tabs", b"GET\t/\tHTTP/1.1\r\n", "readers that split at any space"),
    _line("vertical tab", b"GET\x0b/ HTTP/1.1\r\n", "readers that split at any space"),
    _line("no target", b"GET HTTP/1.1\r\n", "a target, or a version?"),
    _line("empty target", b"GET  HTTP/1.1\r\n", "a target, or none?"),
    _line("no method", b"/ HTTP/1.1\r\n", "a line of two words"),
    _line("lower case", b"get / HTTP/1.1\r\n", "methods have a case, and some forget it"),
    _line("mixed case", b"Get / HTTP/1.1\r\n", "methods have a case, and some forget it"),
    _line("unknown method", b"GTE / HTTP/1.1\r\n", "what does it do?"),
    _line("method with a letter more", b"GETS / HTTP/1.1\r\n", "readers that look at the beginning"),
    _line("method with a colon", b"GET: / HTTP/1.1\r\n", "a header?"),
    _line("method with NUL", b"GET\x00 / HTTP/1.1\r\n", "readers for whom a string ends there"),
    _line("method beyond ASCII", b"G\xc3\x8bT / HTTP/1.1\r\n", "readers that fold"),
    _line("bare LF", b"GET / HTTP/1.1\n", "readers for whom it ends a line"),
    _line("bare CR", b"GET / HTTP/1.1\r", "readers for whom it ends a line"),
    _line("CR CR LF", b"GET / HTTP/1.1\r\r\n", "one line end, or two?"),
    _line("folded", b"GET / HTTP/1.1\r\n X: a\r\n", "is it a part of the line?"),
    _line("bare LF before", b"\nGET / HTTP/1.1\r\n", "an empty line?"),
    _line("bare CR before", b"\rGET / HTTP/1.1\r\n", "an empty line?"),
    _line("two empty lines before", b"\r\n\r\nGET / HTTP/1.1\r\n", "how many are nothing?"),
    _line("NUL before", b"\x00GET / HTTP/1.1\r\n", "readers that skip it"),
    _line("byte order mark before", b"\xef\xbb\xbfGET / HTTP/1.1\r\n", "readers that skip it"),
    Bad("request line: a response", response(b"Content-Length: 0"), "the other direction"),
    Bad(
        "request line: a TLS hello",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 64,
        "another port",
    ),
    Bad("line ends: bare LF throughout", b"GET / HTTP/1.1\nHost: h\n\n", "readers for whom it ends a line"),
    Bad(
        "line ends: bare LF at the last",
        b"GET / HTTP/1.1\r\nHost: h\r\n\n" + HIDDEN,
        "where does the head end?",
    ),
    Bad("line ends: LF CR LF", b"GET / HTTP/1.1\r\nHost: h\n\r\n" + HIDDEN, "where does the head end?"),
    Bad(
        "line ends: CR CR LF at the last",
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\r\n" + HIDDEN,
        "where does it end?",
    ),
)

_TARGETS = (
    _target("space", b"/a b", "where does it end?"),
    _target("tab", b"/a\tb", "where does it end?"),
    _target("a request after a space", b"/ HTTP/1.1\x0bX:", "readers that split at any space"),
    _target("bare CR", b"/a\rb", "readers for whom it ends a line"),
    _target("bare LF", b"/a\nb", "readers for whom it ends a line"),
    _target("NUL", b"/a\x00b", "readers for whom a string ends there"),
    _target("control", b"/a\x1bb", "a log in a terminal"),
    _target("delete", b"/a\x7fb", "a control character at the end of ASCII"),
    _target("fragment", b"/public#/../hidden", "a part of the path to one, nothing to the other"),
    _target("only a fragment", b"#", "a target without a path"),
    _target("backslash first", b"\\hidden", "a slash to some"),
    _target("relative", b"hidden", "relative to what?"),
    _target("query only", b"?a=b", "a target without a path"),
    _target("dots", b"../hidden", "relative to what?"),
    _target("asterisk with GET", b"*", "for OPTIONS only"),
    _target("asterisk and more", b"*/hidden", "for OPTIONS only, and alone"),
    _target("user", b"http://h@other/", "which of the two is it for?"),
    _target("user of the same host", b"http://other@h/", "which of the two is it for?"),
    _target("no host", b"http:///", "which is it for?"),
    _target("no slashes", b"http:h/", "a path, to some"),
    _target("one slash", b"http:/h/", "a path, to some"),
    _target("backslashes", b"http:\\\\h\\", "slashes to some"),
    _target("backslash behind the host", b"http://h\\@other/", "where does the host end?"),
    _target("other scheme", b"ftp://h/", "a gateway to what?"),
    _target("script", b"javascript:alert(1)", "a target that is no place"),
    _target("file", b"file:///etc/passwd", "a target that is no place of ours"),
    _target("authority with GET", b"h:80", "for CONNECT only"),
    _target("two hosts", b"http://h,other/", "which of the two is it for?"),
    _target("fragment behind the host", b"http://h#@other/", "where does the host end?"),
    Bad("target: path with CONNECT", _head(b"CONNECT / HTTP/1.1", b"Host: h"), "a tunnel to where?"),
    Bad(
        "target: absolute with CONNECT",
        _head(b"CONNECT http://h/ HTTP/1.1", b"Host: h"),
        "a tunnel to where?",
    ),
    Bad("target: no port with CONNECT", _head(b"CONNECT h HTTP/1.1", b"Host: h"), "a tunnel to where?"),
    Bad(
        "target: other host with CONNECT",
        _head(b"CONNECT o:80 HTTP/1.1", b"Host: h:80"),
        "a tunnel to where?",
    ),
    Bad(
        "tunnel with a length",
        _head(b"CONNECT h:80 HTTP/1.1", b"Host: h:80", b"Content-Length: 5") + b"hello",
        "a body, or the first of the tunnel?",
    ),
    Bad(
        "tunnel with chunks",
        _head(b"CONNECT h:80 HTTP/1.1", b"Host: h:80", b"Transfer-Encoding: chunked") + _SMUGGLED,
        "a body, or the first of the tunnel?",
    ),
)


def _host(name: str, line: bytes, why: str) -> Bad:
    return Bad(f"host: {name}", _head(b"GET / HTTP/1.1", line), why)


_HOSTS = (
    Bad("host: none", b"GET / HTTP/1.1\r\n\r\n", "which is it for?"),
    Bad("host: none, absolute target", b"GET http://h/ HTTP/1.1\r\n\r\n", "HTTP/1.1 has one all the same"),
    _host("two", b"Host: h\r\nHost: other", "first or last?"),
    _host("two, equal", b"Host: h\r\nHost: h", "a proxy that joins them makes another header of it"),
    _host(
        "two, apart", b"Host: h\r\nX: a\r\nhOST: other", "readers that keep headers by their name as it came"
    ),
    _host("two, in HTTP/1.0's way", b"Host:\r\nHost: h", "an empty one and another"),
    _host("list", b"Host: h, other", "first or last?"),
    _host("list without a space", b"Host: h,other", "what a proxy may have joined"),
    _host("space within", b"Host: h other", "where does it end?"),
    _host("user", b"Host: h@other", "which of the two?"),
    _host("path", b"Host: h/hidden", "where does it end?"),
    _host("query", b"Host: h?hidden", "where does it end?"),
    _host("fragment", b"Host: h#@other", "where does it end?"),
    _host("backslash", b"Host: h\\@other", "where does it end?"),
    _host("URL", b"Host: http://h/", "not a host"),
    _host("beyond ASCII", b"Host: \xc3\xbcber", "readers that fold"),
    _host("NUL", b"Host: h\x00other", "readers for whom a string ends there"),
    _host("quotes", b'Host: "h"', "readers that take quotes off"),
    _host("markup", b"Host: <script>", "readers that put it into a page"),
    _host("folded", b"Host: h\r\n other", "is the second line a part of the first?"),
    _host("space before the colon", b"Host : h", "is it part of the name?"),
    _host("behind a space", b" Host: h", "is it a header?"),
    Bad("host: two in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: h\r\nHost: other\r\n\r\n", "first or last?"),
)

_FIELDS = (
    _field("no colon", b"X", "readers that skip such a line"),
    _field("a request", HIDDEN.split(b"\r\n", maxsplit=1)[0], "a request, to who ends a head early"),
    _field("nameless", b": x", "readers that stop there"),
    _field("space within a name", b"X Y: a", "which is the name?"),
    _field("space before the colon", b"X : a", "is it part of the name?"),
    _field("space before the name", b" X: a", "folded, or a header?"),
    _field("folded", b"X: a\r\n b", "is the second line a part of the first?"),
    _field("folded by a tab", b"X: a\r\n\tb", "is the second line a part of the first?"),
    _field("folded by spaces only", b"X: a\r\n  ", "does the head end there?"),
    _field("name beyond ASCII", b"\xc3\x9c: a", "readers that decode"),
    _field("name in brackets", b"(X): a", "not a token"),
    _field("name in quotes", b'"X": a', "not a token"),
    _field("name with a slash", b"X/Y: a", "not a token"),
    _field("name with NUL", b"X\x00Y: a", "readers for whom a string ends there"),
    _field("name with CR", b"X\rY: a", "readers for whom it ends a line"),
    _field("value with NUL", b"X: a\x00b", "readers for whom a string ends there"),
    _field("value with CR", b"X: a\rY: b", "readers for whom it ends a line"),
    _field("value with LF", b"X: a\nY: b", "readers for whom it ends a line"),
    _field("value with a bell", b"X: a\x07b", "a log in a terminal"),
    _field("value with escape", b"X: \x1b[2J", "a log in a terminal"),
    _field("value with delete", b"X: a\x7f", "a control character at the end of ASCII"),
    _field("value with vertical tab", b"X: a\x0bb", "readers for whom it ends a line"),
    _field(
        "connection names the length", b"Connection: close, Content-Length", "whoever drops what it names"
    ),
    _field("connection names the coding", b"Connection: transfer-encoding", "whoever drops what it names"),
    _field("connection names the host", b"Connection:\tHOST\t,close", "whoever drops what it names"),
    Bad("size: one long line", padded(MAX_HEAD_BYTES + 1), "memory"),
    Bad("size: many lines", padded(MAX_HEAD_BYTES + 1, lines=5000), "memory, and time for each line"),
    Bad("size: a long target", get(target=b"/" + b"a" * MAX_HEAD_BYTES), "memory"),
    Bad("size: a long method", b"A" * MAX_HEAD_BYTES + b" / HTTP/1.1\r\nHost: h\r\n\r\n", "memory"),
    Bad("size: a head without end", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (MAX_HEAD_BYTES // 6), "memory"),
    Bad("size: twice the limit", padded(2 * MAX_HEAD_BYTES), "memory"),
)

REFUSED = (*_FRAMINGS, *_LENGTHS, *_CHUNKS, *_LINES, *_TARGETS, *_HOSTS, *_FIELDS)
"""Requests that have to be refused."""

ACCEPTED = (
    Good("plain", get(), "the least there is"),
    Good("empty line before", b"\r\n" + get(), "RFC 9112, 2.2: what some old clients leave behind"),
    Good("pipelined", get() + HIDDEN, "two requests, and both are meant", rest=HIDDEN),
    Good("length", post(b"Content-Length: 5", body=b"hello" + HIDDEN), "counted", b"hello", HIDDEN),
    Good("length of zero", post(b"Content-Length: 0", body=HIDDEN), "CL.0: nothing is a length", rest=HIDDEN),
    Good("length with zeros before", post(b"Content-Length: 005", body=b"hello"), "decimal", b"hello"),
    Good("length between spaces", post(b"Content-Length: \t5 \t", body=b"hello"), "stripped", b"hello"),
    Good("length without a space", post(b"Content-Length:5", body=b"hello"), "a space is optional", b"hello"),
    Good("length in capitals", post(b"CONTENT-LENGTH: 5", body=b"hello"), "names have no case", b"hello"),
    Good("no length", post(body=HIDDEN), "a POST may have no body", rest=HIDDEN),
    Good(
        "request in a counted body",
        post(b"Content-Length: %d" % len(HIDDEN), body=HIDDEN + get()),
        "what is in a body is not a request",
        HIDDEN,
        get(),
    ),
    Good(
        "request in a chunk",
        chunked(b"%x\r\n" % len(HIDDEN) + HIDDEN + b"\r\n" + _SMUGGLED),
        "what is in a chunk is not a request",
        HIDDEN,
        HIDDEN,
    ),
    Good(
        "chunks in a counted body",
        post(b"Content-Length: 5", body=_LAST + get()),
        "nor a chunk",
        _LAST,
        get(),
    ),
    Good("body with GET", get(b"Content-Length: 5") + b"hello" + HIDDEN, "any method", b"hello", HIDDEN),
    Good(
        "chunks with GET",
        get(b"Transfer-Encoding: chunked") + _CHUNK + _SMUGGLED,
        "any method",
        b"hello",
        HIDDEN,
    ),
    Good(
        "body with DELETE",
        _head(b"DELETE / HTTP/1.1", b"Host: h", b"Content-Length: 2") + b"ab",
        "any",
        b"ab",
    ),
    Good(
        "length in HTTP/1.0", b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", "it has lengths", b"hello"
    ),
    Good("HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", "needs no host"),
    Good("HTTP/1.0 with a host", b"GET / HTTP/1.0\r\nHost: h\r\n\r\n", "may have one"),
    Good("HTTP/1.0, kept alive", b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "a wish"),
    Good("chunks", chunked(_CHUNK + b"1\r\n!\r\n" + _SMUGGLED), "joined", b"hello!", HIDDEN),
    Good("no chunk but the last", chunked(_SMUGGLED), "an empty body", rest=HIDDEN),
    Good("coding in capitals", post(b"TRANSFER-ENCODING: CHUNKED", body=_CHUNK + _LAST), "no case", b"hello"),
    Good(
        "coding behind spaces",
        post(b"Transfer-Encoding:\t chunked", body=_CHUNK + _LAST),
        "stripped",
        b"hello",
    ),
    Good("size in capitals", chunked(b"A\r\n0123456789\r\n" + _LAST), "hexadecimal", b"0123456789"),
    Good("size in small letters", chunked(b"a\r\n0123456789\r\n" + _LAST), "hexadecimal", b"0123456789"),
    Good("size with zeros before", chunked(b"00005\r\nhello\r\n" + b"000\r\n\r\n"), "a number", b"hello"),
    Good("extension", chunked(b'5;a=b;c="d e"\r\nhello\r\n0;z\r\n\r\n'), "ignored", b"hello"),
    Good("longest extension", chunked(b"5;" + b"a" * 1000 + b"\r\nhello\r\n" + _LAST), "ignored", b"hello"),
    Good("blank lines in a chunk", chunked(b"8\r\n\r\n\r\n\r\n\r\n\r\n" + _LAST), "data", b"\r\n" * 4),
    Good(
        "trailers",
        chunked(_CHUNK + b"0\r\nX: a\r\nY:\r\n\r\n" + HIDDEN),
        "headers that came late",
        b"hello",
        HIDDEN,
    ),
    Good(
        "all bytes in a chunk",
        chunked(b"100\r\n" + bytes(range(256)) + b"\r\n" + _LAST),
        "a body is bytes",
        bytes(range(256)),
    ),
    Good(
        "expectation", post(b"Expect: 100-continue", b"Content-Length: 2", body=b"ok"), "met elsewhere", b"ok"
    ),
    Good(
        "other expectation",
        post(b"Expect: 200-ok", b"Content-Length: 2", body=b"ok"),
        "may be ignored",
        b"ok",
    ),
    Good("close", get(b"Connection: close"), "the last one"),
    Good("close among others", get(b"Connection: keep-alive, CLOSE"), "the last one"),
    Good("something like close", get(b"Connection: x-close, closed, close=1, not close"), "not the last one"),
    Good("connection names a header", get(b"Connection: x-drop, hosts", b"X-Drop: a"), "what it is for"),
    Good("keep-alive", get(b"Connection: keep-alive", b"Keep-Alive: timeout=5"), "the default"),
    Good(
        "upgrade to h2c",
        get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")
        + HIDDEN,
        "may be ignored",
        rest=HIDDEN,
    ),
    Good(
        "upgrade with a length",
        post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 5", body=b"hello" + HIDDEN),
        "the body comes first",
        b"hello",
        HIDDEN,
    ),
    Good(
        "upgrade with chunks",
        chunked(_CHUNK + _SMUGGLED, b"Connection: Upgrade", b"Upgrade: h2c"),
        "the body comes first",
        b"hello",
        HIDDEN,
    ),
    Good("upgrade that the connection does not name", get(b"Upgrade: h2c"), "a header like others"),
    Good("many headers", get(*(b"X-%d: %d" % (n, n) for n in range(500))), "a few kilobytes"),
    Good("largest head", padded(MAX_HEAD_BYTES), "the limit is inclusive"),
    Good("largest head of many lines", padded(MAX_HEAD_BYTES, lines=1000), "the limit is inclusive"),
    Good("long target", get(target=b"/" + b"a" * 60000), "within a head's limit"),
    Good("empty value", get(b"X:", b"Y: ", b"Z: \t"), "nothing is a value"),
    Good("value beyond ASCII", get(b"X: \xc3\xbc\xff"), "opaque bytes"),
    Good("value of many kinds", get(b'X: a:b;c,"d" (e) \\f [g] {h} <i>\tj'), "opaque"),
    Good("tokens of all letters", get(b"!#$%&'*+-.^_`|~09azAZ: x"), "RFC 9110, 5.6.2"),
    Good("header twice", get(b"X: a", b"x: b"), "kept apart, in order"),
    Good("underscore", get(b"Content_Length: 5", b"Transfer_Encoding: chunked"), "other names altogether"),
    Good("names like framings", get(b"Content-Lengt: 5", b"Transfer-Encodings: chunked"), "other names"),
    Good("TE", get(b"TE: trailers", b"Trailer: X"), "about trailers"),
    Good("cookies", get(b"Cookie: a=b; c=d"), "plain"),
    Good("empty host", _head(b"GET / HTTP/1.1", b"Host:"), "RFC 9112, 3.2"),
    Good("host with a port", _head(b"GET / HTTP/1.1", b"Host: h.example:8080"), "plain"),
    Good("host of IPv6", _head(b"GET / HTTP/1.1", b"Host: [::1]:8080"), "plain"),
    Good("host with an underscore", _head(b"GET / HTTP/1.1", b"Host: a_b-c.d"), "as composed networks have"),
    Good("host at the end", _head(b"GET / HTTP/1.1", b"X: a", b"hOsT: h"), "order does not matter"),
    Good("absolute target", get(target=b"http://h/a?b"), "RFC 9112, 3.2.2"),
    Good("absolute target, other case", get(target=b"HTTP://H/"), "hosts and schemes have no case"),
    Good("absolute target without a path", get(target=b"https://h"), "RFC 9112, 3.2.2"),
    Good("absolute target, other host", get(target=b"http://other/a"), "which is the one that counts"),
    Good("absolute target, other port", get(target=b"http://h:81/"), "which is the one that counts"),
    Good("absolute target, no path but a query", get(target=b"http://other?h/"), "RFC 3986, 3.2"),
    Good("absolute target of IPv6", get(target=b"http://[::1]:80/"), "plain"),
    Good("absolute target in HTTP/1.0", b"GET http://a/ HTTP/1.0\r\nHost: b\r\n\r\n", "as in HTTP/1.1"),
    Good("absolute target without a host header", b"GET http://a/ HTTP/1.0\r\nX: b\r\n\r\n", "as above"),
    Good("absolute target of OPTIONS", _head(b"OPTIONS http://h HTTP/1.1", b"Host: h"), "RFC 9112, 3.2.4"),
    Good("OPTIONS for all", _head(b"OPTIONS * HTTP/1.1", b"Host: h"), "RFC 9112, 3.2.4"),
    Good("query", get(target=b"/a?b=c&d=%20?/:@"), "plain"),
    Good("dots", get(target=b"/a/../b/./c//d"), "for who routes to judge"),
    Good("two slashes", get(target=b"//other/a"), "a path"),
    Good("encoded", get(target=b"/%2e%2e/%00%0d%0a%23"), "opaque"),
    Good("half encoded", get(target=b"/%zz%"), "opaque"),
    Good("letters that should be encoded", get(target=b'/\\a"<>^`{|}'), "read alike by all"),
    Good("target beyond ASCII", get(target="/\u00fcber?\u20ac".encode()), "is percent-encoded"),
    *(
        Good(f"{method} request", _head(method.encode() + b" / HTTP/1.1", b"Host: h"), "a method")
        for method in ("HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "DELETE", "PROPFIND", "M-SEARCH", "QUERY")
    ),
)
"""Requests that have to be accepted."""

TUNNEL = Good("tunnel", _head(b"CONNECT h:80 HTTP/1.1", b"Host: h:80") + b"raw", "read", rest=b"raw")
"""A good request that no server here grants."""

UNFINISHED = (
    Bad("nothing", b"", ""),
    Bad("an empty line", b"\r\n", ""),
    Bad("half of an empty line", b"\r", ""),
    Bad("half a line", b"GET / HT", ""),
    Bad("half a head", get()[:-2], ""),
    Bad("half a length's body", post(b"Content-Length: 5", body=b"hell"), "the rest may come"),
    Bad("a huge length", post(b"Content-Length: 999999999999999999", body=b"x"), "may all come"),
    Bad("half a chunk", chunked(b"5\r\nhell"), ""),
    Bad("half a size", chunked(b"5"), ""),
    Bad("half an extension", chunked(b"5;a"), ""),
    Bad("half a line end", chunked(b"5\r"), ""),
    Bad("half of a chunk's line end", chunked(b"5\r\nhello\r"), ""),
    Bad("no last chunk", chunked(_CHUNK), ""),
    Bad("half a last chunk", chunked(_CHUNK + b"0\r\n"), ""),
    Bad("half a trailer", chunked(_CHUNK + b"0\r\nX: a\r\n"), ""),
    Bad("a huge chunk", chunked(b"fffffffffffffff\r\nx"), "may all come"),
)
"""Requests that are neither wrong nor complete."""


def _status(name: str, line: bytes, why: str) -> Bad:
    return Bad(f"status line: {name}", response(b"Content-Length: 0", status=line), why)


def _answer(name: str, *lines: bytes, why: str, body: bytes = b"hello") -> Bad:
    return Bad(name, response(*lines, body=body), why)


REFUSED_RESPONSES = (
    _status("HTTP/0.9", b"<html>", "the whole answer is a body"),
    _status("HTTP/1.2", b"HTTP/1.2 200 OK", "a version that there is not"),
    _status("HTTP/2", b"HTTP/2 200", "another framing"),
    _status("HTTP/2.0", b"HTTP/2.0 200 OK", "another framing"),
    _status("http/1.1", b"http/1.1 200 OK", "the name of the protocol has a case"),
    _status("ICY", b"ICY 200 OK", "another protocol"),
    _status("RTSP", b"RTSP/1.0 200 OK", "another protocol"),
    _status("no status", b"HTTP/1.1", "what is it?"),
    _status("two digits", b"HTTP/1.1 20 OK", "what is it?"),
    _status("four digits", b"HTTP/1.1 2000 OK", "readers that stop after three"),
    _status("zero", b"HTTP/1.1 000 OK", "interim, to who compares numbers"),
    _status("below 100", b"HTTP/1.1 099 OK", "interim, to who compares numbers"),
    _status("minus", b"HTTP/1.1 -20 OK", "what is it?"),
    _status("letters", b"HTTP/1.1 abc OK", "what is it?"),
    _status("two spaces", b"HTTP/1.1  200 OK", "readers that split at any space"),
    _status("tab", b"HTTP/1.1\t200 OK", "readers that split at any space"),
    _status("space before", b" HTTP/1.1 200 OK", "readers that strip"),
    _status("reason without a space", b"HTTP/1.1 200OK", "readers that stop after three digits"),
    _status("reason with NUL", b"HTTP/1.1 200 O\x00K", "readers for whom a string ends there"),
    _status("reason with a bare CR", b"HTTP/1.1 200 OK\rX: a", "readers for whom it ends a line"),
    _status("reason with a bare LF", b"HTTP/1.1 200 OK\nX: a", "readers for whom it ends a line"),
    _status("reason with a vertical tab", b"HTTP/1.1 200 O\x0bK", "a control character"),
    _status("switch to nothing", b"HTTP/1.1 101 Switching Protocols", "what follows?"),
    _status("empty line before", b"\r\nHTTP/1.1 200 OK", "left behind by the response before"),
    _status("a request", b"GET / HTTP/1.1", "the other direction"),
    _answer("other coding without a body", b"Transfer-Encoding: identity", why="to HEAD as well", body=b""),
    _answer("both", b"Content-Length: 5", b"Transfer-Encoding: chunked", why="a response split", body=_LAST),
    _answer("two lengths", b"Content-Length: 5", b"Content-Length: 4", why="first or last?"),
    _answer("two lengths, equal", b"Content-Length: 5", b"Content-Length: 5", why="what a proxy may join"),
    _answer("list of lengths", b"Content-Length: 5, 4", why="first or last?"),
    _answer("signed length", b"Content-Length: +5", why="what number parsers take"),
    _answer("negative length", b"Content-Length: -1", why="a length below nothing"),
    _answer("hexadecimal length", b"Content-Length: 0x5", why="readers that find the base themselves"),
    _answer("empty length", b"Content-Length:", why="none, or nothing?"),
    _answer("huge length", b"Content-Length: 18446744073709551621", why="five where it wraps around"),
    _answer(
        "other coding", b"Transfer-Encoding: gzip, chunked", why="a coding that we do not undo", body=_LAST
    ),
    _answer("identity", b"Transfer-Encoding: identity", why="a coding that is no longer one"),
    _answer("coding twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x", why="which?", body=_LAST),
    _answer("space before a colon", b"Transfer-Encoding : chunked", why="a part of the name?", body=_LAST),
    Bad(
        "coding in HTTP/1.0",
        response(b"Transfer-Encoding: chunked", status=b"HTTP/1.0 200 OK", body=_LAST),
        "half of the world ignores it",
    ),
    _answer(
        "connection names the length", b"Connection: content-length", b"Content-Length: 5", why="dropped?"
    ),
    _answer("folded", b"Content-Length: 5", b"X: a\r\n b", why="a part of the line before?"),
    _answer("folded length", b"Content-Length:\r\n 5", why="a part of the line before?"),
    _answer("no colon", b"Content-Length: 5", b"X", why="readers that skip such a line"),
    _answer("bare LF", b"Content-Length: 5\nX: a", why="readers for whom it ends a line"),
    _answer("bare CR", b"Content-Length: 5\rX: a", why="readers for whom it ends a line"),
    _answer("NUL in a value", b"Content-Length: 5", b"X: a\x00", why="readers for whom a string ends there"),
    _answer(
        "size of a chunk in octal's way", b"Transfer-Encoding: chunked", why="no size", body=b"0o5\r\nhello"
    ),
    _answer(
        "bare LF behind a size", b"Transfer-Encoding: chunked", why="a line end?", body=b"5\nhello\n0\n\n"
    ),
    _answer("no size", b"Transfer-Encoding: chunked", why="not chunked at all", body=b"<html></html>"),
    _answer(
        "length in a trailer",
        b"Transfer-Encoding: chunked",
        why="readers that add trailers to headers",
        body=b"0\r\nContent-Length: 5\r\n\r\n",
    ),
    _answer("size of a head", b"X: " + b"x" * MAX_HEAD_BYTES, why="memory"),
)
"""Responses that have to be refused."""

_NEXT = response(b"Content-Length: 0")

ACCEPTED_RESPONSES = (
    GoodResponse("length", response(b"Content-Length: 5", body=b"hello" + _NEXT), b"hello", _NEXT),
    GoodResponse("length of zero", response(b"Content-Length: 0", body=_NEXT), rest=_NEXT),
    GoodResponse(
        "chunks", response(b"Transfer-Encoding: chunked", body=_CHUNK + _LAST + _NEXT), b"hello", _NEXT
    ),
    GoodResponse(
        "trailers",
        response(b"Transfer-Encoding: chunked", body=_CHUNK + b"0\r\nX: a\r\n\r\n" + _NEXT),
        b"hello",
        _NEXT,
    ),
    GoodResponse("until the end", response(body=b"hello\r\n\r\n"), b"hello\r\n\r\n", closed=True),
    GoodResponse("nothing until the end", response(), closed=True),
    GoodResponse("HTTP/1.0", response(status=b"HTTP/1.0 200 OK", body=b"hello"), b"hello", closed=True),
    GoodResponse(
        "HTTP/1.0 with a length",
        response(b"Content-Length: 5", status=b"HTTP/1.0 200 OK", body=b"hello"),
        b"hello",
    ),
    GoodResponse("no content", response(status=b"HTTP/1.1 204 No Content", body=_NEXT), rest=_NEXT),
    GoodResponse(
        "no content, and a length",
        response(b"Content-Length: 5", status=b"HTTP/1.1 204 x", body=_NEXT),
        rest=_NEXT,
    ),
    GoodResponse(
        "not modified",
        response(b"Content-Length: 5", status=b"HTTP/1.1 304 Not Modified", body=_NEXT),
        rest=_NEXT,
    ),
    GoodResponse("to HEAD", response(b"Content-Length: 5", body=_NEXT), rest=_NEXT, to_head=True),
    GoodResponse(
        "to HEAD, chunked", response(b"Transfer-Encoding: chunked", body=_NEXT), rest=_NEXT, to_head=True
    ),
    GoodResponse("to HEAD, no framing", response(body=_NEXT), rest=_NEXT, to_head=True),
    GoodResponse("interim", response(status=b"HTTP/1.1 103 Early Hints", body=_NEXT), rest=_NEXT),
    GoodResponse(
        "interim, and a length",
        response(b"Content-Length: 5", status=b"HTTP/1.1 100 x", body=_NEXT),
        rest=_NEXT,
    ),
    GoodResponse(
        "switch",
        response(b"Connection: Upgrade", b"Upgrade: x", status=b"HTTP/1.1 101 Switching", body=b"raw"),
        rest=b"raw",
    ),
    GoodResponse("no reason", response(b"Content-Length: 0", status=b"HTTP/1.1 200 ")),
    GoodResponse("no reason, and no space", response(b"Content-Length: 0", status=b"HTTP/1.1 200")),
    GoodResponse(
        "reason beyond ASCII", response(b"Content-Length: 0", status=b"HTTP/1.1 404 Nicht gef\xfcnden")
    ),
    GoodResponse("status that nobody knows", response(b"Content-Length: 0", status=b"HTTP/1.1 799 Odd")),
    GoodResponse("close", response(b"Connection: close", b"Content-Length: 2", body=b"ok"), b"ok"),
    GoodResponse(
        "upgrade offered",
        response(b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 2", body=b"ok"),
        b"ok",
    ),
    GoodResponse("cookies", response(b"Set-Cookie: a=b", b"set-cookie: c=d", b"Content-Length: 0")),
    GoodResponse(
        "reset content",
        response(b"Content-Length: 0", status=b"HTTP/1.1 205 Reset Content", body=_NEXT),
        rest=_NEXT,
    ),
)
"""Responses that have to be accepted."""
