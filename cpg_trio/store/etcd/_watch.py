"""Changes from a revision: a watch that begins again at another member where the one before it ended.

A watch may be silent because nothing happens, or because it is dead. When it has been silent for a while, the
store is asked for its revision. If that is later than what was told, somebody has changed something, here or
elsewhere in the cluster: the stamp is put, and a watch that is alive tells it, behind all that was before.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import trio

from cpg_trio.http import Origin
from cpg_trio.store._store import Changed, CompactedError, Entry, StoreError
from cpg_trio.store.etcd import _operations as op
from cpg_trio.store.etcd._gateway import AttemptError, Json, Stream
from cpg_trio.store.etcd._keyspace import Keyspace

_SILENCE_S = 1.5
_ANSWER_S = 1.0  # for a member, and for a watch to tell a change: then they are taken for dead
_PAUSE_S = 0.1
_MOST_FAILURES = 20  # of watches, one after another, though the store answers


class Changes:
    """The iterator of `Store.changes`."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Changed | StoreError](0)

    async def put(self, item: Changed | StoreError) -> None:
        """Hand over changes, or the error that they end with. Waits until it is taken."""
        await self._send.send(item)

    def __aiter__(self) -> Changes:
        """Return itself: there is one reader."""
        return self

    async def __anext__(self) -> Changed:
        """Wait for changes. Raises: StoreError."""
        item = await self._receive.receive()
        if isinstance(item, StoreError):
            self._send.close()
            raise item
        return item


class Watch:
    """Follows a directory from a revision, until the store is out of reach for long."""

    def __init__(self, space: Keyspace, after: int, changes: Changes) -> None:
        self._space = space
        self._after = after
        self._changes = changes
        self._begun: Callable[[], None] = trio.TASK_STATUS_IGNORED.started
        self._has_begun = False
        self._failures = 0
        self._events: list[Json] = []
        self._touched = False
        self._silence_s = _SILENCE_S * (1 + random.random() / 2)  # noqa: S311 - so that one host is the first

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow. Started when a member follows; raises StoreError before. Later, an error is told last."""
        self._begun = task_status.started
        try:
            while True:
                await self._begin()
        except StoreError as error:
            if not self._has_begun:
                raise
            await self._changes.put(error)

    async def _begin(self) -> None:
        """Follow at one endpoint until that fails; then see whether the store answers at all."""
        gateway, prefix = self._space.gateway, self._space.prefix
        endpoint, self._events, self._touched = gateway.endpoint, [], False
        create = {**op.below(prefix), "start_revision": str(self._after + 1), "fragment": True}
        try:
            async with gateway.stream("/v3/watch", {"create_request": create}) as stream:
                await self._follow(stream, endpoint)
        except AttemptError as error:
            gateway.leave(endpoint, str(error))
            self._failures += 1
            if self._failures > _MOST_FAILURES:
                raise StoreError(str(error)) from error
        await trio.sleep(_PAUSE_S)
        await self._space.read()

    async def _follow(self, stream: Stream, endpoint: Origin) -> None:
        while True:
            message: Json | None = None
            with trio.move_on_after(_ANSWER_S if self._touched else self._silence_s):
                message = await stream.next()
            if message is not None:
                await self._take(message)
            elif self._touched:
                why = f"{endpoint.host_header.decode()}: its watch tells nothing of what has changed"
                raise AttemptError(why, may_be_done=False)
            else:
                await self._look()

    async def _look(self) -> None:
        """See whether something has changed meanwhile; if so, have the watch tell how far it has come."""
        reading = await self._space.read(_ANSWER_S)
        if reading.revision < self._after:
            raise self._space.replaced(f"its revision went back from {self._after} to {reading.revision}")
        if reading.revision > self._after:
            self._touched = True
            await self._space.touch()
        else:
            await self._tell({})

    async def _take(self, message: Json) -> None:
        """Take one message. Raises: CompactedError; ReplacedError; AttemptError."""
        self._space.check(message)
        if message.get("canceled"):
            raise self._cancelled(message)
        if not self._has_begun:
            self._has_begun = True
            self._begun()
        self._events += message.get("events", ())
        if message.get("fragment") or not self._events:
            return
        events, self._events = self._events, []
        values = self._values(events)
        self._after = max(op.revision_of(event["kv"]) for event in events)
        self._touched = False
        await self._tell(values)

    async def _tell(self, values: dict[str, Entry | None]) -> None:
        self._failures = 0
        await self._changes.put(Changed(self._after, values))

    def _values(self, events: list[Json]) -> dict[str, Entry | None]:
        space, values = self._space, dict[str, Entry | None]()
        for event in events:
            deleted = event.get("type") == "DELETE"
            if (key := op.key_of(event["kv"])) == space.stamp:
                space.check_stamp({"kvs": [] if deleted else [event["kv"]]})
            if space.is_own(key):
                continue
            entry = op.entry_of(event["kv"], space.prefix)
            values[entry.key] = None if deleted else entry
        return values

    def _cancelled(self, message: Json) -> Exception:
        compacted, why = int(message.get("compact_revision", 0)), str(message.get("cancel_reason", ""))
        if compacted:
            return CompactedError(f"what was changed before revision {compacted} is not there any more")
        if any(word in why for word in ("permission", "token", "auth")):
            # etcd 3.5 calls a token that it does not know a lack of permission. A read tells the difference.
            self._space.gateway.forget_token(self._space.gateway.token)
        return AttemptError(f"a watch was cancelled: {why}", may_be_done=False, answered=True)
