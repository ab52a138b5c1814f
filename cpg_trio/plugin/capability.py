"""A live capability: an object that calls what the plugin's host offers, and gets leave by itself."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import attrs
import trio

from cpg_trio import _clock, wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.plugin._handshake import CALL_TIMEOUT_S
from cpg_trio.plugin._session import Session
from cpg_trio.rpc import (
    ClientConfig,
    Code,
    ConnectError,
    HttpClient,
    HttpRequest,
    HttpResponse,
    PoolClient,
    ServiceClient,
    WholeResponse,
    check_client_class,
)

_C = TypeVar("_C", bound=ServiceClient)

_RENEWED_AT = 0.8  # of the time that a grant is good
_UNAUTHORIZED = 401


@attrs.frozen(eq=False)
class _Grant:
    """Leave to use the capability, for as long as the session lasts."""

    session: Session
    url: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    renew_at: float
    """When to ask for another, on the clock of ages."""
    expires_at: float

    @property
    def http(self) -> HttpClient:
        """What calls go by: as all others to the host do, if it is there that they go."""
        session = self.session
        is_there = self.url.startswith(f"{session.host_url}/")
        return session.calls if is_there else PoolClient(session.pool)


class Capability:
    """Something that the plugin's host offers. It may be called from the plugin's first registration on.

    Leave is asked for when it is first needed, kept, and renewed before it ends.
    """

    def __init__(self, capability_type: str, min_version: str, reason: str) -> None:
        wire.validate_service_type(capability_type)
        if min_version:
            wire.validate_version(min_version)
        self.type = capability_type
        self.min_version = min_version
        self._reason = reason
        self._session: Session | None = None
        self._grant: _Grant | None = None
        self._asking = trio.Lock()

    def client(self, client_class: type[_C], config: ClientConfig | None = None) -> _C:
        """Return a typed client of the capability.

        Its calls raise ConnectError `unavailable` while the plugin has no host, and what the host says if it
        gives no leave: `not_found` for what it does not offer, `permission_denied`.
        """
        check_client_class(client_class)
        return client_class("", _ToCapability(self), config)

    def begin(self, session: Session | None) -> None:
        """Take the plugin's standing with its host, None if it has none. Run by the plugin."""
        self._session = session

    async def granted(self) -> _Grant:
        """Return leave that is good now. Raises: ConnectError."""
        session = self._session
        if session is None or session.void.is_set():
            raise ConnectError(Code.UNAVAILABLE, "the plugin is not registered with a host")
        if (grant := self._kept(session)) is not None:
            return grant
        async with self._asking:  # one asks for all
            if (grant := self._kept(session)) is None:
                grant = self._grant = await self._ask(session)
            return grant

    def drop(self, grant: _Grant) -> None:
        """Hear that leave is not good any more."""
        if self._grant is grant:
            self._grant = None

    def _kept(self, session: Session) -> _Grant | None:
        grant = self._grant
        is_good = grant is not None and grant.session is session and _clock.current_time() < grant.renew_at
        return grant if is_good else None

    async def _ask(self, session: Session) -> _Grant:
        request = pb.RequestCapabilityRequest(
            capability_type=self.type, min_version=self.min_version, reason=self._reason
        )
        began = _clock.current_time()
        try:
            answer = await session.broker.request_capability(request, timeout_s=CALL_TIMEOUT_S)
        except ConnectError:
            before = self._grant
            if before is not None and before.session is session and _clock.current_time() < before.expires_at:
                return before
            raise
        return _taken(session, answer.grant, began)


def _taken(session: Session, grant: pb.CapabilityGrant, asked_at: float) -> _Grant:
    # Of a host that does not say for how long, the first refused call tells that it was long enough.
    good_s = grant.expires_in_ms / 1000 or math.inf
    return _Grant(
        session,
        grant.endpoint_url,
        {wire.AUTHORIZATION_HEADER.lower(): wire.bearer(grant.bearer_token)},
        renew_at=asked_at + _RENEWED_AT * good_s,
        expires_at=asked_at + good_s,
    )


class _ToCapability:
    """An `HttpClient` with a capability. A call that the host refuses for its grant is sent once more."""

    def __init__(self, capability: Capability) -> None:
        self._capability = capability

    @asynccontextmanager
    async def stream(self, request: HttpRequest) -> AsyncIterator[HttpResponse]:
        async with AsyncExitStack() as stack:
            grant = await self._capability.granted()
            response = await stack.enter_async_context(grant.http.stream(_with(grant, request)))
            if self._again(request, response, grant):
                await stack.aclose()
                grant = await self._capability.granted()
                response = await stack.enter_async_context(grant.http.stream(_with(grant, request)))
            yield response

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        grant = await self._capability.granted()
        response = await grant.http.unary(_with(grant, request), max_bytes)
        if self._again(request, response, grant):
            grant = await self._capability.granted()
            response = await grant.http.unary(_with(grant, request), max_bytes)
        return response

    def _again(self, request: HttpRequest, response: HttpResponse | WholeResponse, grant: _Grant) -> bool:
        """Whether the host has refused the grant, and the request can be sent as it is with another."""
        if response.status != _UNAUTHORIZED or not _is_refusal(response, grant.session):
            return False
        self._capability.drop(grant)
        return isinstance(request.body, bytes)


def _is_refusal(response: HttpResponse | WholeResponse, session: Session) -> bool:
    """Whether the host says that nobody has seen a call; one that marks nothing says it in plain text."""
    if session.host_id:
        return response.header(wire.UNDELIVERED_HEADER.lower()) == "true"
    return response.header("content-type").startswith("text/plain")


def _with(grant: _Grant, request: HttpRequest) -> HttpRequest:
    headers = [header for header in request.headers if header[0] not in grant.headers]
    return HttpRequest(
        request.method, grant.url + request.url, [*headers, *grant.headers.items()], request.body
    )
