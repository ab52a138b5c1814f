"""The watch hub: each watcher gets the changes that concern it, and no others.

A watch follows any number of service types. It is a conflating cell: it holds what its watcher has not read
yet, one status for each type, however many changes there have been.

A watch follows one provider of a type, or several (`watched_service`). Of one it is told whenever that is
another. The hub knows which watches have been given which provider, and which have none. A change of a
provider concerns the watches that have it; one that begins to get calls concerns also those that have none.
So a change costs constant time for each watch that it concerns, and nothing for the others.

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
from typing import TypeAlias, TypeVar

import attrs
import trio

from cpg_trio import wire
from cpg_trio._cell import Cell
from cpg_trio.host.access import Budget, LimitError, Limits, Shares
from cpg_trio.host.directory.registration import Change, ChangeKind, ServiceStatus
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.watched_service import (
    MAX_PROVIDERS,
    Follower,
    ProviderNews,
    ProviderView,
    WatchedService,
    weight_of,
)
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.versions import Requirement

_K = TypeVar("_K")

_MAX_TOLD_OF = 20  # providers whose end a watcher is told; as many as it follows types, if that is more
_UPDATE_BYTES = 4096  # of an update: the rest waits for the next one
_LARGE_BYTES = 2 * 1024 * 1024  # of all larger updates that are being sent
_GONE_BYTES = 150  # of an update, for a provider that is gone
_EVENT_BYTES = 400  # of an update, for a status without its metadata
_TURNS = 16  # watchers that are served in one round of the loop
_MAX_AT_ONCE = 32  # watches that are brought up to date while a change is told
_SLICE_S = 0.002  # for which the hub's task works at a time


@attrs.frozen
class Update:
    """What has changed for a watcher: the current status of each service type that differs."""

    revision: int
    """That of the registry."""
    statuses: Mapping[str, ServiceStatus]
    """Of the types of which the watcher follows one provider."""
    gone: Sequence[str] = ()
    """Providers that the watcher has been told of, and that are gone for good."""
    providers: Mapping[str, ProviderNews] = {}
    """Of the types of which the watcher follows several."""


def _size(status: ServiceStatus) -> int:
    """Return how many bytes telling a status takes, or some more."""
    metadata = status.provider.metadata if status.provider is not None else {}
    return _EVENT_BYTES + sum(len(text.encode()) for entry in metadata.items() for text in entry)


def _in_short(status: ServiceStatus) -> tuple[pb.ServiceState, str]:
    return status.state, status.provider.id if status.provider is not None else ""


def _provider_id(status: ServiceStatus) -> str:
    return status.provider.runtime_id if status.provider is not None else ""


class _OneProvider:
    """The status of a service type, for a watch that follows one provider of it."""

    __slots__ = ("_hub", "_now", "_service_type", "_told", "_watch", "requirement")

    def __init__(self, hub: WatchHub, watch: Watch, service_type: str, requirement: Requirement) -> None:
        self._hub = hub
        self._watch = watch
        self._service_type = service_type
        self.requirement = requirement
        self._now = hub.registry.status(service_type, None, requirement)
        self._told: tuple[pb.ServiceState, str] | None = None
        # A state and the id of a registration, not the registration itself, which may be gone.
        hub.move(watch, service_type, None, self._now)

    @property
    def has_news(self) -> bool:
        """Whether the watcher has been told of another status."""
        return _in_short(self._now) != self._told

    def look(self) -> None:
        """Take the status of now."""
        before = self._now
        self._now = self._hub.registry.status(self._service_type, before.provider, self.requirement)
        self._hub.move(self._watch, self._service_type, before, self._now)

    def size(self, _room: int) -> int:
        """Return the bytes, or some more, that the status takes."""
        return _size(self._now)

    def take(self) -> ServiceStatus:
        """Return the status, of which the watcher is told."""
        self._told = _in_short(self._now)
        return self._now

    def leave(self) -> None:
        """Follow it no more."""
        self._hub.move(self._watch, self._service_type, self._now, None)


_Followed: TypeAlias = _OneProvider | ProviderView


class Watch:
    """One watcher's view of the service types that it follows. Iterated once, by one task.

    Yields updates: at first all that is followed, then what changes, until the hub closes.
    """

    def __init__(self, hub: WatchHub, watcher: str, share: str) -> None:
        self._hub = hub
        self._watcher = watcher
        self._share = share
        self._held = 0  # bytes of the budget, for the update that was taken last
        self._followed: dict[str, _Followed] = {}
        self._several = 0  # providers that it knows of the types of which it follows several
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

    @property
    def requirements(self) -> Mapping[str, Requirement]:
        """Which versions count, by the types that are followed."""
        return {service_type: each.requirement for service_type, each in self._followed.items()}

    def subscribe(
        self, service_type: str, min_version: str = "", version_range: str = "", max_providers: int = 0
    ) -> None:
        """Follow a type, of which only the versions that are required count; send its status.

        With `max_providers` follow so many of its providers, but no more than the hub allows, each by itself.
        Raises: wire.InvalidError for a type, version or range that is none, LimitError for one too many; and
        then nothing has changed.
        """
        wire.validate_service_type(service_type)
        requirement = Requirement.parse(min_version, version_range)
        hub, before = self._hub, self._followed.get(service_type)
        if before is None:
            hub.subscriptions.check(self._share)
        hub.range_bytes.check(self._share, requirement.version_range.held_bytes)
        if before is not None:
            self.unsubscribe(service_type)
        hub.subscriptions.add(self._share)
        hub.range_bytes.add(self._share, requirement.version_range.held_bytes)
        if max_providers:
            self._followed[service_type] = hub.follow_several(
                self, service_type, requirement, max_providers, watcher=self._watcher, share=self._share
            )
        else:
            self._followed[service_type] = _OneProvider(hub, self, service_type, requirement)
        self._add_news(service_type)

    def unsubscribe(self, service_type: str) -> None:
        """Follow a type no more. One that is not followed is no error."""
        followed = self._followed.pop(service_type, None)
        if followed is None:
            return
        self._changed.pop(service_type, None)
        self._unsent.pop(service_type, None)
        self._hub.subscriptions.remove(self._share)
        self._hub.range_bytes.remove(self._share, followed.requirement.version_range.held_bytes)
        if isinstance(followed, ProviderView):
            self._several -= len(followed.told)
            self._hub.leave_several(self, followed, self._share)
        else:
            followed.leave()

    def forget_told(self, service_type: str) -> None:
        """Tell of all providers of a type anew when there is news of it: the watcher was told of none."""
        if isinstance(followed := self._followed.get(service_type), ProviderView):
            self._several -= len(followed.told)
            followed.forget_told()

    def note_changed(self, service_type: str) -> None:
        """Note that a type has to be looked at."""
        self._changed[service_type] = None

    def look(self) -> None:
        """Look at the types that have changed; wake the watcher if that makes a difference to it."""
        while self._changed:
            service_type, _ = self._changed.popitem()
            followed = self._followed[service_type]
            followed.look()
            if followed.has_news:
                self._add_news(service_type)
            else:
                self._unsent.pop(service_type, None)

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
            rooms, size = self._next()
            if size <= _UPDATE_BYTES:
                return self._take(rooms)
            if budget.take(self._share, size):
                self._held = size
                return self._take(rooms)
            try:
                await budget.wait(self._share)
            except trio.Cancelled:
                self._wake()  # the update has not been taken, and is there for the next read
                raise

    def _give_back(self) -> None:
        if self._held:
            self._hub.budget.give_back(self._share, self._held)
            self._held = 0

    def _next(self) -> tuple[Mapping[str, int], int]:
        """Return the types in the next update, with the room that each finds, and the update's bytes."""
        rooms: dict[str, int] = {}
        size = _GONE_BYTES * len(self._gone)
        for name in self._unsent:
            room = _UPDATE_BYTES - size
            more = self._followed[name].size(room)
            if rooms and more > room:
                self._wake()  # the rest is another update
                break
            rooms[name] = room
            size += more
        return rooms, size

    def _take(self, rooms: Mapping[str, int]) -> Update | None:
        statuses: dict[str, ServiceStatus] = {}
        providers: dict[str, ProviderNews] = {}
        for name, room in rooms.items():
            del self._unsent[name]
            followed = self._followed[name]
            if isinstance(followed, ProviderView):
                self._several -= len(followed.told)
                providers[name] = news = followed.take(room)
                self._several += len(followed.told)
                for registration, _ in news.changed:
                    self._tell_of(registration.runtime_id)
                if followed.has_news:
                    self._add_news(name)
            else:
                statuses[name] = status = followed.take()
                if status.provider is not None:
                    self._tell_of(status.provider.runtime_id)
        gone, self._gone = self._gone, []
        if not (statuses or gone or providers):
            return None
        return Update(self._hub.registry.revision, statuses, gone, providers)

    def _tell_of(self, runtime_id: str) -> None:
        """Note that the watcher is told of a provider; forget the one that it was told of longest ago.

        Of the types of which it follows several, those that get calls are not forgotten.
        """
        self._told_of.pop(runtime_id, None)
        self._told_of[runtime_id] = None
        self._hub.told_of.setdefault(runtime_id, {})[self] = None
        while len(self._told_of) > max(_MAX_TOLD_OF, len(self._followed)) + self._several:
            oldest = next(iter(self._told_of))
            if self._several and self._may_call(oldest):
                self._told_of[oldest] = self._told_of.pop(oldest)
            else:
                self._forget_told_of(oldest)

    def _may_call(self, runtime_id: str) -> bool:
        return any(runtime_id in f.told for f in self._followed.values() if isinstance(f, ProviderView))

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
        self.range_bytes = Shares("bytes of version ranges of all watches", limits.max_version_range_bytes)
        self._places = Shares("providers of all watches", limits.max_watched_providers)
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
        self._services: dict[str, WatchedService] = {}  # those of which several providers are followed
        self._to_look: OrderedDict[Follower, None] = OrderedDict()  # filled only while the task runs
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
            watch = Watch(self, watcher, share)
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

    def requirements(self, watcher: str) -> Mapping[str, Requirement]:
        """Return which versions a plugin accepts of the types that it follows."""
        watches = self._watches.get(watcher, ())
        return {name: each for watch in watches for name, each in watch.requirements.items()}

    def watchers(self, service_type: str) -> int:
        """Return how many watches follow a type. Looks at all of them: for tests and for people who debug."""
        service = self._services.get(service_type)
        several = service.by_requirement.values() if service is not None else ()
        return sum(len(watches) for (name, _), watches in self._given.items() if name == service_type) + sum(
            len(candidates.watches) for candidates in several
        )

    def move(
        self, watch: Watch, service_type: str, before: ServiceStatus | None, now: ServiceStatus | None
    ) -> None:
        """Note which provider of a type a watch has; None before it follows the type, and after."""
        if before is not None:
            _discard(self._given, (service_type, _provider_id(before)), watch)
        if now is not None:
            self._given.setdefault((service_type, _provider_id(now)), {})[watch] = None

    def follow_several(
        self,
        follower: Follower,
        service_type: str,
        requirement: Requirement,
        wanted: int,
        *,
        watcher: str,
        share: str = "",
    ) -> ProviderView:
        """Have somebody follow several providers of a type; one, where there are no places for more.

        The providers are ranked for `watcher`, and the places count for `share`.
        """
        most = places = min(wanted, MAX_PROVIDERS)
        try:
            self._places.check(share, places)
        except LimitError:
            most, places = 1, 0
        self._places.add(share, places)
        service = self._services.get(service_type)
        if service is None:
            service = self._services[service_type] = WatchedService(self.registry, service_type)
        candidates = service.candidates(requirement)
        candidates.watches[follower] = None
        return ProviderView(candidates, weight_of(watcher) | 1, most, places)

    def leave_several(self, follower: Follower, view: ProviderView, share: str = "") -> None:
        """Have somebody follow the providers of a type no more."""
        candidates, service = view.candidates, view.candidates.service
        self._places.remove(share, view.places)
        del candidates.watches[follower]
        if not candidates.watches:
            del service.by_requirement[candidates.requirement]
        if not service.by_requirement:
            del self._services[service.service_type]

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
        concerned: list[Follower] = [*self._given.get((service_type, provider_id), ())]
        if change.registration.id in self.registry.callable_ids:
            concerned += self._given.get((service_type, ""), ())
        if (service := self._services.get(service_type)) is not None:
            concerned += service.change(provider_id)
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
