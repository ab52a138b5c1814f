"""One call of an ASGI application, in the task of its exchange: what it receives and what it sends.

`receive` reads from the exchange when it is called. The head of a response is held until there is something
of the body, so that both go out in one write; if nothing comes at once, the head goes alone. A call that an
application answers without waiting (`AT_ONCE`) is answered in a callback of its connection. What the
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
    AT_ONCE,
    CANCEL_ON_DISCONNECT,
    CLIENT,
    App,
    ClientDisconnectedError,
    HeaderList,
    Message,
    NeedsTaskError,
    ResponseAbortedError,
    Scope,
)
from cpg_trio.call_context import CallContext, NewRequest, received, serving
from cpg_trio.http.differing import KEPT_NAMES
from cpg_trio.http.heads import MalformedError, RequestHead
from cpg_trio.http.outgoing import OutgoingHead, as_length, lower
from cpg_trio.http.server.errors import logger

if TYPE_CHECKING:
    from cpg_trio.http.server.exchange import ServerExchange

_ASGI = {"version": "3.0", "spec_version": "2.3"}
_NOT_AT_ONCE = "what is answered at once is answered whole, and without waiting"
# Fields of responses that many have in common. A head of these alone is kept, if it is short.
_COMMON = frozenset({b"content-type", b"content-encoding", b"vary"})
_LONGEST_KEPT_HEAD = 256  # bytes


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
        self._is_at_once = False
        self._needs_task = False
        self._head: OutgoingHead
        self._length: int | None = None  # of the response's body, if that is declared
        self._trailers: HeaderList | None = None

    def run_at_once(self) -> None:
        """Run a call whose request has come whole in a callback; in a task, if it turns out to need one."""
        self._is_at_once = True
        call = self.run()
        try:
            call.send(None)
        except StopIteration:
            return
        call.close()
        raise RuntimeError(_NOT_AT_ONCE)

    async def run(self) -> None:
        """Call the application, and see that the response ends in a way that the client understands."""
        failed = True
        scope, context = self._scope()
        self._exchange.request_id = context.request_id.encode()
        try:
            with serving(context):
                await (self._app or self._exchange.connection.service.app)(scope, self.receive, self.send)
            failed = False
        except* (ClientDisconnectedError, ResponseAbortedError):
            pass  # nobody's fault, and the application has logged the other
        except* NeedsTaskError:
            self._needs_task = True
        except* Exception as error:  # noqa: BLE001 - the barrier between applications and the server
            logger.error("the application failed on %s", named(scope), exc_info=unwrapped(error))
        finally:
            self._flusher.release(self)
        if self._needs_task:
            self._exchange.hand_over(AsgiCall(self._exchange, self._app, context).run)
        elif self._stage is not _Stage.DONE and not self._exchange.lost:
            if not failed:
                logger.error("the application returned without finishing its response to %s", named(scope))
            if self._is_at_once:
                self._exchange.hand_over(self._abandon)
            else:
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
        if not self._is_at_once:
            await trio.lowlevel.checkpoint()
        raise ClientDisconnectedError("the client left before the end of the response")

    def _start(self, message: Message) -> None:
        status = int(message["status"])
        if not 200 <= status <= 999:  # noqa: PLR2004 - the final ones
            raise ValueError(f"{status} is no final status")
        given = [*message.get("headers", ())]
        declared = given.pop()[1] if given and given[-1][0] == b"content-length" else b""
        self._head = self._outgoing(status, given)
        self._length = self._head.length
        if declared:
            self._length = as_length(declared)
        self._exchange.respond(self._head, declared)
        self._trailers = [] if message.get("trailers", False) else None
        self._stage = _Stage.STARTED
        if not self._is_at_once:
            self._flusher.hold(self)

    def _outgoing(self, status: int, given: HeaderList) -> OutgoingHead:
        """Return a head with these fields: one that was sent before, if it is one of those that are kept."""
        kept, key = self._exchange.connection.service.outgoing, (status, *given)
        if (known := kept.get(key)) is not None:
            return known
        fields: HeaderList = []
        for name, value in given:
            lowered = lower(name)
            if lowered == b"connection":
                if value.strip().lower() == b"close":
                    self._exchange.close_after()
            elif lowered != b"transfer-encoding":  # the framing is the server's
                fields.append((name, value))
                if lowered == b"x-request-id":
                    self._exchange.request_id = b""
        head = OutgoingHead(status, fields)
        if len(head.lines) <= _LONGEST_KEPT_HEAD and all(name in _COMMON for name, _ in given):
            kept.keep(key, head, 4 * len(head.lines))
        return head

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
        exchange, is_whole = self._exchange, self._stage is _Stage.STARTED and not more
        if self._is_at_once:
            self._finish_at_once(body, is_whole=is_whole)
            return
        if more:
            await trio.lowlevel.checkpoint()
        self._stage = _Stage.BODY
        self._flusher.release(self)
        if more:
            await exchange.write(body)
        elif self._trailers is not None:
            await exchange.write(body)
            self._stage = _Stage.TRAILERS
        else:
            if is_whole and self._length is None and not exchange.silent:
                exchange.respond(self._head, b"%d" % len(body))
            await exchange.finish(body)
            self._stage = _Stage.DONE

    def _finish_at_once(self, body: bytes, *, is_whole: bool) -> None:
        """Send the response. Raises: RuntimeError if it is not whole, ValueError for another length."""
        if not is_whole or self._trailers is not None:
            raise RuntimeError(_NOT_AT_ONCE)
        exchange = self._exchange
        if self._length is None and not exchange.silent:
            exchange.respond(self._head, b"%d" % len(body))
        elif self._length != len(body) and not exchange.silent:
            raise ValueError("the response has another length than its content-length says")
        self._stage = _Stage.DONE
        exchange.finish_nowait(body)

    async def _send_trailers(self, message: Message) -> None:
        self._trailers = [*(self._trailers or ()), *message["headers"]]
        if not message.get("more_trailers", False):
            await self._exchange.finish(trailers=self._trailers)
            self._stage = _Stage.DONE

    def _scope(self) -> tuple[Scope, CallContext]:
        """Return the scope of the call, and its context."""
        exchange, connection = self._exchange, self._exchange.connection
        shared = _shared_by(exchange.head)
        if shared.is_usual:
            headers = shared.fields + exchange.differing()
            context = received(exchange.context) if exchange.context else NewRequest()
        else:
            headers = [(name.lower(), value) for name, value in exchange.headers]
            context = received(headers)
        extensions: dict[str, dict[str, Any]] = {
            CANCEL_ON_DISCONNECT: {"request": exchange.cancel_when_lost},
            CLIENT: {"proved": exchange.prove, "message": exchange.want_message},
        }
        if (tls := connection.channel.tls) is not None:
            extensions["tls"] = tls
        if exchange.head.accepts_trailers:
            extensions["http.response.trailers"] = {}
        if self._is_at_once:
            extensions[AT_ONCE] = {}
        state: dict[str, Any] = {"peer_names": connection.peer_names}
        if connection.client is None:
            state["peer_process"] = connection.channel.peer_process
        scope: Scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": exchange.version,
            "method": shared.method,
            "scheme": "http" if tls is None else "https",
            "path": shared.path,
            "raw_path": shared.raw_path,
            "query_string": shared.query,
            "root_path": "",
            "headers": headers,
            "client": connection.client,
            "server": connection.server,
            "state": state,
            "extensions": extensions,
        }
        return scope, self._context or context


class _Shared:
    """What the scopes of requests with the same head have in common."""

    __slots__ = ("fields", "is_usual", "method", "path", "query", "raw_path")

    def __init__(self, head: RequestHead) -> None:
        self.raw_path, _, self.query = head.target.partition(b"?")
        self.path = unquote(self.raw_path.decode("ascii"))
        self.method = head.method.decode("ascii")
        self.fields = [(name.lower(), value) for name, value in head.fields]
        self.is_usual = all(name in KEPT_NAMES for name, _ in self.fields)
        """Whether all fields that differ from call to call are apart from the head's, so that their order
        among the head's says nothing."""


def _shared_by(head: RequestHead) -> _Shared:
    shared = head.of_scope
    if not isinstance(shared, _Shared):
        shared = head.of_scope = _Shared(head)
    return shared


def named(scope: Any) -> str:
    """Name a request for the log, with nothing in it that could pass for another line."""
    return f"{scope.get('method', 'WEBSOCKET')} {one_line(scope['raw_path'])!r}"


def unwrapped(group: BaseExceptionGroup[Any]) -> BaseException:
    """Undo the group that `except*` puts around an exception that came alone."""
    alone = not group.message and len(group.exceptions) == 1
    return group.exceptions[0] if alone else group
