"""A capability that a plugin uses: what its host offers, with a grant that is asked for and renewed."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import attrs
import trio

from cpg_trio import _clock, wire
from cpg_trio.plugin._redirecting import Discard, RedirectingClient, ResponseT, Send, redirected
from cpg_trio.plugin._session import CALL_TIMEOUT_S, Session
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import (
    CallError,
    Code,
    ConnectError,
    Duplex,
    Fault,
    HttpClient,
    HttpRequest,
    HttpResponseHead,
    PoolClient,
)
from cpg_trio.rpc.http_client import send_duplex

_RENEWED_AT = 0.8  # of the lifetime of a grant
_UNAUTHORIZED = 401


@attrs.frozen(eq=False)
class _Grant:
    """The permission to use the capability, in one session."""

    session: Session
    url: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    renew_at: float
    """When to ask for another one, on `_clock.current_time`."""
    expires_at: float

    @property
    def http(self) -> HttpClient:
        """The client for calls; the one that moves with the plugin, if they go to a host's own URL."""
        hosts = self.session.hosts
        is_at_host = any(self.url.startswith(f"{url}/") for url in hosts.urls)
        return hosts.calls if is_at_host else PoolClient(hosts.pool)

    def request(self, request: HttpRequest) -> HttpRequest:
        """Return a request as it is sent to the capability."""
        return redirected(request, self.url + request.url, self.headers)


class UsedCapability:
    """Something that the plugin's host offers, as the plugin's tasks know it.

    The grant is requested when it is first needed, kept, and renewed before it expires.
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

    @property
    def http(self) -> HttpClient:
        """The client for its calls."""
        return _ToCapability(self)

    def begin(self, session: Session | None) -> None:
        """Use another session with the host, or None if there is none."""
        self._session = session

    async def granted(self) -> _Grant:
        """Return a valid grant. Raises: ConnectError."""
        session = self._session
        if session is None or session.void.is_set():
            text = "the plugin is not registered with a host"
            raise CallError(Code.UNAVAILABLE, text, fault=Fault.HOST)
        if (grant := self._kept(session)) is not None:
            return grant
        async with self._asking:  # one request for all calls that wait
            if (grant := self._kept(session)) is None:
                grant = self._grant = await self._request(session)
            return grant

    def drop(self, grant: _Grant) -> None:
        """Forget a grant that the host has refused."""
        if self._grant is grant:
            self._grant = None

    def _kept(self, session: Session) -> _Grant | None:
        grant = self._grant
        is_valid = grant is not None and grant.session is session and _clock.current_time() < grant.renew_at
        return grant if is_valid else None

    async def _request(self, session: Session) -> _Grant:
        request = pb.RequestCapabilityRequest(
            capability_type=self.type, min_version=self.min_version, reason=self._reason
        )
        asked_at = _clock.current_time()
        try:
            answer = await session.broker.request_capability(request, timeout_s=CALL_TIMEOUT_S)
        except ConnectError:
            before = self._grant
            if before is not None and before.session is session and _clock.current_time() < before.expires_at:
                return before
            raise
        grant = answer.grant
        # A host that gives no lifetime refuses a call when the grant has expired.
        lifetime_s = grant.expires_in_ms / 1000 or math.inf
        return _Grant(
            session,
            grant.endpoint_url,
            {wire.AUTHORIZATION_HEADER.lower(): wire.bearer(grant.bearer_token)},
            renew_at=asked_at + _RENEWED_AT * lifetime_s,
            expires_at=asked_at + lifetime_s,
        )


class _ToCapability(RedirectingClient):
    """An `HttpClient` of a capability. A call whose grant the host refuses is sent once more."""

    def __init__(self, capability: UsedCapability) -> None:
        self._capability = capability

    @asynccontextmanager
    async def duplex(self, request: HttpRequest) -> AsyncIterator[Duplex]:
        """See `DuplexClient.duplex`."""
        grant = await self._capability.granted()
        async with send_duplex(grant.http, grant.request(request)) as duplex:
            yield duplex

    async def _send(self, request: HttpRequest, send: Send[ResponseT], discard: Discard) -> ResponseT:
        grant = await self._capability.granted()
        response = await send(grant.http, grant.request(request))
        if response.status == _UNAUTHORIZED and _is_undelivered(response, grant.session):
            self._capability.drop(grant)
            if isinstance(request.body, bytes):
                await discard()
                grant = await self._capability.granted()
                response = await send(grant.http, grant.request(request))
        return response


def _is_undelivered(response: HttpResponseHead, session: Session) -> bool:
    """Whether the host has refused a call; one that sends no host id refuses in plain text."""
    if session.host_id:
        return response.header(wire.UNDELIVERED_HEADER.lower()) == "true"
    return response.header("content-type").startswith("text/plain")
