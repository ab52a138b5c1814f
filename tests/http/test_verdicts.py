"""What a server answers to the corpus: an attack gets an error and the end of its connection, and no further.

One server for each lane is sent all of it at once; the tests look at what came of it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import attrs
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
class Lane:
    """A way to serve HTTP/1.1, and the part of the corpus that it judges as it should."""

    name: str
    config: ServeConfig
    refused: tuple[Bad, ...] = corpus.REFUSED
    accepted: tuple[Good, ...] = corpus.ACCEPTED


# What h11 takes and Hypercorn's lane does not. What else h11 takes, that lane takes as well.
REFUSED_BEFORE_HYPERCORN = (
    *("CL.TE", "CL.TE that agree", "CL.0 with a coding", "GET with both", "TE.TE: behind a bare LF"),
    *("length: behind a bare LF", "chunk: last one and two bare LF", "trailer: bare LF"),
    *("request line: HTTP/0.9 said", "request line: HTTP/1.2", "request line: HTTP/2.0"),
    *("request line: bare LF", "line ends: bare LF throughout", "line ends: bare LF at the last"),
    *("line ends: LF CR LF", "field: value with LF"),
)
LANES = (
    Lane("own", ServeConfig()),
    Lane(
        "hypercorn",
        ServeConfig(http1_engine=Http1Engine.HYPERCORN),
        tuple(
            bad
            for bad in corpus.REFUSED
            if bad.name in REFUSED_BEFORE_HYPERCORN or read_request_by_h11(bad.data) is None
        ),
        tuple(good for good in corpus.ACCEPTED if good.name != "empty line before"),
    ),
)
ATTACKS = [pytest.param(lane, bad, id=f"{lane.name}-{bad.name}") for lane in LANES for bad in lane.refused]
GOOD = [pytest.param(lane, good, id=f"{lane.name}-{good.name}") for lane in LANES for good in lane.accepted]


@attrs.frozen
class Verdict:
    """What a client got for what it sent: a status, or none, and whether the server closed the connection."""

    status: int | None
    closed: bool


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


async def verdict(stream: trio.SocketStream, data: bytes) -> Verdict:
    """Send some bytes, and read what comes until the server closes, or a bound is reached."""
    received, closed = b"", False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, stream, data)
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


def by_h11(good: Good) -> Reading:
    reading = read_request_by_h11(as_others_want_it(good.data))
    assert reading is not None
    return reading


async def _verdicts(lane: Lane) -> dict[Bad | Good, tuple[Verdict, Requests]]:
    """Send everything to one server; return what came of each, and what reached the application."""
    recorder, verdicts = Recorder(), dict[Bad | Good, tuple[Verdict, Requests]]()
    limit = trio.CapacityLimiter(AT_ONCE)

    async def judge(address: tuple[str, int], entry: Bad | Good) -> None:
        more = GOODBYE if isinstance(entry, Good) and by_h11(entry).keep_alive else b""
        async with limit, await trio.open_tcp_stream(*address) as stream:
            _, port = stream.socket.getsockname()
            it = await verdict(stream, entry.data + more)
            verdicts[entry] = it, recorder.requests.pop(port, [])  # while the port is ours

    async with trio.open_nursery() as server:
        (url,) = await server.start(partial(serve, recorder, config=lane.config))
        host, _, port = url.removeprefix("http://").rpartition(":")
        async with trio.open_nursery() as clients:
            entries: list[Bad | Good] = [*lane.refused, *lane.accepted]
            for entry in entries:
                clients.start_soon(judge, (host, int(port)), entry)
        server.cancel_scope.cancel()
    return verdicts


@pytest.fixture(scope="module")
def verdicts() -> dict[str, dict[Bad | Good, tuple[Verdict, Requests]]]:
    return {lane.name: trio.run(_verdicts, lane) for lane in LANES}


@pytest.mark.parametrize(("lane", "bad"), ATTACKS)
def test_an_attack_is_refused_and_never_reaches_the_application(
    lane: Lane, bad: Bad, verdicts: dict[str, dict[Bad | Good, tuple[Verdict, Requests]]]
) -> None:
    it, reached = verdicts[lane.name][bad]
    assert it.closed
    assert it.status is None or 400 <= it.status < 600
    assert not reached


@pytest.mark.parametrize(("lane", "good"), GOOD)
def test_a_good_request_reaches_the_application_as_it_is_and_brings_nothing_along(
    lane: Lane, good: Good, verdicts: dict[str, dict[Bad | Good, tuple[Verdict, Requests]]]
) -> None:
    it, reached = verdicts[lane.name][good]
    reading = by_h11(good)
    assert reading.subject is not None
    method, target = reading.subject
    assert it == Verdict(200, closed=True)
    assert reached[0] == (method.decode(), target.partition(b"?")[0], good.body)
    meant = [b"/hidden"] * (HIDDEN in good.rest) + [b"/"] * (corpus.get() in good.rest) + [b"/goodbye"]
    assert [path for _, path, _ in reached[1:]] == (meant if reading.keep_alive else [])
