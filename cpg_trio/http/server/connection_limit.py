"""The limit on the connections of a server: whose they are, and which is closed to make room. No I/O.

A connection counts for a *holder*: for the address that it comes from, and from the first request on that
proves an identity for that identity. An HTTP/2 connection counts for as many connections as it has open
streams. While there is room, nothing here has any effect: behind a proxy, all may have one address.

When there is hardly any room, a newcomer gets in, and somebody else's connection is closed for it:

1. an idle one of the largest holder;
2. one that waits for its client, which sends nothing or does not read, of the largest address that has proved
   nothing;
3. one that is busy, of the largest holder, if it has more than its share: half of all.

Where there is no such connection, there is a reserve: newcomers get in as long as they prove an identity
before as many others have come. So a client that holds all that it can keeps out neither another address nor
an identity that is known, at whatever address.

The largest holders are found without a search; of their connections, a few are looked at in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from itertools import islice
from typing import Protocol

from cpg_trio.http.server.errors import logger


class Activity(IntEnum):
    """What a connection is busy with. The lower, the less harm there is in closing it."""

    IDLE = 0
    """It has had a request, and nothing is in flight: it waits for another."""
    WAITING = 1
    """It waits for its client: for the first request, the rest of one, or until it reads of the response."""
    BUSY = 2
    """A call is in flight."""


_RESERVE = 10  # a tenth of all connections is for those who get in when others hold the rest
_FEW = 20  # a holder of less than a twentieth keeps what is in flight, and an identity also what is idle
_LOOKED_AT = 32  # connections of a holder for each newcomer


class Client(Protocol):
    """What speaks to the client of a connection."""

    @property
    def activity(self) -> Activity:
        """What the connection is busy with."""
        ...

    def evict(self) -> None:
        """End the connection, to make room: in order if it is idle."""


class Slot:
    """The place of one connection, from accept to its end."""

    __slots__ = ("_limit", "client", "gone", "holder", "weight")

    def __init__(self, limit: ConnectionLimit, holder: Holder) -> None:
        self._limit = limit
        self.holder = holder
        self.client: Client | None = None
        """Who speaks to the client just now."""
        self.gone = False
        """Whether it has been given back, or taken away to make room."""
        self.weight = 1

    @property
    def activity(self) -> Activity:
        return Activity.WAITING if self.client is None else self.client.activity

    def prove(self, identity: str) -> None:
        """Count the connection for an identity from now on."""
        self._limit.prove(self, identity)

    def open_streams(self, count: int) -> bool:
        """Count so many open streams; return whether there is room for them, and count none if not."""
        return self._limit.weigh(self, max(1, count))


class Holder:
    """All connections of one client. The one that is looked at next comes first."""

    __slots__ = ("key", "proved", "slots", "weight")

    def __init__(self, key: str, *, proved: bool) -> None:
        self.key = key
        self.proved = proved
        self.slots: dict[Slot, None] = {}
        self.weight = 0

    def look(self) -> Iterator[Slot]:
        """Go through some connections, those that were not looked at for the longest time."""
        for slot in list(islice(self.slots, _LOOKED_AT)):
            del self.slots[slot]
            self.slots[slot] = None
            yield slot


class _Ranking:
    """Holders by weight. Each change, and the largest, cost the same however many there are."""

    def __init__(self) -> None:
        self._by_weight: dict[int, dict[Holder, None]] = {}
        self._most = 0

    @property
    def largest(self) -> Holder | None:
        return next(iter(self._by_weight[self._most])) if self._most else None

    def change(self, holder: Holder, by: int) -> None:
        if holder.weight:
            peers = self._by_weight[holder.weight]
            del peers[holder]
            if not peers:
                del self._by_weight[holder.weight]
        holder.weight += by
        if holder.weight:
            self._by_weight.setdefault(holder.weight, {})[holder] = None
        self._most = max(self._most, holder.weight)
        while self._most and self._most not in self._by_weight:
            self._most -= 1


class ConnectionLimit:
    """The connections of a server: no more than `most`, of which each holder has a share."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._room = most - most // _RESERVE
        self._total = 0
        self._holders: dict[tuple[bool, str], Holder] = {}
        self._rankings = {False: _Ranking(), True: _Ranking()}
        self._in_reserve: dict[Slot, None] = {}
        self._evicted = 0  # since there was room

    def __len__(self) -> int:
        """Return how many connections there are, with the streams that count as such."""
        return self._total

    def admit(self, key: str) -> Slot | None:
        """Return a place for a connection from an address, None if there is no room.

        The caller gives it back with `release`.
        """
        holder = self._holder(key, proved=False)
        background_task = self._make_room(1, holder)
        if self._total >= self._most and not self._evict_from_reserve():
            self._forget(holder)
            return None
        slot = Slot(self, holder)
        holder.slots[slot] = None
        self._change(holder, 1)
        if not background_task:
            self._in_reserve[slot] = None
        return slot

    def release(self, slot: Slot) -> None:
        """Take a place back. One that had to make room has been taken back already."""
        if slot.gone:
            return
        slot.gone = True
        self._in_reserve.pop(slot, None)
        del slot.holder.slots[slot]
        self._change(slot.holder, -slot.weight)
        self._forget(slot.holder)
        if self._evicted and self._total < self._room // 2:
            logger.warning("there is room for connections again; %d were closed", self._evicted)
            self._evicted = 0

    def prove(self, slot: Slot, identity: str) -> None:
        """Count a place for an identity."""
        before = slot.holder
        if slot.gone or (before.proved and before.key == identity):
            return
        self._in_reserve.pop(slot, None)
        del before.slots[slot]
        self._change(before, -slot.weight)
        self._forget(before)
        slot.holder = self._holder(identity, proved=True)
        slot.holder.slots[slot] = None
        self._change(slot.holder, slot.weight)

    def weigh(self, slot: Slot, weight: int) -> bool:
        """Have a place count for so many; return whether there is room for that."""
        more = weight - slot.weight
        if slot.gone or (more > 0 and not self._has_room_for(more, slot)):
            return False
        slot.weight = weight
        self._change(slot.holder, more)
        return True

    def _has_room_for(self, more: int, slot: Slot) -> bool:
        """Whether a connection may open more streams, for which somebody else's may be closed."""
        in_room = self._make_room(more, slot.holder, of_others=True)
        return in_room or (slot.holder.proved and self._total + more <= self._most)

    def _make_room(self, more: int, newcomer: Holder, *, of_others: bool = False) -> bool:
        """Close a connection if there is hardly any room; return whether there is room beside the reserve.

        `of_others`: none of the newcomer's own.
        """
        if self._total + more <= self._room:
            return True
        victim = self._victim(newcomer, of_others=of_others)
        if victim is None:
            return False
        self._evict(victim)
        return self._total + more <= self._most

    def _victim(self, newcomer: Holder, *, of_others: bool) -> Slot | None:
        """Return the connection that is given up with the least harm, None if none is."""
        best: tuple[tuple[int, int], Slot] | None = None
        for largest, holder in _ranked(ranking.largest for ranking in self._rankings.values()):
            if of_others and holder is newcomer:
                continue  # who opens another stream does not cost others of its own address theirs
            for slot in holder.look():
                harm = self._harm(slot, newcomer, largest=largest)
                if harm is None:
                    continue
                found = harm, -slot.weight  # of those that are alike, the one that makes most room
                if best is None or found < best[0]:
                    best = found, slot
                if not harm:
                    return slot
        return best[1] if best is not None else None

    def _harm(self, slot: Slot, newcomer: Holder, *, largest: bool) -> int | None:
        """Return how much harm there is in closing a connection; None if it is not to be closed."""
        holder, activity = slot.holder, slot.activity
        many = holder.weight > self._most // _FEW
        if slot in self._in_reserve:
            return None
        if activity is Activity.IDLE and (not holder.proved or (largest and many)):
            return 0
        if activity is Activity.WAITING and not holder.proved and many:
            return 1
        return 2 if holder.weight > self._most // 2 and holder is not newcomer else None

    def _evict_from_reserve(self) -> bool:
        slot = next(iter(self._in_reserve), None)
        if slot is None:
            return False
        self._evict(slot)
        return True

    def _evict(self, slot: Slot) -> None:
        if not self._evicted:
            logger.warning(
                "%d connections of %d are in use, %d of them by %s: some are closed to make room for others",
                self._total,
                self._most,
                slot.holder.weight,
                slot.holder.key,
            )
        self._evicted += 1
        self.release(slot)
        if slot.client is not None:
            slot.client.evict()

    def _holder(self, key: str, *, proved: bool) -> Holder:
        holder = self._holders.get((proved, key))
        if holder is None:
            holder = self._holders[proved, key] = Holder(key, proved=proved)
        return holder

    def _forget(self, holder: Holder) -> None:
        if not holder.slots:
            self._holders.pop((holder.proved, holder.key), None)

    def _change(self, holder: Holder, by: int) -> None:
        self._total += by
        self._rankings[holder.proved].change(holder, by)


def _ranked(holders: Iterable[Holder | None]) -> Iterator[tuple[bool, Holder]]:
    """Yield holders, the largest first, each with whether it is the largest."""
    there = [holder for holder in holders if holder is not None]
    there.sort(key=lambda holder: holder.weight, reverse=True)
    for index, holder in enumerate(there):
        yield index == 0, holder
