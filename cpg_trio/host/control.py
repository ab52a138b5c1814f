"""The host's own calls to its plugins: who are you, how are you, and stop.

They go over the router's connections, and to the address that was checked when the plugin registered, as the
calls of other plugins do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import attrs

from cpg_trio import wire
from cpg_trio.http1 import Origin, Pool, Request, UpstreamError
from cpg_trio.rpc import ClientConfig, Code, ConnectError, HttpRequest, HttpResponse, ServiceClient

from .registry import Registration

_C = TypeVar("_C", bound=ServiceClient)


def client_of(client_class: type[_C], registration: Registration, pool: Pool, credential: str = "") -> _C:
    """Return a client of a plugin's own service; with a credential, one that proves to be its host's."""

    @asynccontextmanager
    async def exchange(request: HttpRequest) -> AsyncIterator[HttpResponse]:
        origin, sent = _prepared(request)
        try:
            async with pool.request(
                attrs.evolve(origin, host=registration.address or origin.host), sent
            ) as got:
                headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in got.headers]
                yield HttpResponse(got.status, headers, got.body())
        except UpstreamError as error:
            raise ConnectError(Code.UNAVAILABLE, f"no answer: {error}") from error

    headers = {wire.AUTHORIZATION_HEADER: wire.BEARER_PREFIX + credential} if credential else {}
    return client_class(registration.base_url, exchange, ClientConfig(headers=headers))


def _prepared(request: HttpRequest) -> tuple[Origin, Request]:
    try:
        origin, target = Origin.parse(request.url)
    except ValueError as error:
        raise ConnectError(Code.INVALID_ARGUMENT, f"invalid URL: {error}") from error
    if not isinstance(request.body, bytes):
        raise TypeError("control calls do not stream")
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers]
    framing = [(b"host", origin.host_header), (b"content-length", str(len(request.body)).encode())]
    return origin, Request(request.method.encode(), target, [*framing, *headers], request.body)
