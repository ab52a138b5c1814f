"""The host's own calls to plugins: `GetPluginInfo`, `GetHealth`, `SetRuntimeIdentity` and `Shutdown`.

They go to the address or the socket that was checked when the plugin registered, as the calls of other
plugins do, or to the port that the plugin has for them. Each proves that it comes from the host, for its
method and a short time: a stranger that receives one cannot use it for another call.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar
from urllib.parse import urlsplit

import attrs

from cpg_trio import wire
from cpg_trio.assertions import Assertion, Purpose, path_claim, sign
from cpg_trio.host.access import Identities
from cpg_trio.host.directory.local_plugins import LocalPlugins, is_local
from cpg_trio.host.directory.registry import Registry
from cpg_trio.http import LocalFailureError, Pool, PoolFullError
from cpg_trio.rpc import (
    ClientConfig,
    Code,
    ConnectError,
    Fault,
    HttpClient,
    HttpRequest,
    HttpResponse,
    PoolClient,
    ServiceClient,
    WholeResponse,
)

_C = TypeVar("_C", bound=ServiceClient)

MAX_ANSWER_BYTES = 256 * 1024
"""Of an answer to the host: as much as it takes in a message."""
_CONFIG = ClientConfig(max_message_bytes=MAX_ANSWER_BYTES)
_SIGNED_S = 30.0  # for which a call proves to come from the host


@attrs.frozen
class Proof:
    """How the host proves itself to one plugin."""

    digest: bytes = attrs.field(repr=False)
    """Of a token that both have."""
    audience: str
    """The plugin's runtime id; its own name, while it has none."""
    purpose: Purpose = Purpose.CONTROL

    def header(self, path: str) -> tuple[str, str]:
        """Return the header that proves that a call of a path comes from the host, for a short time."""
        assertion = Assertion("", "", self.audience, path_claim(path.encode()), time.time() + _SIGNED_S)
        shown = wire.bearer(sign(self.digest, self.purpose, assertion))
        return wire.AUTHORIZATION_HEADER.lower(), shown


@attrs.frozen
class SignedClient:
    """An `HttpClient` whose requests have one more header: what `sign` returns for their paths."""

    _inner: HttpClient
    _sign: Callable[[str], tuple[str, str]]

    def stream(self, request: HttpRequest) -> AbstractAsyncContextManager[HttpResponse]:
        """Send a request. See `rpc.HttpClient`."""
        return self._inner.stream(self._signed(request))

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        """Send a request for an answer that is wanted whole. See `rpc.HttpClient`."""
        return await self._inner.unary(self._signed(request), max_bytes)

    def _signed(self, request: HttpRequest) -> HttpRequest:
        try:
            path = urlsplit(request.url).path
        except ValueError as error:  # the URL is another's
            raise ConnectError(Code.INVALID_ARGUMENT, f"its URL is none: {error}") from error
        return attrs.evolve(request, headers=[*request.headers, self._sign(path)])


class ControlClients:
    """Makes clients of the control services of plugins."""

    def __init__(
        self, identities: Identities, registry: Registry, pool: Pool, local: LocalPlugins | None = None
    ) -> None:
        """Take what they are found in. `local` are the plugins that run in this process."""
        self._local = local or LocalPlugins()
        self._identities = identities
        self._registry = registry
        self._pool = pool

    def of(self, client_class: type[_C], runtime_id: str) -> _C:
        """Return a client for where a plugin has registered. Raises: ConnectError `not_found`."""
        reachable = next((r for r in self._registry.registrations(runtime_id) if r.base_url), None)
        if reachable is None:
            raise _not_found(runtime_id)
        return self.at(client_class, runtime_id, reachable.control_url, reachable.control_addresses)

    def at(self, client_class: type[_C], runtime_id: str, url: str, addresses: tuple[str, ...]) -> _C:
        """Return a client for a URL. Raises: ConnectError `not_found` if the identity has ended."""
        entry = self._identities.entry(runtime_id)
        if entry is None:
            raise _not_found(runtime_id)
        if is_local(url):
            return client_class(url, self._local.control(url), _CONFIG)
        return client_at(client_class, url, addresses, self._pool, Proof(entry.digest, runtime_id))


def _not_found(runtime_id: str) -> ConnectError:
    return ConnectError(Code.NOT_FOUND, f"no such plugin: {runtime_id}")


def client_at(
    client_class: type[_C], url: str, addresses: tuple[str, ...], pool: Pool, proof: Proof | None
) -> _C:
    """Return a client of the control services at a URL; without a `proof` its calls prove nothing."""
    http: HttpClient = PoolClient(pool, addresses, peer=Fault.PROVIDER)
    if proof is not None:
        http = SignedClient(http, proof.header)
    return client_class(url, http, _CONFIG)


def could_not_ask(error: ConnectError) -> bool:
    """Whether a call failed for a reason of this host's own, so that the plugin has not been asked."""
    return isinstance(error.__cause__, LocalFailureError | PoolFullError)
