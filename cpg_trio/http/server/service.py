"""What all connections of a server share: the application, the relay, limits, timeouts, and the reactor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from cpg_trio._bounded import BoundedCache
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import App
from cpg_trio.http.heads import RequestHeads
from cpg_trio.http.outgoing import OutgoingHead
from cpg_trio.http.reactor import Reactor, open_reactor
from cpg_trio.http.schemes import WrongSchemes
from cpg_trio.http.server.config import ServeConfig
from cpg_trio.http.timeouts import TimeoutQueue

if TYPE_CHECKING:
    from cpg_trio.http.server.exchange import ServerExchange

_MOST_KEPT_HEADS, _MOST_KEPT_BYTES = 256, 256 * 1024  # of responses
_MAX_IDLE_ROUNDS = 100  # of the loop, after which the flusher is no instrument any more


class RequestRelay(Protocol):
    """Answers some requests in the application's stead."""

    @property
    def claims(self) -> Callable[[bytes], bool]:
        """Whether a request for a target is the relay's."""

    def begin(self, exchange: ServerExchange, /) -> None:
        """Begin to answer a request that has come whole, without waiting."""

    async def __call__(self, exchange: ServerExchange, /) -> None:
        """Answer a request whose head has been read."""


class Timeouts:
    """The time that each client may take, and what calls back when a socket has something."""

    def __init__(self, config: ServeConfig) -> None:
        self.idle = TimeoutQueue(config.idle_timeout_s)
        self.head = TimeoutQueue(config.header_timeout_s)
        self.body = TimeoutQueue(config.body_timeout_s)
        self.send = TimeoutQueue(config.send_timeout_s)
        self.ping = TimeoutQueue(config.websocket_ping_s)

    @asynccontextmanager
    async def running(self, reactor: Reactor) -> AsyncIterator[None]:
        """Keep the time, and watch sockets, within the block."""
        async with open_plain_nursery() as nursery:
            for each in (self.idle, self.head, self.body, self.send, self.ping, reactor):
                nursery.start_soon(each.run)
            yield
            nursery.cancel_scope.cancel()


class Held(Protocol):
    """Something that is to be sent with what follows it, if that follows at once."""

    def flush(self) -> None:
        """Send it now."""


class Flusher(trio.abc.Instrument):
    """Sends what is held before the loop sleeps: what was to follow it does not come at once.

    It is called in each round of the loop, so it is an instrument only while responses are held now and
    then. It stays one for some rounds more, as Trio takes longer to add an instrument than to call it.
    """

    def __init__(self) -> None:
        self._held: set[Held] = set()
        self._is_installed = False
        self._idle_rounds = 0

    def hold(self, held: Held) -> None:
        """Flush something before the loop sleeps, unless it is released."""
        self._held.add(held)
        self._idle_rounds = 0
        if not self._is_installed:
            self._is_installed = True
            trio.lowlevel.add_instrument(self)

    def release(self, held: Held) -> None:
        """Do not flush something."""
        self._held.discard(held)

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - the signature is Trio's
        self._idle_rounds += 1
        if self._idle_rounds > _MAX_IDLE_ROUNDS:
            self.close()
        while self._held:
            self._held.pop().flush()

    def close(self) -> None:
        """Be called no more."""
        if self._is_installed:
            self._is_installed = False
            trio.lowlevel.remove_instrument(self)


@attrs.define
class Service:
    """What all connections of a server have in common. `running` has to be entered around them."""

    app: App
    config: ServeConfig
    relay: RequestRelay | None = None
    draining: bool = False
    """Whether the server stops: no connection takes another request."""
    wrong_schemes: WrongSchemes = attrs.field(factory=WrongSchemes)
    at_once: Collection[bytes] = ()
    """The targets of requests that the application answers without waiting, if they have come whole."""
    heads: RequestHeads = attrs.field(init=False, factory=RequestHeads, repr=False)
    outgoing: BoundedCache[tuple[object, ...], OutgoingHead] = attrs.field(init=False, repr=False)
    """Heads of the application's responses that many have in common, by status and fields."""
    timeouts: Timeouts = attrs.field(init=False)
    reactor: Reactor = attrs.field(init=False)
    flusher: Flusher = attrs.field(init=False, factory=Flusher)

    @outgoing.default
    def _no_heads(self) -> BoundedCache[tuple[object, ...], OutgoingHead]:
        return BoundedCache(_MOST_KEPT_HEADS, _MOST_KEPT_BYTES)

    @timeouts.default
    def _of_the_config(self) -> Timeouts:
        return Timeouts(self.config)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the time, watch sockets, and flush what is held, within the block."""
        with open_reactor() as self.reactor:
            try:
                async with self.timeouts.running(self.reactor):
                    yield
            finally:
                self.flusher.close()


class Work(Protocol):
    """What a task is to do for an exchange."""

    def __call__(self) -> Awaitable[None]:
        """Do it."""
