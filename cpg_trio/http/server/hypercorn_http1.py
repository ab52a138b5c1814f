"""HTTP/1.1: Hypercorn's protocol over h11, made strict where others would be misled.

What one hop reads differently from the next is refused with 400 and the end of the connection, because
this server stands in front of others: both framings at once, and a bare LF for a line end. An upgrade to
HTTP/2 (h2c) is ignored, as RFC 9110 allows; a client that begins in HTTP/2 gets it.

Pipelined requests wait in h11's buffer while one is in flight. The connection reads on meanwhile, up to twice
what a head may have, so that it notices when the client leaves.
"""

from __future__ import annotations

import re
from dataclasses import replace

import h11
from h11._receivebuffer import ReceiveBuffer
from h11._util import LocalProtocolError
from h11._writers import ChunkedWriter, Http10Writer
from hypercorn.events import Closed, Updated
from hypercorn.protocol.events import Body, Data, EndBody, Event as StreamEvent, Request, Response, Trailers
from hypercorn.protocol.h11 import STREAM_ID, H2ProtocolAssumedError, H11Protocol, H11WSConnection

from cpg_trio.asgi import HeaderList, accepts_trailers
from cpg_trio.http.heads import origin_form, with_host
from cpg_trio.http.schemes import PLAIN_IS_SPOKEN, is_tls
from cpg_trio.http.server.activity import Activity
from cpg_trio.http.server.calls import Inbox
from cpg_trio.http.server.link import Awaiting, Broken, Link, dated
from cpg_trio.http.server.streams import HttpStream, WebSocketStream

_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\n"
_BLANK_LINE = b"\r\n\r\n"
_BARE_LF = re.compile(rb"(?<!\r)\n")


# A method token, a target, a version. The line of a header has a colon where this has a token.
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [^\x00-\x20\x7f]+ HTTP/1\.[01]")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")


def _percent_encoded(byte: re.Match[bytes]) -> bytes:
    return b"%%%02X" % byte[0][0]


class StrictReceiveBuffer(ReceiveBuffer):
    """h11's buffer, except that lines end with CR LF and with nothing else.

    Bytes beyond ASCII in a request's target are percent-encoded, which is what their sender should have
    done: people type them at curl, and there is one way to read them. A head that is too large is refused
    also if it comes all at once, which h11 lets pass.
    """

    def __init__(self, max_head_bytes: int) -> None:
        super().__init__()
        self._max_head_bytes = max_head_bytes
        self._checked = 0

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Extract the lines up to the first blank one. Raises: `LocalProtocolError`."""
        self._check()
        lines = super().maybe_extract_lines()
        if lines and _REQUEST_LINE.fullmatch(lines[0]):
            lines[0] = bytearray(_NOT_ASCII.sub(_percent_encoded, bytes(lines[0])))
        return lines

    def _check(self) -> None:
        # Each byte is looked at once, however slowly the head comes in; what follows the head is a body.
        end = self._data.find(_BLANK_LINE, max(0, self._checked - 3))
        if self._data.startswith(b"\r\n"):
            end = 0
        least = len(self._data) + 1 if end < 0 else end + len(_BLANK_LINE)  # that the head has
        end = len(self._data) if end < 0 else end
        if _BARE_LF.search(self._data, self._checked, end):
            raise LocalProtocolError("bare LF in a message head")
        if least > self._max_head_bytes:
            raise LocalProtocolError("the head is too large", error_status_hint=431)
        self._checked = end

    def _extract(self, count: int) -> bytearray:
        self._checked = 0
        return super()._extract(count)


class Http1(H11Protocol):
    """The HTTP/1.1 side of one connection, and of the WebSocket that it may become."""

    def __init__(self, link: Link) -> None:
        """Speak through `link`."""
        super().__init__(*link.protocol_arguments())
        self._link = link
        self._trailers: HeaderList = []
        self._declared_length = False
        self._h11 = h11.Connection(h11.SERVER, link.config.h11_max_incomplete_size)
        self._buffer = self._h11._receive_buffer = StrictReceiveBuffer(link.settings.max_head_bytes)  # noqa: SLF001
        self.connection: h11.Connection | H11WSConnection = self._h11

    def awaiting(self) -> Awaiting:
        """Say what the client owes us now."""
        if isinstance(self.stream, WebSocketStream):
            return self.stream.awaiting()
        state = self._h11.their_state
        if state is not h11.IDLE:
            return Awaiting.NOTHING
        begun = bool(self._buffer) or self.keep_alive_requests == 0
        return Awaiting.HEAD if begun else Awaiting.REQUEST

    @property
    def activity(self) -> Activity:
        """What the connection is busy with."""
        if self.stream is None:
            return Activity.IDLE if self.keep_alive_requests else Activity.WAITING
        return Activity.WAITING if self._h11.their_state is h11.SEND_BODY else Activity.BUSY

    @property
    def runnable(self) -> bool:
        """Whether a pipelined request has its turn."""
        return bool(self._buffer) and self._h11.their_state is h11.IDLE

    @property
    def saturated(self) -> bool:
        """Whether to stop reading until the request in flight has ended."""
        # More than a head, or one that is too long would not be seen to be.
        return len(self._buffer) >= 2 * self._link.settings.max_head_bytes

    @property
    def client_may_be_sending(self) -> bool:
        """Whether an orderly end has to wait for the client's, lest a reset takes our last words away."""
        state = self._h11.their_state
        at_rest = state in {h11.IDLE, h11.DONE, h11.MUST_CLOSE, h11.CLOSED}
        return not at_rest or (state is not h11.IDLE and bool(self._buffer))

    async def resume(self) -> None:
        """Take up a pipelined request."""
        await self._handle_events()

    async def drain(self) -> None:
        """End what is idle; what is in flight ends with its response, or with the word to go away."""
        if self.stream is None:
            await self.send(Closed())
        elif isinstance(self.stream, WebSocketStream):
            await self.stream.go_away()

    async def overdue(self) -> None:
        """Ask a silent WebSocket client for a word, once; let every other client go that is out of time."""
        awaited = self.awaiting()
        if isinstance(self.stream, WebSocketStream) and awaited is Awaiting.FRAME:
            await self.stream.ping()
        elif awaited is Awaiting.PONG:
            await self.send(Broken(reset=True))
        else:
            await self.send(Closed())

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and event.status_code >= 200:  # noqa: PLR2004 - not an interim one
            await super().stream_send(replace(event, headers=self._final(dated(event.headers))))
        elif isinstance(event, Trailers):
            self._trailers = event.headers
        elif isinstance(event, EndBody):
            await self._send_h11_event(h11.EndOfMessage(headers=self._take_trailers()))
        else:
            await super().stream_send(event)

    def _final(self, headers: HeaderList) -> HeaderList:
        """Return a response's headers, with word that no other follows it if that is so."""
        goodbye = (b"connection", b"close")
        last = self._link.draining or isinstance(self.stream, WebSocketStream)
        return [*headers, goodbye] if last and goodbye not in headers else headers

    def _take_trailers(self) -> HeaderList:
        trailers, self._trailers = self._trailers, []
        return trailers if isinstance(self._h11._writer, ChunkedWriter) else []  # noqa: SLF001

    async def _abandon(self) -> None:
        # To a client of HTTP/1.0 the end of the connection is the end of the response.
        await self.send(Broken(reset=isinstance(self._h11._writer, Http10Writer)))  # noqa: SLF001

    async def _handle_events(self) -> None:
        try:
            while await self._handle_event():
                pass
        except h11.RemoteProtocolError as error:
            if self.keep_alive_requests == 0 and is_tls(bytes(self._buffer)[:2]):
                self._link.wrong_schemes.note(self.client, PLAIN_IS_SPOKEN)
            if self._h11.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                await self._send_error_response(error.error_status_hint)
            await self.send(Closed())

    async def _handle_event(self) -> bool:
        """Handle one event; return False when there is none, or none that has its turn."""
        if self.connection.they_are_waiting_for_100_continue:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))
        event = self.connection.next_event()
        if isinstance(event, h11.Request):
            self._check(event)
            await self._begin(event)
            return True
        if self.stream is None or not isinstance(event, h11.Data | h11.EndOfMessage | Data):
            return False
        await self.stream.handle(_stream_event(event))
        return True

    def _check(self, request: h11.Request) -> None:
        if request.method == b"PRI" and request.http_version == b"2.0" and self.keep_alive_requests == 0:
            raise H2ProtocolAssumedError(_HTTP2_PREFACE + bytes(self._buffer))
        if request.http_version not in {b"1.0", b"1.1"}:
            raise h11.RemoteProtocolError("not a version that we speak", error_status_hint=505)
        names = {name for name, _ in request.headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            raise h11.RemoteProtocolError("two framings for one body")
        if not all(value.isascii() for name, value in request.headers if _is_token(name)):
            raise h11.RemoteProtocolError("a token that is not ASCII")
        self._declared_length = b"content-length" in names

    async def _begin(self, request: h11.Request) -> None:
        await self.send(Updated(idle=False))
        await self._create_stream(request)
        self.keep_alive_requests += 1
        if self.stream is not None and self.stream.closed:  # a handshake that it refused by itself
            await self.send(Closed())

    def _inbox(self) -> Inbox:
        async def on_late() -> None:
            await self.send(Closed())

        return Inbox(pace=self._link.body_pace(is_message=self._declared_length), on_late=on_late)

    async def _create_stream(self, request: h11.Request) -> None:
        headers, target = list(request.headers), request.target
        if (absolute := origin_form(request.method, target)) is not None:
            target, host = absolute
            headers = with_host(headers, host)
        if _asks_for_websocket(request):
            self.connection = H11WSConnection(self._h11)
            self.stream = WebSocketStream(self._link, STREAM_ID, self.stream_send)
        else:
            trailers = ["http.response.trailers"] if accepts_trailers(headers) else []
            self.stream = HttpStream(
                self._link, STREAM_ID, self.stream_send, self._abandon, self._inbox(), trailers
            )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=headers,
                http_version=request.http_version.decode("ascii"),
                method=request.method.decode("ascii").upper(),
                raw_path=target,
                state=self.connection_state,
            )
        )


def _stream_event(event: h11.Data | h11.EndOfMessage | Data) -> StreamEvent:
    if isinstance(event, h11.Data):
        return Body(stream_id=STREAM_ID, data=bytes(event.data))
    if isinstance(event, h11.EndOfMessage):
        return EndBody(stream_id=STREAM_ID)
    return event


def _is_token(name: bytes) -> bool:
    """Say whether Hypercorn or wsproto reads the value of this header as ASCII."""
    return name in {b"connection", b"upgrade"} or name.startswith(b"sec-websocket-")


def _asks_for_websocket(request: h11.Request) -> bool:
    headers = dict(request.headers)
    tokens = {token.strip() for token in headers.get(b"connection", b"").lower().split(b",")}
    upgrade = headers.get(b"upgrade", b"").strip().lower()
    return request.method.upper() == b"GET" and b"upgrade" in tokens and upgrade == b"websocket"
