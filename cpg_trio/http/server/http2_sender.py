"""What the windows of an HTTP/2 client do not let through at once: Hypercorn's buffers, and its sending task.

Most responses fit the windows, and are sent without any of this. For the others Hypercorn's `H2Protocol` has
a buffer for each stream, and one task that sends from them by turns as the windows open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from hypercorn.events import Closed
from hypercorn.protocol.events import Body, EndBody, Trailers
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, BufferCompleteError, H2Protocol, StreamBuffer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from cpg_trio.asgi import HeaderList
from cpg_trio.http.server.config import hypercorn_config
from cpg_trio.http.server.http2_engine import Http2Engine

if TYPE_CHECKING:
    from cpg_trio.http.server.http2 import Http2Connection, Http2Exchange


class Outbox(StreamBuffer):
    """The part of one response that the client's window does not yet let through.

    Hypercorn's lets an application go on when the window is shut, however much waits already.
    """

    def __init__(self, context: WorkerContext) -> None:
        """Begin empty."""
        super().__init__(context.event_class)
        self._movement = trio.lowlevel.ParkingLot()

    async def push(self, data: bytes) -> None:
        """Add, and wait for room. Raises: `BufferCompleteError` when the stream has ended."""
        if self._complete:
            raise BufferCompleteError
        self.buffer.extend(data)
        while len(self.buffer) >= BUFFER_HIGH_WATER:
            await self._movement.park()

    async def pop(self, max_length: int) -> bytes:
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        self._movement.unpark_all()
        return data

    async def drain(self) -> None:
        """Wait until all is gone, or given up."""
        while self.buffer:
            await self._movement.park()

    async def close(self) -> None:
        await super().close()
        self._movement.unpark_all()


class Sender(H2Protocol):
    """Sends, by turns, what waits for the windows of one client."""

    connection: Http2Engine

    def __init__(self, owner: Http2Connection) -> None:
        """Send through a connection. `send_task` has to run beside it."""
        service = owner.service
        config, is_tls = hypercorn_config(service.config), owner.channel.tls is not None
        self._context = context = WorkerContext(None)
        unused: Any = None  # applications are not started here, and what is sent goes by `_flush`
        ends = owner.client, owner.server
        super().__init__(unused, config, context, unused, ConnectionState({}), is_tls, *ends, unused)
        self.connection = owner.engine
        self._owner = owner
        self._timeouts = service.timeouts.send
        self._exchanges: dict[int, Http2Exchange] = {}
        self._movement = trio.lowlevel.ParkingLot()

    def __contains__(self, stream_id: int) -> bool:
        """Whether something of a stream waits, or has waited."""
        return stream_id in self.stream_buffers

    async def send_in_turn(
        self, exchange: Http2Exchange, data: bytes, trailers: HeaderList, *, is_last: bool
    ) -> None:
        """Send a part of a body, and what follows its last part, as the windows open.

        A client that opens no window for too long loses its stream.
        """
        stream_id = exchange.stream_id
        if stream_id not in self.stream_buffers:
            self._exchanges[stream_id] = exchange
            self.stream_buffers[stream_id] = Outbox(self._context)
            self.priority.insert_stream(stream_id)
            self.priority.block(stream_id)
        self._owner.flush()  # the head of the response waits for no window
        self._timeouts.begin(exchange)
        try:
            if data:
                await self.stream_send(Body(stream_id=stream_id, data=data))
            if trailers:
                await self.stream_send(Trailers(stream_id=stream_id, headers=trailers))
            if is_last:
                await self.stream_send(EndBody(stream_id=stream_id))
                while stream_id in self.stream_buffers and not self.closed:
                    await self._movement.park()
        finally:
            self._timeouts.end(exchange)

    async def _flush(self) -> None:
        await self._owner.flush_all()

    async def _send_data(self, stream_id: int) -> None:
        waiting, exchange = len(self.stream_buffers[stream_id].buffer), self._exchanges[stream_id]
        await super()._send_data(stream_id)
        if stream_id not in self.stream_buffers:
            del self._exchanges[stream_id]
        elif len(self.stream_buffers[stream_id].buffer) < waiting and exchange in self._timeouts:
            self._timeouts.begin(exchange)  # again with each bit of progress
        self._movement.unpark_all()

    async def open_window(self, stream_id: int) -> None:
        """Send on: a window has opened, of a stream or (0) of all."""
        await self._window_updated(stream_id)

    async def discard(self, stream_id: int) -> None:
        """Drop what waits of a stream that was reset, by whichever side."""
        if stream_id in self.stream_buffers:
            await self.stream_buffers[stream_id].close()
            await self._window_updated(stream_id)  # so that the task removes it

    async def close(self) -> None:
        """End: whoever waits goes on, and the task returns."""
        await self.handle(Closed())
        for buffer in self.stream_buffers.values():
            await buffer.close()
        self._movement.unpark_all()
