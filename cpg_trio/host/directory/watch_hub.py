"""The watch hub: each watcher gets the changes that concern it, and no others.

A watch (`watch`) follows any number of service types. It follows one provider of a type, or several
(`watched_service`). Of one it is told whenever that is another. The hub knows which watches have been given
which provider, and which have none. A change of a provider concerns the watches that have it; one that begins
to get calls concerns also those that have none. So a change costs constant time for each watch that it
concerns, and nothing for the others.

A few watches are brought up to date while a change is told. Many are left to a task of the hub, which pauses
every few milliseconds, so that one change holds nobody up. A watcher that reads meanwhile brings its own
watch up to date first: what it reads is what holds at that moment. The same task delivers updates to the
watchers that take them at once.

A watcher takes an update when the one before has been sent, so one that does not read holds one update. An
update is small, unless it has a provider with much metadata. Large updates share a budget of bytes, and their
watchers wait for each other.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import trio

from cpg_trio.host.access import Budget, LimitError, Limits, Shares
from cpg_trio.host.directory.registration import Change, ChangeKind, ServiceStatus
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.watch import Watch, id_of_provider
from cpg_trio.host.directory.watched_service import (
    MAX_PROVIDERS,
    Follower,
    ProviderView,
    WatchedService,
    weight_of,
)
from cpg_trio.versions import Requirement

_K = TypeVar("_K")

_LARGE_BYTES = 2 * 1024 * 1024  # of all larger updates that are being sent
_TURNS = 16  # watchers that are served in one round of the loop
_MAX_AT_ONCE = 32  # watches that are brought up to date while a change is told
_SLICE_S = 0.002  # for which the hub's task works at a time


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
        # Filled only while the task runs.
        self._to_look: OrderedDict[Follower, None] = OrderedDict()
        self._to_deliver: OrderedDict[Watch, None] = OrderedDict()
        self._has_work = trio.Event()
        self._running = False
        self._is_working = False  # its task looks at all that there is to do
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
                self._to_deliver.pop(watch, None)
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
            _discard(self._given, (service_type, id_of_provider(before)), watch)
        if now is not None:
            self._given.setdefault((service_type, id_of_provider(now)), {})[watch] = None

    def forget_told_of(self, runtime_id: str, watch: Watch) -> None:
        """Note that a watcher is not told of the end of a provider."""
        _discard(self.told_of, runtime_id, watch)

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

    def deliver_soon(self, watch: Watch) -> bool:
        """Have the task deliver a watch's next update; return False if the task does not run."""
        if self._running:
            self._to_deliver[watch] = None
            if not self._is_working:
                self._has_work.set()
        return self._running

    async def run(self) -> None:
        """Bring watches up to date, and deliver updates, until cancelled.

        Without it watches are brought up to date while a change is told, and watchers take their updates.
        """
        self._running = True
        try:
            while True:
                await self._has_work.wait()
                self._has_work = trio.Event()
                self._is_working = True
                await self._look_at_all()
                self._is_working = False
        finally:
            self._running = self._is_working = False
            self._to_look.clear()
            self._to_deliver.clear()

    async def _look_at_all(self) -> None:
        began = time.perf_counter()
        while self._to_look or self._to_deliver:
            if self._to_look:
                self._to_look.popitem(last=False)[0].look()
            if self._to_deliver:
                _deliver(self._to_deliver.popitem(last=False)[0])
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


def _deliver(watch: Watch) -> None:
    try:
        watch.deliver()
    except Exception as error:  # noqa: BLE001 - the barrier between one watcher and the others
        watch.fail(error)


def _discard(watches: dict[_K, dict[Watch, None]], key: _K, watch: Watch) -> None:
    """Take a watch out of an index, in which no key is without watches."""
    of_key = watches[key]
    del of_key[watch]
    if not of_key:
        del watches[key]
