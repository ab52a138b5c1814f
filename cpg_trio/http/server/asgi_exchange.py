"""A request that comes as an ASGI call of this process, as an exchange: what the relay passes on.

Its client is the task that makes the call. If that leaves, the task that relays it is cancelled, so nothing
here has to watch for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import trio

from cpg_trio.asgi import (
    ClientDisconnectedError,
    HeaderList,
    Message,
    Receive,
    Scope,
    Send,
    accepts_trailers,
    local_caller,
)
from cpg_trio.http.channel import Address
from cpg_trio.http.heads import Framing, MalformedError
from cpg_trio.http.messages import body_too_large
from cpg_trio.http.outgoing import OutgoingHead
from cpg_trio.http.server.exchange import ServerExchange

if TYPE_CHECKING:
    from cpg_trio.http.server.connection import ServerConnection

PROTOCOL = "memory"
"""What such a call has in place of a version of HTTP."""


class _Head:
    """What is read of a head."""

    is_kept = True
    remembered: object = None
    host = origin = None  # no web page sends it

    def __init__(self, scope: Scope) -> None:
        query = scope["query_string"]
        self.method: bytes = scope["method"].encode()
        self.target: bytes = scope["raw_path"] + (b"?" + query if query else b"")
        self.fields: HeaderList = scope["headers"]

    @property
    def accepts_trailers(self) -> bool:
        return accepts_trailers(self.fields)


class _Caller:
    """What is known of the connection: there is none."""

    client: Address = None
    server: Address = None
    peer_names: tuple[str, ...] = ()
    remembered: object = None


_CALLER = _Caller()
_NO_FIELDS: HeaderList = []  # not to be changed


class AsgiExchange(ServerExchange):
    """An ASGI call of this process as an exchange. `prepare` is called before its body is taken."""

    connection = cast("ServerConnection", _CALLER)
    authorization = b""
    context = metadata = _NO_FIELDS
    declared = b""
    version = PROTOCOL
    framing = Framing.CHUNKED
    remaining = 0
    complete = False
    most_bytes: int | None = None
    """Bytes that the body may have."""
    aborted = False
    _here = b""
    _came = 0
    _is_started = False

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.head = head = _Head(scope)  # type: ignore[assignment] # what is read of one is there
        self.known_caller = local_caller(scope)
        self.method = head.method
        self.receive_message = receive
        self._send_message = send

    async def prepare(self) -> None:
        """Take a body of declared length, which is here as a whole."""
        if (length := self._length()) is not None:
            self.framing, self.remaining = Framing.LENGTH, length
            await self._receive()

    def _length(self) -> int | None:
        declared = next((value for name, value in self.head.fields if name == b"content-length"), None)
        return None if declared is None else int(declared)

    # The request

    @property
    def headers(self) -> HeaderList:
        """See `ServerExchange`."""
        return self.head.fields

    @property
    def declares_body(self) -> bool:
        """See `ServerExchange`."""
        return True

    def take(self) -> bytes:
        """See `ServerExchange`."""
        here, self._here = self._here, b""
        return here

    def limit_body(self, most: int) -> None:
        """See `ServerExchange`."""
        if (self._length() or 0) > most:
            raise MalformedError(body_too_large(most), 413)
        self.most_bytes = most

    def differing(self) -> HeaderList:
        """See `ServerExchange`. All are the head's."""
        return []

    def behind_round(self, call: Callable[[], None]) -> None:
        """See `ServerExchange`. Nothing is sent."""
        call()

    def keep_head(self) -> None:
        """See `ServerExchange`. No head is read here."""

    def prove(self, identity: str) -> None:
        """See `ServerExchange`. No connection counts for anybody."""

    async def read(self) -> bytes:
        """See `ServerExchange`."""
        while not (data := self.take()) and not self.complete:
            await self._receive()
        return data

    async def receive(self) -> Message:
        """Return the next message of the call. It is given up if its body is too large."""
        message = await self.receive_message()
        self._came += len(message.get("body", b""))
        if self.most_bytes is not None and self._came > self.most_bytes:
            raise MalformedError(body_too_large(self.most_bytes), 413)
        return message

    async def _receive(self) -> None:
        message = await self.receive()
        if message["type"] != "http.request":
            raise ClientDisconnectedError("the caller left before the end of its request")
        self._here += message.get("body", b"")
        self.remaining = max(0, self.remaining - len(self._here))
        self.complete = not message.get("more_body", False)

    def cancel_when_lost(self) -> None:
        """See `ServerExchange`. The task that makes the call is the one that is cancelled."""

    # The response

    async def write(self, data: bytes) -> None:
        """See `ServerExchange`."""
        self._count(data, is_last=False)
        await self._send(data, more=True)

    async def finish(self, data: bytes = b"", trailers: Sequence[tuple[bytes, bytes]] = ()) -> None:  # noqa: ARG002 - no caller in this process reads them
        """See `ServerExchange`."""
        self._count(data, is_last=True)
        await self._send(data, more=False)
        self.finished = True

    async def _send(self, data: bytes, *, more: bool) -> None:
        if not self._is_started:
            self._is_started = True
            head = cast("OutgoingHead", self._out)
            fields = [(name.lower(), value) for name, value in (*head.fields, *self._own_fields())]
            await self._send_message(
                {
                    "type": "http.response.start",
                    "status": head.status,
                    "headers": fields,
                }
            )
        if data or not more:
            await self._send_message({"type": "http.response.body", "body": data, "more_body": more})
        else:
            await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """See `ServerExchange`."""
        self.finished = self.aborted = True

    def write_nowait(self) -> None:
        """See `ServerExchange`. Only callbacks of connections call these."""
        raise NotImplementedError

    def finish_nowait(self, data: bytes = b"", trailers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """See `ServerExchange`."""
        raise NotImplementedError

    def close_after(self) -> None:
        """See `ServerExchange`. There is no connection."""

    async def _ask_for_body(self) -> None:
        """See `ServerExchange`. The body comes when it is read."""

    def give_up(self) -> None:
        """See `ServerExchange`. No time is kept here."""
