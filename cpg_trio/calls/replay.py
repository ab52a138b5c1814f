"""Requests that are streamed, so that they can be sent again as long as nothing has come back.

The caller's iterator is read by one task, and only as far as an attempt asks for it. An attempt that is given
up can be cancelled while it waits for the next piece: if it read the iterator itself, a generator would end
there, and the next attempt would take the rest for all of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

import trio

_MOST_BYTES = 64 * 1024  # that are kept


class Replay:
    """The pieces of a request. `pump` is run by the caller's task or beside it, until cancelled."""

    def __init__(self, source: AsyncIterable[bytes], most_bytes: int = _MOST_BYTES) -> None:
        self._source = source
        self._most_bytes = most_bytes
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._dropped = 0  # pieces before those that are kept
        self._keeps = True
        self._ended = False
        self._error: Exception | None = None
        self._wanted = trio.Event()
        self._came = trio.Event()

    @property
    def is_whole(self) -> bool:
        """Whether all that was read is still there, so that it can be sent from the beginning."""
        return not self._dropped

    def forget(self) -> None:
        """Keep no more than the next piece: it will not be sent again."""
        self._keeps = False

    async def pump(self) -> None:
        """Read the source, piece by piece, when a piece is wanted."""
        try:
            source = aiter(self._source)
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                self._take(await anext(source))
        except StopAsyncIteration:
            self._ended = True
        except Exception as error:  # noqa: BLE001 - it is raised where the pieces are sent
            self._error = error
            self._ended = True
        self._wake()

    def pieces(self) -> AsyncIterator[bytes]:
        """Return an iterator over the pieces from the beginning. Of several, only the last is read on."""
        return _Pieces(self)

    async def piece(self, index: int) -> bytes | None:
        """Return a piece by its number; None after the last. Raises: what the source has raised."""
        while index >= self._dropped + len(self._kept):
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            came = self._came
            self._wanted.set()
            await came.wait()
        piece = self._kept[index - self._dropped]
        if not self._keeps:
            self._drop(index + 1 - self._dropped)
        return piece

    def _take(self, piece: bytes) -> None:
        self._kept.append(piece)
        self._kept_bytes += len(piece)
        if self._kept_bytes > self._most_bytes:
            self._keeps = False
        self._wake()

    def _drop(self, count: int) -> None:
        self._kept_bytes -= sum(map(len, self._kept[:count]))
        del self._kept[:count]
        self._dropped += count

    def _wake(self) -> None:
        self._came.set()
        self._came = trio.Event()


class _Pieces:
    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._next = 0

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._replay.piece(self._next)
        if piece is None:
            raise StopAsyncIteration
        self._next += 1
        return piece
