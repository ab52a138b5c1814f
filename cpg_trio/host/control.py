"""The host's own calls to its plugins: who are you, how are you, and stop.

They go over the router's connections, and to the address or the socket that was checked when the plugin
registered, as the calls of other plugins do.
"""

from __future__ import annotations

from typing import TypeVar

from cpg_trio import wire
from cpg_trio.http1 import Pool
from cpg_trio.rpc import ClientConfig, PoolExchange, ServiceClient

from .registry import Registration

_C = TypeVar("_C", bound=ServiceClient)


def client_of(client_class: type[_C], registration: Registration, pool: Pool, credential: str = "") -> _C:
    """Return a client of a plugin's own service; with a credential, one that proves to be its host's."""
    headers = {wire.AUTHORIZATION_HEADER: wire.BEARER_PREFIX + credential} if credential else {}
    exchange = PoolExchange(pool, registration.way)
    return client_class(registration.base_url, exchange, ClientConfig(headers=headers))
