"""Who gets at what a plugin provides: those for whom its host speaks, and nobody by any other way."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import httpx
import pytest
import trio
import trio.testing
from trio.testing import MockClock
from trio_websocket import ConnectionRejected

from cpg_trio import wire
from cpg_trio.asgi import App, Message, Receive, Scope, Send, send_text
from cpg_trio.assertions import LEEWAY_S, Purpose
from cpg_trio.host import Host
from cpg_trio.http import Pool, ServeConfig, messages
from cpg_trio.http.heads import RequestHead
from cpg_trio.metadata import folded, is_claim
from cpg_trio.plugin import Plugin, guard as guard_module
from cpg_trio.plugin._websocket import open_websocket
from cpg_trio.plugin.guard import Guard, Managers
from cpg_trio.rpc import Caller, Code, ConnectError, Context, PoolClient
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests._wire import Wire, dial, request
from tests.metadata import CLAIMS, spelled
from tests.plugin.controlling import SET_IDENTITY, SHUTDOWN
from tests.plugin.running import echo_plugin, hosting, is_healthy, plugged, until
from tests.plugin.signing import CALLER_ID, CALLER_NAME, ECHO, digest_of, from_caller, granted
from tests.rpc.echo import Echo

COUNT = "/echo.v1.EchoService/Count"
STREAM = "/echo.v1.EchoService/HTTPChat"
Headers = dict[str, str]
DAY_S = 24 * 60 * 60.0


@attrs.frozen
class Around:
    """A plugin that is registered with a host, and somebody who can reach it without."""

    host: Host
    url: str
    runtime_id: str
    echo: Echo
    http: httpx.AsyncClient

    @property
    def digest(self) -> bytes:
        return digest_of(self.host, self.runtime_id)

    async def call(self, headers: Headers | None = None, path: str = ECHO) -> tuple[int, str]:
        """Return the status, and the text or the code of the error."""
        response = await self.http.post(self.url + path, json={"text": "hi"}, headers=headers or {})
        answer = response.json()
        return response.status_code, answer.get("code") or answer["text"]


@asynccontextmanager
async def around(*, public: bool = False, **config: Any) -> AsyncIterator[Around]:
    echo = Echo()
    plugin = echo_plugin(public=public, service=echo)
    async with (
        hosting() as (host, host_url),
        plugged(plugin, host_url, **config) as url,
        httpx.AsyncClient() as http,
    ):
        await until(host, lambda: is_healthy(host, "echo"))
        yield Around(host, url, host.registry.discover("echo")[0].runtime_id, echo, http)


REFUSED = (401, "unauthenticated")
SERVED = (200, "hi")


async def test_a_call_around_the_host_is_refused_and_told_where_to_go() -> None:
    async with around() as plugin:
        response = await plugin.http.post(plugin.url + ECHO, json={"text": "hi"})
        assert response.status_code == 401
        assert response.json() == {
            "code": "unauthenticated",
            "message": "call it through its host, which says who calls",
        }
        assert plugin.echo.contexts == []


def forgeries(plugin: Around) -> dict[str, Headers]:
    """Return what somebody may try who can reach the plugin, and may be another plugin of the host."""
    other, token = plugin.host.identities.issue("other")
    of_other = digest_of(plugin.host, other.runtime_id)
    good = from_caller(plugin.digest, plugin.runtime_id)[wire.CALLER_HEADER]
    head, claims, signature = good.split(".")
    as_caller = partial(from_caller, plugin.digest, plugin.runtime_id)
    claims_for_count = as_caller(COUNT)[wire.CALLER_HEADER].split(".")[1]
    return {
        "nothing at all": {wire.CALLER_HEADER: ""},
        "no token": {wire.CALLER_HEADER: "x"},
        "only a name": {wire.CALLER_ID_HEADER: CALLER_ID},
        "a name in another spelling": {"X_Plugin_Caller_Id": CALLER_ID},
        "a token of one's own": {wire.CALLER_HEADER: token},
        "signed with one's own token": from_caller(of_other, plugin.runtime_id),
        "for another provider": from_caller(plugin.digest, other.runtime_id),
        "replayed: it was signed for another provider": from_caller(of_other, other.runtime_id),
        "for another method": as_caller(COUNT),
        "for a path above": as_caller("/echo.v1.EchoService/"),
        "expired": as_caller(for_s=-LEEWAY_S - 1),
        "of a clock that is ahead": as_caller(for_s=60 + LEEWAY_S + 5),
        "for direct calls": as_caller(purpose=Purpose.DIRECT),
        "for control": as_caller(purpose=Purpose.CONTROL),
        "for enrolment": as_caller(purpose=Purpose.ENROL),
        "truncated": {wire.CALLER_HEADER: good[:-1]},
        "without its signature": {wire.CALLER_HEADER: f"{head}.{claims}."},
        "without an algorithm": {wire.CALLER_HEADER: f"eyJhbGciOiJub25lIn0.{claims}."},
        "with another's claims": {wire.CALLER_HEADER: f"{head}.{claims_for_count}.{signature}"},
        "very long": {wire.CALLER_HEADER: good + "x" * 5000},
        "in another's name": {wire.CALLER_HEADER: good, wire.CALLER_ID_HEADER: "somebody-else"},
        "both ways at once": {wire.CALLER_HEADER: good, wire.RUNTIME_ID_HEADER: CALLER_ID},
        "a runtime token where a grant should be": {
            wire.RUNTIME_ID_HEADER: other.runtime_id,
            wire.AUTHORIZATION_HEADER: f"Bearer {token}",
        },
        "a runtime id alone": {wire.RUNTIME_ID_HEADER: CALLER_ID},
        "a grant for somebody else": granted(plugin.digest, plugin.runtime_id, "/", subject="another-1"),
        "a grant for another plugin": granted(plugin.digest, other.runtime_id, "/"),
        "a grant that one has signed oneself": granted(of_other, plugin.runtime_id, "/"),
        "a grant for another service": granted(plugin.digest, plugin.runtime_id, "/echo.v1.Echo"),
        "a grant for nothing": granted(plugin.digest, plugin.runtime_id, ""),
        "a statement as a grant": {
            wire.RUNTIME_ID_HEADER: CALLER_ID,
            wire.AUTHORIZATION_HEADER: f"Bearer {good}",
        },
    }


@pytest.mark.parametrize("config", [{}, {"public": True}, {"accept_unsigned": True}], ids=str)
async def test_no_forgery_gets_in_nor_is_it_overlooked_where_everybody_may_call(
    config: dict[str, bool],
) -> None:
    async with around(**config) as plugin:
        for name, headers in forgeries(plugin).items():
            assert await plugin.call(headers) == REFUSED, name
        assert plugin.echo.contexts == []


@pytest.mark.parametrize("method", ["..%2fother.v1.Other/M", "..;/other.v1.Other/M", "%252e%252e/M", "/M"])
async def test_a_grant_opens_nothing_that_some_reader_takes_for_another_service(method: str) -> None:
    async with around() as plugin:
        grant = granted(plugin.digest, plugin.runtime_id, "/echo.v1.EchoService/")
        assert await plugin.call(grant, f"/echo.v1.EchoService/{method}") == REFUSED


async def test_two_statements_in_one_call_are_refused() -> None:
    async with around() as plugin:
        (header,) = from_caller(plugin.digest, plugin.runtime_id).items()
        response = await plugin.http.post(plugin.url + ECHO, json={}, headers=[header, header])
        assert response.status_code == 401


UNKNOWN = "/unknown.v1.Unknown/Method"


async def test_a_call_for_another_plugin_is_refused_where_nothing_is_served_too() -> None:
    async with around() as plugin:
        other, _ = plugin.host.identities.issue("other")
        of_other = digest_of(plugin.host, other.runtime_id)
        for headers in (
            from_caller(of_other, other.runtime_id, UNKNOWN),
            granted(of_other, other.runtime_id, "/"),
        ):
            response = await plugin.http.post(plugin.url + UNKNOWN, headers=headers)
            assert response.status_code == 401
            assert response.headers[wire.UNDELIVERED_HEADER] == "true"


async def test_where_nothing_is_served_a_call_gets_404_if_it_is_for_this_plugin_or_states_nothing() -> None:
    async with around() as plugin:
        for headers in ({}, from_caller(plugin.digest, plugin.runtime_id, UNKNOWN)):
            response = await plugin.http.post(plugin.url + UNKNOWN, headers=headers)
            assert response.status_code == 404
            assert wire.UNDELIVERED_HEADER not in response.headers


async def test_a_host_does_not_take_the_answer_of_another_plugin_at_a_dead_ones_address() -> None:
    async with (
        hosting() as (host, host_url),
        plugged(echo_plugin(), host_url),
        plugged(Plugin("other", version="1.0.0"), host_url) as url_of_other,
        httpx.AsyncClient() as http,
    ):
        await until(host, lambda: is_healthy(host, "echo"))
        dead, token = host.identities.issue("dead")
        base_url = {wire.BASE_URL_KEY: url_of_other}
        host.registry.register(dead.runtime_id, "dead", "1.0.0", "/dead.v1.Dead/", base_url)
        proof = {wire.RUNTIME_ID_HEADER: dead.runtime_id, wire.AUTHORIZATION_HEADER: wire.bearer(token)}
        response = await http.post(f"{host_url}/services/dead/{dead.runtime_id}/Method", headers=proof)
        assert response.status_code == 502
        assert response.headers[wire.UNDELIVERED_HEADER] == "true"


async def test_what_the_host_has_signed_is_believed_again_and_again_and_for_its_time_only() -> None:
    async with around() as plugin:
        headers = from_caller(plugin.digest, plugin.runtime_id)
        for _ in range(3):
            assert await plugin.call({"x-plugin-CALLER": headers[wire.CALLER_HEADER]}) == SERVED
        assert await plugin.call(headers, COUNT) == REFUSED
    assert [ctx.caller for ctx in plugin.echo.contexts] == [Caller(CALLER_ID, CALLER_NAME)] * 3


async def test_who_has_a_grant_calls_directly_below_its_path() -> None:
    async with around() as plugin:
        for prefix in ("/echo.v1.EchoService", "/echo.v1.EchoService/", ECHO, "/"):
            assert await plugin.call(granted(plugin.digest, plugin.runtime_id, prefix)) == SERVED
        grant = granted(plugin.digest, plugin.runtime_id, COUNT)
        assert await plugin.call(grant) == REFUSED
        assert await plugin.call({**grant, wire.RUNTIME_ID_HEADER: "another-1"}, COUNT) == REFUSED
    assert {ctx.caller for ctx in plugin.echo.contexts} == {Caller(CALLER_ID, CALLER_NAME)}


async def test_a_public_service_serves_everybody_and_knows_those_for_whom_the_host_speaks() -> None:
    async with around(public=True) as plugin:
        assert await plugin.call() == SERVED
        assert await plugin.call({"authorization": "Basic dTpw"}) == SERVED  # the service's own business
        assert await plugin.call(from_caller(plugin.digest, plugin.runtime_id)) == SERVED
    nobody, stranger, caller = plugin.echo.contexts
    assert (nobody.caller, stranger.caller) == (None, None)
    assert stranger.request_headers["authorization"] == "Basic dTpw"
    assert caller.caller == Caller(CALLER_ID, CALLER_NAME)


async def test_a_plugin_whose_host_signs_nothing_takes_calls_that_claim_nothing() -> None:
    async with around(accept_unsigned=True) as plugin:
        assert await plugin.call() == SERVED
    assert [ctx.caller for ctx in plugin.echo.contexts] == [None]


@pytest.mark.parametrize("accept_unsigned", [False, True])
async def test_a_plugin_without_a_host_yet_serves_nobody(accept_unsigned: bool) -> None:  # noqa: FBT001
    async with (
        plugged(echo_plugin(), None, accept_unsigned=accept_unsigned) as url,
        httpx.AsyncClient() as http,
    ):
        for headers in ({}, from_caller(b"x" * 32, "echo-plugin-1")):
            assert (await http.post(url + ECHO, json={"text": "hi"}, headers=headers)).status_code == 401


async def test_what_is_for_the_guard_does_not_get_to_the_service() -> None:
    async with around() as plugin:
        await plugin.call(from_caller(plugin.digest, plugin.runtime_id) | {wire.CALLER_ID_HEADER: CALLER_ID})
        await plugin.call(granted(plugin.digest, plugin.runtime_id, "/"))
    ours = {"x-plugin-caller", "x-plugin-runtime-id", "authorization"}
    for ctx in plugin.echo.contexts:
        assert not ours & set(ctx.request_headers)
    assert plugin.echo.contexts[0].request_headers["x-plugin-caller-id"] == CALLER_ID


async def test_what_a_direct_caller_claims_does_not_get_to_the_service_and_its_metadata_does() -> None:
    claims = {spelling: "x" for name in CLAIMS for spelling in spelled(name)}
    checked = {"x-plugin-caller", "x-plugin-caller-id", "x-plugin-runtime-id"}  # not to be claimed at all
    claims = {name: value for name, value in claims.items() if folded(name.encode()).decode() not in checked}
    async with around() as plugin:
        grant = granted(plugin.digest, plugin.runtime_id, "/")
        assert (
            await plugin.call({**grant, **claims, "cookie": "a=b", "my_key": "1", "x-tenant": "t"}) == SERVED
        )
    received = plugin.echo.contexts[0].request_headers
    assert not [name for name in received if is_claim(name.encode())]
    assert (received["my_key"], received["x-tenant"]) == ("1", "t")
    assert received["host"]  # of this connection


@pytest.mark.parametrize("text", ["a", "fail"])
async def test_an_answer_to_a_direct_caller_has_metadata_and_no_claims(text: str) -> None:
    class Claiming(Echo):
        async def echo(self, request: pb.EchoRequest, ctx: Context, /) -> pb.EchoResponse:
            for headers in (ctx.response_headers, ctx.response_trailers):
                headers.update({"X-Plugin-Undelivered": "true", "set-cookie": "a=b", "x-kept": "1"})
            return await super().echo(request, ctx)

    plugin = echo_plugin(service=Claiming())
    async with hosting() as (host, host_url), plugged(plugin, host_url) as url, httpx.AsyncClient() as http:
        await until(host, lambda: is_healthy(host, "echo"))
        runtime_id = host.registry.discover("echo")[0].runtime_id
        grant = granted(digest_of(host, runtime_id), runtime_id, "/")
        response = await http.post(url + ECHO, json={"text": text}, headers=grant)
    assert {"x-kept", "trailer-x-kept"} <= set(response.headers)
    assert not [name for name in response.headers if is_claim(name.encode())]


async def test_nobody_but_the_host_sends_fields_of_the_platform() -> None:
    async with around(public=True) as plugin:
        for proof in ({}, from_caller(plugin.digest, plugin.runtime_id)):
            sent = {
                **proof,
                "X-Plugin-Undelivered": "true",
                "x_plugin_new": "1",
                "x-forwarded-for": "192.0.2.1",
            }
            assert await plugin.call(sent) == SERVED
    for ctx in plugin.echo.contexts:
        assert not [name for name in ctx.request_headers if "plugin" in name]
        assert (
            ctx.request_headers["x-forwarded-for"] == "192.0.2.1"
        )  # of the proxy in front of a public service


class Naming(Echo):
    """Says who calls."""

    async def echo(self, _request: pb.EchoRequest, ctx: Context, /) -> pb.EchoResponse:
        self.contexts.append(ctx)
        return pb.EchoResponse(text=ctx.caller.name if ctx.caller else "")


async def test_calls_through_the_host_tell_each_method_who_has_called() -> None:
    echo, caller = Naming(), Plugin("caller", version="1.0.0")
    dependency = caller.require("echo")
    async with (
        hosting() as (host, host_url),
        plugged(echo_plugin(service=echo), host_url),
        plugged(caller, host_url),
    ):
        await dependency.wait_available()
        client = dependency.client(EchoServiceClient)
        assert (await client.echo(pb.EchoRequest())).text == "caller"
        async with client.count(pb.CountRequest(to=1)) as numbers:
            assert [each.number async for each in numbers] == [0]
        assert len({ctx.caller for ctx in echo.contexts}) == 1
        assert echo.contexts[0].caller is not None
        assert host.identities.entry(echo.contexts[0].caller.id) is not None


@pytest.mark.parametrize("content_type", ["application/connect+proto", "application/grpc-web+proto"])
async def test_streams_and_grpc_are_told_in_a_way_that_their_clients_read(content_type: str) -> None:
    async with around() as plugin:
        response = await plugin.http.post(
            plugin.url + COUNT, content=b"", headers={"content-type": content_type}
        )
        assert response.status_code == 401  # which both protocols map to `unauthenticated`
        async with Pool() as pool:
            client = EchoServiceClient(plugin.url, PoolClient(pool))
            with pytest.raises(ConnectError, match="call it through its host") as caught:
                async with client.count(pb.CountRequest(to=1)) as numbers:
                    await anext(aiter(numbers))
        assert caught.value.code == Code.UNAUTHENTICATED


@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize("code", [Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.ALREADY_EXISTS])
async def test_a_handler_runs_once_and_its_errors_are_its_own(code: Code, public: bool) -> None:  # noqa: FBT001
    class Failing(Echo):
        async def echo(self, _request: pb.EchoRequest, ctx: Context, /) -> pb.EchoResponse:
            self.contexts.append(ctx)
            raise ConnectError(code, "the service's own")

    echo = Failing()
    async with (
        hosting() as (host, host_url),
        plugged(echo_plugin(service=echo, public=public), host_url) as url,
        httpx.AsyncClient() as http,
    ):
        await until(host, lambda: is_healthy(host, "echo"))
        me = host.registry.discover("echo")[0].runtime_id
        headers = from_caller(digest_of(host, me), me)
        answer = (await http.post(url + ECHO, json={}, headers=headers)).json()
    assert answer == {"code": code.value, "message": "the service's own"}
    assert len(echo.contexts) == 1


async def test_calls_go_on_while_the_plugin_gets_other_tokens() -> None:
    async with around() as plugin:
        before = from_caller(plugin.digest, plugin.runtime_id)
        entry = plugin.host.identities.entry(plugin.runtime_id)
        assert entry is not None
        first = plugin.digest
        token = plugin.host.identities.renew(entry.identity)
        # Not yet the plugin's: what the host says until it has shown it is signed with the one before.
        assert plugin.digest == first
        assert plugin.host.identities.authenticate(plugin.runtime_id, token)
        assert plugin.digest != first
        assert await plugin.call(from_caller(plugin.digest, plugin.runtime_id)) == REFUSED
        assert await plugin.call(before) == SERVED


async def test_refusals_are_in_the_log_once_in_a_while_and_without_what_was_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with around() as plugin:
        caplog.clear()
        secret = from_caller(b"x" * 32, plugin.runtime_id)
        for _ in range(20):
            await plugin.call(secret)
        lines = [record.getMessage() for record in caplog.records if "refused a call" in record.getMessage()]
    assert lines == [
        f"refused a call of '{ECHO}' from 127.0.0.1: the assertion is not signed by this plugin's host"
    ]
    assert secret[wire.CALLER_HEADER] not in caplog.text


@attrs.define(eq=False)
class Known:
    """A plugin as the guard sees it."""

    runtime_id: str = "me-1"
    digests: Sequence[bytes] = (b"x" * 32,)


class InMemory:
    """A guard before an application, and no socket."""

    def __init__(self, **options: Any) -> None:
        self.now, self.age = time.time(), 0.0
        self.known: Known | None = Known()
        self.served = 0
        managers = Managers("me", None, lambda: self.known is None)
        self.guard = Guard(
            lambda: self.known, managers, clock=lambda: self.age, wall_clock=lambda: self.now, **options
        )
        self.app = self.guard.service(self._serve, public=False)

    def wait(self, seconds: float) -> None:
        """Have time pass."""
        self.now += seconds
        self.age += seconds

    async def _serve(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        self.served += 1
        await send_text(send, 200, "served")

    async def call(
        self,
        headers: Headers,
        path: str = ECHO,
        *,
        kind: str = "http",
        client: tuple[str, int] | None = ("192.0.2.1", 1),
        app: App | None = None,
    ) -> int:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": f"{kind}.connect"}

        fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope: Scope = {
            "type": kind,
            "path": path,
            "raw_path": path.encode(),
            "client": client,
            "headers": fields,
        }
        await (app or self.app)(scope, receive, send)
        return int(sent[0]["status"])


@pytest.mark.parametrize("headers", [from_caller, partial(granted, prefix="/echo.v1.EchoService")])
async def test_a_statement_or_grant_ends_with_its_time_also_one_that_was_verified_before(
    headers: Callable[..., Headers],
) -> None:
    guarded = InMemory()
    shown = headers(b"x" * 32, "me-1")
    assert await guarded.call(shown) == 200
    guarded.wait(60 + LEEWAY_S - 1)
    assert await guarded.call(shown) == 200
    guarded.wait(2)
    assert await guarded.call(shown) == 401
    assert guarded.served == 2


@pytest.mark.parametrize("headers", [from_caller, partial(granted, prefix="/echo.v1.EchoService")])
async def test_what_was_verified_ends_with_its_time_though_the_wall_clock_stands_still(
    headers: Callable[..., Headers],
) -> None:
    guarded = InMemory()
    shown = headers(b"x" * 32, "me-1", for_s=10.0)
    assert await guarded.call(shown) == 200
    guarded.age += 10 + LEEWAY_S - 1
    guarded.now += 10 + LEEWAY_S + 1  # so that it cannot be verified again
    assert await guarded.call(shown) == 200
    guarded.age += 1.5
    assert await guarded.call(shown) == 401


@pytest.mark.parametrize("headers", [from_caller, partial(granted, prefix="/echo.v1.EchoService")])
async def test_a_statement_of_a_clock_that_was_ahead_ends_with_its_time_when_the_clock_is_corrected(
    headers: Callable[..., Headers],
) -> None:
    guarded = InMemory()
    ahead = headers(b"x" * 32, "me-1", for_s=60.0 + DAY_S)
    assert await guarded.call(ahead) == 401
    guarded.now += DAY_S
    assert await guarded.call(ahead) == 200
    guarded.now -= DAY_S
    guarded.wait(60 + 2 * LEEWAY_S)
    assert await guarded.call(ahead) == 401
    assert guarded.served == 1


async def test_clocks_may_differ_by_the_leeway_in_both_directions_and_by_no_more() -> None:
    guarded = InMemory()
    for for_s, status in (
        (59 + LEEWAY_S, 200),
        (61 + LEEWAY_S, 401),
        (1 - LEEWAY_S, 200),
        (-1 - LEEWAY_S, 401),
    ):
        assert await guarded.call(from_caller(b"x" * 32, "me-1", for_s=for_s)) == status


async def test_what_was_said_to_one_identity_is_nothing_to_the_next() -> None:
    guarded = InMemory()
    headers = from_caller(b"x" * 32, "me-1")
    assert await guarded.call(headers) == 200
    guarded.known = Known("me-2")
    assert await guarded.call(headers) == 401
    guarded.known = Known("me-1", (b"y" * 32,))
    assert await guarded.call(headers) == 401


async def test_what_is_signed_with_a_token_of_before_is_good_as_well() -> None:
    guarded = InMemory()
    guarded.known = Known(digests=(b"y" * 32, b"x" * 32))
    for digest in (b"x" * 32, b"y" * 32):
        assert await guarded.call(from_caller(digest, "me-1")) == 200


async def test_what_is_remembered_of_proved_callers_is_bounded_in_entries_and_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard_module, "_MAX_VERIFIED", 5)
    monkeypatch.setattr(guard_module, "_MAX_VERIFIED_BYTES", 10_000)
    monkeypatch.setattr(guard_module, "_MOST_PLANS", 5)
    monkeypatch.setattr(guard_module, "_MOST_PLAN_BYTES", 10_000)
    guarded = InMemory()
    for for_s in range(60, 90):
        headers = {**from_caller(b"x" * 32, "me-1", for_s=for_s), f"x-field-{for_s}": "a"}
        assert await guarded.call(headers) == 200
        for kept in (guarded.guard._callers._entries, guarded.guard._plans):
            assert 0 < len(kept) <= 5
            assert kept.kept_bytes <= 10_000


async def test_nothing_is_remembered_of_who_proves_nothing() -> None:
    guarded = InMemory()
    for number in range(5):
        assert await guarded.call({"x-plugin-caller": f"a.b.{number}"}) == 401
        assert await guarded.call({"x-plugin-runtime-id": "a", "authorization": f"Bearer {number}"}) == 401
    assert not guarded.guard._callers._entries
    assert not guarded.guard._grants._entries
    assert not guarded.guard._plans


@pytest.mark.parametrize("path", ["/healthz", "/nothing", ECHO])
async def test_nobody_fills_a_plugins_log_with_websockets(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = Plugin("echo-plugin", version="1.0.0")
    plugin.provide("echo", Echo(), public=True)
    async with hosting() as (_, url), plugged(plugin, url) as plugin_url:
        with pytest.raises(ConnectionRejected) as refused:
            async with open_websocket(plugin_url + path, {}, ()):
                pass
        assert refused.value.status_code == 404
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_websocket_is_refused_as_a_call_is() -> None:
    guarded = InMemory()
    assert await guarded.call({}, kind="websocket") == 401
    assert guarded.served == 0


@pytest.mark.parametrize(
    ("client", "status"),
    [
        (("127.0.0.1", 1), 200),
        (("::1", 1), 200),
        (("::ffff:127.0.0.1", 1), 200),
        (None, 200),
        (("192.0.2.1", 1), 401),
        (("::ffff:192.0.2.1", 1), 401),
        (("localhost.evil.example", 1), 401),
    ],
)
async def test_a_plugin_without_a_host_takes_one_from_its_own_machine_only(
    client: tuple[str, int] | None, status: int
) -> None:
    guarded = InMemory()
    guarded.known = None
    control = guarded.guard.control(guarded._serve)
    assert await guarded.call({}, SET_IDENTITY, client=client, app=control) == status
    assert await guarded.call({}, SHUTDOWN, client=client, app=control) == 401


async def test_refusals_that_were_not_written_down_are_counted(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    guarded = InMemory()
    for _ in range(4):
        await guarded.call({})
    await trio.sleep(60)
    await guarded.call({})
    assert autojump_clock.rate == 0
    first, second = caplog.messages
    assert "more since" not in first
    assert second.endswith("(and 3 more since the last time)")


# How long bodies may take


SILENCE_S = 0.2


async def begin_stream(wire: Wire, headers: Headers) -> None:
    """Begin a stream whose client says nothing."""
    framing = {"content-type": "application/connect+json", "transfer-encoding": "chunked"}
    await wire.send(request("POST", STREAM, {**framing, **headers}))


async def test_a_stream_from_the_host_may_be_silent_and_that_of_a_stranger_has_its_time(
    virtual_time: MockClock,
) -> None:
    async with (
        around(public=True, serve=ServeConfig(body_timeout_s=SILENCE_S)) as plugin,
        dial(plugin.url) as strangers,
        dial(plugin.url) as hosts,
    ):
        await begin_stream(hosts, from_caller(plugin.digest, plugin.runtime_id, STREAM))
        await begin_stream(strangers, {})
        with trio.fail_after(5):
            assert (await strangers.rest()).removesuffix(b"<reset>") == b""
        await trio.sleep(2 * SILENCE_S)
        await hosts.send(b"0\r\n\r\n")
        assert (await hosts.response()).status == 200


async def test_one_message_has_its_time_also_from_the_host(virtual_time: MockClock) -> None:
    async with around(serve=ServeConfig(body_timeout_s=SILENCE_S)) as plugin, dial(plugin.url) as wire:
        framing = {"content-type": "application/json", "transfer-encoding": "chunked"}
        proof = from_caller(plugin.digest, plugin.runtime_id, ECHO)
        await wire.send(request("POST", ECHO, {**framing, **proof}))
        with trio.fail_after(5):
            assert (await wire.rest()).removesuffix(b"<reset>") == b""


async def test_only_heads_of_callers_that_have_proved_themselves_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[bytes] = []

    def counted(head: bytes) -> RequestHead:
        read.append(head)
        return RequestHead(head)

    async with around() as plugin:
        grant = granted(plugin.digest, plugin.runtime_id, "/echo.v1.EchoService")
        stranger = {"authorization": "Bearer forged", wire.RUNTIME_ID_HEADER: "stranger-1"}
        monkeypatch.setattr(messages, "RequestHead", counted)
        for headers, answer, times in ((stranger, REFUSED, 3), (grant, SERVED, 1)):
            read.clear()
            for _ in range(3):
                assert await plugin.call(headers) == answer
            assert len([head for head in read if head.startswith(b"POST /echo")]) == times
