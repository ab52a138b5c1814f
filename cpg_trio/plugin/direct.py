"""Calls to a dependency without the host in between, where the host gives leave.

    a provider is known ─▶ leave is asked for ─▶ it can be reached ─▶ calls go directly
                                  ▲                                        │
                                  └─ in time, after a while ◀─ leave runs out, or a call did not get there

While there is no leave, calls go through the host. A call that did not get to the provider's own code goes
through the host as well: nothing listened, or the provider's guard, which stands before everything else, has
refused it and says so. Any other is never sent twice. What is called so is counted, and reported to the host.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import attrs
import trio

from cpg_trio import _clock, wire
from cpg_trio._cell import Cell
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.http import NotSentError, PoolFullError
from cpg_trio.plugin._backoff import Backoff
from cpg_trio.plugin._handshake import CALL_TIMEOUT_S
from cpg_trio.plugin._provider import Provider
from cpg_trio.plugin._session import Session
from cpg_trio.rpc import (
    Code,
    ConnectError,
    HttpClient,
    HttpRequest,
    HttpResponse,
    PoolClient,
    WholeResponse,
)

_log = logging.getLogger("cpg_trio.plugin")

_RENEWED_AT = 0.5  # of the time that leave is good
_REACH_S = 2.0  # which a provider has to answer a probe before it gets calls
_REFUSED_S = 60.0  # before the host is asked again for leave that it does not give
_REFUSALS = frozenset(
    {
        Code.FAILED_PRECONDITION,
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.PERMISSION_DENIED,
        Code.UNIMPLEMENTED,
    }
)
_MOST_COUNTED = 16  # providers of one dependency, the latest
_UNAUTHORIZED = 401


class _Count:
    """The direct calls to one provider, since the counting began."""

    def __init__(self, provider_id: str) -> None:
        self.provider_id = provider_id
        self.on_their_way: set[_Call] = set()
        self.begin_anew()

    def begin_anew(self) -> None:
        """Begin the counting anew, with those calls that are on their way."""
        self.series = secrets.randbits(64)
        self.calls = len(self.on_their_way)
        self.failed = 0


@attrs.frozen(eq=False)
class _Way:
    """Leave to call a provider directly."""

    provider: Provider
    url: str
    """The provider's own, with the path of the service, ending with a slash."""
    headers: Mapping[str, str] = attrs.field(repr=False)
    http: HttpClient = attrs.field(repr=False)
    expires_at: float
    broken: trio.Event = attrs.field(factory=trio.Event, repr=False)
    """Set when a call has not got to the provider."""

    def request(self, request: HttpRequest) -> HttpRequest:
        """Return a request as it is sent to the provider."""
        # A generated client asks for /package.Service/Method, and the URL says the service already.
        service, _, method = request.url[1:].partition("/")
        method = method if self.url.endswith(f"/{service}/") else f"{service}/{method}"
        headers = [header for header in request.headers if header[0] not in self.headers]
        headers += self.headers.items()
        return HttpRequest(request.method, self.url + method, headers, request.body)


class _Call:
    """One call that is on its way directly. Within the block it is counted, and cancelled with its provider.

    Raises, on leaving: ConnectError `unavailable` if it was cancelled so.
    """

    def __init__(self, count: _Count) -> None:
        self._count = count
        self._scope = trio.CancelScope()
        self._reading: trio.CancelScope | None = None
        self._begun = False
        self._is_gone = False
        self._whole = False

    def __enter__(self) -> Self:
        self._scope.__enter__()
        self._count.on_their_way.add(self)
        self._count.calls += 1
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._count.on_their_way.remove(self)
        self._count.failed += not self._whole
        swallowed = self._scope.__exit__(exc_type, exc, traceback)
        if self._scope.cancelled_caught:
            raise _gone()
        return swallowed

    def cancel(self) -> None:
        """End the call: its provider is gone. Once its answer has begun, that comes out of reading it."""
        self._is_gone = True
        if self._reading is not None:
            self._reading.cancel()
        elif not self._begun:
            self._scope.cancel()

    def complete(self) -> None:
        """Hear that the whole answer is there."""
        self._whole = True

    def answered(self, response: HttpResponse) -> HttpResponse:
        """Return the response, whose body breaks off when the provider is gone."""
        self._begun = True
        return attrs.evolve(response, body=_Body(self, response.body))

    async def read(self, body: AsyncIterator[bytes]) -> bytes:
        """Return the next chunk of the response."""
        if self._is_gone:
            raise _gone()
        with trio.CancelScope() as reading:
            self._reading = reading
            try:
                return await anext(body)
            except StopAsyncIteration:
                self.complete()
                raise
            finally:
                self._reading = None
        raise _gone()


class _Body:
    def __init__(self, call: _Call, body: AsyncIterator[bytes]) -> None:
        self._call = call
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await self._call.read(self._body)


def _gone() -> ConnectError:
    return ConnectError(Code.UNAVAILABLE, "the provider is gone")


class Direct:
    """The direct calls of one dependency."""

    def __init__(self, owner: str, service_type: str) -> None:
        self._owner = owner
        self._service_type = service_type
        self._way: _Way | None = None
        self._counts: dict[str, _Count] = {}  # by provider, the latest last

    # Calls

    async def unary(
        self, request: HttpRequest, max_bytes: int | None, provider: Provider
    ) -> WholeResponse | None:
        """Send a request directly; return the whole response, None if it is to go through the host.

        Raises: what `HttpClient.unary` raises.
        """
        if (way := self._way_to(provider)) is None:
            return None
        with self._begin(way) as call:
            try:
                response = await way.http.unary(way.request(request), max_bytes)
            except ConnectError as error:
                self._check_unsent(way, error)
                return None
            if self._is_refused(way, request, response):
                return None
            call.complete()
            return response
        raise AssertionError("a call that is cancelled has raised")  # pragma: no cover

    async def open(
        self, stack: AsyncExitStack, request: HttpRequest, provider: Provider
    ) -> HttpResponse | None:
        """Send a request directly, for as long as the stack lasts; return the response. See `unary`."""
        if (way := self._way_to(provider)) is None:
            return None
        async with AsyncExitStack() as attempt:
            call = attempt.enter_context(self._begin(way))
            try:
                response = await attempt.enter_async_context(way.http.stream(way.request(request)))
            except ConnectError as error:
                self._check_unsent(way, error)
                return None
            if self._is_refused(way, request, response):
                return None
            stack.push_async_exit(attempt.pop_all())
            return call.answered(response)
        raise AssertionError("a call that is cancelled has raised")  # pragma: no cover

    def gone(self, runtime_id: str) -> None:
        """Hear from the host that a plugin is gone: calls to it will not be answered."""
        if (count := self._counts.get(runtime_id)) is not None:
            for call in list(count.on_their_way):
                call.cancel()

    def _way_to(self, provider: Provider) -> _Way | None:
        way = self._way
        if way is None or _clock.current_time() >= way.expires_at:
            return None
        is_same = way.provider.runtime_id == provider.runtime_id and way.provider.session is provider.session
        return way if is_same else None

    def _begin(self, way: _Way) -> _Call:
        runtime_id = way.provider.runtime_id
        if (count := self._counts.get(runtime_id)) is None:
            count = self._counts[runtime_id] = _Count(runtime_id)
            if len(self._counts) > _MOST_COUNTED:
                del self._counts[next(iter(self._counts))]
        return _Call(count)

    def _check_unsent(self, way: _Way, error: ConnectError) -> None:
        """Give a way up that leads nowhere. Raises: the error, if anything may have been sent."""
        if isinstance(error.__cause__, PoolFullError):
            return
        if not isinstance(error.__cause__, NotSentError):
            raise error
        self._give_up(way, error.message)

    def _is_refused(self, way: _Way, request: HttpRequest, response: HttpResponse | WholeResponse) -> bool:
        """Whether the provider's guard has refused a request, which can be sent again as it is."""
        said = response.header(wire.UNDELIVERED_HEADER.lower())
        if response.status != _UNAUTHORIZED or said != "true":
            return False
        self._give_up(way, "the provider does not accept the host's word")
        if not isinstance(request.body, bytes):
            raise ConnectError(Code.UNAVAILABLE, "the provider has refused a call that is not sent twice")
        return True

    def _give_up(self, way: _Way, why: str) -> None:
        if self._way is way:
            self._way = None
            _log.info("%s: %s is called through the host: %s", self._owner, self._service_type, why)
        way.broken.set()

    # Leave

    async def keep(self, session: Session, provider: Cell[Provider | None]) -> None:
        """Have leave to call whoever provides the dependency, until cancelled. Run by the plugin."""
        self._counts = {name: count for name, count in self._counts.items() if count.on_their_way}
        for count in self._counts.values():
            count.begin_anew()  # for a host that may have just begun, too
        try:
            async with trio.open_nursery() as nursery:
                following, scope = "", trio.CancelScope()
                async for now in provider.reader():
                    runtime_id = now.runtime_id if now is not None and now.session is session else ""
                    if runtime_id == following:
                        continue
                    scope.cancel()
                    self._way, following, scope = None, runtime_id, trio.CancelScope()
                    if now is not None and following:
                        nursery.start_soon(self._follow, now, scope)
        finally:
            self._way = None

    async def _follow(self, provider: Provider, scope: trio.CancelScope) -> None:
        backoff = Backoff()
        with scope:
            while True:
                try:
                    way, renew_s = await _found(provider, self._service_type)
                except ConnectError as error:
                    _log.debug("%s: no leave for %s: %s", self._owner, self._service_type, error.message)
                    await trio.sleep(_REFUSED_S if error.code in _REFUSALS else backoff.next_s())
                    continue
                if self._way is None:
                    _log.info("%s: %s is called directly, at %s", self._owner, self._service_type, way.url)
                self._way = way
                with trio.move_on_after(renew_s) as good:
                    await way.broken.wait()
                if good.cancelled_caught:
                    backoff.reset()
                else:
                    await trio.sleep(backoff.next_s())

    # Numbers

    def report(self) -> Sequence[pb.DirectCalls]:
        """Return what the host is told of the calls."""
        return [
            pb.DirectCalls(
                service_type=self._service_type,
                provider_id=count.provider_id,
                series=count.series,
                calls=count.calls,
                failed=count.failed,
                in_flight=len(count.on_their_way),
            )
            for count in self._counts.values()
        ]


async def _found(provider: Provider, service_type: str) -> tuple[_Way, float]:
    """Ask for leave, and see whether the provider can be reached; return in how many seconds to ask again.

    Raises: ConnectError.
    """
    session = provider.session
    request = pb.RequestCapabilityRequest(
        capability_type=wire.DIRECT_PREFIX + service_type, provider_id=provider.runtime_id
    )
    began = _clock.current_time()
    answer = await session.broker.request_capability(request, timeout_s=CALL_TIMEOUT_S)
    grant = answer.grant
    http = PoolClient(session.pool)
    await _reach(http, grant.endpoint_url)
    good_s = grant.expires_in_ms / 1000
    headers = {
        wire.RUNTIME_ID_HEADER.lower(): session.runtime_id,
        wire.AUTHORIZATION_HEADER.lower(): wire.bearer(grant.bearer_token),
    }
    way = _Way(provider, f"{grant.endpoint_url.rstrip('/')}/", headers, http, began + good_s)
    return way, _RENEWED_AT * good_s


async def _reach(http: HttpClient, url: str) -> None:
    """Ask a provider for a sign of life. Raises: ConnectError `unavailable`."""
    parts = urlsplit(url)
    request = HttpRequest("GET", f"{parts.scheme}://{parts.netloc}/healthz", [], b"")
    with trio.move_on_after(_REACH_S):
        await http.unary(request, 1024)
        return
    raise ConnectError(Code.UNAVAILABLE, "the provider does not answer")
