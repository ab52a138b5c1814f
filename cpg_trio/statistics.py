"""Statistics of calls: what the metrics and the operator's views read. Nothing else counts calls.

    calls that end ──▶ slot (10 s, by runtime ids) ──every 10 s──▶ totals, by names   counters that only grow
                          └──────────────────────▶ the last six slots                 the last minute

A call that ends costs one look-up in the slot and a few additions. Runtime ids come and go with the runs of
plugins, so only the last minute has them. The totals have the names of the plugins, which replicas and later
runs share: a counter goes on when its plugin is started again.

What others choose is bounded. A method has a series of its own once a provider has answered it, and `OTHER`
stands for the rest. A `SeriesRoom` says how many series there may be, and whose; the calls for which there is
no room are counted in a series whose names are `OTHER`.

A histogram is one integer: a lane of 64 bits for each bucket. To count a call is one addition, and so is to
add the histograms of two series. A view of 10,000 series adds them up in several ways, and lists of numbers
took twenty times as long.
"""

from __future__ import annotations

import math
import struct
import time
from bisect import bisect_left
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from heapq import heappush, heapreplace
from itertools import accumulate
from operator import itemgetter
from typing import NamedTuple, Protocol

import attrs
import trio

from cpg_trio.call_record import Call, Calls

__all__ = [
    "CallTable",
    "EndedCall",
    "Exemplar",
    "PlainRoom",
    "SeriesKey",
    "SeriesRoom",
    "Tally",
    "Total",
    "Window",
    "buckets",
]

OTHER = "_other"
"""Stands for names and methods that have no series of their own. No plugin and no service has this name."""
BOUNDS_S = tuple(
    float(f"{digits}e{exponent}") for exponent in range(-4, 2) for digits in ("1", "1.5", "2", "3", "5", "7")
)
"""The upper bounds of the buckets of durations, in seconds. One more bucket is for what takes longer."""

_LANE_BITS = 64
_UNITS = [1 << (_LANE_BITS * i) for i in range(len(BOUNDS_S) + 1)]
_UNPACK = struct.Struct(f"<{len(_UNITS)}Q")
_OK = "ok"
_NO_EXEMPLARS: Mapping[int, Exemplar] = {}
_NOT_FAILED = frozenset({_OK, "canceled"})
_UNPROVED = "unimplemented"

_SLOT_S = 10.0
_SLOTS = 6  # of the last minute, without the one that is being filled
_MOST_SERIES = 2_000
_MOST_METHODS = 100  # of a service
_MOST_SERVICES = 10_000  # whose methods are known
_IDLE_S = 15 * 60.0  # without a call, until the series of a name is dropped if room is short
_MOST_EXEMPLARS = 4  # of a series
_MOST_SLOWEST = 20  # of a slot
_MOST_FAILURES = 20  # of a caller
_MOST_FAILING = 50  # callers


class SeriesKey(NamedTuple):
    """What tells the series of calls apart. In totals, `caller` and `provider` are names of plugins."""

    kind: str
    caller: str
    """Empty if it is not proved."""
    provider: str
    """Empty for a capability of the host."""
    service: str
    method: str
    code: str


class Tally:
    """What is counted of calls that have ended."""

    __slots__ = (
        "calls",
        "failed",
        "histogram",
        "request_bytes",
        "response_bytes",
        "seconds",
        "undelivered",
    )

    def __init__(self) -> None:
        self.calls: int = 0
        self.failed: int = 0
        """Those that ended with an error of the provider or of the host; not those that were canceled."""
        self.undelivered: int = 0
        """Those that the provider has certainly not seen."""
        self.request_bytes: int = 0
        self.response_bytes: int = 0
        self.seconds: float = 0.0
        """The durations of all calls together."""
        self.histogram: int = 0
        """See the module's docstring."""

    @property
    def exemplars(self) -> Mapping[int, Exemplar]:
        """Calls that stand for the others, by buckets, if such are kept."""
        return _NO_EXEMPLARS

    def observe(self, seconds: float) -> int:
        """Count a duration; return its bucket."""
        bucket = bisect_left(BOUNDS_S, seconds)
        self.calls += 1
        self.seconds += seconds
        self.histogram += _UNITS[bucket]
        return bucket

    def add(self, other: Tally) -> None:
        """Add what another one has counted."""
        self.calls += other.calls
        self.failed += other.failed
        self.undelivered += other.undelivered
        self.request_bytes += other.request_bytes
        self.response_bytes += other.response_bytes
        self.seconds += other.seconds
        self.histogram += other.histogram

    def buckets(self) -> tuple[int, ...]:
        """Return how many calls each bucket of `BOUNDS_S` has, and the last one those that took longer."""
        return buckets(self.histogram)

    def quantile(self, part: float) -> float | None:
        """Return the duration, in seconds, that a part of the calls did not exceed; None without calls.

        It is interpolated within a bucket, so it is off by a part of the bucket's width.
        """
        return next(iter(self.quantiles(part)), None)

    def quantiles(self, *parts: float) -> list[float]:
        """Return several quantiles at once; none at all without calls."""
        counts = self.buckets()
        sums = list(accumulate(counts))
        return [_quantile(counts, sums, part * sums[-1]) for part in parts] if sums[-1] else []


def _quantile(counts: Sequence[int], sums: Sequence[int], wanted: float) -> float:
    i = bisect_left(sums, wanted)
    if i >= len(BOUNDS_S):
        return BOUNDS_S[-1]
    below, lower = sums[i] - counts[i], BOUNDS_S[i - 1] if i else 0.0
    return lower + (BOUNDS_S[i] - lower) * (wanted - below) / counts[i]


def buckets(histogram: int) -> tuple[int, ...]:
    """Return the counts of a histogram that is one integer."""
    return _UNPACK.unpack(histogram.to_bytes(_UNPACK.size, "little"))


@attrs.define  # not frozen, which would double the time that making one takes
class Exemplar:
    """A call that stands for the others of its bucket. Not to be changed."""

    trace_id: str
    duration_s: float
    at: float
    """In seconds since 1970."""


class Total(Tally):
    """What is counted of a series since the process began."""

    __slots__ = ("_exemplars", "labels", "share", "used_at")

    def __init__(self, labels: SeriesKey, share: str) -> None:
        super().__init__()
        self.labels: SeriesKey = labels
        self.share: str = share
        self.used_at: float = 0.0
        self._exemplars: dict[int, Exemplar] | None = None

    @property
    def exemplars(self) -> Mapping[int, Exemplar]:
        """The last calls whose traces are sampled, one of a bucket."""
        return self._exemplars or _NO_EXEMPLARS

    def keep(self, bucket: int, exemplar: Exemplar) -> None:
        """Keep a call as the exemplar of its bucket."""
        if (kept := self._exemplars) is None:
            kept = self._exemplars = {}
        kept.pop(bucket, None)
        kept[bucket] = exemplar
        if len(kept) > _MOST_EXEMPLARS:
            del kept[next(iter(kept))]


class _Entry(Tally):
    """The calls of a series in one slot."""

    __slots__ = ("key", "total")

    def __init__(self, key: SeriesKey, total: Total) -> None:
        super().__init__()
        self.key = key
        self.total = total


@attrs.frozen
class EndedCall:
    """A call that has ended, or was refused."""

    at: float
    """When it ended, in seconds since 1970."""
    kind: str
    caller: str
    provider: str
    service: str
    method: str
    code: str
    failure: str
    """Why the caller did not get the whole answer of a provider."""
    duration_s: float
    request_id: str
    trace_id: str
    refused: bool = False
    """The host has refused it, and the provider has not seen it."""

    @classmethod
    def of(cls, call: Call, *, refused: bool = False) -> EndedCall:
        """Return what is kept of a call."""
        return cls(
            time.time(),
            call.kind,
            call.caller,
            call.provider,
            call.service,
            call.method,
            call.code,
            call.failure,
            call.duration_s,
            call.request_id,
            call.trace_id,
            refused,
        )


class SeriesRoom(Protocol):
    """Says how many series there may be. `share` is whom one counts for."""

    def take(self, share: str) -> bool:
        """Take room for one; return False if there is none."""

    def give_back(self, share: str) -> None:
        """Give back the room of one."""


class PlainRoom:
    """Room for a number of series, whosever they are."""

    def __init__(self, most: int = _MOST_SERIES) -> None:
        self._left = most

    def take(self, _share: str) -> bool:
        """See `SeriesRoom`."""
        has_room = self._left > 0
        self._left -= has_room
        return has_room

    def give_back(self, _share: str) -> None:
        """See `SeriesRoom`."""
        self._left += 1


class _Slot:
    """Ten seconds of calls."""

    __slots__ = ("began_at", "entries", "refused", "room", "slow_above_s", "slowest")

    def __init__(self, room: SeriesRoom, began_at: float) -> None:
        self.room = room
        self.began_at = began_at
        self.entries: dict[tuple[str, ...], _Entry] = {}
        self.refused = Counter[tuple[str, str]]()
        self.slowest: list[tuple[float, int, EndedCall]] = []  # a heap, the fastest first
        self.slow_above_s = 0.0

    def add_slow(self, call: Call, number: int) -> None:
        entry = call.duration_s, number, EndedCall.of(call)
        if len(self.slowest) < _MOST_SLOWEST:
            heappush(self.slowest, entry)
        else:
            heapreplace(self.slowest, entry)
        if len(self.slowest) == _MOST_SLOWEST:
            self.slow_above_s = self.slowest[0][0]


class _Failures:
    """The last failed calls of each caller, of the callers that failed last. No caller displaces others'."""

    def __init__(self) -> None:
        self._of_caller: OrderedDict[str, deque[EndedCall]] = OrderedDict()

    def add(self, call: EndedCall) -> None:
        if (calls := self._of_caller.get(call.caller)) is None:
            calls = self._of_caller[call.caller] = deque(maxlen=_MOST_FAILURES)
            if len(self._of_caller) > _MOST_FAILING:
                self._of_caller.popitem(last=False)
        self._of_caller.move_to_end(call.caller)
        calls.append(call)

    def newest_first(self) -> list[EndedCall]:
        found = (call for calls in self._of_caller.values() for call in calls)
        return sorted(found, key=lambda call: call.at, reverse=True)


class Window:
    """The calls of the last minute that have ended, by runtime ids."""

    def __init__(
        self, span_s: float, series: Mapping[tuple[str, ...], Tally], refused: Counter[tuple[str, str]]
    ) -> None:
        self.span_s = span_s
        """How many seconds it has."""
        self.series = series
        """By the fields of `SeriesKey`."""
        self.refused = refused
        """How many calls were refused, by kind and code."""
        self._by: dict[tuple[str, ...], dict[tuple[str, ...], Tally]] = {}

    @property
    def total(self) -> Tally:
        """All calls together."""
        return self.by().get((), Tally())

    def by(self, *fields: str) -> Mapping[tuple[str, ...], Tally]:
        """Return the calls by some fields of `SeriesKey`, in that order; all in `()` without fields."""
        if (known := self._by.get(fields)) is None:
            known = self._by[fields] = {}
            _add_to(known, _keys(self.series, fields))
        return known


def _keys(
    series: Mapping[tuple[str, ...], Tally], fields: tuple[str, ...]
) -> Iterable[tuple[tuple[str, ...], Tally]]:
    places = [SeriesKey._fields.index(field) for field in fields]
    match places:
        case []:
            return (((), tally) for tally in series.values())
        case [place]:
            return (((key[place],), tally) for key, tally in series.items())
        case _:
            chosen = itemgetter(*places)
            return ((chosen(key), tally) for key, tally in series.items())


def _add_to(sums: dict[tuple[str, ...], Tally], series: Iterable[tuple[tuple[str, ...], Tally]]) -> None:
    for key, tally in series:
        if (known := sums.get(key)) is None:
            known = sums[key] = Tally()
        known.add(tally)


class CallTable:
    """Counts the calls of a host, or of a plugin, that `calls` tells of.

    `name_of` returns the name of a plugin by its runtime id, empty if it is not known; `share_of` returns
    whom the series of a caller count for. `room` makes the room for the series of a slot, and of the totals.
    """

    def __init__(
        self,
        calls: Calls | None = None,
        *,
        name_of: Callable[[str], str] = lambda _: "",
        share_of: Callable[[str], str] = lambda _: "",
        room: Callable[[], SeriesRoom] = PlainRoom,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name_of = name_of
        self._share_of = share_of
        self._new_room = room
        self._clock = clock
        self._in_flight: set[Call] = set()
        self._slot = _Slot(room(), clock())
        self._closed: deque[_Slot] = deque(maxlen=_SLOTS)
        self._closed_sums: dict[tuple[str, ...], Tally] | None = None
        self._totals: dict[SeriesKey, Total] = {}
        self._room = room()
        self._made_room_at = -math.inf
        self._methods: dict[str, set[str]] = {}
        self._refused = Counter[tuple[str, str]]()
        self._failures = _Failures()
        self._refusals = _Failures()
        self._numbers = 0
        if calls is not None:
            calls.begun.add(self._in_flight.add)
            calls.ended.add(self._count)
            calls.refused.add(self._count_refused)

    @contextmanager
    def listening(self, calls: Calls) -> Iterator[None]:
        """Count other calls as well, within the block."""
        with (
            calls.begun.added(self._in_flight.add),
            calls.ended.added(self._count),
            calls.refused.added(self._count_refused),
        ):
            yield

    async def run(self) -> None:
        """Begin a new slot every ten seconds, until cancelled."""
        while True:
            await trio.sleep(_SLOT_S)
            self.roll()

    # What is counted

    def in_flight(self) -> list[Call]:
        """Return the calls in flight, the oldest first."""
        return sorted(self._in_flight, key=lambda call: call.began_at)

    def window(self) -> Window:
        """Return the calls that have ended in the last minute."""
        if self._closed_sums is None:
            self._closed_sums = {}
            for slot in self._closed:
                _add_to(self._closed_sums, slot.entries.items())
        sums = self._closed_sums.copy()
        for key, entry in self._slot.entries.items():
            both = sums[key] = Tally()
            both.add(entry)
            if (closed := self._closed_sums.get(key)) is not None:
                both.add(closed)
        began_at = self._closed[0].began_at if self._closed else self._slot.began_at
        refused = sum((slot.refused for slot in self._slots()), Counter[tuple[str, str]]())
        return Window(max(1.0, self._clock() - began_at), sums, refused)

    def parts(self) -> Iterator[tuple[SeriesKey, Tally]]:
        """Yield what was counted since the process began, by names: each series in one or several parts."""
        yield from self._totals.items()
        for entry in self._slot.entries.values():
            yield entry.total.labels, entry

    def refused(self) -> Mapping[tuple[str, str], int]:
        """Return how many calls were refused since the process began, by kind and code."""
        return self._refused

    def slowest(self) -> list[EndedCall]:
        """Return the slowest calls of the last minute, the slowest first."""
        return [call for *_, call in sorted((e for s in self._slots() for e in s.slowest), reverse=True)]

    def failures(self) -> list[EndedCall]:
        """Return the last calls that failed, the newest first."""
        return self._failures.newest_first()

    def refusals(self) -> list[EndedCall]:
        """Return the last calls that were refused, the newest first."""
        return self._refusals.newest_first()

    def roll(self) -> None:
        """Add the slot to the totals, and begin another one."""
        now = self._clock()
        for entry in self._slot.entries.values():
            entry.total.add(entry)
            entry.total.used_at = now
        self._closed.append(self._slot)
        self._closed_sums = None
        self._slot = _Slot(self._new_room(), now)

    def _slots(self) -> Iterator[_Slot]:
        yield from self._closed
        yield self._slot

    # Counting

    def _count(self, call: Call) -> None:
        self._in_flight.discard(call)
        slot, code, duration_s = self._slot, call.code, call.duration_s
        entry = slot.entries.get((call.kind, call.caller, call.provider, call.service, call.method, code))
        if entry is None:
            entry = self._new_entry(call)
        bucket = entry.observe(duration_s)
        entry.request_bytes += call.request_bytes
        entry.response_bytes += call.response_bytes
        if code != _OK:
            self._count_failed(entry, call)
        if (context := call.context).traceparent and context.is_sampled:
            entry.total.keep(bucket, Exemplar(context.trace_id, duration_s, time.time()))
        if duration_s > slot.slow_above_s:
            self._numbers += 1
            slot.add_slow(call, self._numbers)

    def _count_failed(self, entry: Tally, call: Call) -> None:
        entry.undelivered += call.undelivered
        if call.code not in _NOT_FAILED:
            entry.failed += 1
            self._failures.add(EndedCall.of(call))

    def _count_refused(self, call: Call) -> None:
        key = call.kind, call.code
        self._refused[key] += 1
        self._slot.refused[key] += 1
        self._refusals.add(EndedCall.of(call, refused=True))

    def _new_entry(self, call: Call) -> _Entry:
        """Return the entry of a call that is not in the slot by its own method and names, or not yet."""
        slot, method, share = self._slot, self._bounded_method(call), self._share_of(call.caller)
        key = SeriesKey(call.kind, call.caller, call.provider, call.service, method, call.code)
        if (entry := slot.entries.get(key)) is not None:
            return entry
        if not slot.room.take(share):
            key = SeriesKey(call.kind, OTHER, OTHER, OTHER, OTHER, call.code)
            if (entry := slot.entries.get(key)) is not None:
                return entry
        entry = self._entry_as_before(key) or _Entry(key, self._total(key, share))
        slot.entries[entry.key] = entry
        return entry

    def _entry_as_before(self, key: SeriesKey) -> _Entry | None:
        """Return an entry for a series that another slot has, too, with what is known of it."""
        for slot in self._closed:
            if (before := slot.entries.get(key)) is not None:
                before.total.used_at = self._clock()
                return _Entry(before.key, before.total)
        return None

    def named(self, runtime_id: str) -> str:
        """Return the name of a plugin. If its identity has ended, that is the begin of its runtime id."""
        return self._name_of(runtime_id) or runtime_id.rpartition("-")[0] or runtime_id

    def _bounded_method(self, call: Call) -> str:
        """Return the method that a call is counted for. The path of a call is its caller's to choose."""
        known = self._methods.get(call.service)
        if known is None:
            if len(self._methods) >= _MOST_SERVICES:
                self._methods.clear()
            known = self._methods[call.service] = set()
        if call.method in known:
            return call.method
        if call.failure or call.code == _UNPROVED or len(known) >= _MOST_METHODS:
            return OTHER
        known.add(call.method)
        return call.method

    def _total(self, key: SeriesKey, share: str) -> Total:
        """Return the total of a series, by names; that of all others if there is no room for it."""
        labels = key._replace(caller=self.named(key.caller), provider=self.named(key.provider))
        if labels not in self._totals and not self._take_room(share):
            labels, share = SeriesKey(labels.kind, OTHER, OTHER, OTHER, OTHER, labels.code), ""
        if (total := self._totals.get(labels)) is None:
            total = self._totals[labels] = Total(labels, share)
        total.used_at = self._clock()
        return total

    def _take_room(self, share: str) -> bool:
        """Take room for another total. If it is short, drop those without a call for a while, once a slot."""
        if self._room.take(share):
            return True
        if self._made_room_at == self._slot.began_at:
            return False
        self._made_room_at = self._slot.began_at
        idle_since = self._clock() - _IDLE_S
        for labels, total in list(self._totals.items()):
            if total.used_at < idle_since and labels.service != OTHER:
                del self._totals[labels]
                self._room.give_back(total.share)
        return self._room.take(share)
