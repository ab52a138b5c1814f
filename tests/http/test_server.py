"""Serving: on real sockets, what a client does is done byte by byte, and the server must live on."""

from __future__ import annotations

import errno
import logging
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import h2.events
import pytest
import trio
import trio.lowlevel
import trio.testing
from h2.errors import ErrorCodes
from hypercorn.protocol.h2 import BufferCompleteError
from hypercorn.trio.worker_context import WorkerContext
from hyperframe.frame import DataFrame, HeadersFrame, PriorityFrame
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason

from cpg_trio import process
from cpg_trio.asgi import (
    App,
    ClientDisconnectedError,
    Receive,
    ResponseAbortedError,
    Scope,
    Send,
    send_text,
)
from cpg_trio.http import BindError, ServeConfig, StartError, serve
from cpg_trio.http.channel import RECEIVE_BYTES
from cpg_trio.http.server.config import Http1Engine
from cpg_trio.http.server.connection import ServerConnection
from cpg_trio.http.server.http1 import Http1Connection, Http1Exchange
from cpg_trio.http.server.http2 import Http2Connection, Http2Exchange
from cpg_trio.http.server.http2_sender import Outbox
from cpg_trio.process import stop_on_signals
from tests._wire import (
    HANDSHAKE,
    WebSocketWire,
    Wire,
    connect,
    dial,
    dial_http2,
    dial_websocket,
    request,
    socket_of,
    trio_websocket_client,
)
from tests.host.routed import Bug
from tests.http.apps import START, Endless, Handler, Held, Watching, chunk, echo, hello, read_body, routed

MOMENT = 0.05


# The server under test


@attrs.frozen
class Server:
    url: str
    urls: tuple[str, ...]
    stop: trio.Event
    stopped: trio.Event
    scope: trio.CancelScope

    async def assert_answers(self) -> None:
        async with dial(self.url) as wire:
            assert (await wire.get("/hello")).body == b"hello"


USUAL: dict[str, Any] = {"linger_s": 0.2}


@pytest.fixture(params=Http1Engine, ids=lambda engine: engine.value)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with each engine of HTTP/1.1."""
    monkeypatch.setitem(USUAL, "http1_engine", request.param)


@asynccontextmanager
async def server(app: App, bind: str | list[str] = "127.0.0.1:0", **settings: Any) -> AsyncIterator[Server]:
    stop, stopped, scope = trio.Event(), trio.Event(), trio.CancelScope()
    config = ServeConfig(**{**USUAL, **settings})

    async def served(task_status: trio.TaskStatus[tuple[str, ...]]) -> None:
        with scope:
            await serve(app, bind=bind, config=config, stop=stop, task_status=task_status)
        stopped.set()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            urls = await nursery.start(served)
            yield Server(urls[0], urls, stop, stopped, scope)
            scope.cancel()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING):
        yield caplog


@pytest.fixture
def silence(log: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is worth a line in the log."""
    yield
    assert [record.getMessage() for record in log.get_records("call")] == []


# What a client cannot do to the others


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize("settings", ["!!not base64!!", "", "AAMAAABkAAQAAP__"])
async def test_a_malformed_h2c_upgrade_ends_nothing_but_its_request(settings: str) -> None:
    upgrade = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": settings}
    async with server(hello) as up:
        async with dial(up.url) as wire:
            response = await wire.get("/", upgrade)
            assert (response.status, response.body) == (200, b"hello")
            assert (await wire.get("/")).status == 200  # on the same connection, still HTTP/1.1
        await up.assert_answers()


@pytest.mark.usefixtures("silence")
async def test_data_after_an_early_http2_response_harms_neither_server_nor_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Http2Connection, "_reset_stream", lambda *_: None)  # as when it and the data cross
    async with server(hello) as up:
        async with dial_http2(up.url) as wire:
            early = await wire.request(body=b"")
            assert (await wire.response(early)).body == b"hello"
            await wire.upload(early, b"x" * 3 * 2**20)  # the credit for it comes back
            assert (await wire.response(await wire.request())).body == b"hello"
        await up.assert_answers()


@pytest.mark.usefixtures("silence")
async def test_an_early_http2_response_tells_the_client_to_stop_uploading() -> None:
    async with server(hello) as up, dial_http2(up.url) as wire:
        early = await wire.request(body=b"")
        assert (await wire.response(early)).body == b"hello"
        assert (await wire.until(h2.events.StreamReset, early)).error_code == ErrorCodes.NO_ERROR
        await wire.stream.send_all(DataFrame(early, b"too late").serialize())
        assert (await wire.response(await wire.request())).body == b"hello"
        await up.assert_answers()


@pytest.mark.usefixtures("silence")
async def test_what_comes_at_once_over_http2_is_read_though_it_is_more_than_one_read_takes() -> None:
    bodies = [letter * 40_000 for letter in (b"a", b"b")]
    async with server(echo) as up, dial_http2(up.url) as wire:
        assert (await wire.response(await wire.request(body=b"warm"))).body == b"warm"
        streams = [await wire.request(body=b"") for _ in bodies]
        await trio.testing.wait_all_tasks_blocked()
        for at in range(0, 40_000, 10_000):  # by turns, so that neither is complete in what is read first
            for stream, body in zip(streams, bodies, strict=True):
                wire.h2.send_data(stream, body[at : at + 10_000], end_stream=at == 30_000)
        burst = wire.h2.data_to_send()
        assert len(burst) > RECEIVE_BYTES
        with socket.socket(fileno=os.dup(socket_of(wire.stream).fileno())) as same:
            same.sendall(burst)  # no task reads meanwhile
        assert [(await wire.response(stream)).body for stream in streams] == bodies


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize("name", ["sec-websocket-protocol", "sec-websocket-extensions", "connection"])
async def test_a_handshake_that_is_not_ascii_is_refused(name: str) -> None:
    value = f"{HANDSHAKE.get(name, 'chat')}, \xe9"
    async with server(hello) as up:
        async with dial(up.url) as wire:
            assert (await wire.get("/", {**HANDSHAKE, name: value})).status == 400
            assert await wire.rest() == b""
        await up.assert_answers()


@pytest.mark.usefixtures("engine")
async def test_a_target_that_is_not_ascii_is_taken_as_if_it_had_been_encoded() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(scope)
        await send_text(send, 200, "seen")

    async with server(app) as up, dial(up.url) as wire:
        await wire.send("GET /ü?q=☃%20 HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert (await wire.response()).status == 200
    assert (seen[0]["path"], seen[0]["raw_path"]) == ("/ü", b"/%C3%BC")
    assert seen[0]["query_string"] == b"q=%E2%98%83%20"


@pytest.mark.parametrize(
    "line", ["GET /ü x HTTP/1.1", "GÉT / HTTP/1.1", "GET /\x7f HTTP/1.1", "GET /\x01ü HTTP/1.1"]
)
@pytest.mark.usefixtures("engine", "silence")
async def test_a_request_line_that_is_none_is_refused(line: str) -> None:
    async with server(hello) as up, dial(up.url) as wire:
        await wire.send(f"{line}\r\nhost: x\r\n\r\n".encode("latin-1"))
        assert (await wire.response()).status == 400


@pytest.mark.usefixtures("silence")
async def test_a_path_that_is_not_ascii_is_refused_on_http2() -> None:
    async with server(hello) as up, dial_http2(up.url) as wire:
        assert await wire.status(await wire.request("/\xe9")) == 400
        assert (await wire.response(await wire.request("/"))).status == 200


@pytest.mark.usefixtures("silence")
async def test_connect_is_refused_on_http2() -> None:
    async with server(hello) as up, dial_http2(up.url) as wire:
        stream_id = wire.h2.get_next_available_stream_id()
        wire.h2.send_headers(stream_id, [(":method", "CONNECT"), (":authority", "elsewhere:443")])
        await wire.flush()
        assert await wire.status(stream_id) == 400
        assert (await wire.response(await wire.request("/"))).status == 200


@pytest.mark.usefixtures("silence")
async def test_priorities_of_streams_that_never_come_cost_nothing() -> None:
    async with server(hello) as up, dial_http2(up.url) as wire:
        for number in range(3001, 6001, 2):
            await wire.stream.send_all(PriorityFrame(number, depends_on=number - 2).serialize())
        assert (await wire.response(await wire.request("/"))).status == 200


async def test_an_error_in_the_protocol_ends_one_connection_and_is_logged(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Http1Connection._take

    def broken(self: Http1Connection, exchange: Http1Exchange) -> None:
        if exchange.target == b"/broken":
            raise RuntimeError("a bug in the protocol")
        take(self, exchange)

    monkeypatch.setattr(Http1Connection, "_take", broken)
    held = Held()
    async with server(routed(held=held)) as up:
        async with dial(up.url) as other, dial(up.url) as wire:
            await other.send(request(path="/held"))
            await held.begun.wait()
            await wire.send(request(path="/broken"))
            assert await wire.rest() == b"<reset>"
            held.release.set()
            assert (await other.response()).body == b"released"
        await up.assert_answers()
    assert log.messages == ["an error ended a connection"]
    assert "a bug in the protocol" in log.text


@pytest.mark.parametrize("protocol", ["1.1", "2"])
@pytest.mark.parametrize("leaves", [True, False])
async def test_an_error_in_a_callback_is_logged_once_although_the_connection_ends_for_another_reason(
    protocol: str,
    leaves: bool,  # noqa: FBT001
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchange = Http1Exchange if protocol == "1.1" else Http2Exchange
    bug = Bug.put(monkeypatch, exchange, "write_nowait")  # it is called while the application is called
    watching = Watching()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        if leaves:
            await watching(receive, send)
        await trio.testing.wait_all_tasks_blocked()
        await chunk(send, b"the end", more=False)

    async with server(app) as up, AsyncExitStack() as stack:
        bug.is_there = True
        if protocol == "1.1":
            wire = await stack.enter_async_context(dial(up.url))
            await wire.send(request(headers={"connection": "close"}))
            stream = wire.stream
        else:
            http2 = await stack.enter_async_context(dial_http2(up.url))
            await http2.request()
            stream = http2.stream
        if leaves:
            await watching.begun.wait()
            with suppress(OSError):  # the server may have been first
                socket_of(stream).shutdown(trio.socket.SHUT_WR)
        assert b"the end" not in await Wire(stream).rest()
    assert log.text.count("RuntimeError: a bug") == 1
    assert "an error ended a connection" in log.messages


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize("number", [errno.EPROTO, errno.EPERM, errno.ECONNABORTED])
async def test_a_connection_that_was_gone_before_it_was_accepted_harms_no_other(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([OSError(number, os.strerror(number))])
    accept = socket.socket.accept

    def gone(self: socket.socket) -> tuple[socket.socket, Any]:
        for error in errors:
            raise error
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", gone)
    async with server(hello) as up:
        for _ in range(3):
            await up.assert_answers()
    assert list(errors) == []


# Framing that the next hop might read differently


@pytest.mark.usefixtures("engine", "silence")
@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\nx-smuggled: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n\n",
        b"GET / HTTP/1.1\nhost: x\n\n",
        b"\nGET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n\nGET / HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
@pytest.mark.parametrize("crumbs", [False, True])
async def test_ambiguous_framing_is_refused(head: bytes, crumbs: bool) -> None:  # noqa: FBT001
    async with server(hello) as up:
        async with dial(up.url) as wire:
            try:
                for part in [head[i : i + 1] for i in range(len(head))] if crumbs else [head]:
                    await wire.send(part)
            except trio.BrokenResourceError:
                pass  # it was refused before its end
            assert (await wire.response()).status == 400
            assert await wire.rest() == b""
        await up.assert_answers()


@pytest.mark.usefixtures("engine", "silence")
async def test_a_bare_lf_in_a_body_is_only_data() -> None:
    async with server(echo) as up, dial(up.url) as wire:
        for _ in range(2):
            await wire.send(request("POST", body=b"\n\n one\nline\n"))
            assert (await wire.response()).body == b"\n\n one\nline\n"


@pytest.mark.usefixtures("engine", "silence")
async def test_a_bare_lf_in_the_trailers_of_a_request_is_refused() -> None:
    async with server(echo) as up, dial(up.url) as wire:
        await wire.send(
            request("POST", headers={"transfer-encoding": "chunked"}) + b"1\r\nx\r\n0\r\na: b\n\r\n"
        )
        assert (await wire.response()).status == 400


@pytest.mark.usefixtures("engine", "silence")
async def test_trailers_of_a_request_and_a_head_in_crumbs_are_accepted() -> None:
    head = request("POST", headers={"transfer-encoding": "chunked"}) + b"1\r\nx\r\n0\r\na: b\r\n\r\n"
    async with server(echo) as up, dial(up.url) as wire:
        for _ in range(2):
            for byte in head:
                await wire.send(bytes([byte]))
            assert (await wire.response()).body == b"x"


@pytest.mark.usefixtures("engine", "silence")
async def test_a_version_that_we_do_not_speak_is_refused() -> None:
    async with server(hello) as up, dial(up.url) as wire:
        await wire.send(b"GET / HTTP/3.0\r\nhost: x\r\n\r\n")
        assert (await wire.response()).status == 505


@pytest.mark.usefixtures("engine", "silence")
async def test_a_head_without_end_is_refused() -> None:
    async with server(hello) as up, dial(up.url) as wire:
        await wire.send(b"GET / HTTP/1.1\r\nx: " + b"y" * 70000)
        assert (await wire.response()).status == 431


@pytest.mark.usefixtures("engine", "silence")
async def test_a_body_that_breaks_after_the_response_has_begun_ends_the_connection() -> None:
    ended = trio.Event()

    async def bidirectional(receive: Receive, send: Send) -> None:
        await send(START)
        await chunk(send, b"begun")
        with pytest.raises(ClientDisconnectedError):
            await read_body(receive)
        ended.set()
        raise ClientDisconnectedError

    async with server(routed(both=bidirectional)) as up:
        async with dial(up.url) as wire:
            await wire.send(request("POST", "/both", {"transfer-encoding": "chunked"}))
            await wire.until(b"begun\r\n")
            await wire.send(b"not a chunk\r\n")
            assert await wire.rest() == b""
        await ended.wait()
        await up.assert_answers()


# HTTP/1.1, as it should be


@pytest.mark.usefixtures("engine")
async def test_a_head_of_sixty_kilobytes_is_read_however_it_is_cut() -> None:
    async with server(hello) as up, dial(up.url) as wire:
        head = request("GET", "/?" + "x" * 60_000)
        for start in range(0, len(head), 10_000):
            await wire.send(head[start : start + 10_000])
        assert (await wire.response()).status == 200


@pytest.mark.usefixtures("engine", "silence")
async def test_what_comes_with_a_head_does_not_count_as_head() -> None:
    head = request("POST", "/?" + "x" * 40_000, {"content-length": "40000"})
    behind = request("GET", "/?" + "x" * 40_000)  # of each head, 64 KiB are allowed
    async with server(echo) as up, dial(up.url) as wire:
        await wire.send(head + b"x" * 40_000 + behind)
        assert len((await wire.response()).body) == 40_000
        assert (await wire.response()).body == b""


@pytest.mark.usefixtures("engine")
async def test_connection_close_is_honoured() -> None:
    async with server(hello) as up, dial(up.url) as wire:
        assert (await wire.get("/", {"connection": "close"})).header(b"connection") == b"close"
        assert await wire.rest() == b""


@pytest.mark.usefixtures("engine", "silence")
async def test_pipelined_requests_are_answered_in_order() -> None:
    seen: list[str] = []
    first = Held()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])
        await (first(receive, send) if scope["path"] == "/1" else hello(scope, receive, send))

    async with server(app) as up, dial(up.url) as wire:
        await wire.send(request(path="/1") + request(path="/2") + request("POST", "/3", body=b"x"))
        await first.begun.wait()
        assert seen == ["/1"]
        await wire.send(request(path="/4"))
        first.release.set()
        assert [(await wire.response()).body for _ in range(4)] == [b"released", b"hello", b"hello", b"hello"]
        assert seen == ["/1", "/2", "/3", "/4"]


@pytest.mark.usefixtures("engine", "silence")
async def test_a_client_that_leaves_with_requests_pipelined_is_noticed() -> None:
    watching = Watching()
    async with server(routed(watch=watching)) as up:
        async with dial(up.url) as wire:
            await wire.send(request(path="/watch") + request(path="/2"))
            await watching.begun.wait()
        await watching.left.wait()


@pytest.mark.usefixtures("engine", "silence")
async def test_pipelining_without_end_is_held_up() -> None:
    held = Held()
    large = request(path="/hello", headers={"x": "y" * 8000})
    async with server(routed(held=held)) as up, dial(up.url) as wire, trio.open_nursery() as nursery:
        await wire.send(request(path="/held"))
        await held.begun.wait()
        nursery.start_soon(wire.send, large * 8000)
        await trio.testing.wait_all_tasks_blocked(MOMENT)
        assert len(nursery.child_tasks) == 1  # the server does not take what it cannot use yet
        held.release.set()
        assert (await wire.response()).body == b"released"
        for _ in range(100):
            assert (await wire.response()).body == b"hello"
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("engine", "silence")
async def test_a_body_is_waited_for_with_100_continue() -> None:
    async with server(echo) as up, dial(up.url) as wire:
        await wire.send(request("POST", headers={"expect": "100-continue", "content-length": "5"}))
        assert (await wire.response()).status == 100
        await wire.send(b"12345")
        assert (await wire.response()).body == b"12345"


async def trailing(_receive: Receive, send: Send) -> None:
    await send({**START, "trailers": True})
    await chunk(send, b"body", more=False)
    await send({"type": "http.response.trailers", "headers": [(b"a", b"1")], "more_trailers": True})
    await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]})


@pytest.mark.usefixtures("engine", "silence")
async def test_trailers_have_no_place_behind_a_body_of_declared_length() -> None:
    async def app(_receive: Receive, send: Send) -> None:
        await send({**START, "headers": [(b"content-length", b"4")], "trailers": True})
        await chunk(send, b"body", more=False)
        await send({"type": "http.response.trailers", "headers": [(b"a", b"1")]})

    async with server(routed(trail=app)) as up, dial(up.url) as wire:
        assert (await wire.get("/trail", {"te": "trailers"})).body == b"body"
        assert (await wire.get("/hello")).body == b"hello"


# HTTP/2 with prior knowledge


@pytest.mark.parametrize(
    "error", [ResponseAbortedError(), ClientDisconnectedError(), ValueError("secret"), None]
)
async def test_a_response_broken_off_on_http2_resets_its_stream_only(
    error: Exception | None, log: pytest.LogCaptureFixture
) -> None:
    async def breaking(_receive: Receive, send: Send) -> None:
        await send(START)
        await chunk(send, b"half of it")
        if error is not None:
            raise error

    held = Held()
    async with server(routed(breaking=breaking, held=held)) as up, dial_http2(up.url) as wire:
        other = await wire.request("/held")
        broken = await wire.request("/breaking")
        assert (await wire.until(h2.events.StreamReset, broken)).error_code == ErrorCodes.INTERNAL_ERROR
        held.release.set()
        assert (await wire.response(other)).body == b"released"
    assert bool(log.messages) == (error is None or isinstance(error, ValueError))


@pytest.mark.usefixtures("silence")
async def test_a_stream_reset_by_the_client_ends_one_call_only() -> None:
    watching, held, endless = Watching(), Held(), Endless()
    async with server(routed(watch=watching, held=held, endless=endless)) as up, dial_http2(up.url) as wire:
        streams = [await wire.request(path) for path in ("/watch", "/held", "/endless")]
        await watching.begun.wait()
        await endless.begun.wait()
        for stream_id in (streams[0], streams[2]):
            wire.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        await wire.flush()
        await watching.left.wait()
        await endless.ended.wait()
        assert isinstance(endless.error, ClientDisconnectedError)
        held.release.set()
        assert (await wire.response(streams[1])).body == b"released"


@pytest.mark.usefixtures("silence")
async def test_a_call_that_does_not_read_holds_up_no_other_on_its_connection() -> None:
    held = Held()
    async with server(routed(held=held, echo=partial(echo, {}))) as up, dial_http2(up.url) as wire:
        stalled = await wire.request("/held", body=b"", method="POST")
        await wire.upload(stalled, b"x" * 65535, pieces_of=4200)  # all that may be sent ahead
        big = b"y" * 200_000
        reading = await wire.request("/echo", body=big, method="POST")
        assert (await wire.response(reading)).body == big
        held.release.set()
        assert (await wire.response(stalled)).body == b"released"


@pytest.mark.usefixtures("silence")
async def test_what_was_never_received_is_credited_to_the_connection_all_the_same() -> None:
    async with server(hello) as up, dial_http2(up.url) as wire:
        await wire.response(await wire.request())
        for _ in range(100):  # more than the window of the connection, were nothing given back
            stream_id = await wire.request(body=b"", method="POST")
            for _ in range(3):
                await wire.stream.send_all(DataFrame(stream_id, b"x" * 10000).serialize())
            assert (await wire.response(stream_id)).body == b"hello"


@pytest.mark.usefixtures("silence")
async def test_padding_is_credited_although_no_application_receives_it() -> None:
    async with server(echo) as up, dial_http2(up.url) as wire:
        await wire.response(await wire.request())
        stream_id = await wire.request(body=b"", method="POST")
        for _ in range(1000):
            while wire.h2.local_flow_control_window(stream_id) < 300:
                await wire.read()
            wire.h2.send_data(stream_id, b"x", pad_length=255)
            await wire.flush()
        wire.h2.end_stream(stream_id)
        await wire.flush()
        assert (await wire.response(stream_id)).body == b"x" * 1000


async def begun_and_abandoned(_receive: Receive, send: Send) -> None:
    await send(START)
    raise ResponseAbortedError


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize("path", ["/watch", "/abandoned"])
async def test_a_stream_that_was_reset_leaves_its_connection_idle(path: str) -> None:
    watching = Watching()
    app = routed(watch=watching, abandoned=begun_and_abandoned)
    async with server(app, grace_s=3600) as up, dial_http2(up.url) as wire:
        stream_id = await wire.request(path)
        if path == "/watch":
            await watching.begun.wait()
            wire.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
            await wire.flush()
            await watching.left.wait()
        else:
            await wire.until(h2.events.StreamReset, stream_id)
        up.stop.set()
        await up.stopped.wait()


@pytest.mark.usefixtures("silence")
async def test_heads_go_out_at_once_after_streams_were_reset_as_their_responses_began() -> None:
    """What is held is sent by an instrument of Trio, which an error would disable for the whole server."""
    begin = list[trio.Event]()

    async def wait(_receive: Receive, send: Send) -> None:
        begin.append(trio.Event())
        await begin[-1].wait()
        await send(START)
        await trio.sleep_forever()

    async def stream(_receive: Receive, send: Send) -> None:
        await send(START)
        await trio.sleep_forever()

    async with server(routed(wait=wait, stream=stream), grace_s=0) as up, dial_http2(up.url) as wire:
        for _ in range(20):  # which of the two comes first is Trio's to choose
            stream_id = await wire.request("/wait")
            await trio.testing.wait_all_tasks_blocked()
            wire.h2.reset_stream(stream_id)
            os.write(socket_of(wire.stream).fileno(), wire.h2.data_to_send())
            begin[-1].set()
            await trio.testing.wait_all_tasks_blocked()
        assert await wire.status(await wire.request("/stream")) == 200


async def test_heads_go_out_at_once_after_one_that_h11_does_not_write() -> None:
    async def refused(_receive: Receive, send: Send) -> None:
        await send({**START, "headers": [(b"x", b" space")]})
        await trio.testing.wait_all_tasks_blocked()
        await send({"type": "http.response.body", "body": b"x"})

    async def stream(_receive: Receive, send: Send) -> None:
        await send(START)
        await trio.sleep_forever()

    app = routed(refused=refused, stream=stream)
    async with server(app, http1_engine=Http1Engine.HYPERCORN, grace_s=0) as up:
        async with dial(up.url) as wire:
            await wire.send(request("GET", "/refused"))
            assert await wire.rest() == b"<reset>"
        async with dial(up.url) as wire:
            await wire.send(request("GET", "/stream"))
            assert (await wire.response(head_only=True)).status == 200


@pytest.mark.usefixtures("silence")
async def test_an_application_is_told_that_its_stream_has_ended() -> None:
    told = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()

    async with server(app) as up, dial_http2(up.url) as wire:
        assert (await wire.response(await wire.request())).body == b"hello"
        await told.wait()


@pytest.mark.usefixtures("silence")
async def test_an_http2_client_that_opens_no_window_loses_its_stream() -> None:
    endless = Endless()
    async with server(routed(endless=endless), send_timeout_s=MOMENT) as up, dial_http2(up.url) as wire:
        await wire.response(await wire.request())
        stalled = await wire.request("/endless")
        reset = await wire.until(h2.events.StreamReset, stalled)
        assert reset.error_code == ErrorCodes.CANCEL
        await endless.ended.wait()
        assert isinstance(endless.error, ClientDisconnectedError)
        assert endless.sent < 200_000  # what did not get through was not piled up
        wire.h2.acknowledge_received_data(65535, stalled)
        assert (await wire.response(await wire.request())).body == b"hello"


async def test_an_outbox_waits_for_room_and_for_its_end() -> None:
    outbox = Outbox(WorkerContext(None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.push, b"x" * 100_000)
        await trio.testing.wait_all_tasks_blocked()
        await outbox.pop(0)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1  # a shut window makes no room
        assert len(await outbox.pop(99_000)) == 99_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.drain)
        nursery.start_soon(outbox.push, b"z" * 100_000)
        await trio.testing.wait_all_tasks_blocked()
        await outbox.close()
    with pytest.raises(BufferCompleteError):
        await outbox.push(b"too late")


@pytest.mark.usefixtures("silence")
async def test_an_http2_client_that_leaves_ends_calls_that_wait_for_its_window() -> None:
    endless = Endless()
    async with server(routed(endless=endless)) as up:
        async with dial_http2(up.url) as wire:
            stream_id = await wire.request("/endless")
            received = 0
            while received < 65535:
                event = await wire.until(h2.events.DataReceived, stream_id)
                received += len(event.data)
        await endless.ended.wait()
        assert isinstance(endless.error, ClientDisconnectedError)


@pytest.mark.usefixtures("silence")
async def test_bytes_that_are_not_http2_end_the_connection_with_a_goaway() -> None:
    async with server(hello) as up:
        async with dial_http2(up.url) as wire:
            await wire.response(await wire.request())
            await wire.stream.send_all(HeadersFrame(2, b"junk", flags=["END_HEADERS"]).serialize())
            assert (await wire.until(h2.events.ConnectionTerminated)).error_code != ErrorCodes.NO_ERROR
            with pytest.raises(EOFError):
                await wire.read()
        await up.assert_answers()


# Errors of the application


@pytest.mark.usefixtures("engine", "silence")
@pytest.mark.parametrize(
    "error", [ResponseAbortedError(), ExceptionGroup("", [ResponseAbortedError(), ClientDisconnectedError()])]
)
@pytest.mark.parametrize(
    ("version", "headers", "end"),
    [
        (b"1.1", [], b"4\r\nhalf\r\n"),
        (b"1.1", [(b"content-length", b"8")], b"half"),
        (b"1.0", [], b"<reset>"),  # its client takes the end of the connection for the end of the body
    ],
)
async def test_an_aborted_response_cannot_be_taken_for_the_whole(
    error: Exception, version: bytes, headers: list[tuple[bytes, bytes]], end: bytes
) -> None:
    async def aborting(_receive: Receive, send: Send) -> None:
        await send({**START, "headers": headers})
        await chunk(send, b"half")
        raise error

    async with server(routed(aborting=aborting)) as up:
        async with dial(up.url) as wire:
            await wire.send(b"GET /aborting HTTP/" + version + b"\r\nhost: x\r\n\r\n")
            assert (await wire.rest()).endswith(end)
        await up.assert_answers()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    "headers", [[(b"content-length", b"3")], [(b"content-length", b"9")], [(b"bad header", b"x")]]
)
async def test_a_response_that_breaks_the_rules_is_the_applications_error(
    headers: list[tuple[bytes, bytes]], log: pytest.LogCaptureFixture
) -> None:
    async def wrong(_receive: Receive, send: Send) -> None:
        await send({**START, "headers": headers})
        await chunk(send, b"12345", more=False)

    async with server(routed(wrong=wrong)) as up:
        async with dial(up.url) as wire:
            await wire.send(request(path="/wrong"))
            await wire.rest()
        await up.assert_answers()
    assert log.messages == ["the application failed on GET '/wrong'"]


# Clients that leave


@pytest.mark.usefixtures("engine", "silence")
async def test_a_client_that_closes_its_sending_side_has_left() -> None:
    watching = Watching()
    async with server(routed(watch=watching)) as up, dial(up.url) as wire:
        await wire.send(request(path="/watch"))
        await watching.begun.wait()
        socket_of(wire.stream).shutdown(socket.SHUT_WR)
        assert (await wire.rest()).removesuffix(b"<reset>") == b""
        await watching.left.wait()
        assert watching.last == {"type": "http.disconnect"}


@pytest.mark.usefixtures("engine", "silence")
async def test_a_client_that_leaves_as_its_head_ends_is_no_error() -> None:
    head = request(headers={"x-long": "x" * 1000})
    async with server(hello) as up:
        for _ in range(20):  # whichever of the two is noticed first
            async with dial(up.url) as wire:
                await wire.send(head[:50])
                await trio.testing.wait_all_tasks_blocked()
                with socket.socket(fileno=os.dup(socket_of(wire.stream).fileno())) as same:
                    assert same.send(head[50:]) == len(head) - 50
                    same.shutdown(socket.SHUT_WR)
                await wire.rest()
        await up.assert_answers()


@pytest.mark.usefixtures("engine", "silence")
async def test_an_early_answer_waits_for_a_client_that_sends_before_it_reads() -> None:
    """Closing under what the client sends would be a reset, which takes the answer with it."""
    answered = trio.Event()

    async def refusing(_receive: Receive, send: Send) -> None:
        await send_text(send, 401, "no")
        answered.set()

    async with server(routed(refuse=refusing), linger_s=60) as up:
        async with dial(up.url) as wire:
            await wire.send(request("POST", "/refuse", {"content-length": str(10**9)}))
            await answered.wait()
            for _ in range(3):
                await trio.testing.wait_all_tasks_blocked()
                await wire.send(b"x" * 65536)
            assert (await wire.response()).status == 401
            assert await wire.rest() == b""
        up.stop.set()
        await up.stopped.wait()  # and no longer than the client


# Time


@pytest.mark.usefixtures("engine", "silence")
@pytest.mark.parametrize("begun", [False, True])
async def test_a_head_in_crumbs_earns_no_time(begun: bool) -> None:  # noqa: FBT001
    async with server(hello, header_timeout_s=4 * MOMENT) as up, dial(up.url) as wire:
        if begun:
            assert (await wire.get()).status == 200
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(10):
            while True:
                await wire.send(b"G")
                await trio.sleep(MOMENT)


@pytest.mark.usefixtures("silence")
async def test_an_idle_connection_is_let_go() -> None:
    async with server(hello, idle_timeout_s=4 * MOMENT) as up:
        async with dial(up.url) as wire:
            assert (await wire.get()).status == 200
            assert await wire.rest() == b""
        async with dial_http2(up.url) as http2:
            assert (await http2.response(await http2.request())).status == 200
            assert (await http2.until(h2.events.ConnectionTerminated)).error_code == ErrorCodes.NO_ERROR
            assert await http2.stream.receive_some() == b""


# WebSocket


class Socket:
    """A WebSocket application that keeps what it received, and echoes it."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.left = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await hello(scope, receive, send)
            return
        await self.accept(receive, send)
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"], "bytes": message["bytes"]})
        self.received.append(message)
        self.left.set()
        with pytest.raises(ClientDisconnectedError):
            await send({"type": "websocket.send", "text": "too late"})

    async def accept(self, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})


@pytest.mark.usefixtures("silence")
async def test_a_websocket_carries_messages_both_ways() -> None:
    async with server(Socket()) as up, dial_websocket(up.url) as ws:
        await ws.send(TextMessage("one", message_finished=False))
        await ws.send(TextMessage(" two"))
        assert await ws.message() == "one two"
        await ws.send(BytesMessage(b"x" * 300_000))
        got = b""
        while len(got) < 300_000:
            got += await ws.message()
        await ws.send(Ping(b"?"))
        assert await ws.event() == Pong(b"?")
        await ws.send(Pong(b"nobody asked"))
        await ws.send(TextMessage("still here"))
        assert await ws.message() == "still here"


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize(
    ("code", "reason", "told"),
    [(4321, "bye", 4321), (1000, None, 1000), (CloseReason.NO_STATUS_RCVD, None, 1005)],
)
async def test_the_application_sees_the_close_code_of_the_client(
    code: int, reason: str | None, told: int
) -> None:
    app = Socket()
    async with server(app) as up, dial_websocket(up.url) as ws:
        await ws.send(CloseConnection(code, reason))
        assert await ws.closed() == told
        await app.left.wait()
        assert app.received == [{"type": "websocket.disconnect", "code": told, "reason": reason or ""}]


@pytest.mark.usefixtures("silence")
async def test_a_websocket_that_breaks_has_code_1006() -> None:
    app = Socket()
    async with server(app) as up:
        async with dial_websocket(up.url) as ws:
            await ws.send(TextMessage("x"))
            assert await ws.message() == "x"
        await app.left.wait()
        assert app.received[0]["code"] == 1006
        await up.assert_answers()


@pytest.mark.usefixtures("silence")
async def test_a_message_that_is_too_large_closes_with_1009() -> None:
    app = Socket()
    async with server(app, websocket_max_message_bytes=1000) as up, dial_websocket(up.url) as ws:
        await ws.send(BytesMessage(b"x" * 100_000))
        assert await ws.closed() == 1009
        await app.left.wait()
        assert app.received[0]["code"] == 1009


@pytest.mark.usefixtures("silence")
async def test_an_application_that_sends_while_a_close_waits_to_be_sent_is_told_that_it_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = trio.Event()
    write = Http1Connection.write

    async def full(self: Http1Connection, data: bytes) -> None:
        if data.startswith(b"\x88"):  # the client reads again when the application has gone on
            await told.wait()
        await write(self, data)

    async def ticking(_receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "text": "tick"})
                await trio.sleep(MOMENT / 10)
        finally:
            told.set()

    monkeypatch.setattr(Http1Connection, "write", full)
    async with server(websocket_app(ticking), websocket_max_message_bytes=1000) as up:
        async with dial_websocket(up.url) as ws:
            await ws.send(BytesMessage(b"x" * 2000))
            assert (await ws.wire.rest()).endswith(b"\x88\x02\x03\xf1")  # the close, 1009
        await up.assert_answers()


@pytest.mark.usefixtures("silence")
async def test_frames_that_cannot_be_parsed_close_with_1002() -> None:
    app = Socket()
    async with server(app) as up, dial_websocket(up.url) as ws:
        await ws.wire.send(b"\xff\xff\xff\xff\xff\xff")
        assert await ws.closed() == 1002
        await app.left.wait()
        assert app.received[0]["code"] == 1002


def websocket_app(handler: Handler) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await hello(scope, receive, send)
            return
        assert (await receive())["type"] == "websocket.connect"
        await handler(receive, send)

    return app


async def test_an_exception_in_a_websocket_closes_it_with_1011(log: pytest.LogCaptureFixture) -> None:
    async def failing(_receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        raise ValueError("secret")

    async with server(websocket_app(failing)) as up, dial_websocket(up.url) as ws:
        event = await ws.event()
        assert isinstance(event, CloseConnection)
        assert (event.code, event.reason) == (1011, "")
        await up.assert_answers()
    assert log.messages == ["the application failed on WEBSOCKET '/'"]


async def accepting(_receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})
    await trio.sleep_forever()


@pytest.mark.usefixtures("silence")
async def test_a_websocket_application_that_returns_closes_with_1000() -> None:
    async def brief(_receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})

    async with server(websocket_app(brief)) as up, dial_websocket(up.url) as ws:
        assert await ws.closed() == 1000


@pytest.mark.usefixtures("silence")
async def test_the_application_chooses_its_close_code_and_then_sees_it() -> None:
    seen: list[Any] = []

    async def closing(receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4000, "reason": "enough"})
        seen.append(await receive())

    async with server(websocket_app(closing)) as up, dial_websocket(up.url) as ws:
        event = await ws.event()
        assert isinstance(event, CloseConnection)
        assert (event.code, event.reason) == (4000, "enough")
        assert await ws.wire.rest() == b""
        assert seen[0]["code"] == 4000


async def test_a_handshake_that_the_application_fails_gets_a_bare_500(log: pytest.LogCaptureFixture) -> None:
    async def failing(_receive: Receive, _send: Send) -> None:
        raise ValueError("secret")

    async with server(websocket_app(failing)) as up, dial(up.url) as wire:
        response = await wire.get("/", HANDSHAKE)
        assert (response.status, response.body) == (500, b"")
        assert await wire.rest() == b""
    assert len(log.messages) == 1


@pytest.mark.usefixtures("silence")
async def test_a_handshake_can_be_refused() -> None:
    async def refusing(_receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close"})

    async with server(websocket_app(refusing)) as up, dial(up.url) as wire:
        assert (await wire.get("/", HANDSHAKE)).status == 403
        assert await wire.rest() == b""


@pytest.mark.usefixtures("silence")
async def test_a_handshake_can_be_refused_with_a_response() -> None:
    async def refusing(_receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"2")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    async with server(websocket_app(refusing)) as up, dial(up.url) as wire:
        response = await wire.get("/", HANDSHAKE)
        assert (response.status, response.body) == (401, b"no")
        assert await wire.rest() == b""


async def refusing(_receive: Receive, send: Send) -> None:
    headers = [(b"www-authenticate", b"Bearer"), (b"content-type", b"text/plain")]
    await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"no token, ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"no socket"})


@pytest.mark.usefixtures("silence")
async def test_a_refusal_has_status_headers_and_body_and_ends_the_connection_in_order() -> None:
    async with server(websocket_app(refusing)) as up:
        async with dial(up.url) as wire:
            response = await wire.get("/", HANDSHAKE)
            assert (response.status, response.body) == (401, b"no token, no socket")
            assert response.header(b"www-authenticate") == b"Bearer"
            assert response.header(b"content-type") == b"text/plain"
            assert response.header(b"date") is not None
            assert response.header(b"connection") == b"close"
            assert await wire.rest() == b""
        await up.assert_answers()


@pytest.mark.usefixtures("silence")
async def test_a_refusal_needs_no_headers_and_no_body() -> None:
    async def refusing(_receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 204})
        await send({"type": "websocket.http.response.body"})

    async with server(websocket_app(refusing)) as up, dial(up.url) as wire:
        response = await wire.get("/", HANDSHAKE)
        assert (response.status, response.body) == (204, b"")
        assert await wire.rest() == b""


async def test_half_a_refusal_cannot_be_taken_for_the_whole(log: pytest.LogCaptureFixture) -> None:
    async def failing(_receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
        raise ValueError("secret")

    async with server(websocket_app(failing)) as up, dial(up.url) as wire:
        await wire.send(request(headers=HANDSHAKE))
        assert (await wire.head()).status == 401
        assert await wire.rest() == b"2\r\nno\r\n"
    assert len(log.messages) == 1


IMPOSSIBLE = [
    {"type": "websocket.accept", "subprotocol": "not offered"},
    {"type": "websocket.accept", "headers": [(b"x", b"no\r\nheader")]},
]


@pytest.mark.parametrize("answer", IMPOSSIBLE)
async def test_an_accept_that_cannot_be_said_is_the_applications_error(
    answer: dict[str, Any], log: pytest.LogCaptureFixture
) -> None:
    async def wrong(_receive: Receive, send: Send) -> None:
        await send(answer)

    async with server(websocket_app(wrong)) as up, dial(up.url) as wire:
        response = await wire.get("/", {**HANDSHAKE, "sec-websocket-protocol": "one, two"})
        assert (response.status, response.body) == (500, b"")
        assert await wire.rest() == b""
    assert log.messages == ["the application failed on WEBSOCKET '/'"]


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize("answer", IMPOSSIBLE)
async def test_an_accept_that_could_not_be_said_has_accepted_nothing(answer: dict[str, Any]) -> None:
    watching = Watching()

    async def stubborn(receive: Receive, send: Send) -> None:
        with pytest.raises(Exception, match=r"Invalid Subprotocol|line end or a NUL"):
            await send(answer)
        await watching(receive, send)

    async with server(websocket_app(stubborn)) as up, dial(up.url) as wire:
        await wire.send(request(headers={**HANDSHAKE, "sec-websocket-protocol": "one, two"}))
        await watching.begun.wait()
        await wire.send(b"frames")
        await watching.left.wait()
        assert await wire.rest() == b""


@pytest.mark.usefixtures("silence")
async def test_a_handshake_that_is_not_one_is_refused() -> None:
    async with server(Socket()) as up, dial(up.url) as wire:
        assert (await wire.get("/", {**HANDSHAKE, "sec-websocket-version": "7"})).status == 400
        assert await wire.rest() == b""


@pytest.mark.usefixtures("silence")
async def test_frames_before_the_handshake_is_answered_end_it() -> None:
    watching = Watching()
    async with server(websocket_app(watching)) as up, dial(up.url) as wire:
        await wire.send(request(headers=HANDSHAKE) + b"frames")
        await watching.left.wait()
        assert await wire.rest() == b""


@pytest.mark.usefixtures("silence")
async def test_compression_is_not_agreed_to() -> None:
    offer = {**HANDSHAKE, "sec-websocket-extensions": "permessage-deflate"}
    async with server(Socket()) as up, dial(up.url) as wire:
        response = await wire.get("/", offer)
        assert response.status == 101
        assert response.header(b"sec-websocket-extensions") is None


@pytest.mark.usefixtures("silence")
async def test_a_websocket_client_that_sends_faster_than_it_is_read_is_held_up() -> None:
    sent = 0

    app = websocket_app(accepting)
    async with server(app) as up, dial_websocket(up.url) as ws, trio.open_nursery() as nursery:

        async def flood() -> None:
            nonlocal sent
            for _ in range(4096):
                await ws.send(BytesMessage(b"x" * 65536))
                sent += 65536

        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked(MOMENT)
        assert sent < 64 * 2**20
        nursery.cancel_scope.cancel()


# WebSocket clients that say nothing, in virtual time; on Unix sockets, where what is sent is there at once

PING_S = 1.0


@asynccontextmanager
async def silent_client(
    app: App, folder: Path, clock: trio.testing.MockClock, **settings: Any
) -> AsyncIterator[WebSocketWire]:
    assert clock.autojump_threshold == 0
    bind = f"unix:{folder / 'socket'}"
    async with server(app, bind, websocket_ping_s=PING_S, **settings) as up, dial_websocket(up.url) as ws:
        yield ws


@pytest.mark.usefixtures("silence")
async def test_a_websocket_client_that_answers_no_ping_is_given_up_with_1006(
    short_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    app = Socket()
    begun = trio.current_time()
    async with silent_client(app, short_path, autojump_clock) as ws:
        assert await ws.event() == Ping()
        assert trio.current_time() - begun == pytest.approx(PING_S)
        assert await ws.wire.rest() == b""  # and no second ping, and no goodbye
        assert trio.current_time() - begun == pytest.approx(2 * PING_S)
        await app.left.wait()
        assert app.received == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]
        assert trio.current_time() - begun == pytest.approx(2 * PING_S)


@pytest.mark.usefixtures("silence")
async def test_the_connection_of_a_websocket_client_that_is_given_up_is_reset(
    autojump_clock: trio.testing.MockClock,
) -> None:
    autojump_clock.autojump_threshold = MOMENT  # of real time: on TCP, what is sent may be on its way
    app = Socket()
    async with server(app, websocket_ping_s=PING_S) as up, dial_websocket(up.url) as ws:
        assert await ws.event() == Ping()
        assert await ws.wire.rest() == b"<reset>"
        await app.left.wait()
        await up.assert_answers()


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize(
    "sign", [Pong(), TextMessage("busy"), TextMessage("half", message_finished=False), Ping()]
)
async def test_a_websocket_client_that_answers_pings_with_anything_is_never_dropped(
    sign: Any, short_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with silent_client(websocket_app(accepting), short_path, autojump_clock) as ws:
        begun = trio.current_time()
        for _ in range(5):
            while await ws.event() != Ping():
                pass
            await trio.sleep(0.9 * PING_S)
            await ws.send(sign)
        assert trio.current_time() - begun == pytest.approx(5 * 1.9 * PING_S)


@pytest.mark.usefixtures("silence")
async def test_a_frame_that_comes_in_by_the_byte_is_a_sign_of_life(
    short_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with silent_client(Socket(), short_path, autojump_clock) as ws:
        for byte in ws.ws.send(TextMessage("slow")):
            await trio.sleep(0.9 * PING_S)
            await ws.wire.send(bytes([byte]))
        assert await ws.message() == "slow"  # and no ping before it


@pytest.mark.usefixtures("silence")
async def test_what_the_server_sends_is_no_sign_of_its_client(
    short_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ended = trio.Event()

    async def ticking(_receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "text": "tick"})
                await trio.sleep(0.3 * PING_S)
        finally:
            ended.set()

    begun = trio.current_time()
    async with silent_client(websocket_app(ticking), short_path, autojump_clock):
        await ended.wait()
        assert trio.current_time() - begun == pytest.approx(2.1 * PING_S)


@pytest.mark.usefixtures("silence")
async def test_a_handshake_is_the_applications_to_answer_in_its_own_time(
    short_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def pondering(_receive: Receive, send: Send) -> None:
        await trio.sleep(5 * PING_S)
        await accepting(_receive, send)

    begun = trio.current_time()
    handshake = {**HANDSHAKE, "content-length": "0"}
    bind = f"unix:{short_path / 'socket'}"
    times: dict[str, Any] = {"websocket_ping_s": PING_S, "body_timeout_s": PING_S}
    async with server(websocket_app(pondering), bind, **times) as up, dial(up.url) as wire:
        assert (await wire.get("/", handshake)).status == 101
        assert await WebSocketWire(wire).event() == Ping()
        assert trio.current_time() - begun == pytest.approx(6 * PING_S)


@pytest.mark.usefixtures("silence")
async def test_a_websocket_that_is_being_closed_sends_no_ping(
    short_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with silent_client(Socket(), short_path, autojump_clock, linger_s=3 * PING_S) as ws:
        await ws.send(CloseConnection(1000))
        assert await ws.closed() == 1000
        assert await ws.wire.rest() == b""


@pytest.mark.usefixtures("silence")
async def test_a_websocket_client_that_leaves_as_it_is_accepted_is_sent_no_ping() -> None:
    left = trio.Event()

    async def greeting(_receive: Receive, send: Send) -> None:
        same.shutdown(socket.SHUT_RDWR)
        try:
            await send({"type": "websocket.accept"})
        finally:
            left.set()

    async with server(websocket_app(greeting), websocket_ping_s=MOMENT) as up:
        for _ in range(20):  # whichever of the two is noticed first
            left = trio.Event()
            async with dial(up.url) as wire:
                with socket.socket(fileno=os.dup(socket_of(wire.stream).fileno())) as same:
                    await wire.send(request(headers=HANDSHAKE))
                    await left.wait()
        await trio.sleep(3 * MOMENT)
        await up.assert_answers()


# WebSocket with another's client


async def last_subprotocol(scope: Scope, receive: Receive, send: Send) -> None:
    """Accept the last subprotocol that is offered, echo, and close with the code that a text is."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][-1]})
    while (message := await receive())["type"] == "websocket.receive":
        if (message["text"] or "").isdecimal():
            await send({"type": "websocket.close", "code": int(message["text"]), "reason": "as you say"})
        else:
            await send({"type": "websocket.send", "text": message["text"], "bytes": message["bytes"]})


async def close_told(ws: WebSocketConnection) -> tuple[int, str | None]:
    with pytest.raises(ConnectionClosed) as closed:
        await ws.get_message()
    assert closed.value.reason is not None
    return closed.value.reason.code, closed.value.reason.reason


@pytest.mark.usefixtures("silence")
async def test_a_client_gets_the_subprotocol_that_the_application_chooses() -> None:
    async with server(last_subprotocol) as up, trio_websocket_client(up.url, "chat.v1", "chat.v2") as ws:
        assert ws.subprotocol == "chat.v2"
        for message in ("text, ünïcode", b"\x00\xff", "", b"", b"x" * 500_000):
            await ws.send_message(message)
            assert await ws.get_message() == message
        await ws.ping(b"?")


@pytest.mark.usefixtures("silence")
async def test_close_codes_reach_the_other_side_both_ways() -> None:
    app = Socket()
    async with server(app) as up, trio_websocket_client(up.url) as ws:
        await ws.aclose(4001, "enough")
        await app.left.wait()
        assert app.received == [{"type": "websocket.disconnect", "code": 4001, "reason": "enough"}]
    async with server(last_subprotocol) as up, trio_websocket_client(up.url, "chat") as ws:
        await ws.send_message("4002")
        assert await close_told(ws) == (4002, "as you say")


@pytest.mark.usefixtures("silence")
async def test_a_client_is_told_1001_by_a_stop() -> None:
    async with server(Socket()) as up, trio_websocket_client(up.url) as ws:
        up.stop.set()
        assert await close_told(ws) == (1001, None)
        await up.stopped.wait()


@pytest.mark.usefixtures("silence")
async def test_a_client_sees_why_it_was_refused() -> None:
    async with server(websocket_app(refusing)) as up:
        with pytest.RaisesGroup(ConnectionRejected) as group:
            async with trio_websocket_client(up.url):
                raise AssertionError("accepted")
        refused = group.value.exceptions[0]
        assert isinstance(refused, ConnectionRejected)
        assert (refused.status_code, refused.body) == (401, b"no token, no socket")
        assert (b"www-authenticate", b"Bearer") in (refused.headers or ())
        await up.assert_answers()


@pytest.mark.usefixtures("silence")
async def test_a_client_that_has_nothing_to_say_stays_for_as_long_as_it_likes(
    short_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    assert autojump_clock.autojump_threshold == 0
    bind = f"unix:{short_path / 'socket'}"
    async with server(Socket(), bind, websocket_ping_s=PING_S) as up, trio_websocket_client(up.url) as ws:
        await trio.sleep(15.5 * PING_S)
        await ws.send_message("still here")
        assert await ws.get_message() == "still here"


# Beginning


@pytest.mark.usefixtures("silence")
async def test_no_lifespan_is_spoken() -> None:
    types = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        types.append(scope["type"])  # an application that returns on a scope it does not know
        if scope["type"] == "http":
            await hello(scope, receive, send)

    async with server(app) as up:
        await up.assert_answers()
        up.stop.set()
        await up.stopped.wait()
    assert types == ["http"]


@pytest.mark.usefixtures("silence")
async def test_every_address_is_listened_on_and_reported(short_path: Path) -> None:
    path = short_path / "socket"
    async with server(hello, ["127.0.0.1:0", "localhost:0", f"unix:{path}"]) as up:
        assert all(
            re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*|http://\[::1\]:[1-9]\d*", url) for url in up.urls[:-1]
        )
        assert up.urls[-1] == f"unix:{path}"
        for url in up.urls:
            async with dial(url) as wire:
                assert (await wire.get()).body == b"hello"
        up.stop.set()
        await up.stopped.wait()
        assert not path.exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_a_socket_is_for_its_user_and_its_group_whatever_the_umask_says(
    short_path: Path, umask: int
) -> None:
    path = short_path / "socket"
    before = os.umask(umask)
    try:
        async with server(hello, f"unix:{path}") as up:
            assert stat.filemode(path.stat().st_mode) == "srw-rw----"
            await up.assert_answers()
    finally:
        os.umask(before)


async def test_a_server_that_ends_leaves_the_socket_that_has_taken_its_place(short_path: Path) -> None:
    path = short_path / "socket"
    async with server(hello, f"unix:{path}") as up:
        path.unlink()
        async with server(hello, f"unix:{path}") as next_one:
            up.stop.set()
            await up.stopped.wait()
            await next_one.assert_answers()
    assert not path.exists()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_ipv6_is_served() -> None:
    async with server(hello, "[::1]:0") as up:
        assert up.url.startswith("http://[::1]:")
        await up.assert_answers()


class NoNames(trio.abc.HostnameResolver):
    """A resolver that knows no name, and says so at once, which others take their time for."""

    async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("bind", "says"),
    [
        ("8080", "write host:port"),
        ("localhost:http", "write host:port"),
        ("127.0.0.1:70000", "write host:port"),
        ("192.0.2.1:0", "choose an address of this machine"),
        ("no-such-host.invalid:0", "check the address"),
        ("unix:/nowhere/at/all", "no such file or directory"),
    ],
)
async def test_an_address_that_cannot_be_listened_on_says_what_to_do(bind: str, says: str) -> None:
    trio.socket.set_custom_hostname_resolver(NoNames())
    with pytest.raises(BindError, match=re.escape(f"cannot listen on {bind}: ")) as raised:
        await serve(hello, bind=["127.0.0.1:0", bind])
    assert says in str(raised.value)


async def test_a_port_that_is_taken_says_so() -> None:
    async with server(hello) as up:
        taken = up.url.removeprefix("http://")
        with pytest.raises(BindError, match=f"{taken}: address already in use; stop what listens there"):
            await serve(hello, bind=taken)


async def test_the_socket_file_of_a_dead_server_is_replaced_and_that_of_a_live_one_is_not(
    short_path: Path,
) -> None:
    path = short_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with server(hello, f"unix:{path}") as up:
        with pytest.raises(BindError, match="address already in use"):
            await serve(hello, bind=f"unix:{path}")
        await up.assert_answers()
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            with pytest.raises(BindError, match="address already in use"):
                await serve(hello, bind=f"unix:{path}")
    path.unlink()
    path.write_text("not a socket")
    with pytest.raises(BindError):
        await serve(hello, bind=f"unix:{path}")
    assert path.read_text() == "not a socket"


@pytest.mark.parametrize(
    "setting",
    [{"grace_s": -1}, {"send_timeout_s": 0}, {"websocket_max_message_bytes": 0}, {"websocket_ping_s": 0}],
)
def test_a_setting_that_makes_no_sense_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        ServeConfig(**setting)


async def test_small_packets_are_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[object] = []
    run = ServerConnection.run

    async def looking(self: ServerConnection) -> None:
        options.append(self.channel.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await run(self)

    monkeypatch.setattr(ServerConnection, "run", looking)
    async with server(hello) as up:
        await up.assert_answers()
    assert options == [1]


# Stopping


@pytest.mark.usefixtures("silence")
async def test_a_stop_before_the_start_returns_promptly_and_reports_addresses() -> None:
    stop = trio.Event()
    stop.set()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            assert await nursery.start(partial(serve, hello, stop=stop))


@pytest.mark.usefixtures("engine", "silence")
async def test_a_stop_lets_calls_in_flight_finish_and_takes_nothing_new() -> None:
    held = Held()
    async with (
        server(routed(held=held)) as up,
        dial(up.url) as wire,
        dial(up.url) as idle,
        dial(up.url) as new,
    ):
        await wire.send(request(path="/held"))
        await held.begun.wait()
        assert (await idle.get()).header(b"connection") is None
        up.stop.set()
        up.stop.set()  # twice is once
        assert await idle.rest() == b""
        assert await new.rest() == b""
        with pytest.raises(OSError, match="refused"):
            await connect(up.url)
        assert not up.stopped.is_set()
        held.release.set()
        response = await wire.response()
        assert (response.body, response.header(b"connection")) == (b"released", b"close")
        assert await wire.rest() == b""
        await up.stopped.wait()


@pytest.mark.usefixtures("engine", "silence")
async def test_a_stop_does_not_wait_for_the_rest_of_a_head() -> None:
    async with server(hello, grace_s=60, header_timeout_s=60) as up, dial(up.url) as wire:
        assert (await wire.get()).body == b"hello"
        await wire.send(b"GET / HTTP/1.1\r\nHost: h")
        await trio.testing.wait_all_tasks_blocked(MOMENT)
        up.stop.set()
        assert await wire.rest() == b""
        await up.stopped.wait()


@pytest.mark.usefixtures("engine", "silence")
async def test_a_response_that_had_begun_ends_its_connection_when_it_ends() -> None:
    release = trio.Event()

    async def streaming(_receive: Receive, send: Send) -> None:
        await send(START)
        await release.wait()
        await chunk(send, b"end", more=False)

    async with server(routed(streaming=streaming)) as up, dial(up.url) as wire:
        await wire.send(request(path="/streaming") + request(path="/pipelined"))
        head = await wire.head()
        assert head.header(b"connection") is None
        up.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        release.set()
        assert await wire.rest() == b"3\r\nend\r\n0\r\n\r\n"
        await up.stopped.wait()


@pytest.mark.usefixtures("silence")
async def test_a_stop_on_http2_says_goodaway_finishes_what_is_in_flight_and_refuses_the_rest() -> None:
    held = Held()
    async with server(routed(held=held)) as up, dial_http2(up.url) as wire:
        in_flight = await wire.request("/held")
        await held.begun.wait()
        late = wire.h2.get_next_available_stream_id()
        up.stop.set()
        head = HeadersFrame(late, flags=["END_HEADERS", "END_STREAM"])
        pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/")]
        head.data = wire.h2.encoder.encode(pseudo)
        await trio.testing.wait_all_tasks_blocked()
        await wire.stream.send_all(head.serialize())
        raw = b""
        while b"\x00\x00\x04\x03\x00" + late.to_bytes(4, "big") not in raw:  # RST_STREAM
            raw += await wire.stream.receive_some()
        assert raw.endswith(ErrorCodes.REFUSED_STREAM.to_bytes(4, "big"))
        goaway = raw.index(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00")
        assert raw[goaway + 9 :][:8] == in_flight.to_bytes(4, "big") + bytes(4)
        held.release.set()
        while data := await wire.stream.receive_some():
            raw += data
        assert b"released" in raw
        ends = b"\x00\x00\x08\x00\x01%brelease" % in_flight.to_bytes(4, "big")  # with END_STREAM
        assert raw.endswith(ends + b"d")
        await up.stopped.wait()


@pytest.mark.usefixtures("silence")
async def test_a_client_that_says_goodaway_behind_a_stream_that_is_refused_is_no_error() -> None:
    held = Held()
    async with server(routed(held=held)) as up, dial_http2(up.url) as wire:
        await wire.request("/held")
        await held.begun.wait()
        up.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/")]
        wire.h2.send_headers(wire.h2.get_next_available_stream_id(), pseudo, end_stream=True)
        wire.h2.close_connection()
        await wire.flush()
        held.release.set()
        await Wire(wire.stream).rest()
        await up.stopped.wait()


@pytest.mark.usefixtures("silence")
async def test_an_idle_http2_connection_is_closed_at_once_by_a_stop() -> None:
    async with server(hello) as up, dial_http2(up.url) as wire:
        assert (await wire.response(await wire.request())).status == 200
        up.stop.set()
        assert (await wire.until(h2.events.ConnectionTerminated)).error_code == ErrorCodes.NO_ERROR
        await up.stopped.wait()


@pytest.mark.usefixtures("silence")
async def test_a_stop_closes_websockets_with_1001() -> None:
    app = Socket()
    async with server(app) as up, dial_websocket(up.url) as ws:
        await ws.send(TextMessage("x"))
        assert await ws.message() == "x"
        up.stop.set()
        assert await ws.closed() == 1001
        await app.left.wait()
        assert app.received[0]["code"] == 1001
        await up.stopped.wait()


@pytest.mark.usefixtures("silence")
async def test_a_websocket_accepted_during_a_stop_is_closed_with_1001() -> None:
    held = trio.Event()
    waiting = trio.Event()

    async def slow(receive: Receive, send: Send) -> None:
        waiting.set()
        await held.wait()
        with pytest.raises(ClientDisconnectedError):
            await send({"type": "websocket.accept"})
        assert (await receive())["code"] == 1001

    async with server(websocket_app(slow)) as up, dial(up.url) as wire:
        await wire.send(request(headers=HANDSHAKE))
        await waiting.wait()
        up.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        held.set()
        assert (await wire.response()).status == 101
        assert await WebSocketWire(wire).closed() == 1001
        await up.stopped.wait()


def _client(up: Server) -> socket.socket:
    host, port = up.url.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


@pytest.mark.usefixtures("engine", "silence")
async def test_clients_that_have_connected_and_sent_by_the_moment_of_the_stop_are_answered() -> None:
    async with server(hello, grace_s=3600) as up:
        with ExitStack() as stack:
            clients = [stack.enter_context(_client(up)) for _ in range(50)]
            for client in clients:
                client.sendall(request())
            up.stop.set()
            await up.stopped.wait()
            assert all(client.recv(10_000).startswith(b"HTTP/1.1 200 ") for client in clients)


@pytest.mark.usefixtures("engine", "silence")
@pytest.mark.parametrize("rounds", range(16))
async def test_a_client_that_has_seen_no_end_when_it_sends_is_answered_during_a_stop(rounds: int) -> None:
    async with server(hello, grace_s=3600) as up:
        with _client(up) as client:
            client.sendall(request())
            await trio.lowlevel.wait_readable(client)
            assert client.recv(10_000).endswith(b"hello")
            up.stop.set()
            for _ in range(rounds):
                await trio.lowlevel.checkpoint()
            if not select.select([client], [], [], 0)[0]:
                client.sendall(request())
                await up.stopped.wait()
                assert client.recv(10_000).startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("engine", "silence")
async def test_a_connection_without_a_request_does_not_delay_a_stop() -> None:
    async with server(hello, grace_s=3600) as up:
        with _client(up) as client:
            up.stop.set()
            await up.stopped.wait()
            assert client.recv(10_000) == b""


# The process


async def test_an_exception_of_the_body_passes_as_it_is() -> None:
    with pytest.raises(ValueError, match="mine"):
        async with stop_on_signals():
            raise ValueError("mine")


async def test_a_signal_sets_the_event_and_a_second_cancels_the_body(log: pytest.LogCaptureFixture) -> None:
    async with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        await stop.wait()
        signal.raise_signal(signal.SIGINT)
        with trio.fail_after(10):
            await trio.Event().wait()
    assert log.messages == ["SIGINT while stopping: ending at once"]


PROGRAM = """
import sys
import trio
from cpg_trio.http import StartError, serve
from cpg_trio.process import run

async def app(scope, receive, send):
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    print("in flight", flush=True)
    await trio.sleep_forever()

async def main(stop):
{main}

sys.exit(run(main))
"""
SERVING = """
async with trio.open_nursery() as nursery:
    [url] = await nursery.start(lambda task_status: serve(app, stop=stop, task_status=task_status))
    print(url, flush=True)
"""


class Program:
    """A container's process, with its standard streams."""

    def __init__(self, main: str) -> None:
        code = PROGRAM.format(main=textwrap.indent(main.strip(), "    "))
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(process.__file__).parents[1],
        )
        assert self.process.stdout is not None
        self.stdout = self.process.stdout

    def says(self) -> str:
        return self.stdout.readline().strip()

    def ends(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=15)
        return self.process.returncode, errors


@pytest.fixture
def program() -> Iterator[Callable[[str], Program]]:
    begun: list[Program] = []

    def begin(main: str) -> Program:
        begun.append(Program(main))
        return begun[-1]

    yield begin
    for each in begun:
        with each.process:
            each.process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_process_with_status_0(
    number: signal.Signals, program: Callable[[str], Program]
) -> None:
    running = program(SERVING)
    assert running.says().startswith("http://127.0.0.1:")
    running.process.send_signal(number)
    status, told = running.ends()
    assert status == 0
    assert told.endswith(f" {number.name}: stopping; a second signal ends at once\n")


def test_a_second_signal_ends_a_process_at_once(program: Callable[[str], Program]) -> None:
    running = program(SERVING)
    host, _, port = running.says().removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(request())
        assert running.says() == "in flight"
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionError):
            while True:
                socket.create_connection((host, int(port))).close()
        running.process.send_signal(signal.SIGINT)
        status, told = running.ends()
        assert status == 128 + signal.SIGINT
        assert told.endswith(" SIGINT while stopping: ending at once\n")


def test_a_start_error_is_one_line_and_status_1(program: Callable[[str], Program]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        running = program(SERVING.replace("serve(app,", f"serve(app, bind={bind!r},"))
        status, errors = running.ends()
    assert status == 1
    assert errors == (
        f"cannot listen on {bind}: address already in use; "
        "stop what listens there, or choose another address (port 0 takes any free port)\n"
    )


def test_an_unexpected_error_keeps_its_traceback(program: Callable[[str], Program]) -> None:
    status, errors = program(
        "raise ExceptionGroup('two', [StartError('no'), ValueError('unexpected')])"
    ).ends()
    assert status == 1
    assert "Traceback" in errors
    assert "ValueError: unexpected" in errors


def test_run_in_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    async def returning(_stop: trio.Event) -> None:
        pass

    async def failing(_stop: trio.Event) -> None:
        raise StartError("not today; come back tomorrow")

    async def unexpected(_stop: trio.Event) -> None:
        raise ValueError("unexpected")

    async def impatient(_stop: trio.Event) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            await trio.sleep(MOMENT)
        await trio.sleep_forever()

    assert process.run(returning) == 0
    assert process.run(failing) == 1
    assert capsys.readouterr().err == "not today; come back tomorrow\n"
    with pytest.raises(ValueError, match="unexpected"):
        process.run(unexpected)
    assert process.run(impatient) == 143


def test_an_interrupt_before_the_handlers_stand_is_a_signal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trio, "run", interrupted)
    assert process.run(trio.Event.wait) == 130
