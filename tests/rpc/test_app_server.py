"""An application that is called within its process: what its callers see of it, and what it sees of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected

from cpg_trio.asgi import (
    CANCEL_ON_DISCONNECT,
    App,
    Receive,
    ResponseAbortedError,
    Scope,
    Send,
    refuse_websocket,
    send_text,
)
from cpg_trio.http import ConnectFailedError
from cpg_trio.rpc import Code, ConnectError, HttpRequest
from cpg_trio.rpc.app_client import AppClient
from cpg_trio.rpc.app_server import AppServer, serving_app

_variable: ContextVar[str] = ContextVar("a variable", default="none")

GET = HttpRequest("GET", "/path?query", [("x-app", "1")], b"")


@asynccontextmanager
async def calling(app: App) -> AsyncIterator[tuple[AppServer, AppClient]]:
    async with serving_app(app, "the application") as server:
        yield server, AppClient(server)


async def test_an_application_gets_a_request_as_from_a_server() -> None:
    scopes = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append({**scope})
        assert await receive() == {"type": "http.request", "body": b"body", "more_body": False}
        await send_text(send, 200, "✓")

    async with calling(app) as (_, client):
        request = HttpRequest("POST", "http://somewhere/a%20b?query", [("x-app", "1")], b"body")
        answer = await client.unary(request, None)
    assert (answer.status, answer.body) == (200, "✓".encode())
    assert answer.header("content-type") == "text/plain; charset=utf-8"
    (scope,) = scopes
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("POST", "/a b", b"/a%20b")
    assert (scope["query_string"], scope["client"], scope["server"]) == (b"query", None, None)
    fields = [(b"x-app", b"1"), (b"host", b"somewhere"), (b"content-length", b"4")]
    assert scope["headers"] == fields


async def test_an_application_runs_with_the_variables_of_who_serves_it() -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send_text(send, 200, _variable.get())
        _variable.set("the application's")

    _variable.set("the server's")
    async with calling(app) as (_, client):
        _variable.set("the caller's")
        for _ in range(2):
            assert (await client.unary(GET, None)).body == b"the server's"
        assert _variable.get() == "the caller's"


async def test_an_application_that_fails_is_logged_and_answers_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("secret")

    async with calling(app) as (_, client):
        answer = await client.unary(GET, None)
    assert (answer.status, answer.body) == (500, b"")
    assert "GET '/path'" in caplog.records[0].getMessage()


async def test_an_application_that_does_not_answer_is_logged_and_answers_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        pass

    async with calling(app) as (_, client):
        assert (await client.unary(GET, None)).status == 500
    assert "returned without finishing" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("secret"), ResponseAbortedError("told already")])
async def test_a_response_that_breaks_off_is_no_whole_one(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a part", "more_body": True})
        raise error

    async with calling(app) as (_, client):
        with pytest.raises(ConnectError) as caught:
            await client.unary(GET, None)
        assert caught.value.code is Code.UNAVAILABLE
        with pytest.raises(ConnectError):
            async with client.stream(GET) as response:
                assert response.status == 200
                assert [piece async for piece in response.body] == [b"a part"]
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(logged) == (0 if isinstance(error, ResponseAbortedError) else 2)


async def test_what_is_no_exception_ends_the_application_and_its_callers_go_on() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise SystemExit(3)

    codes = []
    served = trio.Event()
    client: AppClient

    async def serve() -> None:
        nonlocal client
        with pytest.raises(SystemExit):
            async with calling(app) as (_, client):
                served.set()
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await served.wait()
        for _ in range(2):  # in its end, and after it
            with pytest.raises(ConnectError) as caught:
                await client.unary(GET, None)
            codes.append(caught.value.code)
    assert codes == [Code.UNAVAILABLE, Code.UNAVAILABLE]


async def test_calls_in_flight_finish_when_the_block_is_left_and_others_are_not_sent() -> None:
    may_end = trio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await may_end.wait()
        await send_text(send, 200, "done")

    answers = []
    async with trio.open_nursery() as nursery:

        async def call() -> None:
            answers.append((await client.unary(GET, None)).body)

        async def call_late() -> None:
            while server.takes_calls:
                await trio.lowlevel.checkpoint()
            with pytest.raises(ConnectError) as caught:
                await client.unary(GET, None)
            assert isinstance(caught.value.__cause__, ConnectFailedError)
            may_end.set()

        async with calling(app) as (server, client):
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(call_late)
    assert answers == [b"done"]


@pytest.mark.parametrize("asks", [True, False])
async def test_a_caller_that_leaves_is_seen_and_cancels_what_asks_for_that(*, asks: bool) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if asks:
            scope["extensions"][CANCEL_ON_DISCONNECT]["request"]()
        try:
            seen.append((await receive())["type"])
            await trio.lowlevel.checkpoint()
            seen.append("went on")
            with pytest.raises(OSError):
                await send_text(send, 200, "too late")
        except trio.Cancelled:
            seen.append("cancelled")
            raise

    async with calling(app) as (_, client), trio.open_nursery() as nursery:
        nursery.start_soon(client.unary, GET, None)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == (["cancelled"] if asks else ["http.disconnect", "went on"])


async def test_an_error_of_the_callers_own_body_is_raised_as_it_is() -> None:
    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        raise KeyError("mine")

    async with calling(app) as (_, client):
        with pytest.raises(KeyError, match="mine"):
            async with client.stream(HttpRequest("POST", "/", [], body())):
                pass


async def test_an_answer_that_is_larger_than_wanted_is_given_up() -> None:
    ended = trio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})
        finally:
            ended.set()

    async with calling(app) as (_, client):
        with pytest.raises(ConnectError) as caught:
            await client.unary(GET, 1000)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        with trio.fail_after(1):
            await ended.wait()


async def _echoing(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["subprotocols"] == ["proto"]
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "subprotocol": "proto", "headers": [(b"x-host", b"1")]})
    while (message := await receive())["type"] == "websocket.receive":
        if message["bytes"] == b"bye":
            await send({"type": "websocket.close", "code": 1001, "reason": "it stops"})
            return
        await send({"type": "websocket.send", "bytes": message["bytes"]})


async def test_a_websocket_passes_messages_both_ways_and_ends_with_a_reason() -> None:
    async with calling(_echoing) as (_, client), client.websocket("/watch", {}, ["proto"]) as socket:
        assert socket.handshake_headers == [(b"x-host", b"1")]
        await socket.ping()
        await socket.send_message(b"hello")
        assert await socket.get_message() == b"hello"
        await socket.send_message(b"bye")
        with pytest.raises(ConnectionClosed) as caught:
            await socket.get_message()
        assert caught.value.reason is not None
        assert (caught.value.reason.code, caught.value.reason.reason) == (1001, "it stops")


async def test_a_websocket_that_is_refused_says_how() -> None:
    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await refuse_websocket(send, 403, "not you", [(b"retry-after", b"1")])

    async with calling(app) as (_, client):
        with pytest.raises(ConnectionRejected) as caught:
            async with client.websocket("/watch", {}, []):
                pass
        assert caught.value.status_code == 403
        assert (b"retry-after", b"1") in (caught.value.headers or ())


async def test_a_websocket_to_nobody_cannot_be_opened() -> None:
    async with calling(_echoing) as (server, client):
        server.takes_calls = False
        with pytest.raises(ConnectFailedError):
            async with client.websocket("/watch", {}, ["proto"]):
                pass
