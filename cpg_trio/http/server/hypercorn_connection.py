"""One accepted connection: who reads, who writes, and how it ends.

One task reads, and hands what it read to the protocol. Its wait has a deadline that depends on what the
client owes us (`Awaiting`), and is woken when a pipelined request has its turn or the connection is to
end. What happens to a client that is late is the protocol's to say (`overdue`). The applications' tasks
write. A write is shielded, since half a frame would leave both sides with different ideas of the
connection, and bounded: by the progress that the client makes, and by `abort`.

    open ──▶ closing ──▶ (linger) ──▶ closed      an orderly end, from the protocol or from the client
      └──────▶ lost ────────────────▶ closed      a write that failed or stood still, a ping without
                                            an answer, or `abort`

From `closing` on, the protocol has been told, and through it every application; nothing more is read for
it. Once `lost`, nothing is written either.
"""

from __future__ import annotations

from contextlib import suppress
from math import inf

import attrs
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H2ProtocolAssumedError
from hypercorn.trio.worker_context import WorkerContext

from cpg_trio.asgi import App
from cpg_trio.http.channel import Address, Channel
from cpg_trio.http.schemes import WrongSchemes
from cpg_trio.http.server.activity import Activity
from cpg_trio.http.server.config import ServeConfig
from cpg_trio.http.server.connection_limit import Slot
from cpg_trio.http.server.hypercorn_http1 import Http1
from cpg_trio.http.server.link import Awaiting, Broken, Link

_WRITE_BYTES = 2**16  # what has to go out within `send_timeout_s`, for another such time to be given
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


@attrs.frozen
class HypercornService:
    """What all connections of a server have in common."""

    app: App
    settings: ServeConfig
    config: Config
    context: WorkerContext
    wrong_schemes: WrongSchemes


class Connection:
    """One client's connection, from accept to close."""

    def __init__(
        self,
        channel: Channel,
        service: HypercornService,
        client: Address,
        server: Address,
        slot: Slot,
        read: bytes = b"",
    ) -> None:
        """Take `channel`, and close it at the end of `run`. `read` has been read from it already."""
        settings = service.settings
        self._channel = channel
        self._client = client
        self._server = server
        self._slot = slot
        self._read_before = read
        self._service = service
        self._link: Link
        self._protocol: Http1
        self._life = trio.CancelScope()
        self.read_of_another_protocol = b""
        """What had been read when that was seen to be HTTP/2. The channel is open then."""
        self._closing = False
        self._lost = False
        self._reset = False

        self._reading = trio.CancelScope()
        self._woken = False
        self._awaited: Awaiting | None = None
        self._awaited_since = 0.0
        self._patience = {
            Awaiting.NOTHING: inf,
            Awaiting.REQUEST: settings.idle_timeout_s,
            Awaiting.HEAD: settings.header_timeout_s,
            Awaiting.FRAME: settings.websocket_ping_s,
            Awaiting.PONG: settings.websocket_ping_s,
        }

        self._turn = trio.Lock()
        self._writes: set[trio.CancelScope] = set()

    async def run(self) -> None:
        """Serve the connection until either side ends it and its applications have ended."""
        try:
            with self._life:
                async with trio.open_nursery() as nursery:
                    self._open(nursery)  # and so far no checkpoint: `drain` finds a protocol
                    await self._read()
                    await self._linger()
                    self._close()
        finally:
            self._close()

    async def drain(self) -> None:
        """Finish what is in flight and take nothing more; return when the client has been told."""
        await self._protocol.drain()

    def abort(self) -> None:
        """End the connection and its applications at once, whatever they are in the middle of."""
        self._lost = self._reset = True
        self._life.cancel()
        for write in self._writes:
            write.cancel()

    @property
    def activity(self) -> Activity:
        """What it is busy with."""
        activity = self._protocol.activity
        return Activity.WAITING if self._writes and activity is Activity.BUSY else activity

    def evict(self) -> None:
        """End, to make room for another."""
        if self.activity is Activity.IDLE:
            self._life.cancel()
        else:
            self.abort()

    # Opening and closing

    def _open(self, nursery: trio.Nursery) -> None:
        service = self._service
        self._link = Link(
            service.app,
            service.settings,
            service.config,
            service.context,
            nursery,
            self._client,
            self._server,
            self._channel,
            self._slot,
            service.wrong_schemes,
            self._send,
        )
        self._protocol = Http1(self._link)

    async def _end(self) -> None:
        """Tell the protocol, and through it every application, that this is over."""
        self._closing = True
        await self._protocol.handle(Closed())
        self._wake()

    async def _lose(self) -> None:
        """Give up a client that has gone, or that does not read."""
        if not self._lost:
            self._lost = self._reset = True
        if not self._closing:
            await self._end()

    async def _linger(self) -> None:
        """Read on for a while, if the client may be sending: closing on it would be a reset."""
        if self._lost or self.read_of_another_protocol or not self._protocol.client_may_be_sending:
            return
        with trio.move_on_after(self._service.settings.linger_s):
            with suppress(trio.BrokenResourceError):
                async with self._turn:
                    self._channel.shut_down(sending_only=True)
                while await self._channel.receive():
                    pass

    def _close(self) -> None:
        self._lost = True
        if not self.read_of_another_protocol:
            self._channel.close(reset=self._reset)

    # Reading

    async def _read(self) -> None:
        if self._read_before:
            await self._handle(self._read_before)
        while not self._closing:
            data = await self._receive()
            if data is None:
                await self._protocol.resume()
            elif data:
                await self._handle(data)
            else:
                break
        if not self.read_of_another_protocol:
            await self._end()

    async def _receive(self) -> bytes | None:
        """Return what came in: nothing when the client has left, None when woken, or it is out of time."""
        if not self._woken:
            with trio.CancelScope(deadline=self._deadline()) as self._reading:
                return await self._receive_some()
        if self._woken:
            self._woken = False
            return None
        await self._protocol.overdue()
        return None

    async def _receive_some(self) -> bytes:
        if self._protocol.saturated:
            await trio.sleep_forever()  # until woken
        try:
            data = await self._channel.receive()
        except trio.BrokenResourceError:
            data = b""
        self._lost = self._lost or not data
        return data

    async def _handle(self, data: bytes) -> None:
        try:
            await self._protocol.handle(RawData(data))
        except H2ProtocolAssumedError as preface:
            self.read_of_another_protocol = preface.data
            self._closing = True

    def _wake(self) -> None:
        self._woken = True
        self._reading.cancel()

    def _deadline(self) -> float:
        """Return when the client is out of time. A WebSocket earns more with all that comes in."""
        awaited = self._protocol.awaiting()
        if awaited is not self._awaited or awaited is Awaiting.FRAME:
            self._awaited, self._awaited_since = awaited, trio.current_time()
        return self._awaited_since + self._patience[awaited]

    def _state_changed(self) -> None:
        self._awaited = None
        if self._protocol.runnable:
            self._wake()
        else:
            self._reading.deadline = self._deadline()

    # Writing, and what else a protocol has to say

    async def _send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Updated):
            self._state_changed()
        elif isinstance(event, Closed):
            await self._end()
        elif isinstance(event, Broken):
            self._lost, self._reset = True, event.reset
            await self._end()

    async def _write(self, data: bytes) -> None:
        if not data:
            return  # the end of a message of declared length
        # The shield covers the wait for the turn as well: to the protocol this data is sent already.
        sent = False
        with trio.CancelScope(shield=True) as scope, suppress(*_GONE):
            self._writes.add(scope)
            async with self._turn:
                await self._send_all(data, scope)
            sent = True
        self._writes.discard(scope)
        if not sent:
            await self._lose()

    async def _send_all(self, data: bytes, scope: trio.CancelScope) -> None:
        for start in range(0, len(data), _WRITE_BYTES):
            if self._lost:
                raise trio.ClosedResourceError
            scope.deadline = trio.current_time() + self._service.settings.send_timeout_s
            await self._channel.send_all(data[start : start + _WRITE_BYTES])
