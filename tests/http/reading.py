"""What there is to be read in some bytes: by this project, by h11, and that the two agree.

h11 stands for everybody who reads what we pass on. It is lenient in places (bare line feeds, folded lines,
lists of equal lengths), which is fine: what we let pass must have one reading, not h11 only ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeAlias

import attrs
import h11

from cpg_trio.http.heads import Framing, MalformedError, RequestHeads, ResponseHeads
from cpg_trio.http.messages import MAX_HEAD_BYTES, Incoming, IncomingRequest, IncomingResponse

# Of everything that is read, so that what is read again is found there.
REQUEST_HEADS, RESPONSE_HEADS = RequestHeads(), ResponseHeads()

Headers: TypeAlias = list[tuple[bytes, bytes]]
Head: TypeAlias = h11.Request | h11.Response | h11.InformationalResponse


@attrs.frozen
class Reading:
    """What somebody has read. `subject`: method and target, or status and reason."""

    subject: tuple[bytes, bytes] | None
    version: bytes
    headers: Headers
    body: bytes
    trailers: Headers
    complete: bool
    keep_alive: bool
    rest: bytes


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut some bytes at these places."""
    ends = sorted({cut for cut in cuts if 0 < cut < len(data)})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


def feed(message: Incoming[Any], data: bytes, cuts: Iterable[int] = ()) -> tuple[bytes, bytes]:
    """Feed a message; return its body, and what follows it. Raises: MalformedError.

    Every other piece behind the head is passed through, as the relay does it.
    """
    body, rest = b"", b""
    for number, piece in enumerate(pieces(data, cuts)):
        if message.has_head and not message.complete and number % 2:
            buffer = bytearray(piece)
            part, behind = message.pass_through(memoryview(buffer))
            body += part
            buffer[:] = bytes(len(buffer))  # somebody else has the buffer now
        else:
            behind = piece if message.complete else message.feed(piece)
            body += message.take()
        rest += behind
    return body, rest


def read_request(data: bytes, cuts: Iterable[int] = ()) -> Reading | None:
    """Read a request as this project does; None if it is refused."""
    request = IncomingRequest()
    request.heads = REQUEST_HEADS
    try:
        body, rest = feed(request, data, cuts)
    except MalformedError:
        return None
    request.keep_head()
    return _reading(request, (request.method, request.target), body, rest)


def read_response(data: bytes, cuts: Iterable[int] = (), *, to_head: bool = False) -> Reading | None:
    """Read a response, and the end of its connection if it ends by it; None if it is refused."""
    response = IncomingResponse()
    response.to_head, response.heads = to_head, RESPONSE_HEADS
    try:
        body, rest = feed(response, data, cuts)
        if response.framing is Framing.CLOSE:
            response.end_of_stream()
    except MalformedError:
        return None
    subject = (b"%d" % response.status, response.reason) if response.has_head else (b"", b"")
    return _reading(response, subject, body, rest)


def _reading(message: Incoming[Any], subject: tuple[bytes, bytes], body: bytes, rest: bytes) -> Reading:
    return Reading(
        subject if message.has_head else None,
        message.version.encode() if message.has_head else b"",
        message.headers,
        body,
        message.trailers,
        message.complete,
        message.keep_alive,
        rest,
    )


def read_request_by_h11(data: bytes) -> Reading | None:
    """Read a request as h11 does, and its target as RFC 9112, 3.2.2 does; None if h11 refuses it."""
    reading = _read_by(h11.Connection(h11.SERVER, MAX_HEAD_BYTES), data)
    return None if reading is None else _in_origin_form(reading)


def _in_origin_form(request: Reading) -> Reading:
    method, target = request.subject or (b"", b"")
    scheme, slashes, rest = target.partition(b"://")
    if scheme.lower() not in {b"http", b"https"} or method == b"CONNECT" or not slashes:
        return request
    host = re.split(rb"[/?]", rest, maxsplit=1)[0]
    path = rest[len(host) :]
    if not path.startswith(b"/"):
        path = b"*" if method == b"OPTIONS" and not path else b"/" + path
    headers = [(name, host if name.lower() == b"host" else value) for name, value in request.headers]
    if b"host" not in {name.lower() for name, _ in headers}:
        headers.append((b"host", host))
    return attrs.evolve(request, subject=(method, path), headers=headers)


def read_response_by_h11(data: bytes, *, to_head: bool = False) -> Reading | None:
    """Read a response as h11 does, which asked for another protocol; None if it refuses it."""
    connection = h11.Connection(h11.CLIENT, MAX_HEAD_BYTES)
    wish = [("Host", "h"), ("Connection", "upgrade"), ("Upgrade", "x")]
    connection.send(h11.Request(method="HEAD" if to_head else "GET", target="/", headers=wish))
    connection.send(h11.EndOfMessage())
    return _read_by(connection, data)


def _read_by(connection: h11.Connection, data: bytes) -> Reading | None:
    if data:  # nothing at all would be the end of the connection
        connection.receive_data(data)
    try:
        return _events_of(connection)
    except h11.RemoteProtocolError:
        return None


def _events_of(connection: h11.Connection) -> Reading:
    head: Head | None = None
    body, trailers, complete = b"", [], False
    while not complete:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            trailers, complete = event.headers.raw_items(), True
        elif isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
            head, complete = event, isinstance(event, h11.InformationalResponse)
        elif head is None or not _ends_with_connection(connection, head):
            break
        else:
            connection.receive_data(b"")
    return Reading(
        _subject(head),
        head.http_version if head else b"",
        head.headers.raw_items() if head else [],
        body,
        trailers,
        complete,
        _keeps_alive(connection),
        connection.trailing_data[0],
    )


def _ends_with_connection(connection: h11.Connection, head: Head) -> bool:
    names = {name for name, _ in head.headers}
    framed = bool({b"content-length", b"transfer-encoding"} & names)
    return isinstance(head, h11.Response) and not framed and not connection.trailing_data[1]


def _keeps_alive(connection: h11.Connection) -> bool:
    over = connection.trailing_data[1] or connection.their_state is h11.SWITCHED_PROTOCOL
    return connection._cstate.keep_alive and not over


def _subject(head: Head | None) -> tuple[bytes, bytes] | None:
    if head is None:
        return None
    if isinstance(head, h11.Request):
        return head.method, head.target
    return b"%d" % head.status_code, head.reason


_TARGET = re.compile(rb"(?<= )[^ ]+(?= )")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")


def as_others_want_it(data: bytes) -> bytes:
    """Return a request without the two things that we take and h11 does not.

    An empty line before it is ignored (RFC 9112, 2.2), and a target beyond ASCII is percent-encoded.
    """
    data = data.removeprefix(b"\r\n") if data != b"\r" else b""
    line, end, rest = data.partition(b"\r\n")
    return _TARGET.sub(_encoded, line, count=1) + end + rest


def _encoded(target: re.Match[bytes]) -> bytes:
    return _NOT_ASCII.sub(lambda byte: b"%%%02X" % byte[0][0], target[0])


def rendered(request: Reading) -> bytes:
    """Write a complete request anew from what was read of it, as whoever passes it on does."""
    assert request.subject is not None
    line = b"%s %s HTTP/%s\r\n" % (*request.subject, request.version)
    head = line + _lines(request.headers) + b"\r\n"
    if not any(name.lower() == b"transfer-encoding" for name, _ in request.headers):
        return head + request.body
    chunk = b"%x\r\n%s\r\n" % (len(request.body), request.body) if request.body else b""
    return head + chunk + b"0\r\n" + _lines(request.trailers) + b"\r\n"


def _lines(headers: Headers) -> bytes:
    return b"".join(b"%s: %s\r\n" % header for header in headers)


def alike(ours: Reading, theirs: Reading) -> bool:
    """Say whether two readings of one message are the same.

    What h11 does not give as it came is compared as it gives it: codings in lower case. What an interim
    response says of its connection is the final one's to say.
    """
    return _comparable(ours) == _comparable(theirs)


def _comparable(reading: Reading) -> Reading:
    headers = [(name, _plain(name, value)) for name, value in reading.headers]
    interim = reading.subject is not None and reading.subject[0].startswith(b"1")
    return attrs.evolve(reading, headers=headers, keep_alive=interim or reading.keep_alive)


def _plain(name: bytes, value: bytes) -> bytes:
    return value.lower() if name.lower() == b"transfer-encoding" else value


def assert_read_in_one_way(data: bytes, cuts: Iterable[int] = ()) -> None:
    """Assert that a request is refused, or is to us, to us in pieces, and to h11 the very same thing.

    It is to h11 what it was, too, when it is written anew from what we have read of it.
    """
    ours = read_request(data)
    assert read_request(data, cuts) == ours
    if ours is None:
        return
    theirs = read_request_by_h11(as_others_want_it(data))
    assert theirs is not None
    if not ours.complete:
        assert not theirs.complete
        return
    assert alike(ours, theirs)
    again = read_request_by_h11(rendered(ours))
    assert again is not None
    assert alike(attrs.evolve(ours, rest=b""), again)


def assert_response_read_in_one_way(data: bytes, cuts: Iterable[int] = (), *, to_head: bool = False) -> None:
    """Assert that a response is refused, or is to us, to us in pieces, and to h11 the very same thing."""
    ours = read_response(data, to_head=to_head)
    assert read_response(data, cuts, to_head=to_head) == ours
    if ours is None:
        return
    theirs = read_response_by_h11(data, to_head=to_head)
    assert theirs is not None
    if ours.complete:
        assert alike(ours, theirs)
    else:
        assert not theirs.complete
