"""Sending a request's body while the response is read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager

import trio

from cpg_trio.http.channel import Channel
from cpg_trio.http.client.errors import InvalidRequestError
from cpg_trio.http.client.request import LAST_CHUNK, PreparedRequest, chunk

#: Seconds that a body is held back for a peer that was sent `expect: 100-continue` (RFC 9110, 10.1.1: a
#: client does not wait indefinitely, since many servers never send the 100).
CONTINUE_TIMEOUT_S = 1.0

#: What a channel raises for what the network does, or for a connection that its pool has closed.
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)

_MOST_IN_A_ROW = 16  # chunks that are sent until other tasks have their turn
_CONTINUE = 100
_FIRST_ERROR_STATUS = 400


class Upload:
    """Sends the part of a request that could not be sent at once. Run `send` in `scope`, as a task."""

    def __init__(self, request: PreparedRequest, unsent: memoryview, channel: Channel) -> None:
        """Send `unsent`, which is left of the request's `start`, and then the request's `rest`."""
        self.complete: bool = False
        """Whether all of the request was sent."""
        self.rest_is_touched: bool = False
        """Whether the request's `rest` has been iterated over."""
        self.scope: trio.CancelScope = trio.CancelScope()
        self._rest = request.rest
        self._unsent = unsent
        self._channel = channel
        self._remaining = request.remaining
        self._held_back = request.expects_continue
        self._go_ahead = trio.Event()

    def on_interim(self, status: int) -> None:
        """Handle an interim response: a 100 asks for a body that is held back."""
        if status == _CONTINUE:
            self._go_ahead.set()

    def on_answer(self, status: int) -> None:
        """Handle the status of the final response. An error means that a body held back is not wanted."""
        if self._held_back and status >= _FIRST_ERROR_STATUS:
            self.scope.cancel()
        self._go_ahead.set()

    async def send(self) -> None:
        """Send everything. A peer that stops reading is no error: it may have answered.

        Raises: InvalidRequestError for a body not as long as declared; what the body's iterator raises.
        """
        if not await self._write(self._unsent):
            return
        if self._rest is None:
            self.complete = True
            return
        await self._wait_for_go_ahead()
        self.rest_is_touched = True
        async with chunks_of(self._rest) as chunks:
            self.complete = await self._send_chunks(chunks)

    async def _send_chunks(self, chunks: AsyncIterator[bytes]) -> bool:
        in_a_row = 0
        async for data in chunks:
            in_a_row = (in_a_row + 1) % _MOST_IN_A_ROW
            if not in_a_row:  # neither a body in memory nor a socket with room lets another task run
                await trio.lowlevel.checkpoint()
            framed = self._framed(data)
            if framed and not await self._write(framed):
                return False
            if self._remaining == 0:
                return True
        if self._remaining is not None:
            raise InvalidRequestError("the request's body is shorter than its content-length")
        return await self._write(LAST_CHUNK)

    async def _wait_for_go_ahead(self) -> None:
        if self._held_back:
            with trio.move_on_after(CONTINUE_TIMEOUT_S):
                await self._go_ahead.wait()
            self._held_back = False

    def _framed(self, data: bytes) -> bytes:
        if self._remaining is None:
            return chunk(data)
        if len(data) > self._remaining:
            raise InvalidRequestError("the request's body is longer than its content-length")
        self._remaining -= len(data)
        return data

    async def _write(self, data: bytes | memoryview) -> bool:
        """Send data; return False if the peer does not take it."""
        try:
            await self._channel.send_all(data)
        except BROKEN:
            return False
        return True


@asynccontextmanager
async def chunks_of(body: AsyncIterable[bytes] | bytes) -> AsyncIterator[AsyncIterator[bytes]]:
    """Iterate over a body. Close it if it is a generator: only the upload knows that it is left early."""
    chunks = aiter(_once(body) if isinstance(body, bytes) else body)
    try:
        yield chunks
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body
