"""Calls to a dependency without the host in between, where the host grants that.

    a provider is known ─▶ a grant is requested ─▶ the provider answers a probe ─▶ calls go directly
                                  ▲                                                     │
                                  └─── before the grant expires, or after a while ◀─────┘
                                       when a call has not reached the provider

Each provider of a service has its own grant. Which provider is called is decided before, in the same way for
direct and for routed calls; a grant decides the way to it. Calls go through the host while there is no grant.
So does a call that has not reached the provider's code: nothing listened, this plugin could not connect, or
the provider's guard, which comes before everything else, has refused it. No other call is sent twice. Direct
calls are counted, and the counts are reported to the host.
"""

from __future__ import annotations

import logging
import math
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

import attrs
import trio

from cpg_trio import _clock, wire
from cpg_trio._cell import Cell
from cpg_trio.call_record import Call, CallKind, Calls, Stage
from cpg_trio.http import ConnectFailedError, NotSentError
from cpg_trio.plugin._recording import entered, note_begun, note_error, note_sent, note_whole
from cpg_trio.plugin._redirecting import ResponseT, redirected
from cpg_trio.plugin._retry import Backoff, retry_after_s
from cpg_trio.plugin._session import CALL_TIMEOUT_S, Session, SessionProvider
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import (
    CallError,
    Code,
    ConnectError,
    Duplex,
    Fault,
    HttpClient,
    HttpRequest,
    HttpResponse,
    HttpResponseHead,
    PoolClient,
    ResponseMetadata,
    WholeResponse,
)
from cpg_trio.rpc.http_client import send_duplex

_log = logging.getLogger("cpg_trio.plugin")

T = TypeVar("T")

_RENEWED_AT = 0.5  # of the lifetime of a grant, at most
_RENEWAL_SPREAD = 0.2  # of that: grants that were requested together are not renewed together
_FEW = 4  # providers have their grants at once, and keep them; more get them when they are called
_REACH_S = 2.0  # in which a provider has to answer a probe before it gets calls
_REFUSED_S = 60.0  # before a host that has refused a grant is asked again
_PERMANENT_ERRORS = frozenset(
    {
        Code.FAILED_PRECONDITION,
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.PERMISSION_DENIED,
        Code.UNIMPLEMENTED,
    }
)
_MAX_COUNTED = 64  # providers of one dependency, with those that are gone
_MAX_REPORTED = 100  # entries of one report: a host takes no more
# Requests for grants: half of what a host takes by default from one plugin, which may use capabilities, too.
_REQUEST_INTERVAL_S = 0.2
_REQUESTS_AT_ONCE = 10
_UNAUTHORIZED = 401
_UNDELIVERED = wire.UNDELIVERED_HEADER.lower()


class NotDeliveredError(Exception):
    """A call has not reached its provider, and can be sent through the host."""


@attrs.frozen(eq=False)
class Grant:
    """The permission to call a provider directly. It is an `HttpClient` that does so."""

    direct: Direct = attrs.field(repr=False)
    count: _Count = attrs.field(repr=False)
    provider: SessionProvider
    url: str
    """The provider's own URL with the path of the service, ending with a slash."""
    headers: Mapping[str, str] = attrs.field(repr=False)
    http: HttpClient = attrs.field(repr=False)
    expires_at: float
    failed: trio.Event = attrs.field(factory=trio.Event, repr=False)
    """Set when a call has not reached the provider."""

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        """See `HttpClient.unary`. Raises: NotDeliveredError."""
        with self.direct.call(self, request) as call:
            return call.answered(await self.http.unary(self._sent(call.request), max_bytes))
        raise AssertionError("a call that is cancelled has raised")  # pragma: no cover

    @asynccontextmanager
    async def stream(self, request: HttpRequest) -> AsyncIterator[HttpResponse]:
        """See `HttpClient.stream`. Raises: NotDeliveredError, before the block begins."""
        with self.direct.call(self, request) as call:
            async with self.http.stream(self._sent(call.request)) as response:
                yield call.answered(response)

    @asynccontextmanager
    async def duplex(self, request: HttpRequest) -> AsyncIterator[Duplex]:
        """See `DuplexClient.duplex`. Raises: NotDeliveredError, before the block begins."""
        with self.direct.call(self, request) as call:
            async with send_duplex(self.http, self._sent(call.request)) as duplex:
                yield _DirectDuplex(duplex, call)

    def _sent(self, request: HttpRequest) -> HttpRequest:
        """Return a request as it is sent to the provider."""
        return redirected(request, _url_of(self.url, request.url), self.headers)

    def check_sent(self, error: ConnectError) -> None:
        """Raise NotDeliveredError if nothing was sent.

        The grant is kept if this plugin is short of connections or descriptors: the provider may be well.
        """
        if isinstance(error.__cause__, ConnectFailedError):
            self._give_up(error.message)
        if isinstance(error.__cause__, NotSentError):
            raise NotDeliveredError from error

    def check_accepted(self, request: HttpRequest, response: HttpResponseHead) -> None:
        """Raise NotDeliveredError if the provider's guard has refused a request that can be sent again."""
        if response.status != _UNAUTHORIZED or response.header(_UNDELIVERED) != "true":
            return
        self._give_up("the provider does not accept the host's grant")
        if not isinstance(request.body, bytes):
            text = "the provider has refused a call that is not sent twice"
            raise CallError(Code.UNAVAILABLE, text, fault=Fault.GUARD)
        raise NotDeliveredError

    def _give_up(self, why: str) -> None:
        self.direct.drop(self, why)
        self.failed.set()


@lru_cache(maxsize=256)  # a plugin calls the same few methods again and again
def _url_of(provider_url: str, path: str) -> str:
    """Return the URL of a method. A generated client asks for /package.Service/Method."""
    service, _, method = path[1:].partition("/")
    return provider_url + (method if provider_url.endswith(f"/{service}/") else f"{service}/{method}")


@attrs.define(eq=False)
class _Count:
    """The direct calls to one provider since the counting began."""

    service_type: str
    provider_id: str
    in_flight: set[_DirectCall] = attrs.field(factory=set)
    series: int = attrs.field(factory=lambda: secrets.randbits(64))
    calls: int = 0
    failed: int = 0
    reported: int = 0
    """When it was last in a report: the later, the higher."""

    def restart(self) -> None:
        """Count anew, beginning with the calls in flight."""
        self.series = secrets.randbits(64)
        self.calls = len(self.in_flight)
        self.failed = 0

    def report(self) -> pb.DirectCalls:
        return pb.DirectCalls(
            service_type=self.service_type,
            provider_id=self.provider_id,
            series=self.series,
            calls=self.calls,
            failed=self.failed,
            in_flight=len(self.in_flight),
        )


class _DirectCall(Call):
    """One call, which is in flight within the block. The block ends when its provider is gone.

    Raises, on leaving: NotDeliveredError; ConnectError `unavailable` if its provider is gone.
    """

    __slots__ = ("_calls", "_count", "_grant", "_is_gone", "_reading", "_scope", "request")

    def __init__(self, calls: Calls, grant: Grant, request: HttpRequest) -> None:
        count, caller = grant.count, grant.provider.session.runtime_id
        method = request.url.rpartition("/")[2]
        context, self.request = entered(calls, request, request.url, grant.url)
        called = count.provider_id, count.service_type, method
        super().__init__(CallKind.DIRECT, caller, *called, context=context)
        note_sent(self, request)
        self._calls = calls
        self._count = count
        self._grant = grant
        self._scope = trio.CancelScope()
        self._reading: trio.CancelScope | None = None
        self._is_gone = False

    def __enter__(self) -> Self:
        self._count.in_flight.add(self)
        self._count.calls += 1
        self._calls.begun.tell(self)
        self._scope.__enter__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(exc, ConnectError):
            note_error(self, exc)
        elif self._is_gone and self.failure:
            note_error(self, _gone())
        self._count.in_flight.remove(self)
        self._count.failed += bool(self.failure)
        self._calls.end(self)
        self._scope.__exit__(exc_type, exc, traceback)
        if self._scope.cancelled_caught:
            raise _gone()
        if isinstance(exc, ConnectError) and self.stage is not Stage.RESPONSE:
            self._grant.check_sent(exc)

    def cancel(self) -> None:
        """End the call: its provider is gone. Once the response has begun, reading it raises the error."""
        self._is_gone = True
        if self._reading is not None:
            self._reading.cancel()
        elif self.stage is not Stage.RESPONSE:
            self._scope.cancel()

    def answered(self, response: ResponseT) -> ResponseT:
        """Return the response. A body that is still to come ends with an error when the provider is gone.

        Raises: NotDeliveredError.
        """
        self._grant.check_accepted(self.request, response)
        if isinstance(response, WholeResponse):
            note_whole(self, response)
            return response
        return note_begun(self, response, self.read)

    async def read(self, body: AsyncIterator[bytes]) -> bytes:
        """Return the next chunk of the response."""
        return await self.while_there(lambda: anext(body))

    async def while_there(self, receive: Callable[[], Awaitable[T]]) -> T:
        """Return what is received. Raises: ConnectError `unavailable` when the provider is gone."""
        if self._is_gone:
            raise _gone()
        with trio.CancelScope() as reading:
            self._reading = reading
            try:
                return await receive()
            finally:
                self._reading = None
        raise _gone()


@attrs.frozen
class _DirectDuplex:
    """A request that is being sent. Its response is waited for as it is read: until the provider is gone.

    To cancel the block instead would be no error that whoever waits can answer with another attempt.
    """

    duplex: Duplex
    call: _DirectCall

    async def response(self) -> HttpResponse:
        """See `Duplex`."""
        return self.call.answered(await self.call.while_there(self.duplex.response))


def _gone() -> CallError:
    return CallError(Code.UNAVAILABLE, "the provider is gone", fault=Fault.PROVIDER)


class RequestPace:
    """When to request grants, so that the host does not refuse them: some at once, then one at a time.

    One for all dependencies of a plugin.
    """

    def __init__(self) -> None:
        self._last_at = -math.inf

    async def turn(self) -> None:
        """Wait for the turn of the next request."""
        now = trio.current_time()
        earliest = now - _REQUESTS_AT_ONCE * _REQUEST_INTERVAL_S
        self._last_at = max(self._last_at, earliest) + _REQUEST_INTERVAL_S
        await trio.sleep_until(self._last_at)


@attrs.define(eq=False)
class _Provider:
    """A provider that may be called directly."""

    provider: SessionProvider
    scope: trio.CancelScope
    """Of the task that keeps its grant."""
    wanted: trio.Event = attrs.field(factory=trio.Event)
    """Set when it is called, or need not be called to have a grant."""
    grant: Grant | None = None


class Direct:
    """The direct calls of one dependency. `calls` tells of each that begins and ends."""

    def __init__(self, owner: str, service_type: str) -> None:
        self._owner = owner
        self._service_type = service_type
        self._providers: dict[str, _Provider] = {}
        self._counts: dict[str, _Count] = {}  # by provider
        self.calls = Calls()

    # Calls

    def grant_for(self, provider: SessionProvider) -> Grant | None:
        """Return the grant to call a provider directly, None if there is none."""
        known = self._providers.get(provider.runtime_id)
        if known is None:
            return None
        if (grant := known.grant) is None:
            known.wanted.set()
            return None
        if _clock.current_time() >= grant.expires_at or grant.provider.session is not provider.session:
            return None
        return grant

    def gone(self, runtime_id: str) -> None:
        """End the calls to a plugin that is gone, as the host tells."""
        if (count := self._counts.get(runtime_id)) is not None:
            for call in list(count.in_flight):
                call.cancel()

    def counts(self) -> Iterable[_Count]:
        """Return what was counted."""
        return self._counts.values()

    def call(self, grant: Grant, request: HttpRequest) -> _DirectCall:
        """Return a call that is not in flight yet."""
        return _DirectCall(self.calls, grant, request)

    def drop(self, grant: Grant, why: str) -> None:
        """Use a grant no more."""
        known = self._providers.get(grant.provider.runtime_id)
        if known is not None and known.grant is grant:
            known.grant = None
            _log.info("%s: %s is called through the host: %s", self._owner, known.provider.runtime_id, why)

    # Grants

    async def keep_granted(
        self, session: Session, providers: Cell[Mapping[str, SessionProvider]], pace: RequestPace
    ) -> None:
        """Have grants for the providers of the dependency, until cancelled. Run by the plugin."""
        self._counts = {name: count for name, count in self._counts.items() if count.in_flight}
        for count in self._counts.values():
            count.restart()  # the host may have started anew, too
        try:
            async with trio.open_nursery() as nursery:
                async for told in providers.reader():
                    now = {name: each for name, each in told.items() if each.session is session}
                    for runtime_id in self._providers.keys() - now.keys():
                        self._providers.pop(runtime_id).scope.cancel()
                    for runtime_id in [name for name in now if name not in self._providers]:
                        known = self._providers[runtime_id] = _Provider(now[runtime_id], trio.CancelScope())
                        nursery.start_soon(self._keep_granted_for, known, pace)
                    if self._are_few:
                        for known in self._providers.values():
                            known.wanted.set()
        finally:
            self._providers.clear()

    @property
    def _are_few(self) -> bool:
        return len(self._providers) <= _FEW

    async def _keep_granted_for(self, known: _Provider, pace: RequestPace) -> None:
        runtime_id, backoff = known.provider.runtime_id, Backoff()
        with known.scope:
            while True:
                await known.wanted.wait()
                await pace.turn()
                answer = ResponseMetadata()
                try:
                    grant, renew_s = await self._request_grant(known.provider, answer)
                except ConnectError as error:
                    _log.debug("%s: no grant for %s: %s", self._owner, runtime_id, error.message)
                    wait_s = _REFUSED_S if error.code in _PERMANENT_ERRORS else backoff.next_s()
                    await trio.sleep(max(wait_s, retry_after_s(answer.headers)))
                    continue
                if known.grant is None:
                    _log.info("%s: %s is called directly, at %s", self._owner, self._service_type, grant.url)
                known.grant, calls_before = grant, grant.count.calls
                with trio.move_on_after(renew_s) as valid:
                    await grant.failed.wait()
                if not valid.cancelled_caught:
                    await trio.sleep(backoff.next_s())
                    continue
                backoff.reset()
                if not self._are_few and grant.count.calls == calls_before:
                    # It is not called, and need not be renewed.
                    known.wanted, known.grant = trio.Event(), None

    def _count_of(self, runtime_id: str) -> _Count:
        """Return the count of the calls to a provider."""
        if (count := self._counts.get(runtime_id)) is None:
            if len(self._counts) >= _MAX_COUNTED:
                old = (name for name, each in self._counts.items() if not each.in_flight)
                unused = next((name for name in old if name not in self._providers), next(iter(self._counts)))
                del self._counts[unused]
            count = self._counts[runtime_id] = _Count(self._service_type, runtime_id)
        return count

    async def _request_grant(
        self, provider: SessionProvider, metadata: ResponseMetadata
    ) -> tuple[Grant, float]:
        """Request a grant, and check that the provider answers; return in how many seconds to renew it.

        `metadata` receives the headers of the host's answer. Raises: ConnectError.
        """
        session = provider.session
        request = pb.RequestCapabilityRequest(
            capability_type=wire.DIRECT_PREFIX + self._service_type, provider_id=provider.runtime_id
        )
        asked_at = _clock.current_time()
        answer = await session.broker.request_capability(request, timeout_s=CALL_TIMEOUT_S, metadata=metadata)
        url, lifetime_s = answer.grant.endpoint_url, answer.grant.expires_in_ms / 1000
        http = PoolClient(session.hosts.pool, peer=Fault.PROVIDER)
        await _check_reachable(http, url)
        headers = {
            wire.RUNTIME_ID_HEADER.lower(): session.runtime_id,
            wire.AUTHORIZATION_HEADER.lower(): wire.bearer(answer.grant.bearer_token),
        }
        count = self._count_of(provider.runtime_id)
        grant = Grant(self, count, provider, f"{url.rstrip('/')}/", headers, http, asked_at + lifetime_s)
        spread = 1 - _RENEWAL_SPREAD * random.random()  # noqa: S311 - spreads load, no secret
        return grant, _RENEWED_AT * lifetime_s * spread


def report_of(dependencies: Iterable[Direct]) -> list[pb.DirectCalls]:
    """Return the counts for the host: of so many that it takes, those that it has had the longest ago.

    The counts are sums, so that a later report makes up for one that is lost, or has not all.
    """
    counts = [count for each in dependencies for count in each.counts() if count.calls]
    latest = max((count.reported for count in counts), default=0)
    chosen = sorted(counts, key=lambda count: count.reported)[:_MAX_REPORTED]
    for count in chosen:
        count.reported = latest + 1
    return [count.report() for count in chosen]


async def _check_reachable(http: HttpClient, url: str) -> None:
    """Raise ConnectError `unavailable` unless a provider answers a probe."""
    parts = urlsplit(url)
    request = HttpRequest("GET", f"{parts.scheme}://{parts.netloc}/healthz", [], b"")
    with trio.move_on_after(_REACH_S):
        await http.unary(request, 1024)
        return
    raise CallError(Code.UNAVAILABLE, "the provider does not answer", fault=Fault.PROVIDER)
