"""How slowly a body may come in: a message at a rate, a stream at its leisure once its client is known."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import h2.events
import pytest
import trio
import trio.testing

from cpg_trio.asgi import Receive, Scope, Send, note_message, note_proved, send_text
from cpg_trio.http import ServeConfig, serve
from cpg_trio.http.server.config import Http1Engine
from tests._wire import Http2Wire, Wire, dial, dial_http2, request

TIMEOUT_S = 30.0
RATE = 100.0  # bytes per second
A_WEEK_S = 7 * 86_400.0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Read all, as the path says; answer with its size."""
    if "proved" in scope["path"]:
        note_proved(scope, "somebody")
    if "message" in scope["path"]:
        note_message(scope)
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    await send_text(send, 200, str(size))


Clock = trio.testing.MockClock


class Sender(Protocol):
    """A request whose body comes in pieces."""

    async def begin(self, path: str) -> None: ...

    async def send(self, data: bytes) -> None: ...

    async def end(self) -> bytes:
        """End the body, and return the answer's."""
        ...

    async def gone(self) -> None:
        """Wait until the server has given it up."""


class Chunked:
    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    async def begin(self, path: str) -> None:
        await self.wire.send(request("POST", path, {"transfer-encoding": "chunked"}))

    async def send(self, data: bytes) -> None:
        await self.wire.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> bytes:
        await self.wire.send(b"0\r\n\r\n")
        return (await self.wire.response()).body

    async def gone(self) -> None:
        assert (await self.wire.rest()).removesuffix(b"<reset>") == b""


class Declared(Chunked):
    declared = 1_000_000

    async def begin(self, path: str) -> None:
        await self.wire.send(request("POST", path, {"content-length": str(self.declared)}))
        self.left = self.declared

    async def send(self, data: bytes) -> None:
        await self.wire.send(data)
        self.left -= len(data)

    async def end(self) -> bytes:
        await self.wire.send(b"x" * self.left)
        return (await self.wire.response()).body


class Http2:
    def __init__(self, wire: Http2Wire) -> None:
        self.wire = wire

    async def begin(self, path: str) -> None:
        self.stream = await self.wire.request(path, body=b"", method="POST")

    async def send(self, data: bytes) -> None:
        await self.wire.upload(self.stream, data)

    async def end(self) -> bytes:
        self.wire.h2.end_stream(self.stream)
        await self.wire.flush()
        return (await self.wire.response(self.stream)).body

    async def gone(self) -> None:
        await self.wire.until(h2.events.StreamReset, self.stream)
        other = await self.wire.request("/", method="GET")
        assert (await self.wire.response(other)).body == b"0"  # the connection lives on


Start = Callable[[type[Sender]], AbstractAsyncContextManager[Sender]]


@asynccontextmanager
async def started(folder: Path, *, hypercorn: bool, kind: type[Sender]) -> AsyncIterator[Sender]:
    config = ServeConfig(
        body_timeout_s=TIMEOUT_S,
        min_body_bytes_per_s=RATE,
        http1_engine=Http1Engine.HYPERCORN if hypercorn else Http1Engine.OWN,
    )
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(
            partial(serve, app, bind=f"unix:{folder}/socket", config=config, stop=stop)
        )
        if kind is Http2:
            async with dial_http2(url) as http2:
                yield Http2(http2)
        else:
            async with dial(url) as wire:
                yield Declared(wire) if kind is Declared else Chunked(wire)
        stop.set()


@pytest.fixture(params=[False, True], ids=["own", "hypercorn"])
def start(request: pytest.FixtureRequest, short_path: Path) -> Start:
    return lambda kind: started(short_path, hypercorn=request.param, kind=kind)


every_framing = pytest.mark.parametrize("kind", [Chunked, Declared, Http2])
streams = pytest.mark.parametrize("kind", [Chunked, Http2])


@every_framing
@pytest.mark.parametrize("begun", [b"", b"a beginning"])
async def test_the_body_of_a_stranger_that_never_comes_is_given_up(
    start: Start, kind: type[Sender], begun: bytes, autojump_clock: Clock
) -> None:
    assert autojump_clock.rate == 0
    async with start(kind) as sender:
        await sender.begin("/")
        if begun:
            await sender.send(begun)
        began = trio.current_time()
        await sender.gone()
        assert trio.current_time() - began == pytest.approx(TIMEOUT_S, abs=2)


@streams
async def test_a_stream_of_who_has_proved_an_identity_may_be_silent(
    start: Start, kind: type[Sender], autojump_clock: Clock
) -> None:
    assert autojump_clock.rate == 0
    async with start(kind) as sender:
        await sender.begin("/proved")
        await sender.send(b"a")
        await trio.sleep(A_WEEK_S)
        await sender.send(b"b")
        assert await sender.end() == b"2"


@streams
async def test_a_stream_of_a_stranger_may_take_its_time_if_it_is_not_silent(
    start: Start, kind: type[Sender], autojump_clock: Clock
) -> None:
    assert autojump_clock.rate == 0
    async with start(kind) as sender:
        await sender.begin("/")
        for _ in range(100):
            await sender.send(b"a")
            await trio.sleep(TIMEOUT_S / 2)
        assert await sender.end() == b"100"


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (Declared, "/"),
        (Declared, "/proved"),
        (Chunked, "/message"),
        (Chunked, "/message/proved"),
        (Http2, "/message"),
        (Http2, "/message/proved"),
    ],
)
async def test_a_message_that_drips_is_given_up_whoever_sends_it(
    start: Start, kind: type[Sender], path: str, autojump_clock: Clock
) -> None:
    assert autojump_clock.rate == 0

    async def drip() -> None:
        while True:
            await sender.send(b"x")
            await trio.sleep(1)

    async with start(kind) as sender, trio.open_nursery() as nursery:
        await sender.begin(path)
        began = trio.current_time()
        with trio.fail_after(A_WEEK_S):
            try:
                nursery.start_soon(drip)
                await sender.gone()
            except* trio.BrokenResourceError:
                pass
        assert trio.current_time() - began < 2 * TIMEOUT_S
        nursery.cancel_scope.cancel()


@every_framing
async def test_a_message_may_take_as_long_as_it_keeps_the_rate(
    start: Start, kind: type[Sender], autojump_clock: Clock
) -> None:
    assert autojump_clock.rate == 0
    async with start(kind) as sender:
        await sender.begin("/message")
        for _ in range(200):
            await sender.send(b"x" * int(RATE * 10))
            await trio.sleep(10)
        size = int(await sender.end())
        assert size == (Declared.declared if kind is Declared else 200 * RATE * 10)
