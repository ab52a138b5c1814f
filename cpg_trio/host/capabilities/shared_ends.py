"""What the hosts of a directory tell each other of grants that have ended before their time.

A host writes each end to the store, where all follow it. What cannot be written is tried again until it can
be: here the grant has ended, and at others it has not yet.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host.capabilities.ended_grants import ENDED_GRANTS, ENDED_GRANTS_OF, EndedGrant
from cpg_trio.host.capabilities.grants import Grants
from cpg_trio.rpc import Code, ConnectError
from cpg_trio.store import Commit, Store, StoreError

_log = logging.getLogger("cpg_trio.host")

PREFIXES = (ENDED_GRANTS, ENDED_GRANTS_OF)
"""Of the keys that are written, and followed."""
_RETRY_S = 1.0
_SWEEP_S = 60.0
_LAST_S = 2.0  # for what is left at the end
_MAX_AT_ONCE = 100  # entries of a commit


@attrs.define(eq=False)
class _Round:
    """Ends that are written together."""

    keys: dict[str, None] = attrs.field(factory=dict)
    done: trio.Event = attrs.field(factory=trio.Event)
    why_not: str = ""


class SharedEnds:
    """Writes the ends of this host's grants to a store, and applies those of other hosts."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants
        self._round = _Round()
        self._noted = trio.Event()

    def apply(self, prefix: str, rest: str, value: bytes | None) -> None:
        """Apply what the store has under a key, None if it has nothing. Calls by what has ended end."""
        key = prefix + rest
        if value is None:
            self._grants.ended.forget(key)
            return
        try:
            self._grants.ended_elsewhere(key, EndedGrant.decoded(value))
        except ValueError as error:
            _log.error("the entry %s of the store is not used: %s", key, error)

    async def written(self) -> None:
        """Wait until the ends of before are in the store. Raises: ConnectError `unavailable`."""
        if not self._round.keys:
            return
        this = self._round
        await this.done.wait()
        if this.why_not:
            raise ConnectError(
                Code.UNAVAILABLE,
                "it has ended at this host, and the others do not know it yet: the host cannot write that,"
                f" and tries on: {this.why_not}",
            )

    async def run(self, store: Store) -> None:
        """Write ends, and drop what is over, until cancelled; then write what is left."""
        with self._grants.ended.told.added(self._note):
            async with open_plain_nursery() as nursery:
                nursery.start_soon(self._sweep, store)
                try:
                    while True:
                        await self._noted.wait()
                        if not await self._write(store):
                            await trio.sleep(_RETRY_S)
                finally:
                    with trio.move_on_after(_LAST_S, shield=True):
                        await self._write(store)

    def _note(self, key: str) -> None:
        self._round.keys[key] = None
        self._noted.set()

    async def _write(self, store: Store) -> bool:
        """Write what is noted; return whether that was possible."""
        this, self._round, self._noted = self._round, _Round(), trio.Event()
        try:
            for keys in _batched(list(this.keys)):
                ends = {key: ended for key in keys if (ended := self._grants.ended.get(key)) is not None}
                await store.commit(Commit(puts={key: ended.encoded() for key, ended in ends.items()}))
        except StoreError as error:
            this.why_not = str(error)
        except trio.Cancelled:
            this.why_not = "it is stopping"
            raise
        finally:
            if this.why_not:
                self._round.keys.update(this.keys)
                self._noted.set()
            this.done.set()
        return not this.why_not

    async def _sweep(self, store: Store) -> None:
        """Drop the ends of grants whose time is over, here and in the store."""
        while True:
            await trio.sleep(_SWEEP_S)
            over = self._grants.ended.over()
            try:
                for keys in _batched(over):
                    await store.commit(Commit(deletes=keys))
            except StoreError:
                continue  # they are dropped the next time
            for key in over:
                self._grants.ended.forget(key)


def _batched(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield some keys at a time, as many as a commit takes."""
    for begin in range(0, len(keys), _MAX_AT_ONCE):
        yield keys[begin : begin + _MAX_AT_ONCE]
