"""A plugin's standing with its host: an identity, and the calls that carry it."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import attrs
import trio

from cpg_trio import _clock, wire
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import (
    CapabilityBrokerClient,
    PluginLifecycleClient,
    ServiceRegistryClient,
)
from cpg_trio.http import ConnectTarget, Pool
from cpg_trio.plugin._handshake import Introduction, shake_hands
from cpg_trio.plugin._host_time import HostTime
from cpg_trio.plugin._sockets import host_socket
from cpg_trio.rpc import ClientConfig, HttpRequest, PoolExchange, ResponseMetadata, UnaryExchange

DEFAULT_HEARTBEAT_S = 5.0
DEFAULT_LEASE_S = 15.0

_NO_METHOD = "/services/-/-/-"  # a routed path of no service and no provider
_MILLISECONDS = re.compile(r"[0-9]{1,18}")
_CALLS = "calls"  # as whose they count in the pool, of which they have half, beside the plugin's own
_SHORT = 1024  # bytes: a router's refusal is shorter
_UNAUTHORIZED = 401
_TOKENS_KEPT = 4  # more than are good at a time: each is good for longer than until the next but one


@attrs.define(eq=False)
class Session:
    """An identity on a host. It lasts until the host forgets it; its token changes before it expires."""

    host_url: str
    runtime_id: str
    token: str = attrs.field(repr=False)
    pool: Pool = attrs.field(repr=False)
    heartbeat_s: float = DEFAULT_HEARTBEAT_S
    """Seconds between the health reports that the host asks for."""
    lease_s: float = DEFAULT_LEASE_S
    """Seconds after a health report for which the host believes that the plugin is there."""
    token_ttl_s: float = math.inf
    """Seconds for which a token is good; without end if the host does not say."""
    host_id: str = ""
    """Which registry it is registered in; empty if the host does not say."""
    socket_path: str = ""
    """The host's Unix socket, by which it is called before all; empty if there is none for this plugin."""
    time: HostTime = attrs.field(factory=HostTime, repr=False)
    """What time it is by the clock of the host, which dates what it signs."""
    void: trio.Event = attrs.field(factory=trio.Event, repr=False)
    """Set by whoever learns that the host does not know the identity any more."""
    headers: Mapping[str, str] = attrs.field(init=False, repr=False)
    """What proves the identity to the host, with lower-case names. Another object with each token."""
    exchange: UnaryExchange = attrs.field(init=False, repr=False)
    """What the plugin's own calls to the host go by, at its socket if it has one here."""
    calls: UnaryExchange = attrs.field(init=False, repr=False)
    """The same for calls to others through the host, which never take all connections to it."""
    _digests: deque[bytes] = attrs.field(init=False, repr=False, factory=lambda: deque(maxlen=_TOKENS_KEPT))

    def __attrs_post_init__(self) -> None:
        self.exchange = PoolExchange(self.pool, self.way)
        self.calls = PoolExchange(self.pool, self.way, _CALLS)
        self.renew(self.token)

    @property
    def way(self) -> ConnectTarget:
        """How to connect to the host."""
        return ConnectTarget(socket_path=self.socket_path)

    @property
    def digests(self) -> Sequence[bytes]:
        """The digests of its tokens, the newest first: with one of them its host signs what it says to it."""
        return self._digests

    @property
    def registry(self) -> ServiceRegistryClient:
        """The host's registry, called as this plugin."""
        return ServiceRegistryClient(self.host_url, self.exchange, ClientConfig(headers=self.headers))

    @property
    def lifecycle(self) -> PluginLifecycleClient:
        """The host's lifecycle service, called as this plugin."""
        return PluginLifecycleClient(self.host_url, self.exchange, ClientConfig(headers=self.headers))

    @property
    def broker(self) -> CapabilityBrokerClient:
        """The host's capability broker, called as this plugin."""
        return CapabilityBrokerClient(self.host_url, self.exchange, ClientConfig(headers=self.headers))

    def renew(self, token: str) -> None:
        """Take another token. What has been sent with the one before is good all the same."""
        self.token = token
        self._digests.appendleft(wire.token_digest(token))
        self.headers = {
            wire.RUNTIME_ID_HEADER.lower(): self.runtime_id,
            wire.AUTHORIZATION_HEADER.lower(): wire.bearer(token),
        }

    def recall(self, before: Session) -> None:
        """Take over the tokens of the session before, if it was of the same identity."""
        if before.runtime_id == self.runtime_id:
            others = (digest for digest in before.digests if digest not in self._digests)
            self._digests.extend(islice(others, _TOKENS_KEPT - len(self._digests)))

    def take_announced(self, announced: Mapping[str, str]) -> None:
        """Take what the host has said of itself in a handshake, its server metadata."""
        self.heard_from(host_id := announced.get(wire.HOST_ID_KEY, ""))
        self.host_id = self.host_id or host_id
        self.heartbeat_s = _seconds(announced.get(wire.HEARTBEAT_KEY, ""), DEFAULT_HEARTBEAT_S)
        self.lease_s = _seconds(announced.get(wire.LEASE_KEY, ""), DEFAULT_LEASE_S)
        self.token_ttl_s = _seconds(announced.get(wire.TOKEN_TTL_KEY, ""), math.inf)

    def heard_from(self, host_id: str) -> None:
        """Hear which registry has answered: in another one this plugin is not registered."""
        if host_id and self.host_id and host_id != self.host_id:
            self.void.set()

    async def check_token(self) -> None:
        """Ask a host that does not say which it is whether it knows the token; if not, the session is void.

        Such a host may take anybody's health report, also after a restart, when it has forgotten all. Where
        it routes calls it checks the token first, and nobody but the host answers for a provider that there
        cannot be. Raises: ConnectError.
        """
        request = HttpRequest("GET", self.host_url + _NO_METHOD, list(self.headers.items()), b"")
        answer = await self.exchange.unary(request, _SHORT)
        if answer.status == _UNAUTHORIZED and answer.header("content-type").startswith("text/plain"):
            self.void.set()


async def handshake(
    host_url: str,
    pool: Pool,
    introduction: Introduction,
    before: Session | None = None,
    socket_dir: Path | None = None,
    metadata: ResponseMetadata | None = None,
) -> Session:
    """Ask a host for an identity, and how it is to be called. Raises: ConnectError.

    A host that still accepts the token of the session `before` gives the same identity once more.
    `socket_dir` is where its socket would be. `metadata` receives the headers of its answer.
    """
    proof = before.headers if before is not None else None
    metadata = metadata or ResponseMetadata()
    asked_at = _clock.current_time()
    response = await shake_hands(host_url, PoolExchange(pool), introduction, proof, metadata)
    host_time = HostTime()
    host_time.hear(metadata.headers.get("date", ""), asked_at)
    announced = response.server_metadata
    session = Session(
        host_url,
        response.runtime_id,
        response.runtime_token,
        pool,
        socket_path=await host_socket(socket_dir, announced, host_url, pool),
        time=host_time,
    )
    session.take_announced(announced)
    if before is not None:
        session.recall(before)
    return session


def _seconds(milliseconds: str, usual: float) -> float:
    """Return a time that the host announces, in seconds; a host that announces none gets the usual."""
    if _MILLISECONDS.fullmatch(milliseconds) and int(milliseconds):
        return int(milliseconds) / 1000
    return usual
