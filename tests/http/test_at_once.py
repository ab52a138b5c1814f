"""Requests that an application answers in a callback: as in a task, and in a task if it has to wait."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.lowlevel

from cpg_trio.asgi import AT_ONCE, App, NeedsTaskError, Receive, Scope, Send, send_response
from cpg_trio.http import ServeConfig, serve
from cpg_trio.http.reactor import Reactor
from cpg_trio.http.server import service
from cpg_trio.http.server.config import Http1Engine
from tests._wire import dial, dial_http2, request, socket_of
from tests.http.apps import chunk, hello, read_body
from tests.http.test_reactor import REACTORS

LARGE = b"x" * 8_000_000  # more than the buffers of the system take
TARGET = "/at-once"


class Answering:
    """Echoes what it receives. `seen`: whether each call was to be answered at once."""

    def __init__(self, *, needs_task: bool = False) -> None:
        self.seen: list[bool] = []
        self._needs_task = needs_task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        at_once = AT_ONCE in scope["extensions"]
        self.seen.append(at_once)
        if at_once and self._needs_task:
            raise NeedsTaskError
        body = await read_body(receive)
        await send_response(send, 200, b"%s %s" % (scope["path"].encode(), body), [(b"vary", b"x")])


@asynccontextmanager
async def serving(app: App, config: ServeConfig | None = None) -> AsyncIterator[str]:
    stop = trio.Event()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            served = partial(serve, app, config=config or ServeConfig(), stop=stop)
            (url,) = await nursery.start(partial(served, at_once=[TARGET.encode()]))
            try:
                yield url
            finally:
                stop.set()


@pytest.mark.parametrize("engine", Http1Engine)
async def test_a_request_that_is_here_whole_is_answered_at_once(engine: Http1Engine) -> None:
    app = Answering()
    async with serving(app, ServeConfig(http1_engine=engine)) as url, dial(url) as wire:
        for body in (b"one", b"two", b"three"):
            await wire.send(request("POST", TARGET, {}, body))
            response = await wire.response()
            assert (response.status, response.body) == (200, b"/at-once " + body)
            assert response.header(b"content-length") == b"%d" % (len(body) + 9)
            assert len(response.header(b"x-request-id") or b"") == 32
        assert app.seen == [True] * 3
        await wire.send(request("POST", "/other", {}, b"four"))
        assert (await wire.response()).body == b"/other four"
        assert app.seen[3:] == [False]


async def test_a_stream_of_http2_is_answered_at_once() -> None:
    app = Answering()
    async with serving(app) as url, dial_http2(url) as wire:
        for _ in range(2):
            stream = await wire.request(TARGET)
            assert (await wire.response(stream)).body == b"/at-once "
        assert app.seen == [True, True]


async def test_a_call_that_needs_a_task_is_run_again_in_one_and_has_its_whole_body() -> None:
    app = Answering(needs_task=True)
    async with serving(app) as url, dial(url) as wire:
        for _ in range(2):
            await wire.send(request("POST", TARGET, {}, b"body"))
            assert (await wire.response()).body == b"/at-once body"
        assert app.seen == [True, False] * 2


async def test_a_request_of_which_some_is_missing_is_answered_in_a_task() -> None:
    app = Answering()
    async with serving(app) as url, dial(url) as wire:
        whole = request("POST", TARGET, {}, b"body")
        await wire.send(whole[:-1])
        while not app.seen:
            await trio.lowlevel.checkpoint()
        await wire.send(whole[-1:])
        assert (await wire.response()).body == b"/at-once body"
        assert app.seen == [False]


async def test_requests_that_follow_each_other_at_once_are_answered_in_order() -> None:
    async with serving(Answering()) as url, dial(url) as wire:
        bodies = [b"%d" % number for number in range(50)]
        await wire.send(b"".join(request("POST", TARGET, {}, body) for body in bodies))
        assert [(await wire.response()).body for _ in bodies] == [b"/at-once " + body for body in bodies]


@pytest.mark.parametrize("kind", REACTORS)
async def test_what_comes_before_the_task_goes_on_with_the_rest_is_read_behind_it(
    kind: Callable[[], Reactor], monkeypatch: pytest.MonkeyPatch
) -> None:
    following = request("POST", "/following", {}, b"follows")
    fds: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        if body == b"first":
            os.write(fds[0], following[-3:])  # the reactor reports it before a task has its turn
        await send_response(send, 200, body)

    monkeypatch.setattr(service, "open_reactor", kind)
    async with serving(app) as url, dial(url) as wire, dial(url) as other:
        for each in (wire, other):
            await each.send(request("POST", TARGET, {}, b"hello"))
            await each.response()
        fds.append(socket_of(wire.stream).fileno())
        # Together, so that the reactor looks again at once.
        os.write(fds[0], request("POST", TARGET, {}, b"first") + following[:-3])
        os.write(socket_of(other.stream).fileno(), request("POST", TARGET, {}, b"other"))
        assert (await wire.response()).body == b"first"
        assert (await wire.response()).body == b"follows"
        assert (await other.response()).body == b"other"


async def test_what_the_client_does_not_read_is_sent_by_a_task() -> None:
    async def large(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send_response(send, 200, LARGE)

    async with serving(large) as url, dial(url, receive_buffer=256 * 1024) as wire:
        await wire.send(request("GET", TARGET))
        async with dial(url) as other:
            await other.send(request("HEAD", TARGET))
            assert (await other.response(head_only=True)).status == 200
        assert (await wire.response()).body == LARGE


async def test_a_response_without_a_length_gets_one_and_other_responses_do_not_share_it() -> None:
    async def growing(_scope: Scope, _receive: Receive, send: Send) -> None:
        sizes.append(len(sizes))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await chunk(send, b"x" * sizes[-1], more=False)

    sizes: list[int] = []
    async with serving(growing) as url, dial(url) as wire:
        for size in range(3):
            await wire.send(request("GET", TARGET))
            response = await wire.response()
            assert (response.header(b"content-length"), response.body) == (b"%d" % size, b"x" * size)


async def failing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ValueError("a secret")


async def longer(_scope: Scope, _receive: Receive, send: Send) -> None:
    fields = [(b"content-length", b"3")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await chunk(send, b"four", more=False)


async def in_parts(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await chunk(send, b"one")


@pytest.mark.parametrize("app", [failing, longer, in_parts])
async def test_an_application_that_fails_ends_its_connection_alone(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        await (app if scope["path"] == TARGET else hello)(scope, receive, send)

    async with serving(either) as url:
        async with dial(url) as wire:
            await wire.send(request("GET", TARGET))
            rest = await wire.rest()
            assert rest.startswith(b"HTTP/1.1 500 ") if app is failing else b"four" not in rest
        assert "the application failed on GET" in caplog.text
        async with dial(url) as wire:
            assert (await wire.get("/")).body == b"hello"


async def test_an_application_that_waits_all_the_same_ends_its_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        if AT_ONCE in scope["extensions"]:
            await trio.lowlevel.checkpoint()
        await hello(scope, receive, send)

    async with serving(waiting) as url:
        async with dial(url) as wire:
            await wire.send(request("GET", TARGET))
            assert b"hello" not in await wire.rest()
        assert "an error ended a connection" in caplog.text
        async with dial(url) as wire:
            assert (await wire.get("/")).body == b"hello"


@pytest.mark.parametrize("target", [TARGET, "/in-a-task"])
@pytest.mark.parametrize("kind", REACTORS)
async def test_what_ends_a_process_ends_the_server_also_in_a_callback(
    kind: Callable[[], Reactor], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def exiting(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(service, "open_reactor", kind)
    with pytest.RaisesGroup(SystemExit, flatten_subgroups=True):
        async with serving(exiting) as url, dial(url) as wire:
            await wire.send(request("GET", target))
            await trio.sleep_forever()
