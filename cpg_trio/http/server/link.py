"""What the protocol objects of one connection are wired to."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import time
from typing import Any
from wsgiref.handlers import format_date_time

import attrs
import trio
from hypercorn.config import Config
from hypercorn.events import Event
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from cpg_trio.asgi import CLIENT, App, HeaderList
from cpg_trio.http.channel import Address, Channel
from cpg_trio.http.schemes import WrongSchemes
from cpg_trio.http.server.body_rate import BodyRate
from cpg_trio.http.server.config import ServeConfig
from cpg_trio.http.server.connection_limit import Slot


def dated(headers: HeaderList) -> HeaderList:
    """Return a response's headers with a date. One that the application gives stands: it may be another's."""
    if any(name.lower() == b"date" for name, _ in headers):
        return headers
    return [*headers, (b"date", format_date_time(time()).encode("ascii"))]


class Awaiting(enum.Enum):
    """What the client owes us; each but the first has its time, in `ServeConfig`."""

    NOTHING = enum.auto()
    REQUEST = enum.auto()
    HEAD = enum.auto()
    FRAME = enum.auto()
    """Any word from the client of an open WebSocket; it is asked for one with a ping."""
    PONG = enum.auto()
    """The same, from a client that has been asked."""


@dataclass(frozen=True)
class Broken(Event):
    """A protocol's word to the transport, beside Hypercorn's: end this visibly before its proper end."""

    reset: bool
    """Whether an orderly close would pass for a proper end, so that it must be a reset."""


@attrs.frozen
class Link:
    """What the protocol objects of one connection are wired to; their task group as well."""

    app: App
    settings: ServeConfig
    config: Config
    context: WorkerContext
    nursery: trio.Nursery
    client: Address
    server: Address
    channel: Channel
    slot: Slot
    wrong_schemes: WrongSchemes
    send: Callable[[Event], Awaitable[None]]

    @property
    def draining(self) -> bool:
        return self.context.terminated.is_set()

    def body_pace(self, *, is_message: bool) -> BodyRate:
        """Return the pace that the body of a request has to keep."""
        return BodyRate(self.settings.body_timeout_s, self.settings.min_body_bytes_per_s, is_message)

    def spawn(self, func: Callable[..., Awaitable[None]], *args: Any) -> None:
        self.nursery.start_soon(func, *args)

    def stream_arguments(self, call: object, send: object, stream_id: int) -> tuple[Any, ...]:
        """Return what the constructors of Hypercorn's streams take, in their order.

        Hypercorn would wrap the application; `call`, which starts it, takes it as it is.
        """
        tls, ends = self.channel.tls is not None, (self.client, self.server)
        return self.app, self.config, self.context, call, tls, *ends, send, stream_id

    def protocol_arguments(self) -> tuple[Any, ...]:
        """Return what the constructors of Hypercorn's protocols take, in their order."""
        state = ConnectionState({"peer_names": self.channel.peer_names})
        tls, ends = self.channel.tls is not None, (self.client, self.server)
        return self.app, self.config, self.context, self, state, tls, *ends, self.send

    @property
    def extensions(self) -> dict[str, Any]:
        """What ASGI is told of the connection, for one call."""
        tls = self.channel.tls
        offered = {CLIENT: {"proved": self.slot.prove, "message": _nothing}}
        return offered if tls is None else {**offered, "tls": tls}


def _nothing() -> None:
    """Hear what makes no difference."""
