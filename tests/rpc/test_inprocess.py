"""The in-process transport: a server's behaviour without a socket, streaming included."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import httpx
import pytest
import trio
import trio.testing

from cpg_trio.asgi import ClientDisconnectedError, Receive, ResponseAbortedError, Scope, Send, send_text
from cpg_trio.rpc import AsgiTransport
from tests.rpc.echo import in_process

START = {"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]}


async def test_a_response_is_there_as_soon_as_it_starts_and_streams() -> None:
    go_on = trio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"last", "more_body": False})

    with trio.fail_after(5):
        async with in_process(app) as http, http.stream("GET", "http://x/a%20b?q=1") as response:
            chunks = response.aiter_raw()
            assert (response.status_code, response.headers["x-a"], await anext(chunks)) == (
                200,
                "1",
                b"first",
            )
            go_on.set()
            assert await anext(chunks) == b"last"
            with pytest.raises(StopAsyncIteration):
                await anext(chunks)


async def test_the_application_sees_what_it_would_behind_a_server() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        body = b""
        while (message := await receive())["more_body"]:
            body += message["body"]
        await send_text(send, 200, body.decode())

    async def body() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async with in_process(app) as http:
        assert (
            await http.post("http://x:81/a%20b?q=%20", content=body(), headers={"X-A": "1"})
        ).text == "one two"
    (scope,) = seen
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"q=%20")
    assert (scope["method"], scope["server"]) == ("POST", ("x", 81))
    assert (b"x-a", b"1") in scope["headers"]


async def test_an_exception_before_the_response_is_a_bare_500_and_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("secret")

    async with in_process(app) as http:
        response = await http.get("http://x")
    assert (response.status_code, response.content) == (500, b"")
    assert "unexpected exception" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("secret"), ResponseAbortedError()])
async def test_an_exception_after_the_start_breaks_the_response_off(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise error

    async with in_process(app) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get("http://x")
    assert bool(caplog.records) == isinstance(error, RuntimeError)


async def test_an_application_that_only_returns_answers_500() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        pass

    async with in_process(app) as http:
        assert (await http.get("http://x")).status_code == 500


async def test_leaving_a_response_is_a_disconnect(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    received: list[str] = []
    refused = trio.Event()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        while (message := await receive())["type"] != "http.disconnect":
            received.append(message["type"])
        try:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        except ClientDisconnectedError:
            refused.set()
            raise

    with trio.fail_after(5):
        async with in_process(app) as http:
            async with http.stream("GET", "http://x"):
                await trio.testing.wait_all_tasks_blocked()
            await refused.wait()
    assert set(received) == {"http.request"}
    assert caplog.records == []


async def test_a_caller_that_is_cancelled_while_it_sends_is_a_disconnect(autojump_clock: object) -> None:
    ended = trio.Event()

    async def never() -> AsyncIterator[bytes]:
        yield b"begun"
        await trio.sleep_forever()

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    with trio.fail_after(5):
        async with in_process(app) as http:
            with trio.move_on_after(0.05):
                await http.post("http://x", content=never())
            await ended.wait()


async def test_leaving_the_transport_cancels_what_still_runs() -> None:
    cancelled = trio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with in_process(app) as http:
        request = http.build_request("GET", "http://x")
        await http.send(request, stream=True)
    assert cancelled.is_set()


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send_text(send, 200, "ok")

    with pytest.raises(KeyError, match="mine"):
        async with in_process(app) as http:
            await http.get("http://x")
            raise KeyError("mine")


async def test_a_transport_that_is_not_entered_says_so() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        pass

    transport = AsgiTransport(app)
    with pytest.raises(RuntimeError, match="context manager"):
        await transport.handle_async_request(httpx.Request("GET", "http://x"))
    await transport.__aexit__()


async def test_a_body_that_cannot_be_awaited_is_refused() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        pass

    async with AsgiTransport(app) as transport:
        with pytest.raises(TypeError):
            await transport.handle_async_request(httpx.Request("POST", "http://x", content=iter([b"x"])))
