"""ASGI applications that tests serve, and one on a real socket for as long as a block lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from cpg_trio.asgi import App, ClientDisconnectedError, Receive, Scope, Send, send_response, send_text
from cpg_trio.http import ServeConfig, serve
from cpg_trio.http.relay import Relay

Handler = Callable[[Receive, Send], Awaitable[None]]

START = {"type": "http.response.start", "status": 200, "headers": []}


async def hello(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send_text(send, 200, "hello")


async def read_body(receive: Receive) -> bytes:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += bytes(message["body"])
        if not message["more_body"]:
            return body
    raise ClientDisconnectedError


async def echo(_scope: Scope, receive: Receive, send: Send) -> None:
    await send_response(send, 200, await read_body(receive))


def routed(**handlers: Handler) -> App:
    """An application of one handler a path; every other path says hello."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        handler = handlers.get(scope["path"].strip("/"))
        await (handler(receive, send) if handler else hello(scope, receive, send))

    return app


async def chunk(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


class Endless:
    """A response that never ends, of an application that never receives."""

    def __init__(self, piece: bytes = b"x" * 65536) -> None:
        self.piece = piece
        self.begun = trio.Event()
        self.ended = trio.Event()
        self.error: BaseException | None = None
        self.sent = 0

    async def __call__(self, _receive: Receive, send: Send) -> None:
        self.begun.set()
        try:
            await send(START)
            while True:
                await chunk(send, self.piece)
                self.sent += len(self.piece)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()


class Held:
    """A call that waits to be released, and says how it ended."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.release = trio.Event()
        self.ended = trio.Event()

    async def __call__(self, _receive: Receive, send: Send) -> None:
        self.begun.set()
        try:
            await self.release.wait()
            await send_text(send, 200, "released")
        finally:
            self.ended.set()


class Watching:
    """A call that receives until the client has left."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.left = trio.Event()
        self.last: Any = None

    async def __call__(self, receive: Receive, _send: Send) -> None:
        self.begun.set()
        while "disconnect" not in (message := await receive())["type"]:
            pass
        self.last = message
        assert await receive() == message
        self.left.set()
        raise ClientDisconnectedError


@asynccontextmanager
async def served(
    app: App, config: ServeConfig | None = None, relay: Relay | None = None
) -> AsyncIterator[str]:
    """Serve `app`; yield its URL."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(
            partial(serve, app, config=config or ServeConfig(), stop=stop, relay=relay)
        )
        try:
            yield url
        finally:
            stop.set()
