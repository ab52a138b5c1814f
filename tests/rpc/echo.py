"""The echo service, and ways to reach it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import httpx
import trio

from cpg_trio.asgi import App, Message, Receive, Scope, Send
from cpg_trio.rpc import (
    AsgiTransport,
    ClientConfig,
    Code,
    ConnectError,
    Context,
    Interceptor,
    application,
    pack_detail,
)
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoService, EchoServiceClient

ADDRESS = "http://echo"


class Echo(EchoService):
    """Behaves, or misbehaves, as the text of the request says."""

    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.hangs = trio.Event()
        self.cancelled = trio.Event()
        self.closed = trio.Event()

    async def echo(self, request: pb.EchoRequest, ctx: Context, /) -> pb.EchoResponse:
        self.contexts.append(ctx)
        match request.text:
            case "hang":
                await self._hang()
            case "fail":
                detail = pack_detail(pb.SumResponse(sum=7))
                raise ConnectError(Code.ALREADY_EXISTS, "there it is", details=[detail])
            case "explode":
                raise RuntimeError("secret internals")
            case "group":
                raise ExceptionGroup("tasks", [ConnectError(Code.ABORTED, "from a task")])
            case "groups":
                raise ExceptionGroup(
                    "tasks", [ConnectError(Code.ABORTED, "a"), RuntimeError("secret internals")]
                )
            case "wrong type":
                return pb.SumResponse()  # type: ignore[return-value]
        ctx.response_headers["x-header"] = "h"
        ctx.response_trailers["x-trailer"] = "t"
        return pb.EchoResponse(text=request.text, data=request.data)

    async def count(self, request: pb.CountRequest, ctx: Context, /) -> AsyncIterator[pb.CountResponse]:
        self.contexts.append(ctx)
        ctx.response_headers["x-header"] = "h"
        try:
            for number in range(abs(request.to)):
                yield pb.CountResponse(number=number)
            if request.to < 0:
                raise RuntimeError("secret internals")
            if request.to == 99:
                await self._hang()
        finally:
            self.closed.set()
        ctx.response_trailers["x-trailer"] = "t"

    async def sum(self, requests: AsyncIterator[pb.SumRequest], ctx: Context, /) -> pb.SumResponse:
        self.contexts.append(ctx)
        total = sum([request.number async for request in requests])
        if total == 13:
            raise RuntimeError("secret internals")
        return pb.SumResponse(sum=total)

    async def http_chat(
        self, requests: AsyncIterator[pb.HTTPChatRequest], _ctx: Context, /
    ) -> AsyncIterator[pb.HTTPChatResponse]:
        async for request in requests:
            if request.text == "explode":
                raise RuntimeError("secret internals")
            yield pb.HTTPChatResponse(text=request.text)

    async def _hang(self) -> None:
        self.hangs.set()
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.set()


@asynccontextmanager
async def in_process(app: App) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=AsgiTransport(app)) as http:
        yield http


@asynccontextmanager
async def client_of(
    app: App, config: ClientConfig | None = None, interceptors: Iterable[Interceptor] = ()
) -> AsyncIterator[EchoServiceClient]:
    async with in_process(app) as http:
        yield EchoServiceClient(ADDRESS, http, config, interceptors=interceptors)


@asynccontextmanager
async def echo_client(
    config: ClientConfig | None = None, echo: Echo | None = None, interceptors: Iterable[Interceptor] = ()
) -> AsyncIterator[EchoServiceClient]:
    async with client_of(application([echo or Echo()]), config, interceptors) as client:
        yield client


def canned(status: int, body: bytes, **headers: str) -> App:
    """Return an application that gives one answer to everything."""

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        message: Message = {"more_body": True}
        while message.get("more_body", False):
            message = await receive()
        fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return app
