"""Sessions: a program that is no plugin calls services, whatever happens, and leaves nothing behind."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme
from trio.testing import MockClock

from cpg_trio import CallPolicy, HealthState, Plugin
from cpg_trio.asgi import Receive, Scope, Send
from cpg_trio.host import Action, Enrolment, Host, HostConfig, Policy, Rules
from cpg_trio.http import ServeConfig, StartError, TlsConfig
from cpg_trio.plugin import (
    HostSession,
    PluginConfig,
    PluginStoppedError,
    RefusedError,
    SessionConfig,
    connect,
)
from cpg_trio.rpc import Code, ConnectError
from cpg_trio.rpc.reflection_client import descriptors_of
from cpg_trio.testing import open_host
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.certificates import LOCAL, Files
from tests.plugin.fronts import fronted, urls_of
from tests.plugin.running import (
    echo_plugin,
    error,
    eventually,
    goes_directly,
    hosting,
    is_healthy,
    meddled,
    plugged,
    until,
    unused_port,
)
from tests.rpc.echo import Echo

MINUTE_S = 60.0


async def said(client: EchoServiceClient, text: str = "a") -> str:
    return (await client.echo(pb.EchoRequest(text=text))).text


async def said_at_last(client: EchoServiceClient) -> str:
    """Call until it succeeds, as a caller may that has time."""
    with trio.fail_after(30):
        while True:
            try:
                return await said(client)
            except ConnectError:
                await trio.sleep(0.05)


# What it is for


async def test_a_script_calls_a_service_and_its_identity_ends_with_the_block() -> None:
    echo = Echo()
    async with hosting() as (host, url), plugged(echo_plugin(service=echo), url):
        await until(host, lambda: is_healthy(host, "echo"))
        async with connect(url, name="script") as session:
            assert host.identities.entry(session.runtime_id) is not None
            assert await said(session.client("echo", EchoServiceClient)) == "a"
            [ctx] = echo.contexts
            assert ctx.caller is not None
            assert (ctx.caller.name, ctx.caller.id) == ("script", session.runtime_id)
        assert host.identities.entry(session.runtime_id) is None
        total = host.call_table.window().total
        assert (total.calls, total.failed) == (1, 0)


async def test_services_are_required_at_any_time_and_each_is_followed(autojump_clock: MockClock) -> None:
    async with open_host() as host, host.connect() as session:
        await host.fake("one", Echo())
        assert await said(session.client("one", EchoServiceClient)) == "a"
        two = session.require("two")
        with pytest.raises(ConnectError, match="no provider of two is available: "):
            await said(two.client(EchoServiceClient))
        fake = await host.fake("two", Echo())
        await two.wait_available()
        assert await said(two.client(EchoServiceClient)) == "a"
        await fake.stop()
        assert not two.available
        assert two.statistics().calls == 2
        assert (await session.discover("one", "~=1.0")).version == "1.0.0"
        with pytest.raises(ConnectError) as caught:
            await session.discover("two")
        assert caught.value.code is Code.NOT_FOUND


async def test_calls_are_balanced_over_all_providers(autojump_clock: MockClock) -> None:
    services = [Echo() for _ in range(3)]
    async with open_host() as host:
        for number, service in enumerate(services):
            plugin = Plugin("echo-plugin", version=f"1.{number}.0")
            plugin.provide("echo", service)
            await host.start(plugin)
        async with host.connect() as session:
            policy = CallPolicy(balance="round-robin")
            client = session.client("echo", EchoServiceClient, version="~=1.1", policy=policy)
            for _ in range(10):
                await said(client)
    assert [len(service.contexts) for service in services] == [0, 5, 5]


async def test_direct_calls_are_made_where_they_are_wanted() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url):
        await until(host, lambda: is_healthy(host, "echo"))
        async with connect(url, config=SessionConfig(direct_calls=True)) as session:
            echo = session.require("echo")
            await goes_directly(echo)
            await said(echo.client(EchoServiceClient))
        assert host.call_table.window().total.calls == 0


# What it is told, and what is wrong


async def test_a_service_is_required_once_and_a_client_takes_it_as_it_is(autojump_clock: MockClock) -> None:
    async with open_host() as host, host.connect() as session:
        await host.fake("echo", Echo())
        policy = CallPolicy(timeout_s=1.0)
        echo = session.require("echo", version=">=1", policy=policy)
        await said(session.client("echo", EchoServiceClient))
        await said(session.client("echo", EchoServiceClient, version=">=1", policy=policy))
        assert echo.statistics().calls == 2
        with pytest.raises(ValueError, match="echo is required already, with version >=1"):
            session.client("echo", EchoServiceClient, version=">=2")
        with pytest.raises(ValueError, match="echo is required already, with another policy"):
            session.client("echo", EchoServiceClient, policy=CallPolicy())
        with pytest.raises(ValueError, match="client requires echo already"):
            session.require("echo")
        with pytest.raises(ValueError, match='service type "a b"'):
            session.require("a b")
        with pytest.raises(TypeError, match="generated class"):
            session.client("echo", EchoServiceClient("", None))  # type: ignore[arg-type]


async def test_a_host_that_lets_call_only_what_is_declared_is_told_in_connect(
    autojump_clock: MockClock,
) -> None:
    async with open_host(HostConfig(policy=Policy(Rules(undeclared="deny")))) as host:
        plugin = Plugin("echo-plugin", version="1.0.0")
        plugin.provide("echo", Echo())
        await host.start(plugin)
        async with host.connect("vague") as session:
            with pytest.raises(ConnectError, match=r"no provider of echo is available: .*echo"):
                await said(session.client("echo", EchoServiceClient))
        async with host.connect("clear", requires=["echo"]) as session:
            assert await said(session.client("echo", EchoServiceClient)) == "a"
            with pytest.raises(ValueError, match="other is not one of the services that connect"):
                session.client("other", EchoServiceClient)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"host_url": "127.0.0.1:8080"}, "127.0.0.1:8080"),
        ({"host_url": "http://127.0.0.1", "name": "a b"}, "self_id"),
        ({"host_url": "http://127.0.0.1", "requires": ["a b"]}, "service type"),
        ({"host_url": "http://127.0.0.1", "wait_s": -1}, "wait_s"),
        ({"host_url": "http://127.0.0.1", "wait_s": math.nan}, "wait_s"),
        ({"host_url": ""}, "a base URL is http or https"),
        ({"host_url": 8080}, "a text as host_url, and not 8080"),
        ({"host_url": "http://127.0.0.1", "name": None}, "a text as name"),
        ({"host_url": "http://127.0.0.1", "requires": "echo"}, r"as in \['echo'\]"),
        ({"host_url": "http://127.0.0.1", "wait_s": "5"}, "seconds as wait_s, and not '5'"),
        ({"host_url": "http://127.0.0.1", "config": PluginConfig()}, "not a PluginConfig"),
    ],
)
async def test_wrong_arguments_are_named(words: dict[str, object], expected: str) -> None:
    with pytest.raises((TypeError, ValueError), match=expected):
        async with connect(**words):  # type: ignore[arg-type]
            raise AssertionError


async def test_without_a_url_the_environment_says_where_the_host_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOST_URL", raising=False)
    with pytest.raises(StartError, match="set HOST_URL"):
        async with connect():
            raise AssertionError
    config = HostConfig(enrolment=Enrolment({"script": "t" * 32}))
    async with hosting(config) as (host, url):
        monkeypatch.setenv("HOST_URL", url)
        monkeypatch.setenv("ENROLMENT_TOKEN", "t" * 32)
        async with connect(name="script") as session:
            assert host.identities.entry(session.runtime_id) is not None


async def test_a_host_that_refuses_says_why(tmp_path: Path) -> None:
    files = Files.write(tmp_path, trustme.CA(), *LOCAL)
    config = HostConfig(enrolment=Enrolment({"script": "t" * 32}), serve=ServeConfig(tls=files.config()))
    async with hosting(config) as (_, url):
        trusting = SessionConfig(tls=TlsConfig(ca_file=files.ca))
        with pytest.raises(RefusedError, match="enrolment"):
            async with connect(url, name="script", config=trusting):
                raise AssertionError
        with pytest.raises(ConnectError, match="certificate is not accepted"):
            async with connect(url, name="script", config=SessionConfig()):
                raise AssertionError
        enrolled = SessionConfig(tls=TlsConfig(ca_file=files.ca), enrolment_token="t" * 32)
        async with connect(url, name="script", config=enrolled) as session:
            assert session.runtime_id.startswith("script-")


# Hosts that are not there, go, and come back


async def test_a_script_is_told_at_once_that_there_is_no_host(caplog: pytest.LogCaptureFixture) -> None:
    url = f"http://127.0.0.1:{unused_port()}"
    with trio.fail_after(4), pytest.raises(ConnectError, match=f"cannot reach the host at {url}: ") as caught:
        async with connect(url):
            raise AssertionError
    assert caught.value.code is Code.UNAVAILABLE
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_what_is_no_host_is_called_so(autojump_clock: MockClock) -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url) as plugin_url:
        await until(host, lambda: is_healthy(host, "echo"))
        with pytest.raises(ConnectError, match=f"cannot reach the host at {plugin_url}: "):
            async with connect(plugin_url):
                raise AssertionError


async def test_a_gateway_waits_for_its_host(virtual_time: MockClock) -> None:
    port = unused_port()
    url = f"http://127.0.0.1:{port}"
    with pytest.raises(ConnectError):
        async with connect(url, wait_s=60):
            raise AssertionError
    assert trio.current_time() >= 60
    entered = trio.Event()

    async def gateway() -> None:
        async with connect(url, wait_s=math.inf):
            entered.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway)
        await trio.sleep(5 * MINUTE_S)
        assert not entered.is_set()
        async with hosting(bind=f"127.0.0.1:{port}"):
            await entered.wait()


async def test_clients_stay_valid_when_the_host_is_restarted(virtual_time: MockClock) -> None:
    bind = f"127.0.0.1:{unused_port()}"
    async with plugged(echo_plugin(), f"http://{bind}"), trio.open_nursery() as nursery:
        stop = trio.Event()
        await nursery.start(partial(Host().serve, stop, bind=bind))
        session = await nursery.start(_session, f"http://{bind}", stopped := trio.Event())
        client = session.client("echo", EchoServiceClient)
        assert await said_at_last(client) == "a"
        before = session.runtime_id
        stop.set()
        await trio.sleep(20)
        with pytest.raises(ConnectError) as caught:
            await said(client)
        assert caught.value.code is Code.UNAVAILABLE
        async with hosting(bind=bind) as (host, _):
            assert await said_at_last(client) == "a"
            assert session.runtime_id != before
            assert host.identities.entry(session.runtime_id) is not None
            stopped.set()
            await eventually(lambda: host.identities.entry(session.runtime_id) is None)


async def _session(url: str, stop: trio.Event, *, task_status: trio.TaskStatus[HostSession]) -> None:
    async with connect(url) as session:
        task_status.started(session)
        await stop.wait()


async def test_the_token_is_renewed_for_as_long_as_the_session_lasts(autojump_clock: MockClock) -> None:
    async with open_host() as host:
        await host.fake("echo", Echo())
        async with host.connect() as session:
            client, identity = session.client("echo", EchoServiceClient), session.runtime_id
            with host.capture_audit() as decisions:
                for _ in range(4):
                    await trio.sleep(15 * MINUTE_S)  # the lifetime of a token
                    assert await said(client) == "a"
            renewed = [each for each in decisions if each.action is Action.RENEW]
            assert {each.subject for each in renewed if each.subject.startswith("client-")} == {identity}
            assert session.runtime_id == identity


async def test_a_session_that_calls_nothing_for_long_is_still_known(autojump_clock: MockClock) -> None:
    async with open_host() as host:
        await host.fake("echo", Echo())
        async with host.connect() as session:
            await trio.sleep(45 * MINUTE_S)
            assert host.host.identities.entry(session.runtime_id) is not None
            assert await said(session.client("echo", EchoServiceClient)) == "a"


async def test_another_host_is_used_when_one_is_gone(virtual_time: MockClock) -> None:
    async with hosting() as (host, url), fronted(url, 3) as fronts, plugged(echo_plugin(), url):
        await until(host, lambda: is_healthy(host, "echo"))
        await fronts[0].close()
        async with connect(urls_of(fronts)) as session:
            client = session.client("echo", EchoServiceClient)
            assert await said(client) == "a"
            first = next(front for front in fronts if front.opened)
            await first.close()
            assert await said_at_last(client) == "a"
        assert host.identities.entry(session.runtime_id) is None


async def test_a_session_that_is_revoked_gets_another_identity(autojump_clock: MockClock) -> None:
    async with open_host() as host:
        await host.fake("echo", Echo())
        async with host.connect() as session:
            client, before = session.client("echo", EchoServiceClient), session.runtime_id
            assert await said(client) == "a"
            await host.host.revoke_identity(before)
            assert await said_at_last(client) == "a"
            assert session.runtime_id != before


async def test_a_host_that_refuses_later_ends_the_block(virtual_time: MockClock) -> None:
    refusing = False

    async def refuse(scope: Scope, _receive: Receive, send: Send) -> bool:
        is_handshake = scope["path"].endswith("Handshake")
        return refusing and is_handshake and await error(send, 403, "permission_denied")

    async with meddled(refuse) as (host, url):
        with pytest.raises(RefusedError, match="the host refuses: meddled with"):
            async with connect(url) as session:
                refusing = True
                await host.revoke_identity(session.runtime_id)
                await trio.sleep_forever()


# Its end


async def test_its_end_is_no_trouble_that_operators_are_told_of(autojump_clock: MockClock) -> None:
    async with open_host() as host:
        reports: list[HealthState | None] = []
        note = lambda runtime_id: reports.append(host.host.registry.health(runtime_id).state)  # noqa: E731
        with host.host.registry.health_changes.added(note):
            async with host.connect():
                await trio.sleep(60)
        assert HealthState.UNHEALTHY not in reports


async def test_an_error_of_the_block_comes_out_as_it_went_in(autojump_clock: MockClock) -> None:
    alone = ExceptionGroup("alone", [KeyError("a")])
    async with open_host() as host:
        for failure in (ValueError("a"), alone):
            with pytest.raises(type(failure)) as caught:
                async with host.connect():
                    raise failure
            assert caught.value is failure
        assert not [name for name in host.host.identities.known() if host.host.identities.entry(name)]


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_it_can_be_cancelled_at_any_step_and_leaves_its_host(
    steps: int, autojump_clock: MockClock
) -> None:
    async with open_host() as host:
        await host.fake("echo", Echo())
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel() -> None:
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel)
                async with host.connect() as session:
                    client = session.client("echo", EchoServiceClient)
                    while True:
                        await said(client)
        known = host.host.identities
        left = [name for name in known.known() if known.entry(name) and known.name_of(name) == "client"]
        # A handshake that was cancelled may have had its answer under way.
        assert len(left) <= 1
        assert scope.cancelled_caught


async def test_behind_the_block_nothing_is_called(autojump_clock: MockClock) -> None:
    async with open_host() as host:
        await host.fake("echo", Echo())
        async with host.connect() as session:
            echo = session.require("echo")
            client = echo.client(EchoServiceClient)
            assert await said(client) == "a"
        with pytest.raises(ConnectError) as caught:
            await said(client)
        assert caught.value.code is Code.UNAVAILABLE
        with pytest.raises(PluginStoppedError):
            await echo.wait_available()
        with pytest.raises(RuntimeError, match="has ended"):
            session.require("other")


async def test_a_host_that_is_gone_does_not_hold_up_the_end() -> None:
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        url, *_ = await nursery.start(partial(Host().serve, stop, bind="127.0.0.1:0"))
        with trio.fail_after(5):
            async with connect(url):
                stop.set()
                await trio.sleep(0.2)


# What is described


async def test_a_provider_is_found_for_those_who_call_it_in_their_own_way() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url, reflection=True):
        await until(host, lambda: is_healthy(host, "echo"))
        async with connect(url, requires=["echo"]) as session:
            provider = await session.discover("echo")
            files = await descriptors_of(provider.client)
            assert [file.name for file in files] == ["echo/v1/echo.proto"]
            with pytest.raises(ConnectError, match=r"1\.0\.0 is there and >=3 is required"):
                await session.discover("echo", ">=3")
            with pytest.raises(ConnectError) as caught:
                await session.discover("other")
            assert caught.value.code is Code.PERMISSION_DENIED
