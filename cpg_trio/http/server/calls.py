"""One run of the application: the inbox that `receive` reads, and the task.

A `Call` stands where Hypercorn's streams expect a task group, because that is the seam at which they start
the application. It does no I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from cpg_trio.asgi import App, ClientDisconnectedError, Message, ResponseAbortedError, Scope, Send
from cpg_trio.http.server.asgi import named, unwrapped
from cpg_trio.http.server.body_rate import BodyRate
from cpg_trio.http.server.errors import logger

INBOX_MESSAGES = 10

# Body chunks up to this size are joined while they wait: what a client sends in crumbs costs the
# application one message, and the inbox no more memory than the bytes themselves.
_JOINED_BYTES = 4096


class Inbox:
    """What the client has sent to one call and the application has not yet received.

    A put waits for room, which is what keeps a client from sending faster than the application reads. The
    disconnect message needs no room: it always fits, ends every wait for room, and is what `receive`
    returns from then on, once what came before it has been received.
    """

    def __init__(
        self,
        *,
        limit: float = INBOX_MESSAGES,
        on_taken: Callable[[int], Awaitable[None]] | None = None,
        pace: BodyRate | None = None,
        on_late: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Hold `limit` messages; tell `on_taken` how many body bytes the application received.

        A body that an application waits for, and that does not keep the `pace`, is the matter of `on_late`,
        which has the client leave.
        """
        self._limit = limit
        self._on_taken = on_taken
        self.pace = pace
        self._on_late = on_late
        self._whole = False  # the client has sent all of its request
        self._messages: deque[Message] = deque()
        self._last: Message | None = None
        self._arrival = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    async def put(self, message: Message) -> None:
        if message["type"].endswith(".disconnect"):
            self._disconnect(message)
            return
        while self._last is None and not self._add(message):
            await self._room.park()
        if self.pace is not None:
            self.pace.came(len(message["body"]))
            self._whole = not message["more_body"]
        self._arrival.unpark()

    async def receive(self) -> Message:
        # A checkpoint even when a message is there, or an application that loops on `receive` after its
        # client left would stop the whole process.
        await trio.lowlevel.checkpoint()
        while not self._messages and self._last is None:
            await self._wait()
        if not self._messages:
            assert self._last is not None  # noqa: S101 - for the type checker
            return self._last
        message = self._messages.popleft()
        self._room.unpark()
        if self._on_taken is not None:
            await self._on_taken(len(message["body"]))
        return message

    async def _wait(self) -> None:
        """Wait for a message, no longer than the pace allows."""
        pace = self.pace
        if pace is None or self._whole or not pace.timed:
            await self._arrival.park()
            return
        began = trio.current_time()
        with trio.move_on_after(pace.limit_s) as scope:
            await self._arrival.park()
        pace.waited(trio.current_time() - began)
        if (scope.cancelled_caught or pace.too_slow) and self._on_late is not None and self._last is None:
            await self._on_late()

    def _disconnect(self, message: Message) -> None:
        if self._last is None:
            self._last = message
        self._room.unpark_all()
        self._arrival.unpark_all()

    def _add(self, message: Message) -> bool:
        if self._join(message):
            return True
        if len(self._messages) >= self._limit:
            return False
        self._messages.append(message)
        return True

    def _join(self, message: Message) -> bool:
        if not self._messages or message["type"] != "http.request":
            return False
        waiting = self._messages[-1]
        if message["body"] and len(waiting["body"]) + len(message["body"]) > _JOINED_BYTES:
            return False
        waiting["body"] += message["body"]
        waiting["more_body"] = message["more_body"]
        return True


class Call:
    """The application at work on one request or WebSocket, in a task of the connection's nursery."""

    def __init__(
        self,
        nursery: trio.Nursery,
        inbox: Inbox,
        ended: Callable[[bool], Awaitable[None]],
        extensions: Mapping[str, Any],
    ) -> None:
        """Call `ended(failed)` when the application has ended in any way but a cancellation.

        `extensions` are those of ASGI that the call has beside Hypercorn's.
        """
        self._nursery = nursery
        self._inbox = inbox
        self._ended = ended
        self._extensions = extensions

    async def spawn_app(
        self, app: App, _config: object, scope: Scope, send: Send
    ) -> Callable[[Message], Awaitable[None]]:
        scope["extensions"].pop("http.response.push", None)  # clients have given up HTTP/2 push
        scope["extensions"].update(self._extensions)
        self._nursery.start_soon(self._run, app, scope, send)
        return self._inbox.put

    async def _run(self, app: App, scope: Scope, send: Send) -> None:
        failed = True
        try:
            await app(scope, self._inbox.receive, send)
            failed = False
        except* (ClientDisconnectedError, ResponseAbortedError):
            pass  # the one is no news, the other has been told by the application
        except* Exception as error:  # noqa: BLE001 - the barrier between applications and the server
            logger.error("the application failed on %s", named(scope), exc_info=unwrapped(error))
        await self._ended(failed)
