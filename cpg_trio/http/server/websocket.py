"""A WebSocket, which an exchange of HTTP/1.1 turns into: Hypercorn's stream over wsproto, with rules added.

One task reads and answers pings and closes, another is the application's. What the application has not yet
received is bounded: then the client is not read. A client that is silent is sent a ping, and let go if not
even a pong comes.

Hypercorn's `WSStream` turns ASGI messages into frames and back. Added here: `send` raises once the client has
left, the application gets the close code, and an application that ends without closing closes all the same.
An application can send what is the same for many clients as a frame that it has encoded once (`FrameSender`):
frames are never compressed, so one fits all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.protocol.events import Body, Data, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, WSStream
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from wsproto.connection import Connection, ConnectionState as WSProtoState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event as WSProtoEvent, Message, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import (
    CLIENT,
    FRAMES,
    App,
    ClientDisconnectedError,
    Message as AsgiMessage,
    ResponseAbortedError,
    Scope,
    Send,
)
from cpg_trio.http.outgoing import OutgoingHead, block
from cpg_trio.http.server.asgi import named, unwrapped
from cpg_trio.http.server.config import hypercorn_config
from cpg_trio.http.server.errors import logger

if TYPE_CHECKING:
    from cpg_trio.http.server.http1 import Http1Exchange

_MOST_MESSAGES = 10  # that the application has not received
_SWITCHING_PROTOCOLS = 101


class WebSocketCall(WSStream):
    """One WebSocket, from its handshake on, and the application at its other end."""

    def __init__(self, exchange: Http1Exchange) -> None:
        """Answer the handshake that has come."""
        connection = self._connection = exchange.http1
        config = hypercorn_config(connection.service.config)
        is_tls, ends = connection.channel.tls is not None, (connection.client, connection.server)
        app: Any = connection.service.app  # Hypercorn's type is of its own wrapper
        tasks: Any = self
        super().__init__(app, config, WorkerContext(None), tasks, is_tls, *ends, self._send_event, 1)
        self._exchange = exchange
        self._pings = connection.service.timeouts.ping
        self._turn = trio.Lock()
        self._rest = b""  # of a frame, to be sent before all else
        self._reading = trio.CancelScope()
        self._nursery: trio.Nursery
        self._received = deque[AsgiMessage]()  # by nobody yet
        self._last: AsgiMessage | None = None
        self._movement = trio.lowlevel.ParkingLot()
        self._code, self._reason = int(CloseReason.ABNORMAL_CLOSURE), ""
        self._is_pinged = False  # and nothing has come since

    async def run(self) -> None:
        """Answer the handshake, and carry messages until either side ends it."""
        exchange, connection = self._exchange, self._connection
        exchange.close_after()
        connection.websocket = self
        fields = [(name.lower(), value) for name, value in exchange.headers]
        if not all(value.isascii() for name, value in fields if _is_token(name)):
            await exchange.finish(exchange.respond_text(400, "a token that is not ASCII"))
            return
        request = Request(
            stream_id=1,
            headers=fields,
            http_version=exchange.version,
            method="GET",
            raw_path=exchange.target,
            state=ConnectionState({"peer_names": connection.peer_names}),
        )
        async with open_plain_nursery() as self._nursery:
            try:
                await self.handle(request)
                if self.app_put is not None:  # it is a handshake
                    await self._read()
            finally:
                self._disconnect()

    # The client

    async def _read(self) -> None:
        """Read frames, until either side has closed."""
        connection = self._connection
        data, connection.rest = connection.rest, b""
        with self._reading:
            while not self.closed:
                if data:
                    await self.handle(Data(stream_id=1, data=data))
                    data = b""  # not held until something follows
                self._expect_frame()
                try:
                    data = await connection.receive()
                finally:
                    self._pings.end(self)
                if not data:
                    break

    def _expect_frame(self) -> None:
        """Give an open WebSocket's client time to send something, as long as somebody reads."""
        if self.state is ASGIWebsocketState.CONNECTED and not self.closed:
            self._pings.begin(self)

    def give_up(self) -> None:
        """Send a silent client a ping; let it go if it has had one."""
        if self._is_pinged:
            self._connection.break_off()
            self._reading.cancel()
        else:
            self._is_pinged = True
            self._pings.begin(self)
            self._nursery.start_soon(self._send_wsproto_event, Ping())

    async def go_away(self) -> None:
        """Say goodbye to a client that must find another server. A handshake is left to its end."""
        if self.state is ASGIWebsocketState.CONNECTED:
            await self._close(CloseReason.GOING_AWAY)

    async def handle(self, event: Event) -> None:
        self._is_pinged = False
        if isinstance(event, Data) and not self.handshake.accepted:
            await self._end()  # frames before the handshake is answered: not a WebSocket client
        else:
            await super().handle(event)

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
            await self._put(self.buffer.to_message())
            self.buffer.clear()

    async def _handle_close(self, event: CloseConnection) -> None:
        if self.connection.state is WSProtoState.OPEN:  # not a close frame, but one that cannot be parsed
            await self._close(event.code)
            return
        self._code, self._reason = int(event.code), event.reason or ""
        await self._send_wsproto_event(event.response())
        await self._end()

    # Sending

    async def _send_event(self, event: Event) -> None:
        """Send what Hypercorn's stream has to send."""
        exchange = self._exchange
        if isinstance(event, Data):
            await self._write(event.data)
        elif isinstance(event, Response) and event.status_code == _SWITCHING_PROTOCOLS:
            await self._write(b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % block(event.headers))
        elif isinstance(event, Response):
            fields = [field for field in event.headers if field[0].lower() != b"connection"]
            exchange.respond(OutgoingHead(event.status_code, fields))
        elif isinstance(event, Body):
            await exchange.write(event.data)
        elif isinstance(event, EndBody):
            await exchange.finish()
        elif isinstance(event, StreamClosed):
            await self._end()

    async def _write(self, data: bytes) -> None:
        # The shield covers the wait for the turn as well: to wsproto this data has been sent.
        with trio.CancelScope(shield=True):
            async with self._turn:
                if self._rest:
                    data, self._rest = self._rest + data, b""
                await self._connection.write(data)

    # Frames: see `FrameSender`

    @staticmethod
    def encode_frame(message: bytes | str) -> bytes:
        """Return a message as a frame."""
        event = TextMessage(message) if isinstance(message, str) else BytesMessage(message)
        return Connection(ConnectionType.SERVER).send(event)

    def may_send_frame(self) -> bool:
        """Whether a frame may be sent: the WebSocket is open, and all that was sent before has gone out."""
        return (
            self.state is ASGIWebsocketState.CONNECTED
            and not (self.closed or self._rest or self._turn.locked())
            and self.connection.state is WSProtoState.OPEN
        )

    def send_frame(self, frame: bytes) -> bool:
        """Send a frame as far as that goes without waiting; return False if a part of it is left."""
        self._rest = frame[self._connection.write_nowait(frame) :]
        return not self._rest

    async def send_rest(self) -> None:
        """Send the part that is left."""
        if self._rest:
            await self._write(b"")

    async def _close(self, code: int) -> None:
        """Close from our side; the application gets the same code."""
        self.state = ASGIWebsocketState.CLOSED
        self._code = int(code)
        await self._send_wsproto_event(CloseConnection(code=code))
        await self._end()

    async def _end(self) -> None:
        self._disconnect()
        self._reading.cancel()

    # The application

    async def spawn_app(
        self, app: App, _config: object, scope: Scope, send: Send
    ) -> Callable[[AsgiMessage], Awaitable[None]]:
        """Start the application, as Hypercorn's streams ask their task group to."""
        exchange, tls = self._exchange, self._connection.channel.tls
        scope["extensions"] |= {
            CLIENT: {"proved": exchange.prove, "message": exchange.want_message},
            FRAMES: self,
        }
        if tls is not None:
            scope["extensions"]["tls"] = tls
        self._nursery.start_soon(self._run_app, partial(app, scope, self._receive, send), named(scope))
        return self._put

    async def _run_app(self, call: Callable[[], Awaitable[None]], name: str) -> None:
        failed = True
        try:
            await call()
            failed = False
        except* (ClientDisconnectedError, ResponseAbortedError):
            pass  # nobody's fault, and the application has logged the other
        except* Exception as error:  # noqa: BLE001 - the barrier between applications and the server
            logger.error("the application failed on %s", name, exc_info=unwrapped(error))
        if self.closed or self.state is ASGIWebsocketState.CLOSED:
            return
        if self.state is ASGIWebsocketState.CONNECTED:
            await self._close(CloseReason.INTERNAL_ERROR if failed else CloseReason.NORMAL_CLOSURE)
            return
        await super().app_send(None)  # a bare 500 to the handshake
        if not self._exchange.finished:
            self._exchange.abort()  # half a refusal

    async def _put(self, message: AsgiMessage) -> None:
        """Have the application receive a message, and wait for room."""
        while self._last is None and len(self._received) >= _MOST_MESSAGES:
            await self._movement.park()
        self._received.append(message)
        self._movement.unpark_all()

    def _disconnect(self) -> None:
        """Have the application receive the end, behind what it has not received yet.

        Nothing is expected of the client any more: there may be no nursery soon for what would follow.
        """
        self.closed = True
        self._pings.end(self)
        if self._last is None:
            self._last = {"type": "websocket.disconnect", "code": self._code, "reason": self._reason}
        self._movement.unpark_all()

    async def _receive(self) -> AsgiMessage:
        # A checkpoint even when a message is there, or an application that loops on `receive` after its
        # client left would stop the whole process.
        await trio.lowlevel.checkpoint()
        while not self._received and self._last is None:
            await self._movement.park()
        if not self._received:
            assert self._last is not None  # noqa: S101 - for the type checker
            return self._last
        self._movement.unpark_all()
        return self._received.popleft()

    async def app_send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self._check_open()
        await super().app_send(message)
        self._check_client()
        if self.idle:  # closed or refused by the application just now
            self._code = int(message.get("code", CloseReason.NORMAL_CLOSURE))
            await self._end()

    def _check_open(self) -> None:
        self._check_client()
        if self.idle:  # we are closing, and our goodbye may still wait for its turn
            raise ClientDisconnectedError("the WebSocket is being closed")

    def _check_client(self) -> None:
        if self.closed:
            raise ClientDisconnectedError("the client closed the WebSocket")

    async def _accept(self, message: Any) -> None:
        self.handshake.extensions = None  # no compression: it would inflate past the limit on messages
        try:
            await super()._accept(message)
        except Exception:  # it cannot be sent, e.g. a subprotocol that the client has not offered
            self.state, self.handshake.accepted = ASGIWebsocketState.HANDSHAKE, False
            raise
        self._expect_frame()
        if self._connection.service.draining:
            await self.go_away()

    async def _send_rejection(self, message: Any) -> None:
        self.response = {"headers": [], **self.response}  # ASGI leaves out what is empty
        await super()._send_rejection(message)


def _is_token(name: bytes) -> bool:
    """Whether Hypercorn or wsproto reads the value of this field as ASCII."""
    return name in {b"connection", b"upgrade"} or name.startswith(b"sec-websocket-")
