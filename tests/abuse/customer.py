"""The well-behaved plugin: it does what plugins do, all the time, and counts what of it succeeds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from cpg_trio.http import Pool
from cpg_trio.plugin._session import Introduction, Session, shake_hands
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import ClientConfig, ConnectError, PoolClient
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import echo_plugin, plugged

SELF_ID = "customer-plugin"
TIMEOUT_S = 5.0  # what a call may take on a machine that others keep busy

Step = Callable[[], Awaitable[object]]


@attrs.define
class Count:
    """What became of the calls of a kind."""

    succeeded: int = 0
    failed: int = 0
    last_error: str = ""

    @property
    def share(self) -> float:
        """Which share of them succeeded."""
        return self.succeeded / max(1, self.succeeded + self.failed)


@attrs.define
class Customer:
    """A registered plugin that requires `echo`. `counts` begin anew with each `trading`."""

    session: Session
    echo: EchoServiceClient
    plugin_url: str
    counts: dict[str, Count] = attrs.field(factory=dict)

    @property
    def steps(self) -> dict[str, tuple[float, Step]]:
        """What it does, and how many seconds it waits in between."""
        return {
            "calls": (0.05, self.call),
            "discoveries": (0.25, self.discover),
            "health reports": (0.5, self.report_health),
            "renewals": (1.0, self.renew),
            "new connections": (0.25, self.connect_anew),
        }

    async def call(self) -> None:
        assert (await self.echo.echo(EchoRequest(text="hello"))).text == "hello"

    async def call_publicly(self) -> None:
        """Call the plugin without its host in between, as anybody may."""
        async with Pool() as pool:
            client = EchoServiceClient(self.plugin_url, PoolClient(pool))
            assert (await client.echo(EchoRequest(text="hello"))).text == "hello"

    async def discover(self) -> None:
        await self.session.registry.discover_service(pb.DiscoverServiceRequest(service_type="echo"))

    async def report_health(self) -> None:
        report = pb.ReportHealthRequest(state=pb.HEALTH_STATE_HEALTHY)
        await self.session.lifecycle.report_health(report)

    async def renew(self) -> None:
        introduction = Introduction(SELF_ID, "1.0.0", provides=["customer"], requires=["echo"])
        answer = await shake_hands("", self.session.hosts.http, introduction, self.session.headers)
        assert answer.runtime_id == self.session.runtime_id
        self.session.take_token(answer.runtime_token)

    async def connect_anew(self) -> None:
        """Do what it does when its connections are gone."""
        async with Pool() as pool:
            config = ClientConfig(headers=self.session.headers)
            registry = type(self.session.registry)(self.session.host_url, PoolClient(pool), config)
            await registry.discover_service(pb.DiscoverServiceRequest(service_type="echo"))

    async def does(self, step: Step) -> str:
        """Do something once; return why it failed, an empty string if it did not."""
        why = f"no answer within {TIMEOUT_S} s"
        with trio.move_on_after(TIMEOUT_S):
            try:
                await step()
            except (ConnectError, OSError, AssertionError) as error:
                why = repr(error)
            else:
                why = ""
        return why

    @asynccontextmanager
    async def trading(self) -> AsyncIterator[None]:
        """Do all that it does, again and again, while the block runs."""
        self.counts = {kind: Count() for kind in self.steps}
        async with trio.open_nursery() as nursery:
            for kind, (pause_s, step) in self.steps.items():
                nursery.start_soon(self._repeat, self.counts[kind], pause_s, step)
            yield
            nursery.cancel_scope.cancel()

    async def _repeat(self, count: Count, pause_s: float, step: Step) -> None:
        """Begin a step each time that the pause is over, whether or not the one before has ended."""
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._try, count, step)
                await trio.sleep(pause_s)

    async def _try(self, count: Count, step: Step) -> None:
        if why := await self.does(step):
            count.failed += 1
            count.last_error = why
        else:
            count.succeeded += 1


@asynccontextmanager
async def customer(host_url: str, plugin_url: str) -> AsyncIterator[Customer]:
    """Run the well-behaved plugin for a block."""
    plugin = echo_plugin(SELF_ID, "customer")
    dependency = plugin.require("echo")
    async with plugged(plugin, host_url, heartbeat_s=None):
        with trio.fail_after(20):
            provider = await dependency._service.wait_available()
        yield Customer(provider.session, dependency.client(EchoServiceClient), plugin_url)
