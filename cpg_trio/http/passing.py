"""Bodies that are passed on without a task: what has come is sent at once, in a callback of the reactor.

    RequestBody    caller ──▶ provider
    ResponseBody   caller ◀── provider

A piece is received into the reactor's buffer and sent from there. As long as the other side takes all of it,
nothing is held. What it does not take, a buffer at most, is kept, and nothing is read before that has gone:
so a slow reader holds its sender. Then pieces are smaller, until one goes whole again; so are all while many
readers are slow. No task wakes for any of this.

When something happens that is not the next piece of the body, a task goes on from there (`hand_over`).

What was tried, as the processor's time for 1 MiB in a bare loop: pieces of 64 KiB take 410 us, of 256 KiB
320, of 1 MiB 280; `os.splice` through a pipe takes 250 for an answer, and no less than a copy for a request.
Open: splice for answers. It needs two descriptors for each body that is held, a declared length, and no TLS.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import trio

from cpg_trio.call_record import Call
from cpg_trio.http.client.exchange import ClientExchange
from cpg_trio.http.client.request import LAST_CHUNK, chunk
from cpg_trio.http.client.upload import BROKEN
from cpg_trio.http.heads import Framing, MalformedError
from cpg_trio.http.server.exchange import ServerExchange

_PIECES_AT_ONCE = 2  # until other tasks have their turn
_MOST_HELD = 64  # bodies of which a large piece may be held at once

Piece: TypeAlias = bytes | memoryview
"""Of a body. It may be in the buffer of the reactor, so it is used at once."""


class RequestBody:
    """The rest of a request's body on its way to the provider.

    `sent` is called when all of it has gone, and `hand_over` when a task has to go on.
    """

    malformed: MalformedError | None = None
    """What is wrong with the body, if that is why a task has to go on."""
    _since: float | None = None  # when a wait began that has a limit
    _is_held = False  # the provider does not take more
    _has_news = False  # something has come meanwhile, which the reactor does not report again
    _keeps_up = True  # the provider has taken all of the last piece at once

    def __init__(
        self,
        caller: ServerExchange,
        exchange: ClientExchange,
        record: Call,
        sent: Callable[[], None],
        hand_over: Callable[[], None],
    ) -> None:
        """Pass on what follows the part of the request that `exchange` has sent."""
        self._caller = caller
        self._exchange = exchange
        self._record = record
        self._sent = sent
        self._hand_over = hand_over
        self._is_chunked = caller.framing is Framing.CHUNKED

    def begin(self) -> None:
        """Pass on what has come already."""
        if self._caller.connection.channel.may_have_more:
            self._pass_on()
        else:
            self._wait()

    def take(self) -> None:
        """Pass on what has come, as the reactor says that something has."""
        if self._is_held:
            self._has_news = True
        elif self.still_comes():
            self._pass_on()

    def stop(self) -> None:
        """Wait for nothing more."""
        self._since = None
        self._caller.connection.service.timeouts.body.end(self._caller)

    def still_comes(self) -> bool:
        """Wait no longer. Return whether the body still comes: a caller that is too slow is let go."""
        caller, since = self._caller, self._since
        if since is not None:
            self.stop()
            caller.rate.waited(trio.current_time() - since)
            if caller.rate.too_slow:
                caller.give_up()
        return not caller.lost

    def _wait(self) -> None:
        caller = self._caller
        if caller.rate.timed:
            self._since = trio.current_time()
            caller.connection.service.timeouts.body.begin(caller)

    def _pass_on(self) -> None:
        caller, exchange, channel = self._caller, self._exchange, self._caller.connection.channel
        held = caller.connection.service.reactor.held
        for _ in range(_PIECES_AT_ONCE):
            try:
                piece = caller.receive_nowait(much=self._keeps_up and len(held) < _MOST_HELD)
            except MalformedError as error:
                self.malformed = error
                self._hand_over()
                return
            if piece is None:
                self._has_news = False
                break
            self._record.request_bytes += len(piece)
            framed = self._framed(piece)
            if framed:
                goes_on = self._send(partial(exchange.send_on_nowait, framed))
                self._keeps_up = not self._is_held
                if not goes_on:
                    return
            if channel.drained and not self._has_news:
                break
        else:
            if not channel.call_again():
                self._hand_over()
            return
        if not caller.lost:
            self._wait()

    def _send(self, send: Callable[..., bool]) -> bool:
        """Send something to the provider; return whether others follow."""
        try:
            self._is_held = not send(is_last=self._caller.complete)
        except BROKEN:  # it may have answered
            self._hand_over()
            return False
        if self._is_held:
            self._caller.connection.service.reactor.held.add(self)
            self._exchange.when_writable(self._send_unsent)
            return False
        if self._caller.complete:
            self._sent()
            return False
        return True

    def _send_unsent(self) -> None:
        try:
            self._caller.connection.service.reactor.held.discard(self)
            if self._send(self._exchange.send_unsent_nowait):
                self._pass_on()
        except Exception as error:  # noqa: BLE001 - it ends its client's connection alone
            self._caller.fail(error)

    def _framed(self, piece: Piece) -> Piece:
        if not self._is_chunked:
            return piece
        return chunk(piece) + (LAST_CHUNK if self._caller.complete else b"")


class ResponseBody:
    """The rest of a response's body on its way back to the caller.

    `end` is called with the last piece, which has not been sent, and `hand_over` when a task has to go on.
    """

    last = b""
    """The last piece that was sent, if the code of the call depends on it."""

    def __init__(
        self,
        exchange: ClientExchange,
        caller: ServerExchange,
        record: Call,
        end: Callable[[Piece], None],
        hand_over: Callable[[], None],
    ) -> None:
        """Pass back what follows the head of a response that `caller` has been given."""
        self._exchange = exchange
        self._caller = caller
        self._record = record
        self._end = end
        self._hand_over = hand_over
        self._tells_code = not exchange.message.head.code
        self._is_held = False  # the caller does not take more
        self._has_news = False  # something has come meanwhile, which the reactor does not report again
        self._keeps_up = True  # the caller has taken all of the last piece at once

    def begin(self, *, gone: bool) -> None:
        """Pass on what has come already; `gone` is whether the provider has ended its side."""
        self._has_news = gone  # the end
        self._exchange.watch(self._caller.connection.service.reactor, self._hear)
        if self._send(self._exchange.message.take()) and (gone or self._exchange.may_have_more):
            self._pass_on()

    def _hear(self, _readable: bool, gone: bool) -> None:  # noqa: FBT001 - the reactor's signature
        self._has_news = self._has_news or gone or self._is_held
        if not self._is_held:
            try:
                self._pass_on()
            except Exception as error:  # noqa: BLE001 - it ends its client's connection alone
                self._caller.fail(error)

    def _pass_on(self) -> None:
        exchange, held = self._exchange, self._caller.connection.service.reactor.held
        for _ in range(_PIECES_AT_ONCE):
            piece = exchange.pass_nowait(much=self._keeps_up and len(held) < _MOST_HELD)
            if piece is None:
                self._has_news = False
                if exchange.failed:
                    self._hand_over()
                return
            goes_on = self._send(piece)
            self._keeps_up = not self._is_held
            if not goes_on or not (self._has_news or exchange.may_have_more):
                return
        if not exchange.call_again():
            self._hand_over()

    def _send(self, piece: Piece) -> bool:
        """Send a piece back; return whether others follow."""
        self._record.response_bytes += len(piece)
        if self._exchange.message.complete:
            self._end(piece)
            return False
        if self._tells_code and piece:
            self.last = bytes(piece)
        return self._write(piece)

    def _write(self, piece: Piece) -> bool:
        caller, connection = self._caller, self._caller.connection
        self._is_held = not caller.write_on(piece)
        if self._is_held:
            connection.service.reactor.held.add(self)
            connection.service.timeouts.send.begin(connection)  # again with each bit of progress
            connection.channel.when_writable(self._write_unsent)
        return not (self._is_held or caller.lost)

    def _write_unsent(self) -> None:
        service = self._caller.connection.service
        try:
            service.reactor.held.discard(self)
            service.timeouts.send.end(self._caller.connection)
            if self._write(b""):
                self._pass_on()
        except Exception as error:  # noqa: BLE001 - it ends its client's connection alone
            self._caller.fail(error)
