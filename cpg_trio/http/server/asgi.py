"""One call of an ASGI application, in the task of its exchange: what it receives and what it sends.

`receive` reads from the exchange when it is called. The head of a response is held until there is something
of the body, so that both go out in one write; if nothing comes at once, the head goes alone. What the
application may not send (a header that breaks the message, more than it declared) is its own error, raised
where it sends it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import trio

from cpg_trio._lines import one_line
from cpg_trio.asgi import (
    CANCEL_ON_DISCONNECT,
    CLIENT,
    App,
    ClientDisconnectedError,
    HeaderList,
    Message,
    ResponseAbortedError,
    Scope,
)
from cpg_trio.call_context import CallContext, received, serving
from cpg_trio.http.heads import MalformedError
from cpg_trio.http.outgoing import OutgoingHead, lower
from cpg_trio.http.server.errors import logger

if TYPE_CHECKING:
    from cpg_trio.http.server.exchange import ServerExchange

_ASGI = {"version": "3.0", "spec_version": "2.3"}


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

    def __init__(
        self, exchange: ServerExchange, app: App | None = None, context: CallContext | None = None
    ) -> None:
        """Take a request. By default the server's application answers it, in the context of its head."""
        self._exchange = exchange
        self._app = app
        self._context = context
        self._flusher = exchange.connection.service.flusher
        self._received = False  # all of the request's body
        self._stage = _Stage.NONE
        self._head: OutgoingHead
        self._trailers: HeaderList | None = None

    async def run(self) -> None:
        """Call the application, and see that the response ends in a way that the client understands."""
        failed = True
        scope = self._scope()
        context = self._context or received(scope["headers"])
        self._exchange.request_id = context.request_id.encode()
        try:
            with serving(context):
                await (self._app or self._exchange.connection.service.app)(scope, self.receive, self.send)
            failed = False
        except* (ClientDisconnectedError, ResponseAbortedError):
            pass  # nobody's fault, and the application has logged the other
        except* Exception as error:  # noqa: BLE001 - the barrier between applications and the server
            logger.error("the application failed on %s", named(scope), exc_info=unwrapped(error))
        finally:
            self._flusher.release(self)
        if self._stage is not _Stage.DONE and not self._exchange.lost:
            if not failed:
                logger.error("the application returned without finishing its response to %s", named(scope))
            await self._abandon()

    async def _abandon(self) -> None:
        """Answer with a bare 500, or break off the response that has begun."""
        exchange = self._exchange
        if self._stage is _Stage.NONE:
            exchange.close_after()
            exchange.respond(OutgoingHead(500, [(b"content-length", b"0")]))
            await exchange.finish()
            return
        if self._stage is _Stage.STARTED:
            await exchange.write(b"")
        exchange.abort()

    # What the application receives

    async def receive(self) -> Message:
        """Return the next part of the request's body; at its end wait until the client has left."""
        exchange = self._exchange
        if self._received or self._stage is _Stage.DONE:
            await exchange.gone()
            return {"type": "http.disconnect"}
        try:
            body = await exchange.read()
        except ClientDisconnectedError:
            return {"type": "http.disconnect"}
        except MalformedError as error:
            await self._refuse(error)
            return {"type": "http.disconnect"}
        self._received = exchange.complete
        if not self._received:
            await trio.lowlevel.checkpoint()  # a client that is fast is not to have the loop for itself
        return {"type": "http.request", "body": body, "more_body": not self._received}

    async def _refuse(self, error: MalformedError) -> None:
        """Answer a body that turned out to be none; if there is an answer already, break it off."""
        exchange = self._exchange
        if self._stage is _Stage.NONE:
            await exchange.finish(exchange.respond_text(error.status, str(error)))
        else:
            exchange.abort()
        self._stage = _Stage.DONE
        exchange.lose()

    # What the application sends

    async def send(self, message: Message) -> None:
        """Take an ASGI message. Raises: ClientDisconnectedError once the client has left."""
        if self._exchange.lost:
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
        if self._exchange.lost:
            await self._disconnected()

    async def _disconnected(self) -> None:
        await trio.lowlevel.checkpoint()
        raise ClientDisconnectedError("the client left before the end of the response")

    def _start(self, message: Message) -> None:
        status = int(message["status"])
        if not 200 <= status <= 999:  # noqa: PLR2004 - the final ones
            raise ValueError(f"{status} is no final status")
        fields: HeaderList = []
        for name, value in message.get("headers", ()):
            lowered = lower(name)
            if lowered == b"connection":
                if value.strip().lower() == b"close":
                    self._exchange.close_after()
            elif lowered != b"transfer-encoding":  # the framing is the server's
                fields.append((name, value))
                if lowered == b"x-request-id":
                    self._exchange.request_id = b""
        self._head = OutgoingHead(status, fields)
        self._exchange.respond(self._head)
        self._trailers = [] if message.get("trailers", False) else None
        self._stage = _Stage.STARTED
        self._flusher.hold(self)

    def flush(self) -> None:
        """Send the head that is held, as far as that goes without waiting."""
        if self._stage is _Stage.STARTED:
            self._stage = _Stage.BODY
            try:
                self._exchange.write_nowait()
            except Exception as error:  # noqa: BLE001 - Trio would disable the flusher, which is everybody's
                self._exchange.fail(error)

    async def _send_body(self, message: Message) -> None:
        body, more = bytes(message.get("body", b"")), message.get("more_body", False)
        if more:
            await trio.lowlevel.checkpoint()
        exchange, is_whole = self._exchange, self._stage is _Stage.STARTED and not more
        self._stage = _Stage.BODY
        self._flusher.release(self)
        if more:
            await exchange.write(body)
        elif self._trailers is not None:
            await exchange.write(body)
            self._stage = _Stage.TRAILERS
        else:
            if is_whole and self._head.length is None and not exchange.silent:
                self._head.declare(len(body))
            await exchange.finish(body)
            self._stage = _Stage.DONE

    async def _send_trailers(self, message: Message) -> None:
        self._trailers = [*(self._trailers or ()), *message["headers"]]
        if not message.get("more_trailers", False):
            await self._exchange.finish(trailers=self._trailers)
            self._stage = _Stage.DONE

    def _scope(self) -> Scope:
        exchange, connection = self._exchange, self._exchange.connection
        path, _, query = exchange.head.target.partition(b"?")
        extensions: dict[str, dict[str, Any]] = {
            CANCEL_ON_DISCONNECT: {"request": exchange.cancel_when_lost},
            CLIENT: {"proved": exchange.prove, "message": exchange.want_message},
        }
        if (tls := connection.channel.tls) is not None:
            extensions["tls"] = tls
        if exchange.head.accepts_trailers:
            extensions["http.response.trailers"] = {}
        state: dict[str, Any] = {"peer_names": connection.peer_names}
        if connection.client is None:
            state["peer_process"] = connection.channel.peer_process
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": exchange.version,
            "method": exchange.head.method.decode("ascii"),
            "scheme": "http" if tls is None else "https",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in exchange.headers],
            "client": connection.client,
            "server": connection.server,
            "state": state,
            "extensions": extensions,
        }


def named(scope: Any) -> str:
    """Name a request for the log, with nothing in it that could pass for another line."""
    return f"{scope.get('method', 'WEBSOCKET')} {one_line(scope['raw_path'])!r}"


def unwrapped(group: BaseExceptionGroup[Any]) -> BaseException:
    """Undo the group that `except*` puts around an exception that came alone."""
    alone = not group.message and len(group.exceptions) == 1
    return group.exceptions[0] if alone else group
