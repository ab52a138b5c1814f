"""The metrics of a plugin: calls of both directions, and what it has of its host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import httpx
import pytest
import trio

from cpg_trio.calls.outcome import Outcome
from cpg_trio.host import Host
from cpg_trio.plugin import Dependency, Plugin
from cpg_trio.rpc import ConnectError
from tests._gen.echo.v1.echo_pb2 import CountRequest, EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.host.test_metrics import Scraped, page_of, scrape
from tests.plugin.running import eventually, goes_directly, hosting, plugged, unused_port
from tests.rpc.echo import Echo


@attrs.frozen
class Setting:
    """A provider of `echo` and a plugin that calls it; both have metrics."""

    host: Host
    provider_url: str
    provider_metrics: str
    caller_metrics: str
    dependency: Dependency
    client: EchoServiceClient
    echo: Echo

    async def served(self) -> Scraped:
        return await scrape(self.provider_metrics)

    async def made(self) -> Scraped:
        return await scrape(self.caller_metrics)


@asynccontextmanager
async def calling(*, direct_calls: bool = False, public: bool = False) -> AsyncIterator[Setting]:
    provider, caller = Plugin("echo-plugin", version="1.0.0"), Plugin("caller", version="1.0.0")
    echo = Echo()
    provider.provide("echo", echo, public=public)
    dependency = caller.require("echo")
    provider_bind, caller_bind = (f"127.0.0.1:{unused_port()}" for _ in range(2))
    async with (
        hosting() as (host, url),
        plugged(provider, url, metrics_bind=provider_bind) as provider_url,
        plugged(caller, url, metrics_bind=caller_bind, direct_calls=direct_calls),
    ):
        await dependency.wait_available()
        if direct_calls:
            await goes_directly(dependency)
        client = dependency.client(EchoServiceClient)
        metrics = f"http://{provider_bind}", f"http://{caller_bind}"
        yield Setting(host, provider_url, *metrics, dependency, client, echo)


def of_calls(scraped: Scraped, side: str) -> set[str]:
    return {labels for labels, count in scraped[f"cpg_trio_{side}_calls_total"].items() if count}


async def test_a_call_through_the_host_is_counted_on_both_sides() -> None:
    async with calling() as s:
        await s.client.echo(EchoRequest(text="hello"))
        served, made = await s.served(), await s.made()
    assert of_calls(served, "server") == {"caller=caller,code=ok,kind=routed,method=Echo,service=echo"}
    assert of_calls(made, "client") == {"code=ok,kind=routed,method=Echo,provider=echo-plugin,service=echo"}
    assert served["cpg_trio_server_call_duration_seconds_count"] == {
        "kind=routed,method=Echo,service=echo": 1
    }
    sent = made["cpg_trio_client_call_request_bytes_total"]["kind=routed,provider=echo-plugin,service=echo"]
    assert sent > 0
    assert served["cpg_trio_server_call_request_bytes_total"] == {"kind=routed,service=echo": sent}


async def test_a_direct_call_is_counted_as_one_on_both_sides() -> None:
    async with calling(direct_calls=True) as s:
        await s.client.echo(EchoRequest(text="hello"))
        assert of_calls(await s.made(), "client") == {
            "code=ok,kind=direct,method=Echo,provider=echo-plugin,service=echo"
        }
        assert of_calls(await s.served(), "server") == {
            "caller=caller,code=ok,kind=direct,method=Echo,service=echo"
        }


@pytest.mark.parametrize("direct_calls", [False, True])
async def test_a_stream_is_counted_when_it_has_ended(*, direct_calls: bool) -> None:
    async with calling(direct_calls=direct_calls) as s:
        async with s.client.count(CountRequest(to=3)) as stream:
            assert len([message async for message in stream]) == 3
        await eventually_ended(s)
        kind = "direct" if direct_calls else "routed"
        served, made = await s.served(), await s.made()
    assert of_calls(made, "client") == {f"code=ok,kind={kind},method=Count,provider=echo-plugin,service=echo"}
    received = made["cpg_trio_client_call_response_bytes_total"]
    assert [*received.values()] == [*served["cpg_trio_server_call_response_bytes_total"].values()]


async def eventually_ended(s: Setting) -> None:
    with trio.fail_after(10):
        while any((await s.served())["cpg_trio_server_calls_in_flight"].values()):  # noqa: ASYNC110 - no event
            await trio.sleep(0.01)


@pytest.mark.parametrize("direct_calls", [False, True])
async def test_an_error_has_its_code_on_both_sides(*, direct_calls: bool) -> None:
    async with calling(direct_calls=direct_calls) as s:
        with pytest.raises(ConnectError):
            await s.client.echo(EchoRequest(text="fail"))
        (made,) = of_calls(await s.made(), "client")
        (served,) = of_calls(await s.served(), "server")
    assert "code=already_exists" in made
    assert "code=already_exists" in served


async def test_a_call_that_its_caller_gives_up_is_canceled() -> None:
    async with calling() as s:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(s.client.echo, EchoRequest(text="hang"))
            await s.echo.hangs.wait()
            nursery.cancel_scope.cancel()
        (made,) = of_calls(await s.made(), "client")
    assert "code=canceled" in made


async def test_a_stranger_is_counted_as_refused_and_is_no_label() -> None:
    async with calling() as s, httpx.AsyncClient(base_url=s.provider_url) as stranger:
        answer = await stranger.post("/echo.v1.EchoService/Guess", json={})
        assert answer.status_code == 401
        served = await s.served()
    assert served["cpg_trio_server_calls_refused_total"] == {"code=unauthenticated,kind=routed": 1}
    assert "Guess" not in served.text


async def test_a_call_of_nobody_has_no_caller() -> None:
    async with calling(public=True) as s, httpx.AsyncClient(base_url=s.provider_url) as anyone:
        assert (await anyone.post("/echo.v1.EchoService/Echo", json={})).status_code == 200
        assert of_calls(await s.served(), "server") == {
            "caller=,code=ok,kind=direct,method=Echo,service=echo"
        }


async def test_the_page_has_each_metric_of_a_plugin_with_its_type_and_labels() -> None:
    async with calling() as s, httpx.AsyncClient(base_url=s.provider_url) as stranger:
        await s.client.echo(EchoRequest(text="hello"))
        await stranger.post("/echo.v1.EchoService/Echo", json={})
        served, made = (await s.served()).types, (await s.made()).types
    exposed = {
        name: (kind, labels | made[name][1])
        for name, (kind, labels) in served.items()
        if name.startswith("cpg_trio_")
    }
    page = page_of("Of a plugin", "Of both")
    refused = "cpg_trio_client_calls_refused_total"  # nothing refuses what a plugin begins
    assert exposed.pop(refused) == ("counter", frozenset())
    del page[refused]
    assert exposed == page


async def test_a_plugin_tells_of_its_dependencies_its_health_and_its_session() -> None:
    async with calling() as s:
        await eventually(s.host.registry.plugins)
        made = await s.made()
        assert made["cpg_trio_dependency_available"] == {"required=true,service=echo": 1}
        assert made["cpg_trio_session"] == {"": 1}
        assert made["cpg_trio_heartbeats_total"][""] >= 1
        assert made["cpg_trio_heartbeat_failures_total"] == {"": 0}
        assert made["cpg_trio_health"] == {"state=healthy": 1, "state=degraded": 0, "state=unhealthy": 0}
        assert 0 <= made["cpg_trio_lease_remaining_seconds"][""] <= 15


async def test_without_an_address_nothing_is_recorded() -> None:
    provider, caller = Plugin("echo-plugin", version="1.0.0"), Plugin("caller", version="1.0.0")
    provider.provide("echo", Echo())
    dependency = caller.require("echo")
    async with hosting() as (_, url), plugged(provider, url), plugged(caller, url):
        await dependency.wait_available()
        await dependency.client(EchoServiceClient).echo(EchoRequest(text="hello"))
        assert not dependency._service.calls.ended
        assert not provider._declared.served.ended


async def test_what_a_run_has_counted_does_not_outlive_it() -> None:
    async with calling() as s:
        assert s.dependency._service.calls.ended
    assert not s.dependency._service.calls.ended
    assert not s.dependency._service.direct.calls.ended


async def test_the_states_of_breakers_are_counted_by_service_and_not_by_provider() -> None:
    async with calling() as s:
        (member,) = s.dependency._service.group.members
        before = await s.made()
        for _ in range(3):
            member.end(member.begin(), Outcome.FAILURE, 0.1, "unavailable")
        after = await s.made()
    assert before["cpg_trio_dependency_providers"] == {
        "breaker=closed,service=echo": 1,
        "breaker=half-open,service=echo": 0,
        "breaker=open,service=echo": 0,
    }
    assert after["cpg_trio_dependency_providers"]["breaker=open,service=echo"] == 1
    assert after["cpg_trio_dependency_providers"]["breaker=closed,service=echo"] == 0
    assert after["cpg_trio_dependency_ejections_total"] == {"service=echo": 1}
    for name in ("retries_total", "retries_refused_total", "calls_refused_total", "calls_waiting"):
        assert after[f"cpg_trio_dependency_{name}"] == {"service=echo": 0}
