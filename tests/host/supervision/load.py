"""Calls without a pause, all of which have to succeed, whatever is done with the plugin that answers them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host import Host
from cpg_trio.plugin import Plugin, PluginConfig
from cpg_trio.rpc import ConnectError, Context
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import eventually
from tests.rpc.echo import Echo

_STEPS = 20  # of a stream
_STEP_S = 0.01


class SlowEcho(Echo):
    """Takes its time, so that there are always calls in flight. Says in each answer which one it is."""

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self._name = name

    async def echo(self, request: pb.EchoRequest, _ctx: Context, /) -> pb.EchoResponse:
        await trio.sleep(_STEP_S / 2)
        return pb.EchoResponse(text=self._name or request.text)

    async def count(self, request: pb.CountRequest, _ctx: Context, /) -> AsyncIterator[pb.CountResponse]:
        for number in range(request.to):
            yield pb.CountResponse(number=number)
            await trio.sleep(_STEP_S)


@attrs.define
class Load:
    """What has become of the calls."""

    done: dict[str, int] = attrs.field(factory=dict)
    """How many have succeeded, by their kind."""
    failed: list[str] = attrs.field(factory=list)
    answers: dict[str, str] = attrs.field(factory=dict)
    """The text of the last answer, by the kind of the calls."""

    async def keep_on(self, kind: str, call: Callable[[], Awaitable[str]]) -> None:
        while True:
            try:
                self.answers[kind] = await call()
            except ConnectError as error:
                self.failed.append(f"{kind}: {error.code.value}: {error.message}")
                await trio.sleep(_STEP_S)  # not to fill a log
            else:
                self.done[kind] = self.done.get(kind, 0) + 1

    async def all_have_called(self, times: int = 1) -> None:
        """Wait until each kind of call has succeeded so many times more."""
        before = dict(self.done)
        await eventually(lambda: all(self.done[kind] >= count + times for kind, count in before.items()))


def _unary(client: EchoServiceClient) -> Callable[[], Awaitable[str]]:
    async def call() -> str:
        return (await client.echo(pb.EchoRequest(text="x"))).text

    return call


def _stream(client: EchoServiceClient) -> Callable[[], Awaitable[str]]:
    async def call() -> str:
        async with client.count(pb.CountRequest(to=_STEPS)) as answers:
            numbers = [answer.number async for answer in answers]
        if numbers != list(range(_STEPS)):
            raise AssertionError(f"a stream has lost something: {numbers}")
        return ""

    return call


@asynccontextmanager
async def load(host: Host, host_url: str, service_type: str = "echo") -> AsyncIterator[Load]:
    """Yield while calls are made: unary and streams, through the host, past it, and by the host itself."""
    made = Load()
    async with open_plain_nursery() as nursery:
        clients = {"host": host.client(service_type, EchoServiceClient)}
        for kind, direct in (("routed", False), ("direct", True)):
            caller = Plugin(f"{kind}-caller", version="1.0.0")
            dependency = caller.require(service_type)
            clients[kind] = dependency.client(EchoServiceClient)
            config = PluginConfig(
                bind="127.0.0.1:0", host_url=host_url, hostname="127.0.0.1", direct_calls=direct
            )
            await nursery.start(_serving(caller, config))
            await dependency.wait_available()
        for kind, client in clients.items():
            for call in (_unary(client), _unary(client), _stream(client)):
                nursery.start_soon(made.keep_on, f"{kind} {call.__qualname__.split('.')[0]}", call)
        await eventually(lambda: len(made.done) == 2 * len(clients))
        yield made
        nursery.cancel_scope.cancel()


def _serving(plugin: Plugin, config: PluginConfig) -> Callable[..., Awaitable[None]]:
    async def serve(task_status: trio.TaskStatus[object]) -> None:
        await plugin.serve(config=config, task_status=task_status)

    return serve
