"""How a plugin learns of the providers of its dependencies: in the best of three ways that its host offers.

    the websocket `/watch`      one connection for all dependencies, with pings, or in memory
    a `WatchService` stream     one for each dependency, where the host has no websocket
    `DiscoverService`           asked at intervals, where the streams tell nothing

The websocket tells of up to 20 providers of each service; a host that cannot do that, and the other two ways,
of one.

A connection may die without a sign, so none is used for ever: the websocket has to answer pings, and a stream
is opened again every minute. Neither is a refusal final: the websocket is tried again every minute, too.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial

import attrs
import trio
from google.protobuf.message import DecodeError
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection as WebSocket

from cpg_trio import wire
from cpg_trio._lines import one_line
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.http import ConnectFailedError, NotSentError, UnknownNameError
from cpg_trio.plugin._dependencies import Dependencies
from cpg_trio.plugin._hosts import HostAddress
from cpg_trio.plugin._required_service import RequiredService
from cpg_trio.plugin._retry import Backoff, retry_after_s
from cpg_trio.plugin._session import CALL_TIMEOUT_S, ProviderSet, Session, SessionProvider
from cpg_trio.plugin._websocket import GarbledError, open_websocket
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import Code, ConnectError, ResponseMetadata
from cpg_trio.rpc.app_client import LocalWebSocket

_log = logging.getLogger("cpg_trio.plugin")

_MAX_PROVIDERS = 20  # of a service that a plugin knows; of more, its host chooses so many for it
_POLL_S = 2.0
_STREAM_S = 60.0  # after which a stream is opened again, and the websocket tried again
_MAX_TRIES = 3  # to open a websocket, before streams are followed
_SETTLE_HEARTBEATS = 2
_EXPLAINS = frozenset({Code.NOT_FOUND, Code.PERMISSION_DENIED, Code.INVALID_ARGUMENT})
_UNAUTHORIZED = 401
_TOO_MANY = 429
_SERVER_ERROR = 500
_UNAVAILABLE = 503
# Codes of RFC 6455, section 7.4.1, and of its registry: going away, service restart, try again later.
_ELSEWHERE = frozenset({1001, 1012, 1013})
_BROKEN = (NotSentError, ConnectionClosed, DecodeError, GarbledError, trio.TooSlowError)


async def follow(session: Session, dependencies: Dependencies) -> None:
    """Update dependencies with what the host tells, until cancelled.

    Sets `session.void` if the host does not know the session. A plugin without dependencies has a websocket,
    too: when it breaks, the host may be a new one.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_settle, session, dependencies)
        nursery.start_soon(dependencies.for_each, partial(_ask_why, session))
        socket = _Socket(session, dependencies)
        while True:
            await socket.follow()
            with trio.move_on_after(_STREAM_S):
                await dependencies.for_each(lambda dependency: _Stream(session, dependency).follow())


async def _settle(session: Session, dependencies: Dependencies) -> None:
    """Drop after a while the providers that have not returned to a new host."""
    await trio.sleep(_SETTLE_HEARTBEATS * session.heartbeat_s)
    for dependency in dependencies.values():
        dependency.settle(session)


async def _ask_why(session: Session, dependency: RequiredService) -> None:
    """Ask a host that tells of no provider, and not why, once each time: the error of a request says it."""
    async for _ in dependency.states.reader():
        if not dependency.unexplained:
            continue
        try:
            await session.registry.discover_service(_discovery(dependency), timeout_s=CALL_TIMEOUT_S)
        except ConnectError as error:
            if error.code in _EXPLAINS and dependency.unexplained:
                dependency.update(session, ProviderSet(reason=error.message))


def _discovery(dependency: RequiredService) -> pb.DiscoverServiceRequest:
    requirement = dependency.requirement
    return pb.DiscoverServiceRequest(
        service_type=dependency.service_type,
        min_version=requirement.min_version,
        version_range=requirement.version_range.text,
    )


class _Socket:
    """The websocket of a session."""

    def __init__(self, session: Session, dependencies: Dependencies) -> None:
        self._session = session
        self._dependencies = dependencies
        self._backoff = Backoff(session.heartbeat_s)
        self._was_open = False
        self._told: dict[str, _Told] = {}  # on this connection, by service type
        self._told_at: HostAddress | None = None  # the host of the last connection
        self._least_revision = 0  # from which on this connection counts
        self._news: dict[str, ProviderSet] = {}  # of this connection, that does not count yet

    async def follow(self) -> None:
        """Follow until the host refuses the websocket.

        Also until several tries have failed and none has ever succeeded: a proxy on the way to the host may
        not pass websockets.
        """
        tries_left = _MAX_TRIES
        while self._was_open or tries_left:
            asked_s, at = 0.0, self._session.hosts.current
            self._backoff.opened()
            try:
                await self._connect(at)
            except ConnectionRejected as rejected:
                _log.debug("the host refuses the websocket: %d", rejected.status_code)
                if rejected.status_code < _SERVER_ERROR and rejected.status_code != _TOO_MANY:
                    if rejected.status_code == _UNAUTHORIZED and self._was_open:
                        self._session.void.set()
                    return
                asked_s = retry_after_s(_texts(rejected.headers))
                if rejected.status_code == _UNAVAILABLE:
                    at.dismissed("it refuses the websocket")
                tries_left -= rejected.status_code != _TOO_MANY
            except _BROKEN as error:
                _log.debug("the websocket broke: %r", error)
                tries_left -= not isinstance(error, NotSentError)
                _note_broken(at, error)
            await self._wait(at, asked_s)

    async def _wait(self, at: HostAddress, asked_s: float) -> None:
        """Wait before the next try: a moment before one at another host."""
        session = self._session
        if session.hosts.current is not at and session.hosts.promising:
            await trio.sleep(session.hosts.arrival_s(session.heartbeat_s))
        else:
            await self._backoff.wait(asked_s)

    async def _connect(self, at: HostAddress) -> None:
        """Follow one connection until it breaks, or the plugin has left the host."""
        session = self._session
        async with self._opening(at) as socket, open_plain_nursery() as nursery:
            self._begin(at)
            session.heard(at)
            session.check_host(_texts(socket.handshake_headers).get(wire.HOST_ID_HEADER.lower(), ""))
            nursery.start_soon(self._subscribe, socket)
            nursery.start_soon(self._ping, at, socket)
            nursery.start_soon(self._read, socket)
            await session.hosts.wait_left(at)
            nursery.cancel_scope.cancel()

    def _opening(
        self, at: HostAddress
    ) -> AbstractAsyncContextManager[WebSocket] | AbstractAsyncContextManager[LocalWebSocket]:
        session, pool = self._session, self._session.hosts.pool
        url, protocols = at.url + wire.WATCH_PATH, [wire.WATCH_PROTO]
        if at.local is not None:
            return at.local.http.websocket(url, session.headers, protocols)
        return open_websocket(
            url,
            session.headers,
            protocols,
            addresses=at.addresses,
            ssl_context=pool.ssl_context,
            resolver=pool.resolver,
            timeout_s=session.hosts.patience_s(min(CALL_TIMEOUT_S, session.heartbeat_s)),
        )

    def _begin(self, at: HostAddress) -> None:
        """Begin to be told of all anew."""
        self._was_open = True
        self._told, self._news = {}, {}
        # Of hosts of one directory, one may be behind the other. The revisions of a host that is alone begin
        # anew when it does.
        self._least_revision = 0 if at is self._told_at else self._session.seen_revision
        self._told_at = at

    async def _read(self, socket: WebSocket | LocalWebSocket) -> None:
        while True:
            self._take(await _next_update(socket))

    async def _subscribe(self, socket: WebSocket | LocalWebSocket) -> None:
        """Request to be told of all dependencies, also of those that are required later."""
        told: set[str] = set()
        with suppress(ConnectionClosed):  # reading raises it, too
            async for _ in self._dependencies.count.reader():
                untold = [each for name, each in self._dependencies.items() if name not in told]
                told.update(each.service_type for each in untold)
                await socket.send_message(self._request(untold))

    def _request(self, dependencies: Collection[RequiredService]) -> bytes:
        subscriptions = [
            pb.WatchSubscription(
                service_type=d.service_type,
                min_version=d.requirement.min_version,
                version_range=d.requirement.version_range.text,
                max_providers=_MAX_PROVIDERS,
            )
            for d in dependencies
        ]
        return pb.WatchRequest(
            subscribe=subscriptions, seen_revision=self._session.seen_revision
        ).SerializeToString()

    async def _ping(self, at: HostAddress, socket: WebSocket | LocalWebSocket) -> None:
        """Raise trio.TooSlowError when the host does not answer any more."""
        with suppress(ConnectionClosed):  # reading raises it, too
            while True:
                await trio.sleep(self._session.heartbeat_s)
                with trio.fail_after(self._session.heartbeat_s):
                    await socket.ping()
                self._session.heard(at)

    def _take(self, update: pb.WatchUpdate) -> None:
        for runtime_id in update.gone:
            for dependency in self._dependencies.values():
                dependency.direct.gone(runtime_id)
        for event in update.events:
            if (followed := self._dependencies.get(event.service_type)) is not None:
                self._news[event.service_type] = _suitable(followed, _providers(self._session, event))
        for changes in update.providers:
            if (changed := self._dependencies.get(changes.service_type)) is not None:
                self._take_changes(changed, changes)
        for refusal in update.refusals:
            if (refused := self._dependencies.get(refusal.service_type)) is not None:
                self._told.pop(refusal.service_type, None)
                self._news.pop(refusal.service_type, None)
                refused.update(self._session, ProviderSet(reason=refusal.message))
        if update.revision >= self._least_revision:
            self._publish(update.revision)

    def _publish(self, revision: int) -> None:
        """Have count what this connection has told."""
        if revision:
            self._session.seen_revision = self._least_revision = revision
        news, self._news = self._news, {}
        for service_type, told in news.items():
            self._dependencies[service_type].update(self._session, told)

    def _take_changes(self, dependency: RequiredService, changes: pb.ProviderChanges) -> None:
        told = self._told.setdefault(dependency.service_type, _Told())
        for runtime_id in changes.removed:
            told.providers.pop(runtime_id, None)
        for status in changes.changed:
            provider = SessionProvider.at(self._session, status.endpoint, degraded=status.degraded)
            told.providers[provider.runtime_id] = provider
        told.is_complete |= changes.complete
        if told.is_complete:
            news = ProviderSet(dict(told.providers), changes.reason)
            self._news[dependency.service_type] = news


def _note_broken(at: HostAddress, error: BaseException) -> None:
    """Note what it says of a host that a websocket to it broke, or could not be opened."""
    match error:
        case ConnectFailedError() | UnknownNameError():
            at.failed(str(error))
        case trio.TooSlowError():
            at.silent("its websocket is silent")
        case ConnectionClosed(reason=reason) if reason is not None and reason.code in _ELSEWHERE:
            at.dismissed(one_line(reason.reason or "") or "it is stopping")


@attrs.define
class _Told:
    """What a connection has told of the providers of a service. It counts once all have been told of."""

    providers: dict[str, SessionProvider] = attrs.field(factory=dict)
    is_complete: bool = False


def _texts(headers: Iterable[tuple[bytes, bytes]]) -> Mapping[str, str]:
    """Return header fields by their names in lower case."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


async def _next_update(socket: WebSocket | LocalWebSocket) -> pb.WatchUpdate:
    message = await socket.get_message()
    if isinstance(message, str):
        raise DecodeError("a binary frame was expected")
    return pb.WatchUpdate.FromString(message)


class _Stream:
    """The stream of one dependency, and the requests that are made where it does not tell enough.

    Requests and events are numbered in their order. An answer that arrives after the answer or event of a
    higher number is out of date, and is ignored.
    """

    def __init__(self, session: Session, dependency: RequiredService) -> None:
        self._session = session
        self._dependency = dependency
        self._polling = False
        self._last_number = 0
        self._taken_number = 0

    async def follow(self) -> None:
        """Follow until the host does not know the session."""
        backoff = Backoff(self._session.heartbeat_s)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._poll)
            while not self._session.void.is_set():
                answer = ResponseMetadata()
                backoff.opened()
                self._polling = True  # until the first event
                try:
                    await self._watch(answer)
                except ConnectError as error:
                    _log.debug("the watch of %s broke: %s", self._dependency.service_type, error.message)
                    if error.code == Code.UNAUTHENTICATED:
                        self._session.void.set()
                await backoff.wait(retry_after_s(answer.headers))
            nursery.cancel_scope.cancel()

    async def _watch(self, answer: ResponseMetadata) -> None:
        request = pb.WatchServiceRequest(service_type=self._dependency.service_type)
        call = self._session.registry.watch_service(request, timeout_s=_STREAM_S, metadata=answer)
        try:
            async with call as events:
                async for event in events:
                    await self._take_event(event)
        except ConnectError as error:
            if error.code != Code.DEADLINE_EXCEEDED:
                raise

    async def _take_event(self, event: pb.WatchServiceEvent) -> None:
        told = _providers(self._session, event)
        # A stream tells of one provider, of any version. If that is too old, there may be another one.
        self._polling = not all(map(self._dependency.suits, told.providers.values()))
        if self._polling:
            await self._discover()
        else:
            self._take(self._next(), told)

    def _next(self) -> int:
        self._last_number += 1
        return self._last_number

    def _take(self, number: int, told: ProviderSet) -> None:
        if number > self._taken_number:
            self._taken_number = number
            self._dependency.update(self._session, told)

    async def _poll(self) -> None:
        while True:
            await trio.sleep(_POLL_S)
            if self._polling:
                await self._discover()

    async def _discover(self) -> None:
        """Request a provider that is new enough."""
        request, number = _discovery(self._dependency), self._next()
        try:
            found = await self._session.registry.discover_service(request, timeout_s=CALL_TIMEOUT_S)
        except ConnectError as error:
            if error.code == Code.NOT_FOUND:
                self._take(number, ProviderSet(reason=error.message))
        else:
            told = ProviderSet.of(SessionProvider.at(self._session, found.endpoint))
            self._take(number, _suitable(self._dependency, told))


def _suitable(dependency: RequiredService, told: ProviderSet) -> ProviderSet:
    """Return what counts of what is told: a host that knows no version ranges may tell of other versions."""
    for provider in told.providers.values():
        if not dependency.suits(provider):
            return ProviderSet(reason=f"{provider.version} is there and {dependency.requirement} is required")
    return told


def _providers(session: Session, event: pb.WatchServiceEvent) -> ProviderSet:
    """Return what an event tells: one provider, or none."""
    if event.state == pb.SERVICE_STATE_UNAVAILABLE:
        return ProviderSet(reason=event.reason)
    degraded = event.state == pb.SERVICE_STATE_DEGRADED
    return ProviderSet.of(SessionProvider.at(session, event.endpoint, degraded=degraded))
