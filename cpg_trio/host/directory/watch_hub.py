"""The watch hub: each watcher gets the changes that concern it, and no others.

A watch follows any number of service types. It is a conflating cell: it holds what its watcher has not read
yet, one status for each type, however many changes there have been.

The hub knows which watches have been given which provider, and which have none. A change of a provider
concerns the watches that have it; one that begins to get calls concerns also those that have none. So a
change costs constant time for each watch that it concerns, and nothing for the others.

A few watches are brought up to date while a change is told. Many are left to a task of the hub, which pauses
every few milliseconds, so that one change holds nobody up. A watcher that reads meanwhile brings its own
watch up to date first: what it reads is what holds at that moment.

A watcher takes an update when the one before has been sent, so one that does not read holds one update. An
update is small, unless it has a provider with much metadata. Large updates share a budget of bytes, and their
watchers wait for each other.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import TypeVar

import attrs
import trio

from cpg_trio import wire
from cpg_trio._cell import Cell
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.host.access import Budget, LimitError, Limits, Shares
from cpg_trio.host.directory.registration import Change, ChangeKind, ServiceStatus
from cpg_trio.host.directory.registry import Registry

_K = TypeVar("_K")

_MAX_TOLD_OF = 20  # providers whose end a watcher is told; as many as it follows types, if that is more
_UPDATE_BYTES = 4096  # of an update: the rest waits for the next one
_LARGE_BYTES = 2 * 1024 * 1024  # of all larger updates that are being sent
_GONE_BYTES = 150  # of an update, for a provider that is gone
_EVENT_BYTES = 400  # of an update, for a status without its metadata
_TURNS = 16  # watchers that are served in one round of the loop
_MAX_AT_ONCE = 32  # watches that are brought up to date while a change is told
_SLICE_S = 0.002  # for which the hub's task works at a time


@attrs.define
class _Followed:
    """A service type that a watch follows."""

    min_version: str
    now: ServiceStatus
    told: tuple[pb.ServiceState, str] | None = None
    """What its watcher has read last: a state and the id of a registration, not the registration itself."""


def _size(status: ServiceStatus) -> int:
    """Return how many bytes telling a status takes, or some more."""
    metadata = status.provider.metadata if status.provider is not None else {}
    return _EVENT_BYTES + sum(len(text.encode()) for entry in metadata.items() for text in entry)


def _in_short(status: ServiceStatus) -> tuple[pb.ServiceState, str]:
    return status.state, status.provider.id if status.provider is not None else ""


@attrs.frozen
class Update:
    """What has changed for a watcher: the current status of each service type that differs."""

    revision: int
    """That of the registry."""
    statuses: Mapping[str, ServiceStatus]
    gone: Sequence[str] = ()
    """Providers that the watcher has been told of, and that are gone for good."""


def _provider_id(status: ServiceStatus) -> str:
    return status.provider.runtime_id if status.provider is not None else ""


class Watch:
    """One watcher's view of the service types that it follows. Iterated once, by one task.

    Yields updates: at first all that is followed, then what changes, until the hub closes.
    """

    def __init__(self, hub: WatchHub, share: str) -> None:
        self._hub = hub
        self._share = share
        self._held = 0  # bytes of the budget, for the update that was taken last
        self._followed: dict[str, _Followed] = {}
        self._changed: dict[str, None] = {}  # types to look at
        self._unsent: dict[str, None] = {}  # types whose status is to be sent, the latest last
        self._told_of: dict[str, None] = {}  # providers, the latest last
        self._gone: list[str] = []
        self._behind_since = 0.0  # of what is not sent yet, by `time.monotonic`
        self._changes = Cell(0)
        self._reader = self._changes.reader()

    def __len__(self) -> int:
        """Return how many types are followed."""
        return len(self._followed)

    def subscribe(self, service_type: str, min_version: str = "") -> None:
        """Follow a type, of which providers older than `min_version` do not count; send its status.

        Raises: wire.InvalidError for a type or version that is none, LimitError for one too many; and then
        nothing has changed.
        """
        wire.validate_service_type(service_type)
        if min_version:
            wire.validate_version(min_version)
        before = self._followed.get(service_type)
        if before is None:
            self._hub.subscriptions.check(self._share)
            self._hub.subscriptions.add(self._share)
        status = self._hub.registry.status(service_type, min_version=min_version)
        self._hub.move(self, service_type, before.now if before is not None else None, status)
        self._followed[service_type] = _Followed(min_version, status)
        self._add_news(service_type)

    def unsubscribe(self, service_type: str) -> None:
        """Follow a type no more. One that is not followed is no error."""
        followed = self._followed.pop(service_type, None)
        if followed is None:
            return
        self._changed.pop(service_type, None)
        self._unsent.pop(service_type, None)
        self._hub.subscriptions.remove(self._share)
        self._hub.move(self, service_type, followed.now, None)

    def note_changed(self, service_type: str) -> None:
        """Note that a type has to be looked at."""
        self._changed[service_type] = None

    def look(self) -> None:
        """Look at the types that have changed; wake the watcher if that makes a difference to it."""
        while self._changed:
            service_type, _ = self._changed.popitem()
            followed = self._followed[service_type]
            before = followed.now
            now = self._hub.registry.status(service_type, before.provider, followed.min_version)
            followed.now = now
            self._hub.move(self, service_type, before, now)
            if _in_short(now) == followed.told:
                self._unsent.pop(service_type, None)
            elif now != before:
                self._add_news(service_type)

    def note_gone(self, runtime_id: str) -> None:
        """Note that a provider is gone that the watcher has been told of."""
        self._note_behind()
        del self._told_of[runtime_id]
        self._gone.append(runtime_id)
        self._wake()

    def _note_behind(self) -> None:
        if not (self._unsent or self._gone):
            self._behind_since = time.monotonic()

    def lag_s(self, now: float) -> float:
        """Return for how many seconds something has waited to be taken by the watcher; 0 if nothing has."""
        return now - self._behind_since if self._unsent or self._gone else 0.0

    def close(self) -> None:
        """End the iteration, once the changes up to now have been read."""
        self._changes.close()

    def end(self) -> None:
        """Follow nothing more."""
        self._give_back()
        for service_type in list(self._followed):
            self.unsubscribe(service_type)
        for runtime_id in list(self._told_of):
            self._forget_told_of(runtime_id)

    def large(self, size: int) -> AbstractAsyncContextManager[None]:
        """Return a block in which the watcher holds so many bytes. It waits for room if they are many."""
        return self._hub.budget.held(self._share, size) if size > _UPDATE_BYTES else nullcontext()

    def __aiter__(self) -> Watch:
        """Return itself: a watch is read once."""
        return self

    async def __anext__(self) -> Update:
        """Wait for an update. The one before has been sent by now."""
        self._give_back()
        async for _ in self._reader:
            if (update := await self._next_update()) is not None:
                return update
        raise StopAsyncIteration

    async def _next_update(self) -> Update | None:
        """Take the next update, when there is room for it."""
        budget = self._hub.budget
        while True:
            self.look()
            names, size = self._next()
            if size <= _UPDATE_BYTES:
                return self._take(names)
            if budget.take(self._share, size):
                self._held = size
                return self._take(names)
            try:
                await budget.wait(self._share)
            except trio.Cancelled:
                self._wake()  # the update has not been taken, and is there for the next read
                raise

    def _give_back(self) -> None:
        if self._held:
            self._hub.budget.give_back(self._share, self._held)
            self._held = 0

    def _next(self) -> tuple[list[str], int]:
        """Return the types in the next update, and its size in bytes."""
        names: list[str] = []
        size = _GONE_BYTES * len(self._gone)
        for name in self._unsent:
            more = _size(self._followed[name].now)
            if names and size + more > _UPDATE_BYTES:
                self._wake()  # the rest is another update
                break
            names.append(name)
            size += more
        return names, size

    def _take(self, names: Sequence[str]) -> Update | None:
        statuses: dict[str, ServiceStatus] = {}
        for name in names:
            del self._unsent[name]
            followed = self._followed[name]
            statuses[name] = followed.now
            followed.told = _in_short(followed.now)
            if (provider := followed.now.provider) is not None:
                self._tell_of(provider.runtime_id)
        gone, self._gone = self._gone, []
        return Update(self._hub.registry.revision, statuses, gone) if statuses or gone else None

    def _tell_of(self, runtime_id: str) -> None:
        """Note that the watcher is told of a provider; forget the one that it was told of longest ago."""
        self._told_of.pop(runtime_id, None)
        self._told_of[runtime_id] = None
        self._hub.told_of.setdefault(runtime_id, {})[self] = None
        while len(self._told_of) > max(_MAX_TOLD_OF, len(self._followed)):
            self._forget_told_of(next(iter(self._told_of)))

    def _forget_told_of(self, runtime_id: str) -> None:
        del self._told_of[runtime_id]
        _discard(self._hub.told_of, runtime_id, self)

    def _add_news(self, service_type: str) -> None:
        self._note_behind()
        self._unsent[service_type] = None
        self._wake()

    def _wake(self) -> None:
        self._changes.set(self._changes.value + 1)


class WatchHub:
    """Fans the changes of a registry out to watchers.

    `share_of` tells by a runtime id which address a watcher counts for.
    """

    def __init__(
        self,
        registry: Registry,
        limits: Limits | None = None,
        share_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        self.registry = registry
        self._limits = limits = limits or Limits()
        self._share_of = share_of
        self._shares = Shares("watches", limits.max_watches)
        self.subscriptions = Shares("subscriptions of all watches", limits.max_all_subscriptions)
        self.budget = Budget(_LARGE_BYTES)
        """Bytes of large updates that are being sent."""
        self.turns = trio.Semaphore(_TURNS)
        """To be held while something is worked out for a watcher, and not while it is sent, so that watchers
        that ask for much wait for each other, and others do not wait for all of them."""
        self.told_of: dict[str, dict[Watch, None]] = {}
        """Which watchers have been told of which provider, by its runtime id."""
        self._watches: dict[str, dict[Watch, None]] = {}  # by watcher
        self._given: dict[tuple[str, str], dict[Watch, None]] = {}
        """The watches that follow a service type, by that and the provider that they have; "" is none."""
        self._to_look: OrderedDict[Watch, None] = OrderedDict()  # filled only while the task runs
        self._has_work = trio.Event()
        self._running = False
        self._closed = False
        registry.changes.add(self._changed)
        registry.gone.add(self._gone)

    @contextmanager
    def watch(self, watcher: str) -> Iterator[Watch]:
        """Yield a watch of a plugin's that follows nothing yet, for as long as the block lasts.

        Raises: LimitError.
        """
        each, share = self._limits.max_watches_per_plugin, self._share_of(watcher)
        if len(self._watches.get(watcher, ())) >= each:
            raise LimitError("watches of one plugin", each)
        with self._shares.held(share):
            watch = Watch(self, share)
            if self._closed:
                watch.close()
            self._watches.setdefault(watcher, {})[watch] = None
            try:
                yield watch
            finally:
                watch.end()
                self._to_look.pop(watch, None)
                _discard(self._watches, watcher, watch)

    def close(self) -> None:
        """End every watch: the host is stopping."""
        self._closed = True
        for watcher in self._watches:
            self.close_of(watcher)

    def close_of(self, watcher: str) -> None:
        """End every watch of a plugin."""
        for watch in self._watches.get(watcher, ()):
            watch.close()

    def __len__(self) -> int:
        """Return how many watches there are."""
        return self._shares.total

    def count_of(self, watcher: str) -> int:
        """Return how many watches a plugin has."""
        return len(self._watches.get(watcher, ()))

    def lags_s(self) -> Sequence[float]:
        """Return for how many seconds changes have waited for watchers that have not taken them yet."""
        now = time.monotonic()
        lags = (watch.lag_s(now) for watches in self._watches.values() for watch in watches)
        return [lag_s for lag_s in lags if lag_s]

    def has(self, watcher: str) -> bool:
        """Whether a plugin has a watch."""
        return watcher in self._watches

    def watchers(self, service_type: str) -> int:
        """Return how many watches follow a type. Looks at all of them: for tests and for people who debug."""
        return sum(len(watches) for (name, _), watches in self._given.items() if name == service_type)

    def move(
        self, watch: Watch, service_type: str, before: ServiceStatus | None, now: ServiceStatus | None
    ) -> None:
        """Note which provider of a type a watch has; None before it follows the type, and after."""
        if before is not None:
            _discard(self._given, (service_type, _provider_id(before)), watch)
        if now is not None:
            self._given.setdefault((service_type, _provider_id(now)), {})[watch] = None

    async def run(self) -> None:
        """Bring watches up to date until cancelled. Without it that is done while a change is told."""
        self._running = True
        try:
            while True:
                await self._has_work.wait()
                self._has_work = trio.Event()
                await self._look_at_all()
        finally:
            self._running = False
            self._to_look.clear()

    async def _look_at_all(self) -> None:
        began = time.perf_counter()
        while self._to_look:
            self._to_look.popitem(last=False)[0].look()
            if time.perf_counter() - began > _SLICE_S:
                await trio.lowlevel.checkpoint()
                began = time.perf_counter()

    def _changed(self, change: Change) -> None:
        service_type, provider_id = change.registration.service_type, change.registration.runtime_id
        if change.kind is ChangeKind.REPORT:
            return
        concerned = [*self._given.get((service_type, provider_id), ())]
        if change.registration.id in self.registry.callable_ids:
            concerned += self._given.get((service_type, ""), ())
        for watch in concerned:
            watch.note_changed(service_type)
        if self._running and len(concerned) > _MAX_AT_ONCE:
            # A watch that waits already keeps its place, however often there are changes.
            self._to_look.update(dict.fromkeys(concerned))
            self._has_work.set()
        else:
            for watch in concerned:
                watch.look()

    def _gone(self, runtime_id: str) -> None:
        for watch in self.told_of.pop(runtime_id, ()):
            watch.note_gone(runtime_id)


def _discard(watches: dict[_K, dict[Watch, None]], key: _K, watch: Watch) -> None:
    """Take a watch out of an index, in which no key is without watches."""
    of_key = watches[key]
    del of_key[watch]
    if not of_key:
        del watches[key]
