"""A client that says anything, from any address of this machine."""

from __future__ import annotations

import gzip
import json
import os
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from itertools import count
from typing import Any

import attrs
import h2.exceptions
import trio
from wsproto.events import Message

from cpg_trio import wire
from tests._wire import HANDSHAKE as UPGRADE, Http2Wire, Response, WebSocketWire, Wire, request
from tests.host.calls import COOKIE, VERSIONS

HANDSHAKE = "/connectplugin.v1.HandshakeService/Handshake"
REGISTER = "/connectplugin.v1.ServiceRegistry/RegisterService"
UNREGISTER = "/connectplugin.v1.ServiceRegistry/UnregisterService"
DISCOVER = "/connectplugin.v1.ServiceRegistry/DiscoverService"
REPORT = "/connectplugin.v1.PluginLifecycle/ReportHealth"
CAPABILITY = "/connectplugin.v1.CapabilityBroker/RequestCapability"
ECHO = "/echo.v1.EchoService/Echo"

JSON = {"content-type": "application/json"}
PROTO = {"content-type": "application/proto"}
_ANSWER_S = 10.0  # what a client waits that wants an answer
_GATHERING_S = 1.0  # within which all tasks of an attack begin
# How the other side puts an end to it.
_USUAL = (OSError, EOFError, ValueError, h2.exceptions.H2Error, trio.BrokenResourceError, trio.TooSlowError)

Identity = Mapping[str, str]


@attrs.define
class Hostile:
    """One client, at one address unless a step takes another. `counts` are the statuses of its answers."""

    host_url: str
    plugin_url: str
    provider_id: str
    """Whom the host routes calls of `echo` to."""
    address: str = "127.0.0.1"
    counts: Counter[str] = attrs.field(factory=Counter)
    chance: random.Random = attrs.field(factory=lambda: random.Random(0))
    types: list[str] = attrs.field(factory=list)
    """What steps have registered, for others to follow."""
    _identities: dict[str, Identity] = attrs.field(factory=dict)
    _numbers: count[int] = attrs.field(factory=lambda: count(1))
    _identifying: trio.Lock = attrs.field(factory=trio.Lock)

    @property
    def routed(self) -> str:
        """The path of the echo service through the host."""
        return f"/services/echo/{self.provider_id}/echo.v1.EchoService/Echo"

    def another_address(self) -> str:
        """Return an address of this machine that no step has used before."""
        number = next(self._numbers)
        return f"127.{1 + number // 65000 % 250}.{number // 250 % 250}.{1 + number % 250}"

    def text(self, size: int) -> str:
        """Return characters that were never sent before."""
        return os.urandom(size // 2).hex()

    @asynccontextmanager
    async def line(self, url: str, address: str = "", *, receive_buffer: int = 0) -> AsyncIterator[Wire]:
        """Connect, and break off at the end of the block."""
        host, _, port = url.removeprefix("http://").rpartition(":")
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: as many as there are ports
        try:
            await sock.bind((address or self.address, 0))
            with trio.fail_after(_ANSWER_S):
                await sock.connect((host, int(port)))
        except BaseException:
            sock.close()
            raise
        stream = trio.SocketStream(sock)
        try:
            yield Wire(stream)
        finally:
            await trio.aclose_forcefully(stream)

    async def answer(self, wire_: Wire) -> Response:
        """Read an answer, and count it."""
        with trio.fail_after(_ANSWER_S):
            response = await wire_.response()
        self.counts[str(response.status)] += 1
        return response

    async def ask(self, wire_: Wire, data: bytes) -> Response:
        """Send a request, and read the answer."""
        await wire_.send(data)
        return await self.answer(wire_)

    async def asks(self, url: str, requests: bytes | Iterable[bytes], address: str = "") -> None:
        """Send a request, or several one after another, on one connection."""
        async with self.line(url, address) as wire_:
            for data in [requests] if isinstance(requests, bytes) else requests:
                await self.ask(wire_, data)

    async def call(
        self, path: str, message: Mapping[str, Any], identity: Identity | None = None, address: str = ""
    ) -> dict[str, Any]:
        """Call the host, and return what it says, which may be an error."""
        async with self.line(self.host_url, address) as wire_:
            response = await self.ask(wire_, post(path, message, identity))
        said = json.loads(response.body)
        assert isinstance(said, dict)
        return said

    async def shake_hands(
        self, address: str = "", proof: Identity | None = None, **metadata: str
    ) -> Identity | None:
        """Return an identity of its own, None if the host gives it none."""
        said = await self.call(HANDSHAKE, greeting("hostile-plugin", metadata), proof, address)
        if "runtimeToken" not in said:
            return None
        return {
            wire.RUNTIME_ID_HEADER: said["runtimeId"],
            wire.AUTHORIZATION_HEADER: wire.bearer(said["runtimeToken"]),
        }

    async def identity(self, address: str = "") -> Identity:
        """Return the identity that it has at an address. Raises: OSError if the host gives none now."""
        address = address or self.address
        async with self._identifying:
            if address not in self._identities:
                identity = await self.shake_hands(address)
                if identity is None:
                    raise ConnectionRefusedError("no identity")
                self._identities[address] = identity
            return self._identities[address]

    def forget_identity(self, address: str = "") -> None:
        """Take another identity the next time."""
        self._identities.pop(address or self.address, None)

    @asynccontextmanager
    async def http2(self, url: str, address: str = "") -> AsyncIterator[Http2Wire]:
        """Connect, with HTTP/2 from the beginning."""
        async with self.line(url, address) as wire_:
            http2 = Http2Wire(wire_.stream)
            http2.h2.initiate_connection()
            await http2.flush()
            yield http2

    @asynccontextmanager
    async def websocket(
        self, identity: Identity, address: str = "", *, receive_buffer: int = 0
    ) -> AsyncIterator[WebSocketWire]:
        """Open a watch."""
        async with self.line(self.host_url, address, receive_buffer=receive_buffer) as wire_:
            response = await self.ask(wire_, request("GET", "/watch", {**UPGRADE, **identity}))
            if response.status != 101:
                raise ConnectionRefusedError(str(response.status))
            yield WebSocketWire(wire_)

    async def follow(self, ws: WebSocketWire, *service_types: str) -> None:
        """Subscribe to service types on a watch."""
        subscriptions = [{"serviceType": each, "minVersion": "1.0.0"} for each in service_types]
        await ws.send(Message(data=json.dumps({"subscribe": subscriptions})))

    async def take(self, wire_: Wire) -> None:
        """Read whatever comes until the other side ends it."""
        while await wire_.stream.receive_some():
            pass
        self.counts["ended by the other side"] += 1


Step = Callable[[Hostile], Awaitable[None]]


@attrs.frozen
class Attack:
    """A step that many tasks of one process do again and again."""

    step: Step
    at_once: int
    pause_s: float
    """What a task waits after a step that failed."""


class Attacks(dict[str, Attack]):
    """Attacks by their names, which are those of their functions."""

    def __call__(self, *, at_once: int, pause_s: float = 0.01) -> Callable[[Step], Step]:
        """Add a step that so many tasks do at once."""

        def add(step: Step) -> Step:
            self[step.__name__] = Attack(step, at_once, pause_s)
            return step

        return add


async def besiege(hostile: Hostile, attacks: Iterable[Attack], seconds: float) -> None:
    """Have all the tasks of some attacks do their steps until the time is over."""

    async def repeat(attack: Attack) -> None:
        await trio.sleep(hostile.chance.uniform(0, _GATHERING_S))
        while True:
            how = "steps"
            try:
                await attack.step(hostile)
            except* _USUAL as group:  # also if a part of the step is cancelled at that moment
                alone = group.exceptions[0] if len(group.exceptions) == 1 else group
                how = "group" if isinstance(alone, BaseExceptionGroup) else type(alone).__name__
            hostile.counts[how] += 1
            await trio.sleep(0 if how == "steps" else attack.pause_s)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for attack in attacks:
                for _ in range(attack.at_once):
                    nursery.start_soon(repeat, attack)


def post(path: str, message: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request with a JSON object, or any bytes, as its body."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return request("POST", path, {**JSON, **(headers or {})}, body)


def head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """Return a request of which only the head is sent."""
    return request(method, path, headers)


def greeting(self_id: str, metadata: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the message of a handshake."""
    return {**COOKIE, **VERSIONS, "selfId": self_id, "clientMetadata": dict(metadata or {})}


def registration(
    service_type: str, base_url: str, metadata: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the message of a registration."""
    return {
        "serviceType": service_type,
        "version": "1.0.0",
        "endpointPath": "/echo.v1.EchoService/",
        "metadata": {"base_url": base_url, **(metadata or {})},
    }


def big_metadata(text: Callable[[int], str], total: int) -> dict[str, str]:
    """Return metadata of so many bytes in all, each entry as large as may be."""
    return {f"k{text(62)}": text(4000) for _ in range(total // 4100)}


@cache
def bomb(size: int) -> bytes:
    """Return so many bytes packed as tightly as gzip does."""
    return gzip.compress(b"\0" * size)
