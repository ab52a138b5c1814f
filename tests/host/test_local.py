"""Calls within the host's process: between tasks, and between a task and a plugin on a socket."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from cpg_trio import Plugin, wire
from cpg_trio.call_record import Call
from cpg_trio.calls import CallPolicy
from cpg_trio.host import BaseUrls, Host, HostConfig, Keys, Limits, PluginRules, Policy, Rules
from cpg_trio.launch.task import TaskLauncher
from cpg_trio.logs import current_source
from cpg_trio.plugin import Dependency
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import PluginControlClient, PluginIdentityClient
from cpg_trio.rpc import ClientConfig, Code, ConnectError, Context, ResponseMetadata
from cpg_trio.store.memory import MemoryStore
from cpg_trio.store.sqlite import SqliteStore
from tests._gen.echo.v1.echo_pb2 import CountRequest, EchoRequest, EchoResponse, HTTPChatRequest, SumRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.host.calls import REGISTER, WireCaller
from tests.launch.tasks import assignment, echo, registered, task
from tests.plugin.running import echo_plugin, eventually, goes_directly, hosting, plugged
from tests.rpc.echo import Echo

_authors: ContextVar[str] = ContextVar("a variable of an author's", default="")


class Telling(Echo):
    """Notes where its methods run."""

    def __init__(self) -> None:
        super().__init__()
        self.authors: list[str] = []
        self.sources: list[str] = []

    async def echo(self, request: EchoRequest, ctx: Context) -> EchoResponse:
        self.authors.append(_authors.get())
        source = current_source.get()
        self.sources.append("" if source is None else source.name)
        return await super().echo(request, ctx)


Where = Callable[[Host, str, Plugin], AbstractAsyncContextManager[object]]


def as_task(host: Host, _url: str, plugin: Plugin) -> AbstractAsyncContextManager[object]:
    return task(host, plugin, plugin.self_id)


def on_socket(_host: Host, url: str, plugin: Plugin) -> AbstractAsyncContextManager[object]:
    return plugged(plugin, url)


@attrs.frozen
class Pair:
    """A caller and a provider, where they are."""

    host: Host
    url: str
    echo: Dependency
    service: Telling
    calls: list[Call]

    @property
    def client(self) -> EchoServiceClient:
        return self.echo.client(EchoServiceClient)


@asynccontextmanager
async def pair(
    caller: Where, provider: Where, config: HostConfig | None = None, policy: CallPolicy | None = None
) -> AsyncIterator[Pair]:
    plugin, service, calls = Plugin("caller", version="1.0.0"), Telling(), list[Call]()
    echo = plugin.require("echo", policy=policy)
    async with hosting(config) as (host, url):
        host.calls.ended.add(calls.append)
        host.calls.refused.add(calls.append)
        async with provider(host, url, echo_plugin(service=service)), caller(host, url, plugin):
            with trio.fail_after(10):
                await echo.wait_available()
            yield Pair(host, url, echo, service, calls)


WAYS = [(as_task, as_task), (on_socket, as_task), (as_task, on_socket)]
every_way = pytest.mark.parametrize(
    ("caller", "provider"), WAYS, ids=["task to task", "socket to task", "task to socket"]
)


@every_way
async def test_all_kinds_of_calls_are_the_same_as_on_sockets(caller: Where, provider: Where) -> None:
    async with pair(caller, provider) as here:
        client, metadata = here.client, ResponseMetadata()
        answer = await client.echo(EchoRequest(text="✓"), headers={"x-app": "1"}, metadata=metadata)
        assert answer.text == "✓"
        assert (metadata.headers["x-header"], metadata.trailers["x-trailer"]) == ("h", "t")
        async with client.count(CountRequest(to=3)) as stream:
            assert [m.number async for m in stream] == [0, 1, 2]

        async def numbers() -> AsyncIterator[SumRequest]:
            for number in (1, 2, 3):
                yield SumRequest(number=number)

        assert (await client.sum(numbers())).sum == 6
        send, receive = trio.open_memory_channel[HTTPChatRequest](0)
        async with client.http_chat(receive) as answers, send:
            if caller is not on_socket:  # HTTP/1.1 sends an answer when the request has come, if at all
                for text in ("a", "b"):
                    await send.send(HTTPChatRequest(text=text))
                    assert (await anext(aiter(answers))).text == text
        with pytest.raises(ConnectError) as caught:
            await client.echo(EchoRequest(text="fail"))
        assert (caught.value.code, caught.value.message) == (Code.ALREADY_EXISTS, "there it is")
        assert len(caught.value.details) == 1
        with pytest.raises(ConnectError) as caught:
            await client.echo(EchoRequest(text="explode"))
        assert caught.value.code is Code.INTERNAL
        assert "secret" not in str(caught.value)


@every_way
async def test_a_call_has_one_record_and_its_request_id(caller: Where, provider: Where) -> None:
    async with pair(caller, provider) as here:
        await here.client.echo(EchoRequest(text="✓"), headers={"x-request-id": "a-request"})
        await eventually(lambda: len(here.calls) == 1)
        (call,) = here.calls
        assert (call.service, call.method, call.code, call.failure) == ("echo", "Echo", "ok", "")
        assert call.request_id == "a-request"
        assert call.caller.startswith("caller-")
        assert call.provider.startswith("echo-plugin-")
        assert call.request_bytes == 5
        assert call.response_bytes >= 5  # compressed, where it travels
        (context,) = here.service.contexts
        assert context.caller is not None
        assert (context.caller.id, context.caller.name) == (call.caller, "caller")
        assert context.request_headers["x-request-id"] == "a-request"


@every_way
async def test_metadata_passes_and_claims_do_not(caller: Where, provider: Where) -> None:
    async with pair(caller, provider) as here:
        claims = {"x-forwarded-for": "10.0.0.1", "x-plugin-caller-id": "somebody", "x-app": "1"}
        await here.client.echo(EchoRequest(), headers=claims)
        headers = here.service.contexts[0].request_headers
        assert headers["x-app"] == "1"
        assert "x-forwarded-for" not in headers
        assert headers["x-plugin-caller-id"].startswith("caller-")
        assert "authorization" not in headers
        assert "x-plugin-runtime-id" not in headers


@every_way
async def test_a_caller_that_leaves_cancels_its_call(caller: Where, provider: Where) -> None:
    async with pair(caller, provider) as here:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.client.echo, EchoRequest(text="hang"))
            await eventually(lambda: here.service.contexts)
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await here.service.cancelled.wait()
        async with here.client.count(CountRequest(to=99)) as stream:
            assert (await anext(aiter(stream))).number == 0
        with trio.fail_after(5):
            await here.service.closed.wait()
        await eventually(lambda: len(here.calls) == 2)
        assert {call.failure for call in here.calls} == {"canceled"}


@every_way
async def test_a_deadline_is_one_for_caller_and_provider(
    caller: Where, provider: Where, virtual_time: object
) -> None:
    async with pair(caller, provider) as here:
        with pytest.raises(ConnectError) as caught:
            await here.client.echo(EchoRequest(text="hang"), timeout_s=0.1)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        with trio.fail_after(5):
            await here.service.cancelled.wait()
        left_ms = here.service.contexts[0].timeout_ms
        assert left_ms is not None
        assert left_ms <= 100


@every_way
async def test_a_revoked_caller_loses_its_calls_in_flight(caller: Where, provider: Where) -> None:
    async with pair(caller, provider) as here, trio.open_nursery() as nursery:
        codes = list[Code]()

        async def call() -> None:
            with pytest.raises(ConnectError) as caught:
                await here.client.echo(EchoRequest(text="hang"), retry=False)
            codes.append(caught.value.code)

        nursery.start_soon(call)
        await eventually(lambda: here.service.contexts)
        await here.host.revoke_identity(_caller_of(here))
        with trio.fail_after(5):
            await here.service.cancelled.wait()
        await eventually(lambda: codes)
        assert codes[0] in (Code.UNAVAILABLE, Code.UNAUTHENTICATED)


def _caller_of(here: Pair) -> str:
    caller = here.service.contexts[0].caller
    assert caller is not None
    return caller.id


@every_way
async def test_a_provider_that_goes_ends_the_calls_to_it(caller: Where, provider: Where) -> None:
    async with pair(caller, provider) as here, trio.open_nursery() as nursery:
        codes = list[Code]()

        async def call() -> None:
            with pytest.raises(ConnectError) as caught:
                await here.client.echo(EchoRequest(text="hang"), retry=False)
            codes.append(caught.value.code)

        nursery.start_soon(call)
        await eventually(lambda: here.service.contexts)
        runtime_id = here.host.registry.providers("echo")[0].runtime_id
        await here.host.revoke_identity(runtime_id)
        with trio.fail_after(5):
            await here.service.cancelled.wait()
        await eventually(lambda: codes)
        assert codes == [Code.UNAVAILABLE]


@every_way
async def test_the_policy_holds(caller: Where, provider: Where) -> None:
    rules = Rules(plugins={"caller": PluginRules(calls=[])})
    policy = Policy(rules)
    plugin, service = Plugin("caller", version="1.0.0"), Telling()
    echo = plugin.require("echo")
    async with (
        hosting(HostConfig(policy=policy)) as (host, url),
        provider(host, url, echo_plugin(service=service)),
        caller(host, url, plugin),
    ):
        await registered(host)
        await eventually(lambda: "may not" in echo._service.states.value.reason)
        with pytest.raises(ConnectError):
            await echo.client(EchoServiceClient).echo(EchoRequest())
        assert not service.contexts


@every_way
async def test_a_body_that_is_too_large_for_the_router_is_refused(caller: Where, provider: Where) -> None:
    config = HostConfig(limits=Limits(max_routed_body_bytes=1000))
    async with pair(caller, provider, config) as here:
        client = here.echo.client(EchoServiceClient, ClientConfig(gzip_from_bytes=None))
        with pytest.raises(ConnectError) as caught:
            await client.echo(EchoRequest(data=b"x" * 2000), retry=False)
        assert "too large" in caught.value.message

        async def numbers() -> AsyncIterator[SumRequest]:
            while True:
                yield SumRequest(number=1)

        with pytest.raises(ConnectError):
            await client.sum(numbers(), retry=False)
        assert (await client.echo(EchoRequest(text="✓"))).text == "✓"


@every_way
async def test_an_answer_that_is_too_large_for_its_caller_is_refused(caller: Where, provider: Where) -> None:
    async with pair(caller, provider) as here:
        client = here.echo.client(EchoServiceClient, ClientConfig(max_message_bytes=1000))
        with pytest.raises(ConnectError) as caught:
            await client.echo(EchoRequest(data=b"".join(bytes([n % 251, n % 7]) for n in range(5000))))
        assert caught.value.code is Code.RESOURCE_EXHAUSTED


async def test_a_stream_waits_for_its_reader() -> None:
    sent = 0

    class Counting(Telling):
        async def count(self, request: CountRequest, ctx: Context) -> AsyncIterator[Any]:
            nonlocal sent
            async for each in super().count(request, ctx):
                sent += 1
                yield each

    plugin, service = Plugin("caller", version="1.0.0"), Counting()
    echo = plugin.require("echo")
    async with (
        hosting() as (host, _),
        task(host, echo_plugin(service=service)),
        task(host, plugin, "caller"),
    ):
        with trio.fail_after(10):
            await echo.wait_available()
        async with echo.client(EchoServiceClient).count(CountRequest(to=90)) as stream:
            async for message in stream:
                await trio.testing.wait_all_tasks_blocked()
                assert sent <= message.number + 4


async def test_nothing_of_a_caller_gets_to_the_other_task_but_its_messages() -> None:
    async with pair(as_task, as_task) as here:
        _authors.set("the caller's own")
        await here.client.echo(EchoRequest())
        assert here.service.authors == [""]
        assert here.service.sources == ["echo-plugin"]


async def test_the_router_logs_as_the_host(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cpg_trio")
    sources = list[str]()

    def note(record: logging.LogRecord) -> bool:
        if record.getMessage().startswith("[ROUTER]"):
            source = current_source.get()
            sources.append("" if source is None else source.name)
        return True

    logger = logging.getLogger("cpg_trio.router")
    logger.addFilter(note)
    try:
        async with pair(as_task, as_task) as here:
            await here.client.echo(EchoRequest())
    finally:
        logger.removeFilter(note)
    assert sources == ["host", "host"]


async def test_a_task_that_takes_no_more_calls_has_not_seen_them(virtual_time: object) -> None:
    async with hosting() as (host, _):
        service = Telling()
        async with task(host, echo_plugin(service=service)) as running:
            await registered(host)
            url = host.registry.providers("echo")[0].base_url
            server = host.local.find(url)
            assert server is not None
            server.takes_calls = False
            calls = list[Call]()
            host.calls.ended.add(calls.append)
            with pytest.raises(ConnectError) as caught, trio.fail_after(5):
                await host.client("echo", EchoServiceClient).echo(EchoRequest(), timeout_s=0.2)
            assert caught.value.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
            assert all(call.undelivered for call in calls)
            assert calls
            assert not service.contexts
            running.stop()


async def test_calls_in_flight_finish_while_a_task_stops() -> None:
    class Slow(Telling):
        def __init__(self) -> None:
            super().__init__()
            self.may_end = trio.Event()

        async def echo(self, _request: EchoRequest, ctx: Context) -> EchoResponse:
            self.contexts.append(ctx)
            await self.may_end.wait()
            return EchoResponse(text="done")

    service, answers = Slow(), list[str]()
    async with hosting() as (host, _), trio.open_nursery() as nursery:
        async with task(host, echo_plugin(service=service)) as running:
            await registered(host)

            async def call() -> None:
                answers.append((await host.client("echo", EchoServiceClient).echo(EchoRequest())).text)

            nursery.start_soon(call)
            await eventually(lambda: service.contexts)
            running.stop()
            await eventually(lambda: not host.registry.providers("echo"))
            service.may_end.set()
        assert (await running.wait()).how == "it has stopped"
        await eventually(lambda: answers == ["done"])


async def test_the_host_asks_a_task_and_shuts_it_down_in_memory() -> None:
    async with hosting() as (host, _), task(host, echo_plugin()) as running:
        runtime_id = await registered(host)
        info = await host._control.of(PluginIdentityClient, runtime_id).get_plugin_info(
            pb.GetPluginInfoRequest()
        )
        assert info.metadata[wire.RUNTIME_ID_KEY] == runtime_id
        health = await host._control.of(PluginControlClient, runtime_id).get_health(pb.GetHealthRequest())
        assert health.state == pb.HEALTH_STATE_HEALTHY
        assert await host._prober.probe(runtime_id)
        await host.shut_down_plugin(runtime_id, grace_s=1)
        with trio.fail_after(5):
            assert (await running.wait()).how == "it has stopped"


async def test_nobody_else_may_register_the_url_of_a_task() -> None:
    async with hosting() as (host, url), task(host, echo_plugin()):
        await registered(host)
        stolen = host.registry.providers("echo")[0].base_url
        async with httpx.AsyncClient(base_url=url) as http:
            caller = WireCaller(http)
            thief = await caller.plugin("thief")
            for base_url in (stolen, "task://nowhere"):
                body: dict[str, Any] = {"serviceType": "mine", "version": "1.0.0"}
                body |= {"endpointPath": "/a.B/", "metadata": {"base_url": base_url}}
                status, answer = await caller.post(REGISTER, body, thief)
                assert status == 403
                assert "is that of a task" in answer["message"]


async def test_no_client_on_a_socket_passes_for_a_call_in_memory() -> None:
    service = Telling()
    async with hosting() as (host, _), task(host, echo_plugin(service=service), port=0) as running:
        await registered(host)
        address = running.where.removeprefix("task, ")
        async with httpx.AsyncClient(base_url=address) as http:
            forged = {
                "cpg_trio.local": "1",
                "x-plugin-caller-id": "caller",
                "content-type": "application/json",
            }
            answer = await http.post("/echo.v1.EchoService/Echo", headers=forged, content=b"{}")
            assert answer.status_code == 401
            answer = await http.post(
                "/connectplugin.v1.PluginControl/Shutdown", headers=forged, content=b"{}"
            )
            assert answer.status_code == 401
        assert not service.contexts


async def test_a_public_service_of_a_task_answers_at_its_port() -> None:
    async with hosting() as (host, _), task(host, echo_plugin(public=True), port=0) as running:
        await registered(host)
        assert host.registry.providers("echo")[0].base_url.startswith("task://")
        address = running.where.removeprefix("task, ")
        async with httpx.AsyncClient(base_url=address) as http:
            answer = await http.post("/echo.v1.EchoService/Echo", json={"text": "✓"})
        assert answer.json() == {"text": "✓"}


async def test_a_task_asks_for_no_direct_calls_and_gives_none() -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    async with (
        hosting() as (host, url),
        task(host, echo_plugin()),
        plugged(caller, url, direct_calls=True),
    ):
        with trio.fail_after(10):
            await echo.wait_available()
        assert (await echo.client(EchoServiceClient).echo(EchoRequest(text="✓"))).text == "✓"
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.3):
            await goes_directly(echo)


async def test_a_task_needs_an_address_where_hosts_share_a_directory() -> None:
    config = HostConfig(store=MemoryStore(), keys=Keys(["k" * 32]), base_urls=BaseUrls.ANY)
    async with hosting(config) as (host, _):
        async with TaskLauncher(echo).launch(assignment(host, "echo-plugin")) as running:
            with trio.fail_after(10):
                ended = await running.wait()
        assert ended.failed
        assert "shares its directory" in ended.how
    config = HostConfig(store=MemoryStore(), keys=Keys(["k" * 32]), base_urls=BaseUrls.ANY)
    async with hosting(config) as (host, _), task(host, echo, port=0):
        await registered(host)
        assert host.registry.providers("echo")[0].base_url.startswith("http://127.0.0.1:")
        answer = await host.client("echo", EchoServiceClient).echo(EchoRequest(text="✓"))
        assert answer.text == "✓"


async def test_tasks_of_an_earlier_process_are_not_offered(tmp_path: Path) -> None:
    file = tmp_path / "state.sqlite3"
    with trio.CancelScope() as life:  # which ends as a process does that is killed
        async with (
            hosting(HostConfig(store=SqliteStore(file))) as (host, _),
            TaskLauncher(echo).launch(assignment(host, "echo-plugin")),
        ):
            runtime_id = await registered(host)
            life.cancel()
            await trio.lowlevel.checkpoint()
    async with hosting(HostConfig(store=SqliteStore(file))) as (host, _):
        assert not host.registry.providers("echo")
        assert host.identities.entry(runtime_id) is None
