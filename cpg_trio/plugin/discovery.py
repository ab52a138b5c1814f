"""How a plugin hears of its dependencies: in the best of three ways that its host offers.

    the websocket `/watch`      one connection for all dependencies, with pings
    a `WatchService` stream     one for each, where the host has no websocket
    `DiscoverService`           asked again and again, where it has neither

A connection may die without a sign, so none is trusted for ever: the websocket has to answer pings, a stream
is begun anew every minute. Nor is a refusal: who follows streams tries the websocket again every minute, and
a stream that tells nothing does not keep anybody from asking.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress

import trio
from google.protobuf.message import DecodeError
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection as WebSocket

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.http import NotSentError
from cpg_trio.plugin._backoff import Backoff, retry_after_s
from cpg_trio.plugin._handshake import CALL_TIMEOUT_S
from cpg_trio.plugin._provider import Provider
from cpg_trio.plugin._session import Session
from cpg_trio.plugin._websocket import GarbledError, open_websocket
from cpg_trio.plugin.dependency import Dependency
from cpg_trio.rpc import Code, ConnectError, ResponseMetadata

_log = logging.getLogger("cpg_trio.plugin")

_POLL_S = 2.0
_STREAM_S = 60.0  # after which a stream is begun anew, and the websocket tried again
_MOST_TRIES = 3  # to open a websocket, before streams are followed
_SETTLE_HEARTBEATS = 2
_UNAUTHORIZED = 401
_TOO_MANY = 429
_SERVER_ERROR = 500
_BROKEN = (NotSentError, ConnectionClosed, DecodeError, GarbledError, trio.TooSlowError)


async def follow(session: Session, dependencies: Sequence[Dependency]) -> None:
    """Keep dependencies to the host's word, until cancelled. Sets `session.void` when the host says so.

    A plugin without dependencies has a websocket as well: when it breaks, the host may be a new one.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_settle, session, dependencies)
        socket = _Socket(session, dependencies)
        while True:
            await socket.follow()
            with trio.move_on_after(_STREAM_S):
                await _follow_streams(session, dependencies)


async def _follow_streams(session: Session, dependencies: Sequence[Dependency]) -> None:
    async with trio.open_nursery() as nursery:
        for dependency in dependencies:
            nursery.start_soon(_Stream(session, dependency).follow)
        await trio.sleep_forever()


async def _settle(session: Session, dependencies: Sequence[Dependency]) -> None:
    """Believe after a while that those who have not come back with the host are gone."""
    await trio.sleep(_SETTLE_HEARTBEATS * session.heartbeat_s)
    for dependency in dependencies:
        dependency.settle(session)


class _Socket:
    """The websocket of a session. It is `known` to a host that has taken it once."""

    def __init__(self, session: Session, dependencies: Sequence[Dependency]) -> None:
        self._session = session
        self._dependencies = {d.service_type: d for d in dependencies}
        self._backoff = Backoff(session.heartbeat_s)
        self._known = False

    async def follow(self) -> None:
        """Follow until the host says that it has no such websocket, or none for this session.

        Also until a host that has never taken it has broken it off several times: something on the way to it
        may not let websockets through.
        """
        tries_left = _MOST_TRIES
        while self._known or tries_left:
            asked_s = 0.0
            self._backoff.opened()
            try:
                await self._connect()
            except ConnectionRejected as rejected:
                _log.debug("the host refuses the websocket: %d", rejected.status_code)
                if rejected.status_code < _SERVER_ERROR and rejected.status_code != _TOO_MANY:
                    self._give_up(rejected.status_code)
                    return
                asked_s = retry_after_s(_headers(rejected))
                tries_left -= rejected.status_code != _TOO_MANY
            except _BROKEN as error:
                _log.debug("the websocket broke: %r", error)
                tries_left -= not isinstance(error, NotSentError)
            await self._backoff.wait(asked_s)

    def _give_up(self, status: int) -> None:
        if status == _UNAUTHORIZED and self._known:
            self._session.void.set()

    async def _connect(self) -> None:
        session = self._session
        opening = open_websocket(
            session.host_url + wire.WATCH_PATH,
            session.headers,
            [wire.WATCH_PROTO],
            addresses=session.addresses,
            ssl_context=session.pool.ssl_context,
            resolver=session.pool.resolver,
            timeout_s=min(CALL_TIMEOUT_S, session.heartbeat_s),
        )
        async with opening as socket, open_plain_nursery() as nursery:
            self._known = True
            session.check_host(_header(socket, wire.HOST_ID_HEADER))
            await socket.send_message(self._request())
            nursery.start_soon(self._ping, socket)
            while True:
                self._hear(await _update(socket))

    def _request(self) -> bytes:
        subscriptions = [
            pb.WatchSubscription(service_type=d.service_type, min_version=d.min_version)
            for d in self._dependencies.values()
        ]
        return pb.WatchRequest(subscribe=subscriptions).SerializeToString()

    async def _ping(self, socket: WebSocket) -> None:
        """Raise trio.TooSlowError when the host does not answer any more."""
        with suppress(ConnectionClosed):  # who reads hears of it
            while True:
                await trio.sleep(self._session.heartbeat_s)
                with trio.fail_after(self._session.heartbeat_s):
                    await socket.ping()

    def _hear(self, update: pb.WatchUpdate) -> None:
        for runtime_id in update.gone:
            for dependency in self._dependencies.values():
                dependency.direct.gone(runtime_id)
        for event in update.events:
            if (followed := self._dependencies.get(event.service_type)) is not None:
                followed.update(self._session, _provider(self._session, event))


def _header(socket: WebSocket, name: str) -> str:
    wanted = name.lower().encode()
    return next((value.decode("latin-1") for key, value in socket.handshake_headers if key == wanted), "")


def _headers(rejected: ConnectionRejected) -> Mapping[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in rejected.headers}


async def _update(socket: WebSocket) -> pb.WatchUpdate:
    message = await socket.get_message()
    if isinstance(message, str):
        raise DecodeError("a binary frame was expected")
    return pb.WatchUpdate.FromString(message)


class _Stream:
    """A stream of one dependency, and the questions that are asked where it does not tell enough.

    News is numbered in the order in which it was asked for, an event of the stream when it comes. An answer
    that comes after newer news is not heard.
    """

    def __init__(self, session: Session, dependency: Dependency) -> None:
        self._session = session
        self._dependency = dependency
        self._polling = False
        self._asked = 0
        self._heard = 0

    async def follow(self) -> None:
        """Follow until the host does not know the session."""
        backoff = Backoff(self._session.heartbeat_s)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._poll)
            while not self._session.void.is_set():
                answer = ResponseMetadata()
                backoff.opened()
                self._polling = True  # until the stream tells something
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
                    await self._hear(event)
        except ConnectError as error:
            if error.code != Code.DEADLINE_EXCEEDED:
                raise

    async def _hear(self, event: pb.WatchServiceEvent) -> None:
        provider = _provider(self._session, event)
        # A stream tells of one provider, whatever its version. If it is too old there may be another.
        self._polling = provider is not None and not self._dependency.suits(provider)
        if self._polling:
            await self._discover()
        else:
            self._take(self._next(), provider)

    def _next(self) -> int:
        self._asked += 1
        return self._asked

    def _take(self, number: int, provider: Provider | None) -> None:
        if number > self._heard:
            self._heard = number
            self._dependency.update(self._session, provider)

    async def _poll(self) -> None:
        while True:
            await trio.sleep(_POLL_S)
            if self._polling:
                await self._discover()

    async def _discover(self) -> None:
        """Ask for a provider that is new enough."""
        request = pb.DiscoverServiceRequest(
            service_type=self._dependency.service_type, min_version=self._dependency.min_version
        )
        number = self._next()
        try:
            found = await self._session.registry.discover_service(request, timeout_s=CALL_TIMEOUT_S)
        except ConnectError as error:
            if error.code == Code.NOT_FOUND:
                self._take(number, None)
        else:
            self._take(number, Provider.at(self._session, found.endpoint, degraded=False))


def _provider(session: Session, event: pb.WatchServiceEvent) -> Provider | None:
    """Return the provider that an event tells of, None if the service is unavailable."""
    if event.state == pb.SERVICE_STATE_UNAVAILABLE:
        return None
    return Provider.at(session, event.endpoint, degraded=event.state == pb.SERVICE_STATE_DEGRADED)
