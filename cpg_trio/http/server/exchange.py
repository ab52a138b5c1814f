"""One request of a client and the response to it: what an application and the relay see of HTTP.

It is the same for every protocol. The drivers (`http1`, `http2`) differ in how a request comes in and how a
response goes out, and in nothing else: how slowly a body may come, what is checked of a response, and what
becomes of a client that leaves, is here.

What a client may not be told (a body that is longer than was declared, say) is an error of whoever sends it,
raised where it is sent. To a client that has left, nothing is sent, and that is no error: `lost` tells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import trio

from cpg_trio.asgi import ClientDisconnectedError, HeaderList
from cpg_trio.http.heads import Framing, RequestHead
from cpg_trio.http.outgoing import OutgoingHead, plain_text
from cpg_trio.http.server.body_rate import BodyRate

if TYPE_CHECKING:
    from cpg_trio.http.server.connection import ServerConnection
    from cpg_trio.http.server.service import Work

_NO_BODY = frozenset({204, 304})


class CallInHand(Protocol):
    """A call that goes on without a task."""

    def take_body(self) -> None:
        """Take what has come of the request's body, if the call is waiting for it."""

    def abandon(self) -> None:
        """End it: its client is lost."""


class ServerExchange(ABC):
    """One request and its response. One task at a time may read, and one may write."""

    # The request. A driver sets these, and those of `messages.Incoming` that are named here.
    connection: ServerConnection
    head: RequestHead
    method: bytes
    """That of the head; empty if the head is malformed."""
    authorization: bytes
    """The value of that field, which is not among the head's; empty without one."""
    context: HeaderList
    """The fields of the call's context that are not among the head's. Names are in lower case."""
    metadata: HeaderList
    """The application's own fields, and timeouts, that are not among the head's."""
    declared: bytes
    """The length that it declares for its body, in digits, if that is not among the head's fields."""
    version: str
    framing: Framing
    remaining: int
    """Bytes of a body of declared length that have not come yet."""
    complete: bool
    """Whether the body has come to its end, of which not all may have been taken."""

    known_caller: object = None
    """Who calls, if that is known within this process; None for what comes from a network."""
    scope: trio.CancelScope | None = None
    """Of the task that answers, if there is one."""
    in_hand: CallInHand | None = None
    """A call that goes on without a task."""
    lost = False
    """Whether the client has left, or was given up."""
    finished = False
    """Whether the response has been sent to its end, or was broken off."""
    responded = False
    """Whether the response has begun."""
    request_id = b""
    """The id that the client is told in the response (`x-request-id`); none if it is empty."""
    _rate: BodyRate | None = None
    _leaving: trio.Event | None = None
    _has_left = False
    _cancels_when_lost = False
    _out: OutgoingHead | None = None  # goes out with what is written next
    _declared = b""  # the length of the body, if that is not among the head's fields
    _more: HeaderList = []  # noqa: RUF012 - other fields that are not; not to be changed
    silent = False
    """Whether the response has no body, whatever is written."""
    _owed: int | None = None  # bytes of a body of declared length

    # The request

    @property
    def passes_at_once(self) -> bool:
        """Whether bodies can be passed on without a task: there are `receive_nowait` and `write_on`."""
        return False

    @property
    @abstractmethod
    def headers(self) -> HeaderList:
        """All header fields, with names in any case. Not to be changed."""

    @abstractmethod
    def differing(self) -> HeaderList:
        """Return the fields that are not among the head's, in their order, with names in lower case."""

    @property
    @abstractmethod
    def declares_body(self) -> bool:
        """Whether a field declares the framing of the body, which may be a length of 0."""

    @abstractmethod
    def take(self) -> bytes:
        """Return what has come of the body and was not taken yet, without waiting."""

    @abstractmethod
    def limit_body(self, most: int) -> None:
        """Take no more than so many bytes of a body of which nothing has been taken yet.

        Raises: MalformedError, also later from `read`, for a larger one.
        """

    @abstractmethod
    def keep_head(self) -> None:
        """Keep the head for the requests that have the same one. Only for a client that has proved itself."""

    async def read(self) -> bytes:
        """Return the next part of the body, waiting for it; b"" at its end.

        Raises: ClientDisconnectedError when the client leaves before that, or is too slow; MalformedError.
        """
        data = self.take()
        if not data and not self.complete:
            await self._ask_for_body()
            while not data and not self.complete:
                await self._receive_in_time()
                data = self.take()
        return data

    async def _receive_in_time(self) -> None:
        rate, queue, began = self.rate, self.connection.service.timeouts.body, trio.current_time()
        timed = rate.timed
        if timed:
            queue.begin(self)
        try:
            await self._receive()
        finally:
            queue.end(self)
        if timed:
            rate.waited(trio.current_time() - began)
            if rate.too_slow:
                self.give_up()
                raise ClientDisconnectedError("the client sent the body of its request too slowly")

    def receive_nowait(self, *, much: bool) -> bytes | memoryview | None:
        """Return what has come of the body, to be used at once; None if nothing has come.

        With `much`, that may be more than a task reads at a time.

        Nothing has come either of a client that has left, which is lost then. Raises: MalformedError.
        """
        raise NotImplementedError

    @property
    def rate(self) -> BodyRate:
        """How slowly the body may come."""
        if self._rate is None:
            config, declared = self.connection.service.config, self.framing is Framing.LENGTH
            self._rate = BodyRate(config.body_timeout_s, config.min_body_bytes_per_s, declared)
        return self._rate

    # The client

    def prove(self, identity: str) -> None:
        """Note which identity the client has proved by this request, and keep its head for others like it."""
        connection = self.connection
        if identity != connection.identity:
            connection.prove(identity)
        if not (head := self.head).is_kept:
            head.is_kept = True
            self.keep_head()
        if not self.complete:
            self.rate.is_proved = True

    def want_message(self) -> None:
        """Note that the request is one message, which is to come in time, and no stream."""
        if not self.complete:
            self.rate.is_message = True

    def cancel_when_lost(self) -> None:
        """Have the call cancelled if the client leaves. Otherwise `gone` and `lost` tell."""
        self._cancels_when_lost = True
        if self.lost:
            self._cancel()

    def lose(self) -> None:
        """Note that the client has left, or is not to be talked to any more."""
        self.lost = True
        self.leave()
        if self._cancels_when_lost:
            self._cancel()

    def leave(self) -> None:
        """Note that nothing more comes from the client: it has left, or its stream has ended."""
        self._has_left = True
        if self._leaving is not None:
            self._leaving.set()

    async def gone(self) -> None:
        """Wait until the client has left, or the stream has ended. A checkpoint in any case."""
        if self._leaving is None:
            self._leaving = trio.Event()
        if self._has_left:
            self._leaving.set()
        await self._leaving.wait()

    # The response

    def respond(self, head: OutgoingHead, declared: bytes = b"", more: HeaderList | None = None) -> None:
        """Begin the response. The head goes out with what is written next.

        `declared` is the length of the body in digits, and `more` are fields, of this response alone. Both
        have been read strictly.
        """
        self.responded = True
        self._out = head
        self._owed = head.length
        if declared:
            self._declared, self._owed = declared, int(declared)
        if more:
            self._more = more
        self.silent = head.status in _NO_BODY or self.method == b"HEAD"

    def respond_text(self, status: int, text: str, fields: HeaderList | None = None) -> bytes:
        """Begin a response in plain text, and return its body, which is to be finished with."""
        body = text.encode() + b"\n"
        self.respond(OutgoingHead(status, [*plain_text(len(body)), *(fields or ())]))
        return body

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send a part of the body, and the head before it. Raises: ValueError for more than was declared."""

    @abstractmethod
    def write_nowait(self) -> None:
        """Send the head alone, without waiting."""

    def write_on(self, data: bytes | memoryview) -> bool:
        """As `write`, without waiting. Return whether all has gone; the rest goes before what follows.

        Raises: ValueError for more than was declared.
        """
        raise NotImplementedError

    @abstractmethod
    async def finish(self, data: bytes = b"", trailers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Send the rest of the response. Trailers go only to a client that keeps them.

        Raises: ValueError for more or less than was declared.
        """

    @abstractmethod
    def finish_nowait(self, data: bytes = b"", trailers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """As `finish`, for a callback, and end the exchange. What does not go at once, a task sends."""

    @abstractmethod
    def close_after(self) -> None:
        """Let no other request follow this one, where requests come one after the other."""

    @abstractmethod
    def abort(self) -> None:
        """Break the response off, so that the client cannot take what it has for the whole."""

    def _own_fields(self) -> HeaderList:
        """Return the fields of the response that are not the head's: its own, its length, and its id."""
        fields = [*self._more]
        if self._declared:
            fields.append((b"content-length", self._declared))
        if self.request_id:
            fields.append((b"x-request-id", self.request_id))
        return fields

    def _count(self, data: bytes | memoryview, *, is_last: bool) -> None:
        """Check what is sent against the declared length. Raises: ValueError."""
        if self._owed is None or self.silent:
            return
        self._owed -= len(data)
        if self._owed < 0:
            raise ValueError("the response has a longer body than its content-length says")
        if is_last and self._owed:
            raise ValueError("the response has a shorter body than its content-length says")

    # Tasks

    def hand_over(self, work: Work) -> None:
        """Have a task go on with the exchange. A call stays in hand until the task has its turn."""
        self.connection.hand_over(self, work)

    def abandon(self) -> None:
        """End a call that goes on without a task."""
        if self.in_hand is not None:
            call, self.in_hand = self.in_hand, None
            call.abandon()

    def behind_round(self, call: Callable[[], None]) -> None:
        """See `Reactor.behind_round`."""
        self.connection.service.reactor.behind_round(call)

    def fail(self, error: Exception) -> None:
        """End the connection with an error of a callback."""
        self.connection.fail(error)

    # What a driver does

    @abstractmethod
    async def _receive(self) -> None:
        """Receive more of the body, and tell `rate` how much.

        Raises: ClientDisconnectedError; MalformedError.
        """

    @abstractmethod
    async def _ask_for_body(self) -> None:
        """Tell a client that waits for it to send its body."""

    @abstractmethod
    def give_up(self) -> None:
        """Let a client go that is out of time."""

    def _cancel(self) -> None:
        """End the call, with or without a task."""
        self.abandon()
        if self.scope is not None:
            self.scope.cancel()
