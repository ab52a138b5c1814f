"""One call of an ASGI application, in the task of its connection: what it receives and what it sends.

`receive` reads from the connection when it is called. `send` holds the head of a response until there is
something of the body, so that both go out in one write; if nothing comes at once, the head goes alone. What
the application may not say (a header that breaks the message, more than it declared) is its own error, raised
where it says it.
"""

from __future__ import annotations

import logging
from enum import IntEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import trio

from cpg_trio._lines import one_line
from cpg_trio.asgi import (
    CANCEL_ON_DISCONNECT,
    CLIENT,
    ClientDisconnectedError,
    HeaderList,
    Message,
    ResponseAbortedError,
    Scope,
)
from cpg_trio.http.fields import block, date, lower, status_line
from cpg_trio.http.heads import MalformedError
from cpg_trio.http.messages import IncomingRequest

if TYPE_CHECKING:
    from cpg_trio.http.server.http1 import ServerConnection

_ASGI = {"version": "3.0", "spec_version": "2.3"}
_NO_BODY = frozenset({204, 304})

_log = logging.getLogger("cpg_trio.http")  # the same that the rest of the serving side writes to


class _Stage(IntEnum):
    """How far a response is."""

    NONE = 0
    STARTED = 1
    """Its head is held."""
    BODY = 2
    TRAILERS = 3
    DONE = 4


class AsgiCall:
    """One request, and the application's response to it."""

    def __init__(self, connection: ServerConnection, request: IncomingRequest) -> None:
        self._connection = connection
        self._request = request
        self._received = False  # all of the request's body
        self._stage = _Stage.NONE
        self._status = 0
        self._head = b""
        self._unsent = b""  # of a head that could not be flushed without waiting
        self._length: int | None = None  # that is declared, and still owed
        self._chunked = False
        self._silent = False  # a response that has no body, whatever the application sends
        self._trailers: HeaderList | None = None

    async def run(self) -> None:
        """Call the application, and see that the response ends in a way that the client understands."""
        failed = True
        scope = self._scope()
        try:
            await self._connection.service.app(scope, self.receive, self.send)
            failed = False
        except* (ClientDisconnectedError, ResponseAbortedError):
            pass  # the one is no news, the other has been told by the application
        except* Exception as error:  # noqa: BLE001 - the barrier between applications and the server
            _log.error("the application failed on %s", _named(scope), exc_info=unwrapped(error))
        self._connection.service.flusher.held.discard(self)
        if self._stage is not _Stage.DONE and not self._connection.lost:
            if not failed:
                _log.error("the application returned without finishing its response to %s", _named(scope))
            await self._abandon()

    async def _abandon(self) -> None:
        """Answer with a bare 500, or break off the response that has begun."""
        connection = self._connection
        if self._stage is _Stage.NONE:
            self._start({"status": 500})
            await self._send_body({})
        else:
            await connection.write(self._taken_head(None))
        # To a client that is told no length, the end of the connection is the end of the response.
        connection.broken = self._stage is not _Stage.DONE and not self._chunked and self._length is None
        connection.last = True

    # What the application receives

    async def receive(self) -> Message:
        """Return the next part of the request's body; at its end wait until the client has left."""
        request, connection = self._request, self._connection
        if self._received or self._stage is _Stage.DONE:
            await connection.gone()
            return {"type": "http.disconnect"}
        body = request.take()
        if not body and not request.complete:
            body = await self._read_body()
        if not body and not request.complete:
            return {"type": "http.disconnect"}
        self._received = request.complete
        if not self._received:
            await trio.lowlevel.checkpoint()  # a client that is fast is not to have the loop for itself
        return {"type": "http.request", "body": body, "more_body": not request.complete}

    async def _read_body(self) -> bytes:
        """Return more of the body; nothing at its end, or when the client has left."""
        request, connection = self._request, self._connection
        if self._stage is _Stage.NONE:
            await connection.ask_for_body(request)
        try:
            while await connection.read_more(request):
                if (body := request.take()) or request.complete:
                    return body
        except MalformedError as error:
            await self._refuse(error)
        return b""

    async def _refuse(self, error: MalformedError) -> None:
        """Answer a body that turned out to be none; if there is an answer already, break it off."""
        if self._stage is _Stage.NONE:
            await self._connection.refuse(error.status, str(error))
            self._stage = _Stage.DONE
        self._connection.lose()

    # What the application sends

    async def send(self, message: Message) -> None:
        """Take an ASGI message. Raises: ClientDisconnectedError once the client has left."""
        if self._connection.lost:
            await self._disconnected()
        kind, stage = message["type"], self._stage
        if kind == "http.response.body" and (stage is _Stage.STARTED or stage is _Stage.BODY):
            await self._send_body(message)
        elif kind == "http.response.start" and stage is _Stage.NONE:
            self._start(message)
        elif kind == "http.response.trailers" and stage is _Stage.TRAILERS:
            await self._send_trailers(message)
        else:
            raise RuntimeError(f"{kind} has no place here: the response is {stage.name}")
        if self._connection.lost:
            await self._disconnected()

    async def _disconnected(self) -> None:
        await trio.lowlevel.checkpoint()
        raise ClientDisconnectedError("the client left before the end of the response")

    def _start(self, message: Message) -> None:
        self._status = status = int(message["status"])
        if not 200 <= status <= 999:  # noqa: PLR2004 - the final ones
            raise ValueError(f"{status} is no final status")
        fields: HeaderList = []
        dated = False
        for name, value in message.get("headers", ()):
            lowered = lower(name)
            if lowered == b"content-length":
                self._length = _as_length(value)
            elif lowered == b"connection":
                self._connection.last |= value.strip().lower() == b"close"
                continue
            elif lowered == b"transfer-encoding":
                continue  # the framing is the server's to say
            dated = dated or lowered == b"date"
            fields.append((name, value))
        if not dated:
            fields.append((b"date", date()))
        self._head = status_line(status) + block(fields)
        self._trailers = [] if message.get("trailers", False) else None
        self._stage = _Stage.STARTED
        self._connection.service.flusher.held.add(self)

    def flush(self) -> None:
        """Send the head that is held, as far as that goes without waiting."""
        if self._stage is _Stage.STARTED and not self._connection.lost:
            self._unsent = self._connection.write_some(self._taken_head(None))

    async def _send_body(self, message: Message) -> None:
        body, more = bytes(message.get("body", b"")), message.get("more_body", False)
        if more:
            await trio.lowlevel.checkpoint()
        head = self._taken_head(None if more else len(body))
        data = head + self._framed(body)
        if not more:
            self._check_owed()
            if self._trailers is None:
                data += self._end()
            else:
                self._stage = _Stage.TRAILERS
        if data:
            await self._connection.write(data)

    async def _send_trailers(self, message: Message) -> None:
        self._trailers = [*(self._trailers or ()), *message["headers"]]
        if not message.get("more_trailers", False):
            if not self._request.accepts_trailers:
                self._trailers = None
            await self._connection.write(self._end())

    def _taken_head(self, length: int | None) -> bytes:
        """Return what is still to be sent before the body, which is of `length`, None if nobody knows yet."""
        if self._stage is not _Stage.STARTED:
            unsent, self._unsent = self._unsent, b""
            return unsent
        self._connection.service.flusher.held.discard(self)
        self._stage = _Stage.BODY
        framing = self._framing(length)
        connection = self._connection
        if not connection.requests_follow or (length is not None and not self._request.complete):
            connection.last = True
            framing += b"connection: close\r\n"
        return self._head + framing + b"\r\n"

    def _framing(self, length: int | None) -> bytes:
        if self._request.method == b"HEAD" or self._status in _NO_BODY:
            self._silent = True
        elif self._length is not None:
            pass  # it is among the headers
        elif length is not None and self._trailers is None:
            self._length = length
            return b"content-length: %d\r\n" % length
        elif self._request.version == "1.1":
            self._chunked = True
            return b"transfer-encoding: chunked\r\n"
        else:
            self._connection.last = True
        return b""

    def _framed(self, body: bytes) -> bytes:
        """Return a part of the body as it goes on the wire. Raises: ValueError for more than was declared."""
        if self._silent or not body:
            return b""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(body), body)
        if self._length is not None:
            self._length -= len(body)
            if self._length < 0:
                raise ValueError("the response has a longer body than its content-length says")
        return body

    def _check_owed(self) -> None:
        if self._length and not self._silent:
            raise ValueError("the response has a shorter body than its content-length says")

    def _end(self) -> bytes:
        self._stage = _Stage.DONE
        return b"0\r\n%b\r\n" % block(self._trailers or ()) if self._chunked and not self._silent else b""

    def _scope(self) -> Scope:
        request, connection = self._request, self._connection
        path, _, query = request.target.partition(b"?")
        headers = [(name.lower(), value) for name, value in request.headers]
        extensions: dict[str, dict[str, Any]] = {
            CANCEL_ON_DISCONNECT: {"request": connection.cancel_when_lost},
            CLIENT: {"proved": connection.prove, "message": connection.want_message},
        }
        if (tls := connection.channel.tls) is not None:
            extensions["tls"] = tls
        if request.accepts_trailers:
            extensions["http.response.trailers"] = {}
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": request.version,
            "method": request.method.decode("ascii"),
            "scheme": "http" if tls is None else "https",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": connection.client,
            "server": connection.server,
            "state": {"peer_names": connection.peer_names},
            "extensions": extensions,
        }


def _as_length(value: bytes) -> int:
    if not value.isdigit():
        raise ValueError("the response's content-length is not a number")
    return int(value)


def _named(scope: Scope) -> str:
    """Name a request for the log, with nothing in it that could pass for another line."""
    return f"{scope['method']} {one_line(scope['raw_path'])!r}"


def unwrapped(group: BaseExceptionGroup[Any]) -> BaseException:
    """Undo the group that `except*` puts around an exception that came alone."""
    alone = not group.message and len(group.exceptions) == 1
    return group.exceptions[0] if alone else group
