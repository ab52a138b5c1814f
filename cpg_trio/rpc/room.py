"""Room for messages: how much memory those take that are being received, handled and answered at once.

Each message has its limit, but there may be as many calls as connections. So all calls of a process have a
part of its memory for their messages, of which a client may have a half; what does not fit is refused at
once. A call whose messages are small needs no room: others cannot shut it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from connectrpc.code import Code
from connectrpc.errors import ConnectError

from cpg_trio._addresses import address_key
from cpg_trio._memory import memory_of_process
from cpg_trio.asgi import Scope
from cpg_trio.rpc.context import CALLER, Caller

_PART = 3  # of the process's memory, unless it has other uses for that
_SHARE = 2  # of all the room: what one client may have
_SMALL_BYTES = 8 * 1024  # so much needs no room


#: The place of the call at hand.
current: ContextVar[Place | None] = ContextVar("the place of a call", default=None)


class Room:
    """Room of `total` bytes for the messages of all calls together. Plain state."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0
        self._of_client: dict[str, int] = {}  # of those who have some

    @contextmanager
    def place(self, scope: Scope) -> Iterator[Place]:
        """Yield the place of one call, which is given back when the block ends."""
        place = Place(self, scope)
        try:
            yield place
        finally:
            place.resize(0)

    def move(self, client: str, size: int) -> bool:
        """Take so many bytes for a client, or give them back; return False, and do nothing, without room."""
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
    """The room that one call has."""

    __slots__ = ("_client", "_received", "_room", "_scope", "_size")

    def __init__(self, room: Room, scope: Scope) -> None:
        self._room = room
        self._scope = scope
        self._client = ""  # whose call it is; most calls are small, and nobody asks
        self._size = 0
        self._received = 0

    def resize(self, size: int) -> None:
        """Have room for so many bytes instead. Raises: ConnectError `resource_exhausted`."""
        size = 0 if size <= _SMALL_BYTES else size
        if size == self._size:
            return
        self._client = self._client or _client(self._scope)
        if not self._room.move(self._client, size - self._size):
            raise ConnectError(Code.RESOURCE_EXHAUSTED, "too many large messages at once: try again later")
        self._size = size

    def receive(self, size: int, copies: int) -> None:
        """Have room for what has come of a message and its copies. Raises: as `resize`."""
        self._received += size
        self.resize(max(self._size, self._received * copies))

    def decode(self, size: int, copies: int) -> None:
        """Have room for a message that is whole. Raises: as `resize`."""
        self._received = 0
        self.resize(size * copies)

    @contextmanager
    def is_current(self) -> Iterator[None]:
        """Have `current` be this place within the block, for who decodes the call's messages."""
        token = current.set(self)
        try:
            yield
        finally:
            current.reset(token)

    @contextmanager
    def also(self, size: int) -> Iterator[None]:
        """Have room for something beside it within the block. Raises: as `resize`."""
        other = Place(self._room, self._scope)
        other.resize(size)
        try:
            yield
        finally:
            other.resize(0)


@cache
def room_of_process(part: int = _PART) -> Room:
    """Return the room that the messages of this process have: one of so many parts of its memory."""
    return Room(memory_of_process().limit // part)


def _client(scope: Scope) -> str:
    """Return what tells a client from others: what it has proved, or else where it is."""
    caller: Caller | None = (scope.get("state") or {}).get(CALLER)
    if caller is not None:
        return f"caller {caller.id}"
    client = scope.get("client")
    return address_key(client[0] if client else "")
