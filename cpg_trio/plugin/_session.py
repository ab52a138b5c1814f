"""A plugin's standing with its host: an identity, and the calls that carry it."""

from __future__ import annotations

from functools import cached_property

import attrs
import trio

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import (
    HandshakeServiceClient,
    PluginLifecycleClient,
    ServiceRegistryClient,
)
from cpg_trio._version import __version__
from cpg_trio.http1 import Pool
from cpg_trio.rpc import ClientConfig, PoolExchange, UnaryExchange

DEFAULT_HEARTBEAT_S = 5.0
DEFAULT_LEASE_S = 15.0
CALL_TIMEOUT_S = 5.0  # of one call to the host: long for one that works, short for one that does not


@attrs.frozen
class Session:
    """An identity on a host. It lasts until the host forgets it."""

    host_url: str
    runtime_id: str
    token: str = attrs.field(repr=False)
    pool: Pool = attrs.field(repr=False)
    heartbeat_s: float = DEFAULT_HEARTBEAT_S
    """Seconds between the health reports that the host asks for."""
    lease_s: float = DEFAULT_LEASE_S
    """Seconds after a health report for which the host believes that the plugin is there."""
    void: trio.Event = attrs.field(factory=trio.Event, repr=False, eq=False)
    """Set by whoever learns that the host does not know the identity any more."""

    @cached_property
    def headers(self) -> dict[str, str]:
        """The headers that prove the identity to the host, with lower-case names."""
        return {
            wire.RUNTIME_ID_HEADER.lower(): self.runtime_id,
            wire.AUTHORIZATION_HEADER.lower(): f"{wire.BEARER_PREFIX}{self.token}",
        }

    @cached_property
    def exchange(self) -> UnaryExchange:
        """The way to the host, for every call in this session. One that its URL does not tell goes here."""
        return PoolExchange(self.pool)

    @cached_property
    def registry(self) -> ServiceRegistryClient:
        """The host's registry, called as this plugin."""
        return ServiceRegistryClient(self.host_url, self.exchange, ClientConfig(headers=self.headers))

    @cached_property
    def lifecycle(self) -> PluginLifecycleClient:
        """The host's lifecycle service, called as this plugin."""
        return PluginLifecycleClient(self.host_url, self.exchange, ClientConfig(headers=self.headers))


async def handshake(host_url: str, pool: Pool, self_id: str, version: str) -> Session:
    """Ask a host for an identity. Raises: ConnectError."""
    response = await HandshakeServiceClient(host_url, pool).handshake(
        pb.HandshakeRequest(
            core_protocol_version=wire.CORE_VERSION,
            app_protocol_version=wire.APP_VERSION,
            magic_cookie_key=wire.COOKIE_KEY,
            magic_cookie_value=wire.COOKIE_VALUE,
            client_metadata={wire.CLIENT_VERSION_KEY: __version__},
            self_id=self_id,
            self_version=version,
        ),
        timeout_s=CALL_TIMEOUT_S,
    )
    announced = response.server_metadata
    return Session(
        host_url,
        response.runtime_id,
        response.runtime_token,
        pool,
        heartbeat_s=_seconds(announced.get(wire.HEARTBEAT_KEY, ""), DEFAULT_HEARTBEAT_S),
        lease_s=_seconds(announced.get(wire.LEASE_KEY, ""), DEFAULT_LEASE_S),
    )


def _seconds(milliseconds: str, usual: float) -> float:
    """Return a time that the host announces, in seconds; a host that announces none gets the usual."""
    if milliseconds.isascii() and milliseconds.isdigit() and int(milliseconds) > 0:
        return int(milliseconds) / 1000
    return usual
