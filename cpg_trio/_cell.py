"""A conflating cell: a value that tasks can wait on, where a slow reader misses steps but never the last one.

What a watch stands on. It holds one value however many changes there are, so a reader that does not read
costs a constant amount of memory.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Cell(Generic[T]):
    """Holds the newest value. Changed from the loop's thread only, between checkpoints."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._revision = 0
        self._closed = False
        self._changed = trio.Event()

    @property
    def value(self) -> T:
        """The newest value."""
        return self._value

    def set(self, value: T) -> bool:
        """Change the value and wake the readers; an equal value changes nothing. Return whether it did."""
        if value == self._value:
            return False
        self._value = value
        self._revision += 1
        self._wake()
        return True

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    def close(self) -> None:
        """End every reader, once it has had the newest value."""
        self._closed = True
        self._wake()

    def reader(self) -> Reader[T]:
        """Return a reader that starts with the value of now."""
        return Reader(self)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Reader(Generic[T]):
    """Yields a cell's value, then each newer one; steps that passed in between are skipped."""

    def __init__(self, cell: Cell[T]) -> None:
        self._cell = cell
        self._seen = -1

    def __aiter__(self) -> Reader[T]:
        """Return itself: a reader is read once."""
        return self

    async def __anext__(self) -> T:
        """Wait for a value that has not been seen. Ends when the cell is closed."""
        await trio.lowlevel.checkpoint()
        cell = self._cell
        while self._seen == cell._revision:  # noqa: SLF001 - one class in two parts
            if cell._closed:  # noqa: SLF001
                raise StopAsyncIteration
            await cell._changed.wait()  # noqa: SLF001
        self._seen = cell._revision  # noqa: SLF001
        return cell.value
