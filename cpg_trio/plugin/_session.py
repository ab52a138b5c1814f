"""A plugin's standing with its host: an identity, and the calls that carry it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import attrs
import trio

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import PluginLifecycleClient, ServiceRegistryClient
from cpg_trio.http1 import Pool, Way
from cpg_trio.rpc import ClientConfig, PoolExchange, ResponseMetadata, UnaryExchange

from ._handshake import shake_hands
from ._sockets import host_socket

DEFAULT_HEARTBEAT_S = 5.0
DEFAULT_LEASE_S = 15.0


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
    socket_path: str = ""
    """The host's Unix socket, by which it is called before all; empty if there is none for this plugin."""
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
    def way(self) -> Way:
        """How to connect to the host."""
        return Way(socket_path=self.socket_path)

    @cached_property
    def exchange(self) -> UnaryExchange:
        """What every call to the host goes by, at its socket if it has one here."""
        return PoolExchange(self.pool, self.way)

    @cached_property
    def registry(self) -> ServiceRegistryClient:
        """The host's registry, called as this plugin."""
        return ServiceRegistryClient(self.host_url, self.exchange, ClientConfig(headers=self.headers))

    @cached_property
    def lifecycle(self) -> PluginLifecycleClient:
        """The host's lifecycle service, called as this plugin."""
        return PluginLifecycleClient(self.host_url, self.exchange, ClientConfig(headers=self.headers))


async def handshake(
    host_url: str,
    pool: Pool,
    self_id: str,
    version: str,
    socket_dir: Path | None = None,
    metadata: ResponseMetadata | None = None,
) -> Session:
    """Ask a host for an identity, and how it is to be called. Raises: ConnectError.

    `socket_dir` is where its socket would be. `metadata` receives the headers of its answer.
    """
    response = await shake_hands(host_url, PoolExchange(pool), self_id, version, metadata)
    announced = response.server_metadata
    return Session(
        host_url,
        response.runtime_id,
        response.runtime_token,
        pool,
        heartbeat_s=_seconds(announced.get(wire.HEARTBEAT_KEY, ""), DEFAULT_HEARTBEAT_S),
        lease_s=_seconds(announced.get(wire.LEASE_KEY, ""), DEFAULT_LEASE_S),
        socket_path=await host_socket(socket_dir, announced, host_url, pool),
    )


def _seconds(milliseconds: str, usual: float) -> float:
    """Return a time that the host announces, in seconds; a host that announces none gets the usual."""
    if milliseconds.isascii() and milliseconds.isdigit() and int(milliseconds) > 0:
        return int(milliseconds) / 1000
    return usual
