"""The watch hub: every watcher hears of what changes for it, and of nothing else.

A watch follows any number of service types, and is a conflating cell: it holds what its watcher has not read
yet, one status for each type, however many changes there have been. The registry announces a change once; the
hub works out what it means for each watcher of that type.

A few watchers are looked at on the spot. Many are left to a task of the hub, which pauses every few
milliseconds, so that one change holds nobody up. Who reads meanwhile works its own changes out first, so what
a watcher reads is always what holds at that moment.

News comes in pieces, each taken when the one before has been sent: a watcher that does not read holds one. A
piece is small, unless it is of a provider with much metadata; of such pieces only so many bytes are on their
way at once, and their watchers wait for each other.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import TypeAlias

import attrs
import trio

from cpg_trio import wire
from cpg_trio._cell import Cell
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.host.access.limits import LimitError, Limits
from cpg_trio.host.access.shares import Budget, Shares
from cpg_trio.host.directory.registry import Registry, ServiceStatus

_MOST_TOLD_OF = 20  # providers, or as many as there are types: of those before nobody waits for an answer
_PIECE_BYTES = 4096  # of news: what is more waits for the next piece
_LARGE_BYTES = 2 * 1024 * 1024  # of news in pieces that are larger, on their way at once
_GONE_BYTES = 150  # of a piece of news, for a provider that is gone
_EVENT_BYTES = 400  # of a piece of news, beside metadata
_TURNS = 16  # watchers that are served in one round of the loop
_MOST_ON_THE_SPOT = 32  # watchers that are looked at while a change is announced
_SLICE_S = 0.002  # for which the hub's task works at a time


@attrs.define
class _Followed:
    """A service type that a watch follows."""

    min_version: str
    now: ServiceStatus
    told: tuple[pb.ServiceState, str] | None = None
    """What its watcher has read last: a state and the id of a registration, not the registration itself."""

    @property
    def is_news(self) -> bool:
        return _in_short(self.now) != self.told


def _size(status: ServiceStatus) -> int:
    """Return how many bytes telling a status takes, or some more."""
    metadata = status.provider.metadata if status.provider is not None else {}
    return _EVENT_BYTES + sum(len(text.encode()) for entry in metadata.items() for text in entry)


def _in_short(status: ServiceStatus) -> tuple[pb.ServiceState, str]:
    return status.state, status.provider.id if status.provider is not None else ""


@attrs.frozen
class News:
    """What a watcher has not been told yet: the newest status of each service type that differs."""

    revision: int
    """That of the registry."""
    statuses: Mapping[str, ServiceStatus]
    gone: Sequence[str] = ()
    """Providers that the watcher has been told of, and that are gone for good."""


_Followers: TypeAlias = dict[str, dict["Watch", None]]
_Unseen: TypeAlias = dict[str, OrderedDict["Watch", None]]
"""Those that have yet to be looked at, by the service type that has changed."""


class Watch:
    """One watcher's view of the service types that it follows. Iterated once, by one task.

    Yields news: at first all that is followed, then what changes, until the hub closes.
    """

    def __init__(
        self,
        registry: Registry,
        followers: _Followers,
        unseen: _Unseen,
        subscriptions: Shares,
        budget: Budget,
        share: str,
    ) -> None:
        self._registry = registry
        self._subscriptions = subscriptions
        self._budget = budget
        self._share = share
        self._held = 0  # of the budget, for the piece that was taken last
        self._followers = followers
        self._unseen = unseen
        self._followed: dict[str, _Followed] = {}
        self._told_of: dict[str, None] = {}  # providers, the latest last
        self._gone: dict[str, None] = {}
        self._changes = Cell(0)
        self._reader = self._changes.reader()

    def __len__(self) -> int:
        """Return how many types are followed."""
        return len(self._followed)

    def subscribe(self, service_type: str, min_version: str = "") -> None:
        """Follow a type, of which providers older than `min_version` do not count; its status is news.

        Raises: wire.InvalidError for a type or version that is none, LimitError for one too many; and then
        nothing has changed.
        """
        wire.validate_service_type(service_type)
        if min_version:
            wire.validate_version(min_version)
        if service_type not in self._followed:
            self._subscriptions.check(self._share)
            self._subscriptions.add(self._share)
        now = self._registry.status(service_type, min_version=min_version)
        self._followed[service_type] = _Followed(min_version, now)
        self._followers.setdefault(service_type, {})[self] = None
        self._wake()

    def unsubscribe(self, service_type: str) -> None:
        """Follow a type no more. One that is not followed is no error."""
        if self._followed.pop(service_type, None) is None:
            return
        self._subscriptions.remove(self._share)
        followers = self._followers[service_type]
        del followers[self]
        if not followers:
            del self._followers[service_type]
        if (unseen := self._unseen.get(service_type)) is not None:
            unseen.pop(self, None)

    def changed(self, service_type: str) -> None:
        """Look at a type that has changed; wake the watcher if that makes a difference to it."""
        followed = self._followed[service_type]
        now = self._registry.status(service_type, followed.now.provider, followed.min_version)
        if now != followed.now:
            followed.now = now
            self._wake()

    def gone(self, runtime_id: str) -> None:
        """Hear that a plugin is gone; tell the watcher if it knows it."""
        if runtime_id in self._told_of:
            del self._told_of[runtime_id]
            self._gone[runtime_id] = None
            self._wake()

    def close(self) -> None:
        """End the iteration, once what is news now has been read."""
        self._changes.close()

    def end(self) -> None:
        """Follow nothing more."""
        self._give_back()
        for service_type in list(self._followed):
            self.unsubscribe(service_type)

    def large(self, size: int) -> AbstractAsyncContextManager[None]:
        """Return a block in which the watcher holds so many bytes. It waits for room if they are many."""
        return self._budget.held(self._share, size) if size > _PIECE_BYTES else nullcontext()

    def __aiter__(self) -> Watch:
        """Return itself: a watch is read once."""
        return self

    async def __anext__(self) -> News:
        """Wait for news. What was returned before has been sent by now."""
        self._give_back()
        async for _ in self._reader:
            if (news := await self._piece()) is not None:
                return news
        raise StopAsyncIteration

    async def _piece(self) -> News | None:
        """Take the next piece of the news, when there is room for it."""
        while True:
            self._look()
            names, size = self._next()
            if size <= _PIECE_BYTES:
                return self._take(names)
            if self._budget.take(self._share, size):
                self._held = size
                return self._take(names)
            try:
                await self._budget.wait(self._share)
            except trio.Cancelled:
                self._wake()  # the news has not been taken, and is there for the next read
                raise

    def _give_back(self) -> None:
        if self._held:
            self._budget.give_back(self._share, self._held)
            self._held = 0

    def _next(self) -> tuple[list[str], int]:
        """Return which types the next piece tells of, and how large that is."""
        names: list[str] = []
        size = _GONE_BYTES * len(self._gone)
        for name, followed in self._followed.items():
            if followed.is_news:
                more = _size(followed.now)
                if names and size + more > _PIECE_BYTES:
                    self._wake()  # the rest is another piece
                    break
                names.append(name)
                size += more
        return names, size

    def _look(self) -> None:
        """Work out what has changed and the hub has not come to yet."""
        for service_type in [name for name in self._unseen if name in self._followed]:
            watches = self._unseen[service_type]
            if self in watches:
                del watches[self]
                self.changed(service_type)

    def _take(self, names: Sequence[str]) -> News | None:
        statuses: dict[str, ServiceStatus] = {}
        for name in names:
            followed = self._followed[name] = self._followed.pop(name)  # who was told of comes last next time
            statuses[name] = followed.now
            followed.told = _in_short(followed.now)
            if (provider := followed.now.provider) is not None:
                self._told_of.pop(provider.runtime_id, None)
                self._told_of[provider.runtime_id] = None
        while len(self._told_of) > max(_MOST_TOLD_OF, len(self._followed)):
            del self._told_of[next(iter(self._told_of))]
        gone, self._gone = list(self._gone), {}
        return News(self._registry.revision, statuses, gone) if statuses or gone else None

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
        self._registry = registry
        self._limits = limits = limits or Limits()
        self._share_of = share_of
        self._shares = Shares("watches", limits.max_watches)
        self._subscriptions = Shares("subscriptions of all watches", limits.max_all_subscriptions)
        self._budget = Budget(_LARGE_BYTES)
        self.turns = trio.Semaphore(_TURNS)
        """To be held while something is worked out for a watcher, and not while it is sent, so that watchers
        that ask for much wait for each other, and others do not wait for all of them."""
        self._watches: dict[Watch, None] = {}
        self._of_each: dict[str, dict[Watch, None]] = {}
        self._followers: _Followers = {}
        self._unseen: _Unseen = {}  # filled only while the task runs
        self._changed_types = trio.Event()
        self._running = False
        self._closed = False
        registry.subscribe(self._changed)
        registry.subscribe_gone(self._gone)

    @contextmanager
    def watch(self, watcher: str) -> Iterator[Watch]:
        """Yield a watch of a plugin's that follows nothing yet, for as long as the block lasts.

        Raises: LimitError.
        """
        share = self._share_of(watcher)
        self._check_room(watcher, share)
        watch = Watch(self._registry, self._followers, self._unseen, self._subscriptions, self._budget, share)
        if self._closed:
            watch.close()
        self._watches[watch] = None
        mine = self._of_each.setdefault(watcher, {})
        mine[watch] = None
        self._shares.add(share)
        try:
            yield watch
        finally:
            watch.end()
            del self._watches[watch]
            self._shares.remove(share)
            del mine[watch]
            if not mine:
                del self._of_each[watcher]

    def _check_room(self, watcher: str, share: str) -> None:
        each = self._limits.max_watches_per_plugin
        if len(self._of_each.get(watcher, ())) >= each:
            raise LimitError("watches of one plugin", each)
        self._shares.check(share)

    def close(self) -> None:
        """End every watch: the host is stopping."""
        self._closed = True
        for watch in self._watches:
            watch.close()

    def close_of(self, watcher: str) -> None:
        """End every watch of a plugin."""
        for watch in self._of_each.get(watcher, ()):
            watch.close()

    def __len__(self) -> int:
        """Return how many watches there are."""
        return len(self._watches)

    def has(self, watcher: str) -> bool:
        """Whether a plugin has a watch."""
        return watcher in self._of_each

    def watchers(self, service_type: str) -> int:
        """Return how many follow a type."""
        return len(self._followers.get(service_type, ()))

    async def run(self) -> None:
        """Look at the watchers of what has changed, until cancelled. Without it all is done on the spot."""
        self._running = True
        try:
            while True:
                await self._changed_types.wait()
                self._changed_types = trio.Event()
                await self._look_at_all()
        finally:
            self._running = False
            self._unseen.clear()

    async def _look_at_all(self) -> None:
        began = time.perf_counter()
        while self._unseen:
            service_type, watches = next(iter(self._unseen.items()))
            if watches:
                watches.popitem(last=False)[0].changed(service_type)
            else:
                del self._unseen[service_type]
            if time.perf_counter() - began > _SLICE_S:
                await trio.lowlevel.checkpoint()
                began = time.perf_counter()

    def _changed(self, service_type: str) -> None:
        followers = self._followers.get(service_type)
        if followers is None:
            return
        if len(followers) <= _MOST_ON_THE_SPOT or not self._running:
            for watch in followers:
                watch.changed(service_type)
            return
        # Who waits already keeps its place, so that frequent changes keep nobody from being looked at.
        self._unseen.setdefault(service_type, OrderedDict()).update(followers)
        self._changed_types.set()

    def _gone(self, runtime_id: str) -> None:
        for watch in self._watches:
            watch.gone(runtime_id)
