"""A session of a plugin with its host: an identity, the calls that prove it, the providers that it knows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import attrs
import trio

from cpg_trio import _clock, wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import (
    CapabilityBrokerClient,
    PluginLifecycleClient,
    ServiceRegistryClient,
)
from cpg_trio.http import Pool
from cpg_trio.plugin._handshake import Introduction, shake_hands
from cpg_trio.plugin._host_time import HostTime
from cpg_trio.plugin._sockets import BY_URL, host_addresses
from cpg_trio.rpc import ClientConfig, HttpClient, HttpRequest, PoolClient, ResponseMetadata

DEFAULT_HEARTBEAT_S = 5.0
DEFAULT_LEASE_S = 15.0

_NO_METHOD = "/services/-/-/-"  # a routed path of no service and no provider
_MILLISECONDS = re.compile(r"[0-9]{1,18}")
_CALLS = "calls"  # the share of the pool for calls to other plugins: half, beside the plugin's own
_SHORT = 1024  # bytes: a router's refusal is shorter
_UNAUTHORIZED = 401
_TOKENS_KEPT = 4  # more than are valid at the same time


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
    addresses: tuple[str, ...] = BY_URL
    """Where to connect to the host, in the order in which they are tried. See `Origin.addresses`."""
    managed: bool = False
    """Whether the host has given the identity by itself, to a plugin without a `HOST_URL`."""
    lease_ends: float = -math.inf
    """Until when the last report to reach the host keeps the plugin registered, on `_clock.current_time`."""
    time: HostTime = attrs.field(factory=HostTime, repr=False)
    """The time by the clock of the host, which dates what it signs."""
    void: trio.Event = attrs.field(factory=trio.Event, repr=False)
    """Set when it turns out that the host does not know the identity any more."""
    headers: Mapping[str, str] = attrs.field(init=False, repr=False)
    """The header fields that prove the identity to the host, in lower case. A new object for each token."""
    http: HttpClient = attrs.field(init=False, repr=False)
    """For the plugin's own calls to the host; at the host's Unix socket, if there is one here."""
    calls: HttpClient = attrs.field(init=False, repr=False)
    """For calls to other plugins through the host. They never take all connections to it."""
    digests: Sequence[bytes] = attrs.field(init=False, repr=False, default=())
    """The digests of its tokens, the newest first. The host signs with one of them."""

    def __attrs_post_init__(self) -> None:
        self.http = PoolClient(self.pool, self.addresses)
        self.calls = PoolClient(self.pool, self.addresses, _CALLS)
        self.take_token(self.token)

    @property
    def registry(self) -> ServiceRegistryClient:
        """The host's registry, called as this plugin."""
        return ServiceRegistryClient(self.host_url, self.http, ClientConfig(headers=self.headers))

    @property
    def lifecycle(self) -> PluginLifecycleClient:
        """The host's lifecycle service, called as this plugin."""
        return PluginLifecycleClient(self.host_url, self.http, ClientConfig(headers=self.headers))

    @property
    def broker(self) -> CapabilityBrokerClient:
        """The host's capability broker, called as this plugin."""
        return CapabilityBrokerClient(self.host_url, self.http, ClientConfig(headers=self.headers))

    def take_token(self, token: str) -> None:
        """Use a new token. What was sent with the one before stays valid."""
        self.token = token
        self.digests = (wire.token_digest(token), *self.digests)[:_TOKENS_KEPT]
        self.headers = {
            wire.RUNTIME_ID_HEADER.lower(): self.runtime_id,
            wire.AUTHORIZATION_HEADER.lower(): wire.bearer(token),
        }

    def take_digests(self, before: Session) -> None:
        """Also accept what was signed with the tokens of the session before, if the identity is the same."""
        if before.runtime_id == self.runtime_id:
            self.digests = tuple(dict.fromkeys((*self.digests, *before.digests)))[:_TOKENS_KEPT]

    def apply(self, server_metadata: Mapping[str, str]) -> None:
        """Take the host's id and intervals from the server metadata of a handshake."""
        self.check_host(host_id := server_metadata.get(wire.HOST_ID_KEY, ""))
        self.host_id = self.host_id or host_id
        self.heartbeat_s = _seconds(server_metadata.get(wire.HEARTBEAT_KEY, ""), DEFAULT_HEARTBEAT_S)
        self.lease_s = _seconds(server_metadata.get(wire.LEASE_KEY, ""), DEFAULT_LEASE_S)
        self.token_ttl_s = _seconds(server_metadata.get(wire.TOKEN_TTL_KEY, ""), math.inf)

    def check_host(self, host_id: str) -> None:
        """Set `void` if an answer comes from another registry: this plugin is not registered there."""
        if host_id and self.host_id and host_id != self.host_id:
            self.void.set()

    async def check_token(self) -> None:
        """Ask a host that sends no host id whether it knows the token; set `void` if it does not.

        Such a host may accept a health report without a check, also after a restart that has lost its state.
        Its router checks the token, so this calls a provider that cannot exist: only the host itself can
        answer. Raises: ConnectError.
        """
        request = HttpRequest("GET", self.host_url + _NO_METHOD, list(self.headers.items()), b"")
        answer = await self.http.unary(request, _SHORT)
        if answer.status == _UNAUTHORIZED and answer.header("content-type").startswith("text/plain"):
            self.void.set()


@attrs.frozen
class Provider:
    """A provider of a service, as the host tells of it in a session."""

    runtime_id: str
    version: str
    degraded: bool
    session: Session = attrs.field(repr=False)
    endpoint_url: str

    @cached_property
    def base_url(self) -> str:
        """The URL at which the host takes calls to it."""
        return f"{self.session.host_url}{self.endpoint_url}"

    @classmethod
    def at(cls, session: Session, endpoint: pb.ServiceEndpoint, *, degraded: bool = False) -> Provider:
        """Return the provider at an endpoint."""
        return cls(endpoint.provider_id, endpoint.version, degraded, session, endpoint.endpoint_url)


async def handshake(
    host_url: str,
    pool: Pool,
    introduction: Introduction,
    before: Session | None = None,
    socket_dir: Path | None = None,
    metadata: ResponseMetadata | None = None,
) -> Session:
    """Shake hands with a host, and find out how to connect to it. Raises: ConnectError.

    A host that still accepts the token of the session `before` gives the same identity again. `socket_dir` is
    the directory in which its Unix socket would be. `metadata` receives the headers of its answer.
    """
    proof = before.headers if before is not None else None
    metadata = metadata or ResponseMetadata()
    asked_at = _clock.current_time()
    response = await shake_hands(host_url, PoolClient(pool), introduction, proof, metadata)
    host_time = HostTime()
    host_time.update(metadata.headers.get("date", ""), asked_at)
    server_metadata = response.server_metadata
    session = Session(
        host_url,
        response.runtime_id,
        response.runtime_token,
        pool,
        addresses=await host_addresses(socket_dir, server_metadata, host_url, pool),
        time=host_time,
    )
    session.apply(server_metadata)
    if before is not None:
        session.take_digests(before)
    return session


def _seconds(milliseconds: str, usual: float) -> float:
    """Return an interval of the host in seconds; `usual` if it gives none."""
    if _MILLISECONDS.fullmatch(milliseconds) and int(milliseconds):
        return int(milliseconds) / 1000
    return usual
