"""Managed plugins: the host takes the first step, and what it gives works everywhere at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import httpx
import pytest
import trio
from google.protobuf.message import Message

from cpg_trio import HealthState
from cpg_trio._cell import Cell
from cpg_trio.asgi import Receive, Scope, Send, send_text
from cpg_trio.host import Enrolment, Host, HostConfig, LeaseConfig, Policy, Rules, ServiceRules
from cpg_trio.plugin import Plugin
from cpg_trio.protos.connectplugin.v1.connectplugin_pb2 import (
    HEALTH_STATE_HEALTHY,
    GetHealthResponse,
    GetPluginInfoResponse,
    ServiceDeclaration,
    SetRuntimeIdentityResponse,
    ShutdownResponse,
)
from cpg_trio.rpc import Code, ConnectError, Context
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.http.apps import served
from tests.plugin.controlling import INFO, SET_IDENTITY, post
from tests.plugin.running import (
    echo_plugin,
    eventually,
    hosting,
    is_healthy,
    meddled,
    plugged,
    until,
    unused_port,
)
from tests.rpc.echo import Echo, canned

TOKEN = "0123456789abcdef"
MISNAMED = GetPluginInfoResponse(self_id="../etc")
ENROLLED = HostConfig(enrolment=Enrolment({"echo-plugin": TOKEN}))


async def test_a_plugin_that_is_added_is_registered_and_its_calls_go_through_at_once() -> None:
    called: list[str] = []

    class Called(Echo):
        async def echo(self, request: pb.EchoRequest, ctx: Context, /) -> pb.EchoResponse:
            assert ctx.caller is not None
            called.append(ctx.caller.id)
            return pb.EchoResponse(text=request.text)

    caller = Plugin("caller", version="1.0.0")
    caller.provide("front", Echo())
    echo = caller.require("echo")
    async with (
        hosting() as (host, url),
        plugged(caller, None) as caller_url,
        plugged(echo_plugin(service=Called()), None) as plugin_url,
    ):
        provider = await host.add_plugin(plugin_url, host_url=url)
        added = await host.add_plugin(caller_url, host_url=url, self_id="caller")
        assert {r.runtime_id for r in host.registry.providers("echo")} == {provider}
        entry = host.identities.entry(added)
        assert entry is not None
        assert (entry.identity.provides, entry.identity.requires) == (("front",), ("echo",))
        await echo.wait_available()
        client = echo.client(EchoServiceClient)
        assert (await client.echo(pb.EchoRequest(text="routed"))).text == "routed"
        assert called == [added]
        await host.shut_down_plugin(provider, grace_s=1)
        await until(host, lambda: not host.registry.available("echo"))


async def test_a_host_with_the_enrolment_token_of_a_plugin_proves_itself_by_it() -> None:
    async with (
        hosting(ENROLLED) as (host, url),
        plugged(echo_plugin(), None, enrolment_token=TOKEN) as plugin_url,
    ):
        await host.add_plugin(plugin_url, host_url=url, self_id="echo-plugin")
        await until(host, lambda: is_healthy(host, "echo"))


@pytest.mark.parametrize("path", [INFO, SET_IDENTITY])
async def test_a_plugin_with_an_enrolment_token_takes_no_host_that_does_not_prove_it(path: str) -> None:
    body: dict[str, object] = {"runtimeId": "x-0", "runtimeToken": "t"} if path == SET_IDENTITY else {}
    async with plugged(echo_plugin(), None, enrolment_token=TOKEN) as plugin_url:
        for headers in ({}, {"authorization": f"Bearer {TOKEN}"}):
            status, answer = await post(plugin_url, path, body, **headers)
            assert (status, answer["code"]) == (401, "unauthenticated")
            assert "ENROLMENT_TOKEN" in str(answer["message"])
        others = HostConfig(enrolment=Enrolment({"echo-plugin": "another-token-of-it"}))
        async with hosting(others) as (host, url):
            with pytest.raises(ConnectError) as caught:
                await host.add_plugin(plugin_url, host_url=url, self_id="echo-plugin")
            assert caught.value.code == Code.UNAUTHENTICATED
            assert len(host.identities) == 0


@asynccontextmanager
async def refused(host: Host, code: Code) -> AsyncIterator[None]:
    """Expect an error, and that nothing is left of what it was about."""
    with pytest.raises(ConnectError) as caught:
        yield
    assert caught.value.code == code, caught.value
    assert len(host.identities) == 0
    assert not host.registry.service_types()


async def test_an_enrolment_token_that_is_taken_away_meanwhile_lets_nobody_in() -> None:
    enrolment = Enrolment({"echo-plugin": TOKEN})

    async def take_away(scope: Scope, receive: Receive, send: Send) -> None:
        enrolment._digests = {}
        body = GetPluginInfoResponse(self_id="echo-plugin").SerializeToString()
        await canned(200, body, content_type="application/proto")(scope, receive, send)

    async with (
        hosting(HostConfig(enrolment=enrolment)) as (host, url),
        served(take_away) as other,
        refused(host, Code.FAILED_PRECONDITION),
    ):
        await host.add_plugin(other, host_url=url, self_id="echo-plugin")


async def test_what_is_not_the_plugin_that_was_meant_gets_no_identity() -> None:
    async with (
        hosting() as (host, url),
        hosting(ENROLLED) as (strict, _),
        plugged(echo_plugin(), None) as plugin_url,
        served(canned(404, b"404 page not found")) as other,
        served(canned(200, MISNAMED.SerializeToString(), content_type="application/proto")) as misnamed,
    ):
        async with refused(host, Code.FAILED_PRECONDITION):
            await host.add_plugin(plugin_url, host_url=url, self_id="another")
        async with refused(strict, Code.FAILED_PRECONDITION):
            await strict.add_plugin(plugin_url, host_url=url)
        async with refused(host, Code.UNIMPLEMENTED):
            await host.add_plugin(other, host_url=url)
        async with refused(host, Code.FAILED_PRECONDITION):
            await host.add_plugin(misnamed, host_url=url)
        async with refused(host, Code.UNAVAILABLE):
            await host.add_plugin(f"http://127.0.0.1:{unused_port()}", host_url=url)
        async with refused(host, Code.INVALID_ARGUMENT):
            await host.add_plugin("no url", host_url=url)


async def test_a_plugin_that_has_a_host_is_not_taken_from_it() -> None:
    async with (
        hosting() as (host, url),
        hosting() as (other, other_url),
        plugged(echo_plugin(), url) as plugin_url,
    ):
        await until(host, lambda: is_healthy(host, "echo"))
        async with refused(other, Code.UNAUTHENTICATED):
            await other.add_plugin(plugin_url, host_url=other_url)
        assert is_healthy(host, "echo")


async def test_when_it_takes_too_long_nothing_is_left() -> None:
    async with hosting() as (host, _), plugged(echo_plugin(), None) as plugin_url:
        with trio.move_on_after(0.3) as patience:
            await host.add_plugin(plugin_url, host_url=f"http://127.0.0.1:{unused_port()}")
        assert patience.cancelled_caught
        assert len(host.identities) == 0


async def test_what_is_given_is_renewed_like_the_token_of_any_plugin() -> None:
    async with (
        hosting(HostConfig(token_ttl_s=3.0)) as (host, url),
        plugged(echo_plugin(), None) as plugin_url,
    ):
        runtime_id = await host.add_plugin(plugin_url, host_url=url)
        seen: set[bytes] = set()

        def renewed() -> bool:
            entry = host.identities.entry(runtime_id)
            assert entry is not None
            seen.add(entry.digest)
            return len(seen) > 2

        await eventually(renewed)
        await host.shut_down_plugin(runtime_id, grace_s=1)


async def test_a_plugin_that_is_added_reports_as_often_as_its_host_asks_and_knows_its_lease() -> None:
    reports = Cell(0)

    async def count(scope: Scope, _receive: Receive, send: Send) -> bool:
        is_report = scope["path"].endswith("ReportHealth")
        reports.set(reports.value + is_report)
        if is_report and reports.value > 3:
            await send_text(send, 502, "bad gateway")
        return is_report and reports.value > 3

    short = Host(HostConfig(leases=LeaseConfig(lease_s=0.6)))
    async with (
        meddled(count, short) as (host, url),
        plugged(echo_plugin(), None, heartbeat_s=None) as plugin_url,
        httpx.AsyncClient() as http,
    ):
        await host.add_plugin(plugin_url, host_url=url)
        with trio.fail_after(12):  # at the usual interval, four reports take longer
            async for number in reports.reader():
                if number > 3:
                    break
            said = ""
            while "in the last 0.6 s" not in said:
                await trio.sleep(0.05)
                said = (await http.get(f"{plugin_url}/readyz")).text


@attrs.define
class GoPlugin:
    """A managed plugin as those of connect-plugin-go are on the wire: recorded answers, and no calls."""

    info: GetPluginInfoResponse = attrs.field(
        factory=lambda: GetPluginInfoResponse(
            self_id="logger-plugin",
            self_version="1.0.0",
            provides=[ServiceDeclaration(type="logger", version="1.0.0", path="/logger.v1.Logger/")],
            metadata={"name": "Logger Plugin", "version": "1.0.0"},
        )
    )
    asked: list[str] = attrs.field(factory=list)
    called_by: bytes = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["path"].rpartition("/")[2]
        self.asked.append(method)
        answers: dict[str, Message] = {
            "GetPluginInfo": self.info,
            "SetRuntimeIdentity": SetRuntimeIdentityResponse(acknowledged=True),
            "GetHealth": GetHealthResponse(state=HEALTH_STATE_HEALTHY, reason="all systems operational"),
            "Shutdown": ShutdownResponse(acknowledged=True),
            "Echo": pb.EchoResponse(text="from Go"),
        }
        self.called_by = dict(scope["headers"]).get(b"x-plugin-caller-id", b"")
        body = answers[method].SerializeToString()
        await canned(200, body, content_type="application/proto")(scope, receive, send)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the host not wait for a plugin that registers nothing."""
    monkeypatch.setattr("cpg_trio.host.services.managed_plugins._ITSELF_S", 0.02)


@pytest.mark.usefixtures("impatient")
async def test_a_host_registers_what_a_plugin_of_another_sdk_provides_and_does_not_register() -> None:
    plugin = GoPlugin()
    async with hosting() as (host, url), served(plugin) as plugin_url:
        runtime_id = await host.add_plugin(plugin_url, host_url=url, self_id="logger-plugin")
        (registration,) = host.registry.registrations(runtime_id)
        assert (registration.service_type, registration.version) == ("logger", "1.0.0")
        assert (registration.endpoint_path, registration.base_url) == ("/logger.v1.Logger/", plugin_url)
        assert host.registry.health(runtime_id).state is HealthState.HEALTHY, "as the plugin says if asked"
        assert plugin.asked[:2] == ["GetPluginInfo", "SetRuntimeIdentity"]
        client = host.client("logger", EchoServiceClient)
        assert (await client.echo(pb.EchoRequest())).text == "from Go"
        assert plugin.called_by.startswith(b"_host-")
        await host.shut_down_plugin(runtime_id, grace_s=1)
        assert plugin.asked[-1] == "Shutdown"


@pytest.mark.usefixtures("impatient")
async def test_a_plugin_of_another_sdk_stays_while_it_answers_and_goes_when_it_does_not() -> None:
    plugin = GoPlugin()
    async with hosting(HostConfig(leases=LeaseConfig(lease_s=0.3))) as (host, url):
        async with served(plugin) as plugin_url:
            await host.add_plugin(plugin_url, host_url=url)
            await eventually(lambda: plugin.asked.count("GetHealth") > 3)
            assert host.registry.available("logger")
        await until(host, lambda: not host.registry.provides("logger"))


@pytest.mark.usefixtures("impatient")
async def test_what_a_plugin_says_that_it_provides_is_checked_as_if_it_had_registered_it() -> None:
    nameless = GoPlugin(GetPluginInfoResponse(self_id="go", provides=[ServiceDeclaration(type="a")]))
    denied = HostConfig(policy=Policy(Rules(services={"logger": ServiceRules(providers=["another"])})))
    async with (
        hosting() as (host, url),
        hosting(denied) as (strict, strict_url),
        served(nameless) as nameless_url,
        served(GoPlugin()) as plugin_url,
    ):
        async with refused(host, Code.FAILED_PRECONDITION):
            await host.add_plugin(nameless_url, host_url=url)
        async with refused(strict, Code.PERMISSION_DENIED):
            await strict.add_plugin(plugin_url, host_url=strict_url)


@pytest.mark.usefixtures("impatient")
async def test_a_plugin_that_answers_by_a_name_that_the_host_starts_itself_is_not_adopted() -> None:
    async with hosting() as (host, url), served(GoPlugin()) as plugin_url:
        with host._started.reserved("logger-plugin"):
            async with refused(host, Code.PERMISSION_DENIED):
                await host.add_plugin(plugin_url, host_url=url)
