"""An application that is called within its process, without a socket.

Each call is a task in the nursery of the application, with the context variables of whoever serves it. So
nothing of a caller but its messages gets to the application: not its cancellation, and none of its variables.
The end of the nursery ends all calls, and what a call raises that is no `Exception` ends the nursery, as it
would end a process.

May touch: what it is given. What runs here is as far from the caller as the other end of a socket.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum

import trio

from cpg_trio._lines import one_line
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import (
    CANCEL_ON_DISCONNECT,
    DEADLINE,
    App,
    ClientDisconnectedError,
    Message,
    Receive,
    ResponseAbortedError,
    Scope,
    Send,
    send_response,
)
from cpg_trio.http import ConnectFailedError, ConnectionBrokenError
from cpg_trio.http.outgoing import check_fields

_log = logging.getLogger("cpg_trio.http")

_ENDED = "the application has ended"
_WITH_FIELDS = frozenset({"http.response.start", "http.response.trailers"})
_BODY, _TRAILERS = "http.response.body", "http.response.trailers"


class AppServer:
    """Takes the calls of an application. It is an ASGI application that runs each of them over there."""

    def __init__(self, app: App, nursery: trio.Nursery, name: str) -> None:
        self.name = name
        """What errors call it."""
        self.takes_calls: bool = True
        self.app = app
        self._nursery = nursery
        self._context = contextvars.copy_context()

    def cancel(self) -> None:
        """End the calls in flight, and take no more."""
        self.takes_calls = False
        self._nursery.cancel_scope.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a call answered. Raises: as `begin`, and as `ServedCall.wait`."""
        await self.begin(scope, receive, send).wait()

    def begin(self, scope: Scope, receive: Receive, send: Send) -> ServedCall:
        """Begin a call, which is to be waited for at once. Raises: ConnectFailedError if it takes none."""
        if not self.takes_calls:
            raise ConnectFailedError(f"{self.name} takes no more calls")
        call = ServedCall(self, scope, receive, send)
        self._context.run(self._nursery.start_soon, call.run)
        return call


@asynccontextmanager
async def serving_app(app: App, name: str) -> AsyncIterator[AppServer]:
    """Take the calls of an application within the block, and finish those in flight when it is left."""
    async with open_plain_nursery() as nursery:
        server = AppServer(app, nursery, name)
        try:
            yield server
        finally:
            server.takes_calls = False


class _Stage(IntEnum):
    NONE = 0
    STARTED = 1
    DONE = 2


class ServedCall:
    """One call, between its caller's task and its own."""

    # Class attributes, because most calls never change most of them.
    _cancels = False
    _has_trailers = False
    _has_left = False
    _has_ended = False
    _stage = _Stage.NONE
    _error: Exception | None = None
    _waiter: trio.lowlevel.Task | None = None

    def __init__(self, server: AppServer, scope: Scope, receive: Receive, send: Send) -> None:
        self._server = server
        self._given = scope
        self._receive = receive
        self._send = send
        self._scope = trio.CancelScope()

    # In its caller's task

    async def wait(self) -> None:
        """Wait until the response has come to its end. A cancellation leaves the call at once.

        Raises: ConnectionBrokenError if the call was cut off, or its application has ended;
        ResponseAbortedError if the application has not finished its response.
        """
        if not self._has_ended:
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abandon)
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame

    def cut(self) -> None:
        """End it from outside, and have it cancelled, wherever it is."""
        if not self._has_ended:
            self._leave()
            self._scope.cancel()
            self._end(ConnectionBrokenError("the call was cut off"))

    def _abandon(self, _: object) -> trio.lowlevel.Abort:
        self._waiter = None
        self._leave()
        return trio.lowlevel.Abort.SUCCEEDED

    def _leave(self) -> None:
        """Tell the application that its caller has left. What it waits for from there tells of that, too."""
        self._has_left = True
        if self._cancels:
            self._scope.cancel()

    def _end(self, error: Exception | None) -> None:
        self._has_ended, self._error = True, error
        if self._waiter is not None:
            trio.lowlevel.reschedule(self._waiter)
            self._waiter = None

    # In its own task

    async def run(self) -> None:
        """Run the application, and see that the response ends in a way that its caller understands."""
        failed = True
        extensions = self._given["extensions"]
        extensions[CANCEL_ON_DISCONNECT] = {"request": self._cancel_when_left}
        if extensions.pop(DEADLINE, None) is not None:
            extensions[DEADLINE] = {"set": self._cancel_at}
        try:
            try:
                with self._scope:
                    await self._server.app(self._given, self._receive, self.send)
                failed = False
            except* (ClientDisconnectedError, ResponseAbortedError):
                pass  # nobody's fault, and the application has logged the other
            except* Exception as error:  # noqa: BLE001 - the barrier between applications and their callers
                _log.error("the application failed on %s", self._name, exc_info=_unwrapped(error))
            if not self._has_left:
                await self._finish(failed=failed)
        except BaseException:  # the application ends
            self._server.takes_calls = False
            if not self._has_ended:
                self._end(ConnectionBrokenError(_ENDED))
            raise
        finally:
            extensions.clear()  # reference cycles

    async def _finish(self, *, failed: bool) -> None:
        """Answer with a bare 500, or break off the response that has begun, if it is not complete."""
        error: Exception | None = None
        if self._stage is not _Stage.DONE and self._given["type"] == "http":
            if not failed:
                _log.error("the application returned without finishing its response to %s", self._name)
            if self._stage is _Stage.NONE:
                await send_response(self._send, 500)
            else:
                error = ResponseAbortedError("the application has not finished its response")
        self._end(error)

    def _cancel_when_left(self) -> None:
        self._cancels = True
        if self._has_left:
            self._scope.cancel()

    def _cancel_at(self, deadline: float) -> None:
        self._scope.deadline = deadline

    async def send(self, message: Message) -> None:
        """Send a message to the caller.

        Raises: ClientDisconnectedError once it has left; ValueError for header fields that are none.
        """
        if not self._has_left:
            kind = message["type"]
            if kind in _WITH_FIELDS:
                check_fields(message.get("headers", ()))
            if kind == "http.response.start":
                self._stage = _Stage.STARTED
                self._has_trailers = message.get("trailers", False)
            await self._send(message)
            if not self._has_left:
                if kind == _BODY:
                    if not (self._has_trailers or message.get("more_body", False)):
                        self._stage = _Stage.DONE
                elif kind == _TRAILERS and not message.get("more_trailers", False):
                    self._stage = _Stage.DONE
                return
        await trio.lowlevel.checkpoint()
        raise ClientDisconnectedError("the caller has left")

    @property
    def _name(self) -> str:
        return f"{self._given.get('method', 'WEBSOCKET')} {one_line(self._given['raw_path'])!r}"


def _unwrapped(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Undo the group that `except*` puts around an exception that came alone."""
    alone = not group.message and len(group.exceptions) == 1
    return group.exceptions[0] if alone else group
