"""Plugins of connect-plugin-go that a host starts: by a stand-in that does on the wire what those have done.

One that has a `HOST_URL` registers and reports before it listens, and then never again. One that has none
takes an identity, and does nothing with it. Both answer `GetHealth`, and are gone soon after a `Shutdown`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import httpx
import pytest
import trio
from google.protobuf.message import Message

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import Receive, Scope, Send
from cpg_trio.host import Host
from cpg_trio.host.supervision import Assignment, Ended, Enrol, Phase, PluginSpec
from cpg_trio.http import serve
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import Code, ConnectError
from tests._gen.echo.v1.echo_pb2 import EchoRequest, EchoResponse
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.host.calls import COOKIE, HANDSHAKE, REGISTER, REPORT, VERSIONS
from tests.host.supervision.launching import hosting, until
from tests.plugin.running import unused_port
from tests.rpc.echo import canned

INFO = pb.GetPluginInfoResponse(
    self_id="go",
    self_version="1.0.0",
    provides=[pb.ServiceDeclaration(type="echo", version="1.0.0", path="/echo.v1.EchoService/")],
    metadata={"name": "Go Plugin", "version": "1.0.0"},
)
HEALTHY = pb.GetHealthResponse(state=pb.HEALTH_STATE_HEALTHY, reason="all systems operational")


@attrs.define(eq=False)
class GoRun:
    """A run of such a plugin."""

    assignment: Assignment
    waits_for_host: bool
    listens: trio.Event
    """Until it is set, the plugin does not listen."""
    port: int = attrs.field(factory=unused_port)
    asked: list[str] = attrs.field(factory=list)
    _ended: trio.Event = attrs.field(factory=trio.Event)
    where: str = "a stand-in"
    pid: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}" if self.waits_for_host else ""

    async def main(self) -> None:
        if not self.waits_for_host:
            await self.register()
        await self.listens.wait()
        await serve(self.answer, bind=f"127.0.0.1:{self.port}", stop=self._ended)

    async def register(self) -> None:
        identity = {**COOKIE, **VERSIONS, "selfId": "go", "selfVersion": "1.0.0"}
        service = {"serviceType": "echo", "version": "1.0.0", "endpointPath": "/echo.v1.EchoService/"}
        metadata = {"base_url": f"http://127.0.0.1:{self.port}"}
        async with httpx.AsyncClient(base_url=self.assignment.host_url) as http:
            answer = (await http.post(HANDSHAKE, json=identity)).json()
            http.headers["X-Plugin-Runtime-ID"] = answer["runtimeId"]
            http.headers["Authorization"] = f"Bearer {answer['runtimeToken']}"
            for path, body in (
                (REGISTER, {**service, "metadata": metadata}),
                (REPORT, {"state": "HEALTH_STATE_HEALTHY"}),
            ):
                (await http.post(path, json=body)).raise_for_status()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["path"].rpartition("/")[2]
        self.asked.append(method)
        answers: dict[str, Message] = {
            "GetPluginInfo": INFO,
            "SetRuntimeIdentity": pb.SetRuntimeIdentityResponse(acknowledged=True),
            "GetHealth": HEALTHY,
            "Shutdown": pb.ShutdownResponse(acknowledged=True),
            "Echo": EchoResponse(text="from Go"),
        }
        body = answers[method].SerializeToString()
        await canned(200, body, content_type="application/proto")(scope, receive, send)
        if method == "Shutdown":
            self._ended.set()

    async def wait(self) -> Ended:
        await self._ended.wait()
        return Ended(failed=False, how="exit status 0")

    def stop(self) -> None:
        self._ended.set()


@attrs.define(eq=False)
class GoLauncher:
    """Starts it."""

    waits_for_host: bool = False
    listens: trio.Event = attrs.field(factory=trio.Event)
    kind: str = "go"
    runs: list[GoRun] = attrs.field(factory=list)

    @asynccontextmanager
    async def launch(self, assignment: Assignment, /) -> AsyncIterator[GoRun]:
        run = GoRun(assignment, self.waits_for_host, self.listens)
        self.runs.append(run)
        async with open_plain_nursery() as nursery:
            nursery.start_soon(run.main)
            yield run
            nursery.cancel_scope.cancel()


async def call(host: Host) -> str:
    return (await host.client("echo", EchoServiceClient).echo(EchoRequest())).text


async def test_a_plugin_that_registers_before_it_listens_is_ready_when_it_answers() -> None:
    launcher = GoLauncher()
    async with hosting() as host:
        await host.plugins.add(PluginSpec(name="go", launcher=launcher, enrol=Enrol.NAME), wait=False)
        await until(host, lambda: host.plugins.replicas("go")[0].why.startswith("it does not answer"))
        (replica,) = host.plugins.replicas("go")
        assert replica.phase is Phase.STARTING
        launcher.listens.set()
        await until(host, lambda: replica.phase is Phase.READY)
        assert await call(host) == "from Go"
    assert launcher.runs[0].asked[-1] == "Shutdown"


async def test_a_plugin_that_waits_for_its_host_is_adopted_and_told_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cpg_trio.host.services.managed_plugins._ITSELF_S", 0.02)
    launcher = GoLauncher(waits_for_host=True)
    async with hosting() as host:
        await host.plugins.add(PluginSpec(name="go", launcher=launcher), wait=False)
        await until(host, lambda: "connection refused" in host.plugins.replicas("go")[0].why)
        launcher.listens.set()
        await until(host, lambda: host.plugins.replicas("go")[0].phase is Phase.READY)
        assert await call(host) == "from Go"
        with pytest.raises(
            ConnectError
        ) as caught:  # it is the host's to adopt, and nobody else's of its name
            await host.add_plugin(launcher.runs[0].url, host_url="http://127.0.0.1:1")
        assert caught.value.code == Code.PERMISSION_DENIED
    assert launcher.runs[0].asked[:2] == ["GetPluginInfo", "SetRuntimeIdentity"]
    assert launcher.runs[0].asked[-1] == "Shutdown"


async def test_a_stranger_that_comes_by_its_name_does_not_take_its_place() -> None:
    launcher = GoLauncher()
    launcher.listens.set()
    async with hosting() as host:
        await host.plugins.add(PluginSpec(name="go", launcher=launcher, enrol=Enrol.NAME))
        (replica,) = host.plugins.replicas("go")
        before = replica.runtime_id
        async with httpx.AsyncClient() as http:
            url = f"{launcher.runs[0].assignment.host_url}{HANDSHAKE}"
            answer = await http.post(url, json={**COOKIE, **VERSIONS, "selfId": "go"})
        assert answer.status_code == 200
        assert (replica.runtime_id, replica.phase) == (before, Phase.READY)
        assert await call(host) == "from Go"
    assert len(launcher.runs) == 1
