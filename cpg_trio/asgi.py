"""ASGI, as far as this project speaks it: the types, and plain answers.

Every server side here is an ASGI application; this module is what they share. It knows nothing about
plugins and does no I/O of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An application of [ASGI](https://asgi.readthedocs.io/en/latest/specs/main.html)."""
HeaderList: TypeAlias = list[tuple[bytes, bytes]]

#: An extension of a server's scope: its entry `request` is called by an application that has received its
#: request whole, and has the server cancel the application's task when the client leaves.
CANCEL_ON_DISCONNECT = "cpg_trio.cancel_on_disconnect"

#: An extension of a server's scope, by which an application tells the server of its client: see
#: `note_proved` and `note_message`.
CLIENT = "cpg_trio.client"

#: An extension of the scope of a call whose caller is in this process, and leaves by itself when its time is
#: over: its entry `set` is called with the time, on Trio's clock, at which the task is to be cancelled.
DEADLINE = "cpg_trio.deadline"

#: An extension of the scope of a call that comes from this process, and over no network: who calls. A server
#: that listens somewhere never sets it, whatever a client sends.
LOCAL = "cpg_trio.local"

#: An extension of a server's scope: there is no task, and the application answers whole, without waiting. If
#: it cannot, it raises `NeedsTaskError` before it has received or sent anything.
AT_ONCE = "cpg_trio.at_once"

#: What `LOCAL` is where the host itself calls a plugin. A plugin that calls another one is a `rpc.Caller`.
FROM_HOST = object()


#: An extension of the scope of a WebSocket: a `FrameSender`.
FRAMES = "cpg_trio.frames"


class FrameSender(Protocol):
    """Sends messages that are the same for many WebSockets: encoded once, and without waiting.

    Only between the application's `websocket.accept` and the end of the WebSocket. What is sent this way and
    by messages goes out in the order in which it was sent.
    """

    @staticmethod
    def encode_frame(message: bytes | str, /) -> bytes:
        """Return a message as a frame, which any WebSocket of the server sends as it is."""

    def may_send_frame(self) -> bool:
        """Whether a frame may be sent: nobody else sends, and all that was sent before has gone out."""

    def send_frame(self, frame: bytes, /) -> bool:
        """Send a frame as far as that goes without waiting; return False if a part of it is left."""

    async def send_rest(self) -> None:
        """Send the part that is left. A client that does not read is let go in time."""


class ClientDisconnectedError(OSError):
    """The client went away; what `send` raises from then on.

    Nobody's fault, and no news for a log: the server ends the request in silence. An application that
    is waiting in `receive` gets `http.disconnect` there instead.
    """


class NeedsTaskError(Exception):
    """A call has to wait, so that it cannot be answered `AT_ONCE`. The server runs it again, in a task."""


class ResponseAbortedError(Exception):
    """Raised by an application whose response has begun but cannot be completed.

    The server breaks the connection (HTTP/2: resets the stream), so that the client cannot mistake what
    it has for the whole. The application has said why already; the server logs nothing.
    """


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first value of a header, or None. `name` is lower case."""
    for key, value in scope["headers"]:
        if key == name or key.lower() == name:
            return value  # type: ignore[no-any-return]
    return None


def local_caller(scope: Scope) -> object:
    """Return who calls from this process, as its `LOCAL` says; None for a call over a network."""
    return scope.get("extensions", {}).get(LOCAL)


def server_address(scope: Scope) -> str:
    """Return the address that a request came to, with its port; empty for a Unix socket."""
    server = scope.get("server")
    if not server:
        return ""
    host = f"[{server[0]}]" if ":" in server[0] else server[0]
    return f"{host}:{server[1]}"


def accepts_trailers(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Say whether a client keeps the trailers of a response (RFC 9110, section 10.1.4)."""
    return any(
        part.strip().lower() == b"trailers"
        for name, value in headers
        if name == b"te"
        for part in value.split(b",")
    )


def note_proved(scope: Scope, identity: str) -> None:
    """Tell the server which identity the client of a call has proved.

    Its connection counts for that identity from then on, and a stream that it sends may be silent.
    """
    if (extension := scope.get("extensions", {}).get(CLIENT)) is not None:
        extension["proved"](identity)


def note_message(scope: Scope) -> None:
    """Tell the server that a request is one message, which is to come in time, whoever sends it."""
    if (extension := scope.get("extensions", {}).get(CLIENT)) is not None:
        extension["message"]()


async def read_body(receive: Receive, most_bytes: int) -> bytes:
    """Return the body of a request when it has come whole.

    Raises: ValueError for more than `most_bytes`; ClientDisconnectedError if the client leaves before.
    """
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnectedError("the client left before the end of its request")
        body += message.get("body", b"")
        if len(body) > most_bytes:
            raise ValueError(f"a request has {most_bytes} bytes at most")
        more = message.get("more_body", False)
    return bytes(body)


async def send_response(
    send: Send, status: int, body: bytes = b"", headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send a whole response; `content-length` is added."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_text(send: Send, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send a plain-text response that no browser will take for anything else."""
    await send_response(
        send,
        status,
        text.encode(),
        [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"x-content-type-options", b"nosniff"),
            *headers,
        ],
    )


async def refuse_websocket(
    send: Send, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer a WebSocket handshake with a plain-text refusal."""

    async def instead(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    await send_text(instead, status, f"{text}\n", headers)


async def no_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a WebSocket where there is none. An ASGI application."""
    await receive()  # websocket.connect
    await refuse_websocket(send, 404, f"no websocket at {scope['path']}")
