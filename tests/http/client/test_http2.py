"""Requests over HTTP/2 whose body goes on while the response comes, at our server and at scripted peers."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import cast

import h2.config
import h2.connection
import h2.events
import pytest
import trio
import trio.testing
import trustme
from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame, PingFrame

from cpg_trio.asgi import Receive, Scope, Send
from cpg_trio.http import (
    ConnectFailedError,
    ConnectionBrokenError,
    InvalidRequestError,
    Origin,
    Pool,
    ProtocolError,
    Request,
    ServeConfig,
    StreamResetError,
)
from cpg_trio.http.channel import Channel
from cpg_trio.http.client import http2
from cpg_trio.http.client.exchange import Connection
from cpg_trio.http.client.http2 import Http2Connection, Http2Exchange
from tests.certificates import LOCAL, Files
from tests.http.apps import served
from tests.plugin.running import eventually


async def mirror(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer each part of the body with the same, as it comes."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["path"].encode())]}
    )
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})
        if not more:
            return


def request(body: AsyncIterator[bytes] | bytes, target: bytes = b"/mirror") -> Request:
    return Request(b"POST", target, [(b"transfer-encoding", b"chunked"), (b"X-Field", b"v")], body)


class Talk:
    """The body of a request, which the test writes while it reads the response."""

    def __init__(self) -> None:
        self.say, self._said = trio.open_memory_channel[bytes](0)
        self.closed = trio.Event()

    async def body(self) -> AsyncGenerator[bytes, None]:
        try:
            async for data in self._said:
                yield data
        finally:
            self.closed.set()


async def rest(exchange: Http2Exchange) -> bytes:
    return b"".join([data async for data in exchange])


async def test_a_response_is_read_while_the_request_is_written() -> None:
    talk = Talk()
    async with served(mirror) as url, Pool() as pool:
        origin, _ = Origin.parse(url)
        with trio.fail_after(10):
            async with pool.duplex(origin, request(talk.body())) as exchange:
                for text in (b"one", b"two"):
                    await talk.say.send(text)
                    status, headers = await exchange.response()
                    assert (status, dict(headers)[b"x-path"]) == (200, b"/mirror")
                    assert await anext(exchange) == text
                await talk.say.aclose()
                assert await rest(exchange) == b""
        assert talk.closed.is_set()


async def test_streams_share_a_connection_and_pass_each_other() -> None:
    async with served(mirror) as url, Pool() as pool:
        origin, _ = Origin.parse(url)
        talks = [Talk() for _ in range(20)]
        done: list[int] = []

        async def talk_to(number: int, talk: Talk) -> None:
            async with pool.duplex(origin, request(talk.body())) as exchange:
                await talk.say.send(b"%d" % number)
                assert await anext_of(exchange) == b"%d" % number
                if number:
                    await all_begun.wait()
                else:
                    await trio.testing.wait_all_tasks_blocked(0.02)
                    all_begun.set()
                await talk.say.aclose()
                assert await rest(exchange) == b""
                done.append(number)

        all_begun = trio.Event()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for number, talk in enumerate(talks):
                    nursery.start_soon(talk_to, number, talk)
        assert len(done) == len(talks)
        assert pool.statistics().opened == 1


async def anext_of(exchange: Http2Exchange) -> bytes:
    await exchange.response()
    return await anext(exchange)


async def test_bodies_larger_than_all_windows_pass_in_both_directions() -> None:
    async def large() -> AsyncGenerator[bytes, None]:
        for _ in range(40):
            yield bytes(100_000)

    async with served(mirror) as url, Pool() as pool:
        origin, _ = Origin.parse(url)
        with trio.fail_after(20):
            async with pool.duplex(origin, request(large())) as exchange:
                await exchange.response()
                size = 0
                async for data in exchange:
                    size += len(data)
        assert size == 4_000_000


# Scripted peers


class Peer:
    """A server of one connection that does what a test says."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []

    async def flush(self) -> None:
        await self.stream.send_all(self.h2.data_to_send())

    async def until(self, kind: type[h2.events.Event]) -> h2.events.Event:
        """Wait for an event of a kind, and take it."""
        while True:
            for event in self.events:
                if isinstance(event, kind):
                    self.events.remove(event)
                    return event
            data = await self.stream.receive_some()
            assert data, f"the client left before {kind}"
            self.events += self.h2.receive_data(data)
            await self.flush()

    async def respond(self, stream_id: int, body: bytes = b"") -> None:
        self.h2.send_headers(stream_id, [(":status", "200")])
        if body:
            self.h2.send_data(stream_id, body)
        await self.flush()


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def scripted(*scripts: Script, closed: trio.Semaphore | None = None) -> AsyncIterator[Origin]:
    """Serve one connection for each script. `closed` is released when one has been closed."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def serve_all() -> None:
        for script in scripts:
            stream = await listener.accept()
            async with stream:
                await script(Peer(stream))
            if closed is not None:
                closed.release()

    with trio.fail_after(10):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(serve_all)
            yield Origin("http", "127.0.0.1", port)
            nursery.cancel_scope.cancel()


async def test_a_block_that_is_left_resets_its_stream_and_keeps_the_connection() -> None:
    codes: list[ErrorCodes | int | None] = []

    async def script(peer: Peer) -> None:
        for _ in range(2):
            await peer.until(h2.events.RequestReceived)
            asked.append(True)
            reset = await peer.until(h2.events.StreamReset)
            assert isinstance(reset, h2.events.StreamReset)
            codes.append(reset.error_code)
        done.set()
        await trio.sleep_forever()

    asked, done = list[bool](), trio.Event()
    async with scripted(script) as origin, Pool() as pool:
        talk = Talk()
        async with pool.duplex(origin, request(talk.body())):
            pass
        assert talk.closed.is_set()

        async def wait_for_an_answer() -> None:
            async with pool.duplex(origin, request(Talk().body())) as exchange:
                await exchange.response()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_an_answer)
            await eventually(lambda: len(asked) == 2)
            nursery.cancel_scope.cancel()
        await done.wait()
        assert codes == [ErrorCodes.CANCEL, ErrorCodes.CANCEL]
        assert pool.statistics().opened == 1


@pytest.mark.parametrize("code", [ErrorCodes.REFUSED_STREAM, ErrorCodes.INTERNAL_ERROR])
async def test_a_stream_that_the_peer_resets_fails_behind_what_has_come(code: ErrorCodes) -> None:
    async def script(peer: Peer) -> None:
        event = await peer.until(h2.events.RequestReceived)
        assert isinstance(event, h2.events.RequestReceived)
        await peer.respond(event.stream_id, b"part")
        peer.h2.reset_stream(event.stream_id, code)
        await peer.flush()
        await trio.sleep_forever()

    async with scripted(script) as origin, Pool() as pool:
        async with pool.duplex(origin, request(Talk().body())) as exchange:
            assert await anext_of(exchange) == b"part"
            with pytest.raises(StreamResetError, match=code.name) as caught:
                await anext(exchange)
        assert caught.value.code == code


async def test_streams_before_a_goaway_go_on_and_the_next_one_has_another_connection() -> None:
    async def going(peer: Peer) -> None:
        first = await peer.until(h2.events.RequestReceived)
        second = await peer.until(h2.events.RequestReceived)
        assert isinstance(first, h2.events.RequestReceived)
        assert isinstance(second, h2.events.RequestReceived)
        await peer.respond(first.stream_id)
        await peer.stream.send_all(GoAwayFrame(0, last_stream_id=first.stream_id).serialize())
        gone.set()
        await peer.until(h2.events.StreamEnded)
        peer.h2.send_data(first.stream_id, b"the rest", end_stream=True)
        await peer.flush()

    async def staying(peer: Peer) -> None:
        event = await peer.until(h2.events.RequestReceived)
        assert isinstance(event, h2.events.RequestReceived)
        await peer.respond(event.stream_id, b"another")
        await trio.sleep_forever()

    gone = trio.Event()
    async with scripted(going, staying) as origin, Pool() as pool:
        talk = Talk()
        async with pool.duplex(origin, request(talk.body())) as first:
            async with pool.duplex(origin, request(Talk().body())) as second:
                await first.response()
                with pytest.raises(StreamResetError, match="REFUSED_STREAM"):
                    await second.response()
            await gone.wait()
            await talk.say.aclose()
            assert await rest(first) == b"the rest"
        async with pool.duplex(origin, request(Talk().body())) as third:
            assert await anext_of(third) == b"another"
        assert pool.statistics().opened == 2


async def test_a_connection_that_breaks_fails_its_streams() -> None:
    async def script(peer: Peer) -> None:
        event = await peer.until(h2.events.RequestReceived)
        assert isinstance(event, h2.events.RequestReceived)
        await peer.respond(event.stream_id)

    async with scripted(script) as origin, Pool() as pool:
        async with pool.duplex(origin, request(Talk().body())) as exchange:
            await exchange.response()
            with pytest.raises(ConnectionBrokenError):
                await anext(exchange)
        assert pool.statistics().active == 0


async def test_a_peer_that_speaks_http1_is_no_peer() -> None:
    async def script(peer: Peer) -> None:
        await peer.stream.receive_some()
        await peer.stream.send_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await trio.sleep_forever()

    async with (
        scripted(script) as origin,
        Pool() as pool,
        pool.duplex(origin, request(Talk().body())) as exchange,
    ):
        with pytest.raises(ProtocolError, match="does not speak HTTP/2"):
            await exchange.response()


async def test_a_connection_that_the_peer_has_closed_while_it_was_idle_is_not_used() -> None:
    async def script(peer: Peer) -> None:
        event = await peer.until(h2.events.RequestReceived)
        assert isinstance(event, h2.events.RequestReceived)
        peer.h2.send_headers(event.stream_id, [(":status", "200")], end_stream=True)
        await peer.flush()
        await peer.until(h2.events.StreamEnded)

    closed = trio.Semaphore(0)
    async with scripted(script, script, closed=closed) as origin, Pool() as pool:
        for _ in range(2):
            talk = Talk()
            async with pool.duplex(origin, request(talk.body())) as exchange:
                await talk.say.aclose()
                await exchange.response()
                assert await rest(exchange) == b""
            await closed.acquire()
        assert pool.statistics().opened == 2


async def test_an_answer_without_a_status_is_none() -> None:
    async def script(peer: Peer) -> None:
        event = await peer.until(h2.events.RequestReceived)
        assert isinstance(event, h2.events.RequestReceived)
        peer.h2.config.validate_outbound_headers = False
        peer.h2.send_headers(event.stream_id, [(":status", "ok")])
        await peer.flush()
        await trio.sleep_forever()

    async with (
        scripted(script) as origin,
        Pool() as pool,
        pool.duplex(origin, request(b"whole")) as exchange,
    ):
        with pytest.raises(ProtocolError, match="has no status"):
            await exchange.response()


class Stuck:
    """A channel whose peer reads nothing."""

    def send_nowait(self, _data: bytes) -> int:
        return 0


async def test_a_peer_that_asks_without_end_and_reads_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http2, "_MOST_UNSENT_BYTES", 2**14)
    used = Connection(Origin("http", "127.0.0.1", 1), cast("Channel", Stuck()))
    connection = Http2Connection(used, 2**16, lambda _: None)
    pings = PingFrame(0, opaque_data=bytes(8)).serialize() * 100
    for _ in range(12):
        connection._received(pings)
        connection.flush_nowait()
    assert connection.is_broken
    assert len(connection._unsent) < 2**16


async def test_trailers_come_behind_the_body() -> None:
    async def script(peer: Peer) -> None:
        event = await peer.until(h2.events.RequestReceived)
        assert isinstance(event, h2.events.RequestReceived)
        await peer.respond(event.stream_id, b"body")
        peer.h2.send_headers(event.stream_id, [("x-end", "t")], end_stream=True)
        await peer.flush()
        await trio.sleep_forever()

    async with (
        scripted(script) as origin,
        Pool() as pool,
        pool.duplex(origin, request(b"whole")) as exchange,
    ):
        await exchange.response()
        assert await rest(exchange) == b"body"
        assert exchange.trailers == [(b"x-end", b"t")]


async def test_an_error_of_the_body_is_raised_by_leaving_the_block() -> None:
    async def failing() -> AsyncGenerator[bytes, None]:
        yield b"a"
        raise ZeroDivisionError

    async with served(mirror) as url, Pool() as pool:
        origin, _ = Origin.parse(url)
        with pytest.raises(ZeroDivisionError):
            async with pool.duplex(origin, request(failing())) as exchange:
                await exchange.response()
                await trio.sleep_forever()


async def test_what_cannot_be_sent_is_refused_before_anything_is_done() -> None:
    async with Pool() as pool:
        with pytest.raises(InvalidRequestError):
            pool.duplex(Origin("http", "127.0.0.1", 1), Request(b"POST", b"/\r\n", []))
        with pytest.raises(ConnectFailedError):
            async with pool.duplex(Origin("http", "127.0.0.1", 1), request(b"")):
                raise AssertionError


async def test_an_idle_connection_is_closed_with_the_pool_and_when_it_has_expired() -> None:
    async with served(mirror) as url:
        origin, _ = Origin.parse(url)
        async with Pool(idle_expiry_s=0.05) as pool, trio.open_nursery() as nursery:
            nursery.start_soon(pool.sweep)
            async with pool.duplex(origin, request(b"a")) as exchange:
                await exchange.response()
                assert await rest(exchange) == b"a"
            assert pool.statistics().active == 1
            await eventually(lambda: not pool.statistics().active)
            nursery.cancel_scope.cancel()
        async with Pool() as pool, pool.duplex(origin, request(b"a")) as exchange:
            await exchange.response()
            assert await rest(exchange) == b"a"
        assert pool.statistics().active == 0


async def test_with_tls_the_protocol_is_agreed_on(tmp_path: Path) -> None:
    files = Files.write(tmp_path, trustme.CA(), *LOCAL)
    tls = files.config()
    async with served(mirror, ServeConfig(tls=tls)) as url, Pool(ssl_context=tls.client_contexts()) as pool:
        origin, _ = Origin.parse(url)
        async with pool.duplex(origin, request(b"a")) as exchange:
            await exchange.response()
            assert await rest(exchange) == b"a"
        # What one protocol needs of the context does not reach the other.
        whole = await pool.fetch(origin, Request(b"POST", b"/", [(b"content-length", b"1")], b"b"))
        assert whole.body == b"b"


async def test_with_tls_a_peer_without_http2_is_refused(tmp_path: Path) -> None:
    files = Files.write(tmp_path, trustme.CA(), *LOCAL)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)

    async def ignore(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.do_handshake()

    async with trio.open_nursery() as nursery, Pool(ssl_context=files.config().client_contexts()) as pool:
        serve_tls = partial(trio.serve_ssl_over_tcp, ignore, 0, context, host="127.0.0.1")
        [listener] = await nursery.start(serve_tls)
        port = listener.transport_listener.socket.getsockname()[1]
        with pytest.raises(ConnectFailedError, match="does not speak HTTP/2"):
            async with pool.duplex(Origin("https", "127.0.0.1", port), request(b"")):
                raise AssertionError
        nursery.cancel_scope.cancel()
