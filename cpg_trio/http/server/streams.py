"""One request, and one WebSocket: Hypercorn's streams, with what they lose put back.

Hypercorn's streams turn ASGI messages into protocol events and back. These add: `send` raises once the
client has left, trailers on every version of HTTP, the WebSocket close code, pings that must be answered,
and an end of the application that the client cannot mistake for the end of the response.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import trio
from hypercorn.events import Updated
from hypercorn.protocol.events import Body, Data, Event, StreamClosed, Trailers
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, WSStream
from hypercorn.utils import build_and_validate_headers
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Event as WSProtoEvent, Message, Ping
from wsproto.frame_protocol import CloseReason

from cpg_trio.asgi import CLIENT, ClientDisconnectedError, HeaderList, accepts_trailers
from cpg_trio.http.server.asgi import named
from cpg_trio.http.server.calls import Call, Inbox
from cpg_trio.http.server.errors import logger
from cpg_trio.http.server.link import Awaiting, Link

Sink = Callable[[Event], Awaitable[None]]


class HttpStream(HTTPStream):
    """One HTTP request and its response."""

    def __init__(
        self,
        link: Link,
        stream_id: int,
        send: Sink,
        abandon: Callable[[], Awaitable[None]],
        inbox: Inbox,
        extensions: Iterable[str] = (),
    ) -> None:
        """Send events to `send`; call `abandon` to break off a response that has begun."""
        self._pace = inbox.pace
        self._slot = link.slot
        offered = {CLIENT: {"proved": self._proved, "message": self._want_message}}
        offered |= {name: {} for name in extensions}
        call = Call(link.nursery, inbox, self._app_ended, link.extensions | offered)
        super().__init__(*link.stream_arguments(call, send, stream_id))
        self._abandon = abandon
        self._trailers: HeaderList = []

    def _proved(self, identity: str) -> None:
        self._slot.prove(identity)
        if self._pace is not None:
            self._pace.is_proved = True

    def _want_message(self) -> None:
        if self._pace is not None:
            self._pace.is_message = True

    async def app_send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()  # what follows is shielded, or does not wait at all
        self._check_client()
        if message["type"] == "http.response.trailers" and self.state is ASGIHTTPState.TRAILERS:
            await self._send_trailers(message)
        else:
            await super().app_send(message)
        self._check_client()

    def _check_client(self) -> None:
        if self.closed and self.state is not ASGIHTTPState.CLOSED:
            raise ClientDisconnectedError("the client left before the end of the response")

    async def _send_trailers(self, message: Any) -> None:
        self._trailers += build_and_validate_headers(message["headers"])
        if message.get("more_trailers", False):
            return
        if accepts_trailers(self.scope["headers"]):
            await self.send(Trailers(stream_id=self.stream_id, headers=self._trailers))
        await self._send_closed()

    async def _app_ended(self, failed: bool) -> None:  # noqa: FBT001
        if self.closed:
            return
        if not failed:
            logger.error("the application returned without finishing its response to %s", named(self.scope))
        if self.state is ASGIHTTPState.REQUEST:
            await super().app_send(None)  # a bare 500
        else:
            await self._abandon()


class WebSocketStream(WSStream):
    """One WebSocket, from its handshake on."""

    def __init__(self, link: Link, stream_id: int, send: Sink) -> None:
        """Send events to `send`."""
        call = Call(link.nursery, Inbox(), self._app_ended, link.extensions)
        super().__init__(*link.stream_arguments(call, send, stream_id))
        self._link = link
        self._code = int(CloseReason.ABNORMAL_CLOSURE)
        self._reason = ""
        self._pinged = False  # and nothing has come since

    def awaiting(self) -> Awaiting:
        """Say what the client owes us now: until the handshake is answered, it is the application's turn."""
        if self.state is not ASGIWebsocketState.CONNECTED:
            return Awaiting.NOTHING
        return Awaiting.PONG if self._pinged else Awaiting.FRAME

    async def ping(self) -> None:
        """Ask the client for a word."""
        self._pinged = True
        await self._send_wsproto_event(Ping())

    async def handle(self, event: Event) -> None:
        self._pinged = False
        if self.closed:
            return
        if isinstance(event, StreamClosed):
            await self._disconnect()
        elif isinstance(event, (Body, Data)) and not self.handshake.accepted:
            await self._close_stream()  # frames before the handshake is answered: not a WebSocket client
        else:
            await super().handle(event)

    async def app_send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self._check_client()
        await super().app_send(message)
        self._check_client()
        if self.idle:  # closed or refused by the application just now
            self._code = int(message.get("code", CloseReason.NORMAL_CLOSURE))
            await self._close_stream()

    async def go_away(self) -> None:
        """Say goodbye to a client that must find another server. A handshake is left to its end."""
        if self.state is ASGIWebsocketState.CONNECTED:
            await self._close(CloseReason.GOING_AWAY)

    def _check_client(self) -> None:
        if self.closed:
            raise ClientDisconnectedError("the client closed the WebSocket")

    async def _disconnect(self) -> None:
        self.closed = True
        assert self.app_put is not None  # noqa: S101 - or the handshake was refused, and `closed` already
        await self.app_put({"type": "websocket.disconnect", "code": self._code, "reason": self._reason})

    async def _close(self, code: int) -> None:
        """Close from our side; the application is told the same code."""
        self.state = ASGIWebsocketState.CLOSED
        self._code = int(code)
        await self._send_wsproto_event(CloseConnection(code=code))
        await self._close_stream()

    async def _close_stream(self) -> None:
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _accept(self, message: Any) -> None:
        self.handshake.extensions = None  # no compression: it would inflate past the limit on messages
        try:
            await super()._accept(message)
        except Exception:  # it cannot be said, e.g. a subprotocol that the client has not offered
            self.state, self.handshake.accepted = ASGIWebsocketState.HANDSHAKE, False
            raise
        await self._link.send(Updated(idle=False))
        if self._link.draining:
            await self.go_away()

    async def _send_rejection(self, message: Any) -> None:
        self.response = {"headers": [], **self.response}  # ASGI leaves out what is empty
        await super()._send_rejection(message)

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            await self._handle_event(event)
            if self.closed:
                return

    async def _handle_event(self, event: WSProtoEvent) -> None:
        if isinstance(event, Message):
            await self._handle_message(event)
        elif isinstance(event, Ping):
            await self._send_wsproto_event(event.response())
        elif isinstance(event, CloseConnection):
            await self._handle_close(event)

    async def _handle_message(self, event: Message[Any]) -> None:
        try:
            self.buffer.extend(event)
        except FrameTooLargeError:
            await self._close(CloseReason.MESSAGE_TOO_BIG)
            return
        if event.message_finished:
            assert self.app_put is not None  # noqa: S101 - for the type checker
            await self.app_put(self.buffer.to_message())
            self.buffer.clear()

    async def _handle_close(self, event: CloseConnection) -> None:
        if self.connection.state is ConnectionState.OPEN:  # not a close frame, but one we cannot parse
            await self._close(event.code)
            return
        self._code, self._reason = int(event.code), event.reason or ""
        await self._send_wsproto_event(event.response())
        await self._close_stream()

    async def _app_ended(self, failed: bool) -> None:  # noqa: FBT001
        if self.closed:
            return
        if self.state is ASGIWebsocketState.CONNECTED:
            await self._close(CloseReason.INTERNAL_ERROR if failed else CloseReason.NORMAL_CLOSURE)
        else:
            await super().app_send(None)  # a bare 500 to the handshake, or the end of half a refusal
