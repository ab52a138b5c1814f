"""HTTP/2 with prior knowledge (h2c): Hypercorn's protocol over h2, with its waits bounded.

The connection's reader never waits for an application: what a client may send ahead is bounded by the flow
control windows, whose credit is given back as the application receives. So a call that does not read holds
up neither the other calls of its connection nor the window updates that its own response waits for.

WebSocket over HTTP/2 is not offered, nor are push and priorities, which RFC 9113 has given up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from math import inf

import h2.events
import h2.exceptions
import trio
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed, Trailers
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, BufferCompleteError, H2Protocol, StreamBuffer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import filter_pseudo_headers
from hyperframe.frame import GoAwayFrame

from cpg_trio.http.server.activity import Activity
from cpg_trio.http.server.calls import Inbox
from cpg_trio.http.server.http2_connection import Http2Connection
from cpg_trio.http.server.link import Awaiting, Link, dated
from cpg_trio.http.server.streams import HttpStream

# The window of a connection, beside the 64 KiB of each stream: what all its calls together may leave
# unread before the reading ones have to wait for the others.
_CONNECTION_WINDOW_BYTES = 2**20

# Streams that are open, or were reset so lately that they have not been cleaned up. A client may have a fifth
# of it open; one that begins and resets many more at once means no good.
_MOST_STREAMS = 500

_EVENTS_AT_ONCE = 16


class Outbox(StreamBuffer):
    """What one response has to say and the client's window does not yet let through.

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


class Http2(H2Protocol):
    """The HTTP/2 side of one connection."""

    runnable = False
    saturated = False
    client_may_be_sending = True

    def __init__(self, link: Link) -> None:
        """Speak through `link`."""
        super().__init__(*link.protocol_arguments())
        self._link = link
        self.connection = Http2Connection()
        self._uploading: set[int] = set()
        self._unreceived: dict[int, int] = {}
        self._sends: dict[int, trio.CancelScope] = {}
        limits = {
            SettingCodes.MAX_CONCURRENT_STREAMS: link.config.h2_max_concurrent_streams,
            SettingCodes.MAX_HEADER_LIST_SIZE: link.config.h2_max_header_list_size,
        }
        self.connection.local_settings = Settings(client=False, initial_values=limits)
        self.connection.decoder.max_header_list_size = link.config.h2_max_header_list_size

    @property
    def idle(self) -> bool:
        return not self.streams and not self.stream_buffers

    @property
    def activity(self) -> Activity:
        """What the connection is busy with."""
        if self.idle:
            return Activity.IDLE if self.keep_alive_requests else Activity.WAITING
        return Activity.WAITING if self.streams.keys() <= self._uploading else Activity.BUSY

    def awaiting(self) -> Awaiting:
        """Say what the client owes us now."""
        return Awaiting.REQUEST if self.idle else Awaiting.NOTHING

    async def initiate(self, *_upgrade: object) -> None:
        """Send the preface, and begin to write responses in a task of their own."""
        await super().initiate()
        window = self.connection.inbound_flow_control_window
        self.connection.increment_flow_control_window(_CONNECTION_WINDOW_BYTES - window)
        await self._flush()

    async def resume(self) -> None:
        """Do nothing: no request ever waits for its turn."""

    async def drain(self) -> None:
        """Tell the client that no new request will be taken; end now if none is in flight."""
        await self._flush()
        # Not through h2, which would refuse from now on to send the rest of the responses.
        goodbye = GoAwayFrame(0, last_stream_id=self.connection.highest_inbound_stream_id)
        await self.send(RawData(goodbye.serialize()))
        await self._settle()

    async def overdue(self) -> None:
        """Let go a client that asks for nothing."""
        await self.drain()
        await self.send(Closed())

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            for buffer in self.stream_buffers.values():
                await buffer.close()  # or applications wait for ever to send the rest

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, StreamClosed):
            await self._close_stream(event.stream_id)
            await self._settle()
        elif isinstance(event, Body | EndBody | Trailers):
            await self._send_while_it_moves(event)
        elif isinstance(event, Response):
            await super().stream_send(replace(event, headers=dated(event.headers)))
        else:
            await super().stream_send(event)

    async def _send_while_it_moves(self, event: StreamEvent) -> None:
        """Send what is subject to flow control; give the stream up when the client opens no window."""
        stream_id = event.stream_id
        with trio.CancelScope(deadline=self._send_deadline()) as scope:
            self._sends[stream_id] = scope
            await super().stream_send(event)
        self._sends.pop(stream_id, None)
        if scope.cancelled_caught:
            await self._reset(stream_id, ErrorCodes.CANCEL)

    def _send_deadline(self) -> float:
        return trio.current_time() + self._link.settings.send_timeout_s

    async def _send_data(self, stream_id: int) -> None:
        before = self._unsent(stream_id)
        await super()._send_data(stream_id)
        if stream_id in self._sends and self._unsent(stream_id) < before:
            self._sends[stream_id].deadline = self._send_deadline()
        if stream_id not in self.stream_buffers:
            await self._response_ended(stream_id)

    def _unsent(self, stream_id: int) -> int:
        return len(self.stream_buffers[stream_id].buffer) if stream_id in self.stream_buffers else 0

    async def _response_ended(self, stream_id: int) -> None:
        if stream_id in self._uploading:  # an early answer: tell the client that the rest is not wanted
            await self._send_reset(stream_id, ErrorCodes.NO_ERROR)
        await self._settle()

    async def _settle(self) -> None:
        await self.send(Updated(idle=self.idle))
        if self.idle and self._link.draining:
            await self.send(Closed())

    async def _abandon(self, stream_id: int) -> None:
        await self._reset(stream_id, ErrorCodes.INTERNAL_ERROR)

    async def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        await self._send_reset(stream_id, code)
        await self._close_stream(stream_id)
        await self._discard_unsent(stream_id)
        await self._settle()

    async def _send_reset(self, stream_id: int, code: ErrorCodes) -> None:
        self._uploading.discard(stream_id)
        with suppress(h2.exceptions.ProtocolError):  # it may have closed meanwhile, or the connection
            self.connection.reset_stream(stream_id, code)
        await self._flush()

    async def _discard_unsent(self, stream_id: int) -> None:
        """Let the sending task clean up behind a stream that was reset, by whichever side."""
        if stream_id in self.stream_buffers:
            await self.stream_buffers[stream_id].close()
            self.priority.unblock(stream_id)
            await self.has_data.set()

    async def _close_stream(self, stream_id: int) -> None:
        await super()._close_stream(stream_id)
        self._link.slot.open_streams(len(self.streams))
        self._acknowledge(stream_id, self._unreceived.pop(stream_id, 0))

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        begun = 0  # in this read: some of them may have ended by now
        for number, event in enumerate(events, 1):
            if number % _EVENTS_AT_ONCE == 0:  # a client that sends much is not to have the loop for itself
                await trio.lowlevel.checkpoint()
            if self.closed:
                return
            if isinstance(event, h2.events.DataReceived):
                await self._handle_data(event)
            elif isinstance(event, h2.events.RequestReceived) and (
                max(len(self.stream_buffers), begun) >= _MOST_STREAMS
            ):
                self.connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
                await self._flush()
                await self.send(Closed())
            elif isinstance(event, h2.events.RequestReceived) and self._link.draining:
                await self._send_reset(event.stream_id, ErrorCodes.REFUSED_STREAM)
            else:
                begun += isinstance(event, h2.events.RequestReceived)
                self._note_end_of_upload(event)
                await super()._handle_events([event])
            if isinstance(event, h2.events.StreamReset):
                await self._discard_unsent(event.stream_id)
        await self._flush()

    def _note_end_of_upload(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
            self._uploading.discard(event.stream_id)

    async def _handle_data(self, event: h2.events.DataReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:  # more of a request that has been answered
            self._acknowledge(event.stream_id, event.flow_controlled_length)
            return
        self._acknowledge(event.stream_id, event.flow_controlled_length - len(event.data))
        self._unreceived[event.stream_id] = self._unreceived.get(event.stream_id, 0) + len(event.data)
        await stream.handle(Body(stream_id=event.stream_id, data=event.data))

    def _received_by_app(self, stream_id: int) -> Callable[[int], Awaitable[None]]:
        async def on_taken(count: int) -> None:
            if stream_id in self._unreceived:
                self._unreceived[stream_id] -= count
                self._acknowledge(stream_id, count)
                await self._flush()

        return on_taken

    def _acknowledge(self, stream_id: int, count: int) -> None:
        with suppress(h2.exceptions.ProtocolError):
            self.connection.acknowledge_received_data(count, stream_id)

    async def _priority_updated(self, event: h2.events.PriorityUpdated) -> None:
        """Ignore it: a client could fill the tree of priorities with streams that never come."""

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        fields = dict(request.headers)
        method, path = fields.get(b":method", b""), fields.get(b":path", b"")
        stream_id = request.stream_id
        if method == b"CONNECT" or not (path.isascii() and method.isascii()):
            await self._refuse(stream_id)
            return
        if request.stream_ended is not None and int(fields.get(b"content-length", b"0")):
            await self._send_reset(stream_id, ErrorCodes.PROTOCOL_ERROR)  # which h2 does not see
            return
        if not self._link.slot.open_streams(len(self.streams) + 1):
            await self._send_reset(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        if request.stream_ended is None:
            self._uploading.add(stream_id)
        self.stream_buffers[stream_id] = Outbox(self._link.context)
        self.priority.insert_stream(stream_id)
        self.priority.block(stream_id)
        stream = self.streams[stream_id] = self._stream(stream_id, declared=b"content-length" in fields)
        await stream.handle(
            Request(
                stream_id=stream_id,
                headers=filter_pseudo_headers(request.headers),
                http_version="2",
                method=method.decode("ascii").upper(),
                raw_path=path,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    def _stream(self, stream_id: int, *, declared: bool) -> HttpStream:
        async def abandon() -> None:
            await self._abandon(stream_id)

        async def on_late() -> None:
            await self._reset(stream_id, ErrorCodes.CANCEL)

        pace = self._link.body_pace(is_message=declared)
        inbox = Inbox(limit=inf, on_taken=self._received_by_app(stream_id), pace=pace, on_late=on_late)
        return HttpStream(self._link, stream_id, self.stream_send, abandon, inbox)

    async def _refuse(self, stream_id: int) -> None:
        self.connection.send_headers(stream_id, [(b":status", b"400")], end_stream=True)
        await self._flush()
