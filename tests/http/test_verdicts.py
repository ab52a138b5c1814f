"""What a server answers to the corpus: an attack gets an error and goes no further, whatever reads it.

Each engine of HTTP/1.1 is sent all of the corpus, and HTTP/2 all that can be written as fields and a body.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import attrs
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
import trio

from cpg_trio.asgi import Receive, Scope, Send, send_response
from cpg_trio.http import ServeConfig, serve
from cpg_trio.http.server.config import Http1Engine
from tests.http import corpus
from tests.http.corpus import HIDDEN, Bad, Good
from tests.http.reading import Reading, as_others_want_it, read_request_by_h11

BOUND_S = 10.0  # nothing here takes as long, unless a server waits for what does not come
AT_ONCE = 20
GOODBYE = b"GET /goodbye HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

Requests: TypeAlias = list[tuple[str, bytes, bytes]]


@attrs.frozen
class Verdict:
    """What came of an entry: a status if there was one, whether the server closed, and what was called."""

    status: int | None
    closed: bool
    reached: Requests = attrs.field(factory=list)

    @property
    def is_refusal(self) -> bool:
        refused = self.status is None or 400 <= self.status < 600
        return refused and self.closed and not self.reached


Judge: TypeAlias = Callable[[trio.SocketStream, "Bad | Good"], Awaitable[Verdict]]


class Recorder:
    """An application that keeps the requests of each client's port: method, target and body, when whole."""

    def __init__(self) -> None:
        self.requests: defaultdict[int, Requests] = defaultdict(list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                _, port = scope["client"]
                self.requests[port].append((scope["method"], scope["raw_path"], body))
                await send_response(send, 200)
                return


async def verdicts(
    judge: Judge, entries: tuple[Bad | Good, ...], engine: Http1Engine = Http1Engine.OWN
) -> dict[str, Verdict]:
    """Send each entry to one server, on a connection of its own; return what came of it, by its name."""
    recorder, found, limit = Recorder(), dict[str, Verdict](), trio.CapacityLimiter(AT_ONCE)

    async def judge_one(address: tuple[str, int], entry: Bad | Good) -> None:
        async with limit, await trio.open_tcp_stream(*address) as stream:
            _, port = stream.socket.getsockname()
            it = await judge(stream, entry)
            found[entry.name] = attrs.evolve(it, reached=recorder.requests.pop(port, []))

    async with trio.open_nursery() as server:
        config = ServeConfig(http1_engine=engine, grace_s=0)
        (url,) = await server.start(partial(serve, recorder, config=config))
        host, _, port = url.removeprefix("http://").rpartition(":")
        async with trio.open_nursery() as clients:
            for entry in entries:
                clients.start_soon(judge_one, (host, int(port)), entry)
        server.cancel_scope.cancel()
    return found


def by_h11(good: Good) -> Reading:
    reading = read_request_by_h11(as_others_want_it(good.data))
    assert reading is not None
    return reading


# HTTP/1.1


async def on_http1(stream: trio.SocketStream, entry: Bad | Good) -> Verdict:
    """Send the bytes of an entry, and read what comes until the server closes, or a bound is reached."""
    more = GOODBYE if isinstance(entry, Good) and by_h11(entry).keep_alive else b""
    received, closed = b"", False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, stream, entry.data + more)
        with trio.move_on_after(BOUND_S):
            with suppress(trio.BrokenResourceError):
                async for piece in stream:
                    received += piece
            closed = True
        nursery.cancel_scope.cancel()
    final = re.search(rb"(?:\A|\r\n\r\n)HTTP/1\.1 ([2-5]\d\d) ", received)
    return Verdict(int(final[1]) if final else None, closed)


async def _send(stream: trio.SocketStream, data: bytes) -> None:
    with suppress(trio.BrokenResourceError):  # it need not hear us out
        await stream.send_all(data)


def expected_on_http1(good: Good) -> Verdict:
    """What is to come of a good entry: it is called as it is, then what is meant to follow, and no more."""
    reading = by_h11(good)
    assert reading.subject is not None
    method, target = reading.subject
    meant = [(method.decode(), target.partition(b"?")[0], good.body)]
    if reading.keep_alive:
        paths = [b"/hidden"] * (HIDDEN in good.rest) + [b"/"] * (corpus.get() in good.rest) + [b"/goodbye"]
        meant += [("GET", path, b"") for path in paths]
    return Verdict(200, closed=True, reached=meant)


@pytest.mark.parametrize("engine", Http1Engine)
async def test_an_attack_is_refused_and_never_reaches_the_application(engine: Http1Engine) -> None:
    found = await verdicts(on_http1, corpus.REFUSED, engine)
    assert len(found) == len(corpus.REFUSED)
    assert {name: it for name, it in found.items() if not it.is_refusal} == {}


@pytest.mark.parametrize("engine", Http1Engine)
async def test_a_good_request_reaches_the_application_as_it_is_and_brings_nothing_along(
    engine: Http1Engine,
) -> None:
    found = await verdicts(on_http1, corpus.ACCEPTED, engine)
    assert found == {good.name: expected_on_http1(good) for good in corpus.ACCEPTED}


# HTTP/2

_WINDOW_BYTES = 65_535
_LARGE_BYTES = 20_000  # entries about sizes: a field has 32 bytes more on HTTP/2 (RFC 9113, 10.5.1)
_REFUSED_ON_HTTP2 = {"target beyond ASCII"}
_FRAMING = frozenset({b"transfer-encoding", b"connection", b"keep-alive", b"upgrade", b"http2-settings"})


@attrs.frozen
class Translated:
    """A message of HTTP/1.1 as HTTP/2 writes it."""

    fields: list[tuple[bytes, bytes]]
    body: bytes


def translated(data: bytes) -> Translated | None:
    """Write a message as HTTP/2 does; None for one whose point is its size, or how HTTP/1.1 is written."""
    head, end, body = data.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    parts = line.split(b" ")
    if (
        len(head) > _LARGE_BYTES
        or not end
        or len(parts) != 3
        or parts[2] != b"HTTP/1.1"
        or not all(b":" in each for each in lines)
    ):
        return None
    pairs = [
        (name.lower(), value.strip(b" \t")) for name, _, value in (each.partition(b":") for each in lines)
    ]
    pseudo = [(b":method", parts[0]), (b":scheme", b"http"), (b":path", parts[1])]
    hosts = [value for name, value in pairs if name == b"host"]
    pseudo += [(b":authority", host) for host in hosts]
    return Translated(pseudo + [pair for pair in pairs if pair[0] != b"host"], body)


async def on_http2(stream: trio.SocketStream, entry: Bad | Good) -> Verdict:
    """Send an entry as a request of HTTP/2; read until the response, or the end of the stream."""
    message = translated(entry.data)
    assert message is not None
    fields, body = message.fields, message.body
    if isinstance(entry, Good):
        fields, body = [field for field in fields if field[0] not in _FRAMING], entry.body
    config = h2.config.H2Configuration(
        header_encoding=None,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        validate_inbound_headers=False,
    )
    client = h2.connection.H2Connection(config)
    client.initiate_connection()
    client.send_headers(1, fields, end_stream=not body)
    body = body[:_WINDOW_BYTES]
    for at in range(0, len(body), 16_384):
        client.send_data(1, body[at : at + 16_384], end_stream=at + 16_384 >= len(body))
    status = None
    with trio.fail_after(BOUND_S), suppress(trio.BrokenResourceError):
        await stream.send_all(client.data_to_send())
        while data := await stream.receive_some():
            for event in client.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    status = int(dict(event.headers)[b":status"])
                if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                    return Verdict(status, closed=True)
            await stream.send_all(client.data_to_send())
    return Verdict(status, closed=True)


async def test_an_attack_is_refused_on_http2_if_it_can_be_written_there() -> None:
    entries = tuple(bad for bad in corpus.REFUSED if translated(bad.data) is not None)
    found = await verdicts(on_http2, entries)
    assert {name: it for name, it in found.items() if not it.is_refusal} == {}


async def test_a_good_request_reaches_the_application_on_http2_as_it_is() -> None:
    entries = tuple(
        good
        for good in corpus.ACCEPTED
        if translated(good.data) is not None and good.name not in _REFUSED_ON_HTTP2
    )
    found = await verdicts(on_http2, entries)
    wanted = {good.name: expected_on_http1(good) for good in entries}
    assert found == {name: attrs.evolve(it, reached=it.reached[:1]) for name, it in wanted.items()}
