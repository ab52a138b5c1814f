"""A limit on the memory of all messages that are received, handled and answered at the same time.

Each message has its own limit, but there may be as many calls as connections. So the messages of all calls
have a fixed part of the process's memory, and each client at most half of that. A message that does not fit
is refused at once. Small messages are not counted, so that large ones of others cannot shut them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Self

from connectrpc.code import Code
from connectrpc.errors import ConnectError

from cpg_trio._addresses import address_key
from cpg_trio._memory import memory_of_process
from cpg_trio.asgi import Scope
from cpg_trio.rpc.context import CALLER, Caller

_PART = 3  # one of so many parts of the process's memory, by default
_SHARE = 2  # one client may have one of so many parts of the room
_SMALL_BYTES = 8 * 1024  # up to this, a message is not counted


#: The place of the current call.
current: ContextVar[Place | None] = ContextVar("the place of a call", default=None)


class Room:
    """Room of `total` bytes for the messages of all calls together. No I/O."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken: int = 0
        self._of_client: dict[str, int] = {}  # of those that use some

    def place(self, scope: Scope) -> Place:
        """Return the place of one call, which is released when its block ends."""
        return Place(self, scope)

    def move(self, client: str, size: int) -> bool:
        """Take `size` bytes for a client, or release them; return False, and change nothing, without room."""
        mine = self._of_client.get(client, 0) + size
        if size > 0 and (self.taken + size > self.total or mine > self.total // _SHARE):
            return False
        self.taken += size
        if mine:
            self._of_client[client] = mine
        else:
            self._of_client.pop(client, None)
        return True


class Place:
    """The room that one call has. A class: a generator would cost more than all that it does."""

    __slots__ = ("_client", "_received", "_room", "_scope", "_size")

    def __init__(self, room: Room, scope: Scope) -> None:
        self._room = room
        self._scope = scope
        self._client = ""  # whose call it is, worked out for large messages alone
        self._size = 0
        self._received = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._size:
            self.resize(0)

    def resize(self, size: int) -> None:
        """Use `size` bytes from now on. Raises: ConnectError `resource_exhausted`."""
        size = 0 if size <= _SMALL_BYTES else size
        if size == self._size:
            return
        self._client = self._client or _client(self._scope)
        if not self._room.move(self._client, size - self._size):
            raise ConnectError(Code.RESOURCE_EXHAUSTED, "too many large messages at once: try again later")
        self._size = size

    def receive(self, size: int, copies: int) -> None:
        """Count `size` more received bytes of a message, and their copies. Raises: as `resize`."""
        self._received += size
        if (needed := self._received * copies) > max(self._size, _SMALL_BYTES):
            self.resize(needed)

    def decode(self, size: int, copies: int) -> None:
        """Count a message that has come whole, and its copies. Raises: as `resize`."""
        self._received = 0
        if self._size or size * copies > _SMALL_BYTES:
            self.resize(size * copies)

    @contextmanager
    def is_current(self) -> Iterator[None]:
        """Make this place the `current` one within the block, for the codec."""
        token = current.set(self)
        try:
            yield
        finally:
            current.reset(token)

    @contextmanager
    def also(self, size: int) -> Iterator[None]:
        """Use `size` bytes in addition within the block. Raises: as `resize`."""
        other = Place(self._room, self._scope)
        other.resize(size)
        try:
            yield
        finally:
            other.resize(0)


@cache
def room_of_process(part: int = _PART) -> Room:
    """Return the room for the messages of this process: one of `part` parts of its memory."""
    return Room(memory_of_process().limit // part)


def _client(scope: Scope) -> str:
    """Return a key for a client: its authenticated identity, or else its address."""
    caller: Caller | None = (scope.get("state") or {}).get(CALLER)
    if caller is not None:
        return f"caller {caller.id}"
    client = scope.get("client")
    return address_key(client[0] if client else "")
