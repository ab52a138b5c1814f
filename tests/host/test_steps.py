"""What crosses a checkpoint is checked again after it.

Each call to the host is made again and again, and at each step of the host's tasks something happens to the
plugin that it is about, one step later each time. Whatever the step, what holds afterwards is the same:
nothing of an identity that has ended is left, nothing that was acknowledged is lost, and nothing is there
that was forbidden before it was there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cpg_trio import wire
from cpg_trio.asgi import App
from cpg_trio.host import Host, HostConfig, Identity, Policy, RateLimits
from cpg_trio.host.access.policy import Rules, ServiceRules
from cpg_trio.http import serve
from cpg_trio.http.channel import SocketChannel
from cpg_trio.http.relay import Relay
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import AsgiTransport, ConnectError
from cpg_trio.store import SqliteStore
from tests._wire import dial, request
from tests.host.calls import (
    COOKIE,
    DISCOVER,
    HANDSHAKE,
    REGISTER,
    REPORT,
    UNREGISTER,
    VERSIONS,
    WATCH,
    Caller,
    Headers,
    in_proto,
    runtime_id,
)
from tests.host.capabilities.brokering import BROKER, LOGGER
from tests.host.directory.test_store import connection_of
from tests.host.routed import Setting, hosting
from tests.http.peers import Peer, serving

_T = TypeVar("_T")
_MOST_STEPS = 500
_UNLIMITED = RateLimits(**dict.fromkeys(attrs.fields_dict(RateLimits)))


class AtStep(trio.abc.Instrument):
    """Does something before the step with a number of all those that the host's tasks take."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self._left = number
        self._act = act
        self.acted = False
        self.error: BaseException | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.acted or not task.name.startswith("cpg_trio."):
            return
        if self._left:
            self._left -= 1
            return
        self.acted = True
        try:
            self._act()
        except Exception as error:  # noqa: BLE001 - Trio would log it, and go on without the instrument
            self.error = error


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All that goes out by the host's connections."""
    seen: list[bytes] = []
    send_nowait = SocketChannel.send_nowait

    def noted(channel: SocketChannel, data: bytes | memoryview) -> int:
        seen.append(bytes(data[:100]))
        return send_nowait(channel, data)

    monkeypatch.setattr(SocketChannel, "send_nowait", noted)
    return seen


@attrs.frozen
class Provider:
    """What a plugin serves: who it is, how it is, and its service. It keeps connections, or closes each."""

    keeps: bool = True

    async def __call__(self, peer: Peer) -> None:
        while head := await peer.receive_head():
            if b"/GetPluginInfo " in head:
                await peer.send(in_proto(pb.GetPluginInfoResponse(self_id="t-plugin")))
            elif b"/SetRuntimeIdentity " in head:
                await peer.send(in_proto(pb.SetRuntimeIdentityResponse(acknowledged=True)))
            else:
                await peer.send(in_proto(pb.GetHealthResponse(state=pb.HEALTH_STATE_DEGRADED)))
            if not self.keeps:
                return


@attrs.define
class Subject:
    """A host, a plugin that provides `t`, and another that may call it."""

    caller: Caller
    app: App
    host_url: str
    base_url: str
    me: Headers
    other: Headers
    registration: str
    grant: Any

    @property
    def host(self) -> Host:
        return self.caller.host

    @property
    def id(self) -> str:
        return runtime_id(self.me)

    @property
    def identity(self) -> Identity:
        entry = self.host.identities.entry(self.id)
        assert entry is not None
        return entry.identity

    async def post(self, path: str, body: dict[str, Any], headers: Headers) -> int:
        return (await self.caller.post(path, body, headers))[0]

    async def routed(self, path: str, headers: Headers) -> int:
        """Return the status of a routed call, which comes through a socket."""
        async with dial(self.host_url) as wire:
            await wire.send(request("POST", path, {**headers, "content-length": "0"}))
            return (await wire.response()).status

    def provides(self, service_type: str) -> bool:
        return self.host.registry.provider(service_type, self.id) is not None


# Calls


async def shakes_hands_again(s: Subject) -> int:
    return await s.post(HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": "t-plugin"}, s.me)


async def registers(s: Subject) -> int:
    return await s.post(REGISTER, _registration(s, "u"), s.me)


async def registers_anew(s: Subject) -> int:
    return await s.post(REGISTER, _registration(s, "t", "3.0.0"), s.me)


def _registration(s: Subject, service_type: str, version: str = "1.0.0") -> dict[str, Any]:
    # It is by name, so that the host has to look it up.
    return _registered_at(s.base_url.replace("127.0.0.1", "localhost"), service_type, version)


def _registered_at(url: str, service_type: str, version: str = "1.0.0") -> dict[str, Any]:
    metadata = {wire.BASE_URL_KEY: url, wire.DIRECT_KEY: "true"}
    return {"serviceType": service_type, "version": version, "endpointPath": "/", "metadata": metadata}


async def unregisters(s: Subject) -> int:
    return await s.post(UNREGISTER, {"registrationId": s.registration}, s.me)


async def reports(s: Subject) -> int:
    return await s.post(REPORT, {"state": 1, "reason": "well"}, s.me)


async def is_discovered(s: Subject) -> int:
    return await s.post(DISCOVER, {"serviceType": "t"}, s.other)


async def watches_by_stream(s: Subject) -> int:
    body = json.dumps({"serviceType": "v"}).encode()
    frame = b"\0" + len(body).to_bytes(4, "big") + body
    headers = {**s.me, "content-type": "application/connect+json"}
    async with s.caller.http.stream("POST", WATCH, content=frame, headers=headers) as response:
        async for _ in response.aiter_bytes():
            break
    return response.status_code


async def watches_by_websocket(s: Subject) -> int:
    said: list[Any] = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": '{"subscribe": [{"serviceType": "v"}]}'},
    ]
    told, heard = list[Any](), trio.Event()

    async def receive() -> Any:
        await trio.lowlevel.checkpoint()
        if said:
            return said.pop(0)
        await heard.wait()
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        told.append(message)
        if message["type"] != "websocket.accept":
            heard.set()

    scope = {
        "type": "websocket",
        "path": "/watch",
        "raw_path": b"/watch",
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
        "client": ("127.0.0.1", 1),
        "headers": [(name.lower().encode(), value.encode()) for name, value in s.me.items()],
    }
    async with trio.open_nursery() as nursery:
        nursery.start_soon(s.app, scope, receive, send, name="cpg_trio.host")
    return 200 if told[-1]["type"] == "websocket.send" else 401


async def asks_for_a_capability(s: Subject) -> int:
    return await s.post(BROKER, {"capabilityType": "logger"}, s.me)


async def uses_a_capability(s: Subject) -> int:
    path = s.grant["endpointUrl"].partition("/capabilities/")[2]
    proof = {"Authorization": f"Bearer {s.grant['bearerToken']}"}
    answer = await s.caller.http.post(f"/capabilities/{path}{LOGGER}", json={"message": "hi"}, headers=proof)
    return answer.status_code


async def asks_for_direct_calls(s: Subject) -> int:
    return await s.post(BROKER, {"capabilityType": f"{wire.DIRECT_PREFIX}v"}, s.me)


async def is_called_directly(s: Subject) -> int:
    request = {"capabilityType": f"{wire.DIRECT_PREFIX}t", "providerId": s.id}
    return await s.post(BROKER, request, s.other)


async def is_called(s: Subject) -> int:
    return await s.routed(f"/services/t/{s.id}/M", s.other)


async def calls(s: Subject) -> int:
    provider = s.host.registry.providers("v")[0].runtime_id
    return await s.routed(f"/services/v/{provider}/M", s.me)


async def is_probed(s: Subject) -> int:
    return 200 if await s.host._prober.probe(s.id) else 503


CALLS = [
    shakes_hands_again,
    registers,
    registers_anew,
    unregisters,
    reports,
    is_discovered,
    watches_by_stream,
    watches_by_websocket,
    asks_for_a_capability,
    uses_a_capability,
    asks_for_direct_calls,
    is_called_directly,
    is_called,
    calls,
    is_probed,
]


Call = Callable[[Subject], Awaitable[int]]


# What happens to the plugin meanwhile, and what holds afterwards


@attrs.define
class Happening:
    """What happens; `before` is what there was at that moment."""

    s: Subject
    before: frozenset[str] = frozenset()

    def __call__(self) -> None:
        self.before = self._provided()
        self.happen()

    def happen(self) -> None:
        raise NotImplementedError

    def check(self, call: Call, status: int, /) -> None:
        raise NotImplementedError

    def _provided(self) -> frozenset[str]:
        registrations = self.s.host.registry.registrations(self.s.id)
        return frozenset(f"{r.service_type} {r.version}" for r in registrations)

    def _check_acknowledged(self, call: Call, status: int) -> None:
        """Check that what was answered with yes is so."""
        now = self._provided()
        if status == 200 and call is registers:
            assert "u 1.0.0" in now
        if status == 200 and call is unregisters:
            assert "t 1.0.0" not in now


class Revoked(Happening):
    def happen(self) -> None:
        self.s.host._lifetimes.end(self.s.id, "of a test")

    def check(self, _call: Call, _status: int, /) -> None:
        host, plugin = self.s.host, self.s.id
        assert host.identities.entry(plugin) is None
        assert host.identities.authenticate(plugin, self.s.me["Authorization"].split()[1]) is None
        assert not self._provided()
        assert host.registry.last_report(plugin) is None
        assert not host.registry.calls.of_provider(plugin)
        assert not host.registry.calls.has_called(plugin)
        assert not host.watches.has(plugin)
        assert not host._grants.has(plugin)
        assert kept(host, plugin) == ([], [])


class Renewed(Happening):
    """It gets another token; nothing else changes."""

    def happen(self) -> None:
        self.s.host.identities.renew(self.s.identity)

    def check(self, call: Call, status: int, /) -> None:
        assert status == 200
        assert self.s.host.identities.authenticate(self.s.id, self.s.me["Authorization"].split()[1])
        self._check_acknowledged(call, status)


class Replaced(Happening):
    """It registers its service anew."""

    def happen(self) -> None:
        metadata = self.s.host.registry.registrations(self.s.id)[0].metadata if self.before else {}
        self.s.host.registry.register(self.s.id, "t", "2.0.0", "/", metadata)

    def check(self, call: Call, status: int, /) -> None:
        now = self._provided()
        if call is registers_anew and self.before == {"t 1.0.0"}:
            assert now in ({"t 3.0.0"}, {"t 2.0.0"})
        elif call is not registers_anew:
            assert "t 2.0.0" in now
        self._check_acknowledged(call, status)


class Removed(Happening):
    """It unregisters its service."""

    def happen(self) -> None:
        for registration in self.s.host.registry.registrations(self.s.id):
            if registration.service_type == "t":
                self.s.host.registry.unregister(self.s.id, registration.id)

    def check(self, call: Call, status: int, /) -> None:
        if call is not registers_anew or "t 3.0.0" in self.before:
            assert not self.s.provides("t")
        self._check_acknowledged(call, status)


class Forbidden(Happening):
    """The policy says that what it provides is another's."""

    def happen(self) -> None:
        policy = self.s.host._config.policy
        policy._rules = Rules(services={name: ServiceRules(providers=["another"]) for name in ("t", "u")})

    def check(self, call: Call, status: int, /) -> None:
        assert {each.split()[0] for each in self._provided()} <= {each.split()[0] for each in self.before}
        self._check_acknowledged(call, status)


def kept(host: Host, plugin: str) -> tuple[list[Any], list[Any]]:
    """Return what is in the state file of a plugin: the identity, and its registrations."""
    query = "SELECT value FROM entries WHERE key = ?"
    found = [json.loads(value) for (value,) in state_of(host).execute(query, (f"plugins/{plugin}",))]
    return found, [registration for each in found for registration in each["registrations"]]


def state_of(host: Host) -> sqlite3.Connection:
    return connection_of(host._journal)


@asynccontextmanager
async def hosted(state: Path) -> AsyncIterator[tuple[Caller, App, str, str]]:
    host = Host(HostConfig(store=SqliteStore(state), rates=_UNLIMITED, policy=Policy()))
    async with (
        serving(Provider()) as origin,
        host.application() as app,
        httpx.AsyncClient(transport=AsgiTransport(app), base_url="http://host") as http,
        trio.open_nursery() as nursery,
    ):
        relay, stop = Relay(host._router(host._browsers()), host._pool), trio.Event()
        (host_url,) = await nursery.start(partial(serve, app, stop=stop, relay=relay))
        caller, url = Caller(http, host), f"http://127.0.0.1:{origin.port}"
        await caller.post(REGISTER, _registered_at(url, "v"), await caller.plugin("v-plugin"))
        yield caller, app, host_url, url
        stop.set()


async def subject(caller: Caller, app: App, host_url: str, url: str) -> Subject:
    caller.host._config.policy._rules = Rules()
    me, other = await caller.plugin("t-plugin"), await caller.plugin("other")
    _, registered = await caller.post(REGISTER, _registered_at(url, "t"), me)
    _, granted = await caller.post(BROKER, {"capabilityType": "logger"}, me)
    return Subject(caller, app, host_url, url, me, other, registered["registrationId"], granted["grant"])


async def acted_at(number: int, act: Callable[[], object], call: Awaitable[_T]) -> tuple[bool, _T]:
    """Make a call, and act before a step of it; return whether there was such a step, and its answer."""
    at = AtStep(number, act)
    trio.lowlevel.add_instrument(at)
    try:
        with trio.fail_after(10):
            answer = await call
    finally:
        trio.lowlevel.remove_instrument(at)
    assert at.error is None, at.error
    return at.acted, answer


async def answer_of(call: Call, s: Subject) -> int:
    """Return the status of the answer; that of a bad gateway for one that breaks off."""
    try:
        return await call(s)
    except (httpx.RemoteProtocolError, httpx.ReadError, ConnectError, EOFError, trio.BrokenResourceError):
        return 502


async def settled(host: Host) -> None:
    """Wait until all that has happened is done with, and on the disk."""
    with suppress(ConnectError):  # of an attempt to write that is under way
        await host._journal.saved("", lambda: None)
    await host._journal.saved("", lambda: None)
    await wait_all_tasks_blocked()


def part_of(s: Subject) -> None:
    for plugin in (s.me, s.other):
        s.host._lifetimes.end(runtime_id(plugin), "of the next time")


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize("happening", [Revoked, Renewed, Replaced, Removed, Forbidden])
async def test_whatever_happens_at_whichever_step_of_a_call_what_holds_afterwards_is_the_same(
    call: Call, happening: Callable[[Subject], Happening], tmp_path: Path
) -> None:
    async with hosted(tmp_path / "state") as setting:
        for number in range(_MOST_STEPS):
            s = await subject(*setting)
            happens = happening(s)
            acted, status = await acted_at(number, happens, answer_of(call, s))
            if not acted:
                return
            await settled(s.host)
            happens.check(call, status)
            part_of(s)
    pytest.fail("the call does not end")


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
async def test_whoever_leaves_at_whichever_step_of_its_call_leaves_all_in_order(
    call: Call, tmp_path: Path
) -> None:
    async with hosted(tmp_path / "state") as setting:
        for number in range(_MOST_STEPS):
            s = await subject(*setting)
            with trio.CancelScope() as scope:
                await acted_at(number, scope.cancel, answer_of(call, s))
            if not scope.cancel_called:
                return
            await settled(s.host)
            identities, registrations = kept(s.host, s.id)
            assert len(identities) == 1
            of_memory = s.host.registry.registrations(s.id)
            assert {row["id"] for row in registrations} == {each.id for each in of_memory}
            assert {each.service_type for each in of_memory} <= {"t", "u"}
            assert not s.host.watches.has(s.id)
            assert not s.host.registry.calls.of_provider(s.id)
            assert not s.host.registry.calls.has_called(s.id)
            part_of(s)
    pytest.fail("the call does not end")


@pytest.mark.parametrize("call", [registers, registers_anew, unregisters], ids=lambda call: call.__name__)
@pytest.mark.parametrize("happening", [Revoked, Renewed, Forbidden])
async def test_what_cannot_be_written_is_undone_whatever_happens_meanwhile(
    call: Call, happening: Callable[[Subject], Happening], tmp_path: Path
) -> None:
    async with hosted(tmp_path / "state") as setting:
        for number in range(_MOST_STEPS):
            s = await subject(*setting)
            await settled(s.host)
            happens = happening(s)
            state_of(s.host).execute("PRAGMA query_only = ON")
            acted, status = await acted_at(number, happens, answer_of(call, s))
            if not acted:
                return
            assert status in {401, 403, 503}
            state_of(s.host).execute("PRAGMA query_only = OFF")
            await settled(s.host)
            if happening is Renewed:
                assert happens._provided() == {"t 1.0.0"}
            else:
                happens.check(call, status)
            part_of(s)
    pytest.fail("the call does not end")


def ended(host: Host, plugin: str, sent: list[bytes]) -> None:
    host._lifetimes.end(plugin, "of a test")
    sent.clear()


@pytest.mark.parametrize("side", ["caller", "provider"])
@pytest.mark.parametrize("keeps", [True, False])
async def test_no_relayed_call_goes_out_once_the_identity_of_either_side_has_ended(
    side: str,
    keeps: bool,  # noqa: FBT001
    sent: list[bytes],
) -> None:
    async with serving(Provider(keeps)) as origin, hosting(HostConfig(rates=_UNLIMITED)) as (host, url):
        for number in range(_MOST_STEPS):
            caller, token = host.identities.issue("caller")
            provider, _ = host.identities.issue("echo-plugin")
            metadata = {wire.BASE_URL_KEY: f"http://127.0.0.1:{origin.port}"}
            host.registry.register(provider.runtime_id, "echo", "1.0.0", "/", metadata)
            s = Setting(host, url, caller.runtime_id, token, provider.runtime_id)
            ends = partial(ended, host, getattr(s, side), sent)
            acted, response = await acted_at(number, ends, s.call(s.head("POST", None, "content-length: 0")))
            if not acted:
                return
            await wait_all_tasks_blocked()
            assert not [data for data in sent if data.startswith(b"POST /M ")]
            assert response.status in {200, 401, 404, 503}
            assert not host.registry.calls.of_provider(provider.runtime_id)
            assert not host.registry.calls.has_called(caller.runtime_id)
            for plugin in (caller, provider):
                host._lifetimes.end(plugin.runtime_id, "of the next time")
    pytest.fail("the call does not end")


# A plugin that gets an identity


async def shakes_hands(caller: Caller, _url: str) -> str:
    status, answer = await caller.post(HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": "t-plugin"})
    assert status in {200, 503}
    return str(answer.get("runtimeId", ""))


async def is_added(caller: Caller, url: str) -> str:
    try:
        return await caller.host.add_plugin(url, host_url="http://host")
    except ConnectError:
        return ""


@pytest.mark.parametrize("comes", [shakes_hands, is_added])
@pytest.mark.parametrize("is_full", [False, True])
async def test_a_new_identity_that_is_revoked_at_whichever_step_is_none(
    comes: Callable[[Caller, str], Awaitable[str]],
    is_full: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    async with hosted(tmp_path / "state") as (caller, _, _, url):
        host = caller.host
        await settled(host)
        for number in range(_MOST_STEPS):
            revoked: list[str] = []
            state_of(host).execute(f"PRAGMA query_only = {int(is_full)}")
            acted, answer = await acted_at(number, partial(revoke_new, host, revoked), comes(caller, url))
            state_of(host).execute("PRAGMA query_only = OFF")
            await settled(host)
            for plugin in revoked:
                assert host.identities.entry(plugin) is None
                assert kept(host, plugin) == ([], [])
            if answer and answer not in revoked:
                assert host.identities.entry(answer) is not None
                assert kept(host, answer)[0]
                host._lifetimes.end(answer, "of the next time")
            assert len(host.identities) == 1
            if not acted:
                return
    pytest.fail("the call does not end")


def revoke_new(host: Host, revoked: list[str]) -> None:
    identities = [entry.identity for entry in host.identities._entries.values()]
    revoked += [identity.runtime_id for identity in identities if identity.self_id == "t-plugin"]
    for plugin in revoked:
        host._lifetimes.end(plugin, "of a test")
