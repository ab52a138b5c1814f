"""A watch: what has changed for one watcher, and what it has been told.

It is a conflating cell: it holds what its watcher has not been told yet, one status for each type, however
many changes there have been.

News is delivered in one of two ways. The hub's task sends it (`Delivery`), without a switch to the watcher's
task, if that can be done at once: the watcher's task waits for news, and all that was sent before has gone
out. Otherwise the watcher's task takes it. So what is sent is in order, and a watcher that does not read has
one update in its way, and holds up nobody.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs
import trio

from cpg_trio import wire
from cpg_trio._cell import Cell
from cpg_trio.host.directory.registration import ServiceStatus
from cpg_trio.host.directory.watched_service import ProviderNews, ProviderView
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.versions import Requirement

if TYPE_CHECKING:
    from cpg_trio.host.directory.watch_hub import WatchHub

_MAX_TOLD_OF = 20  # providers whose end a watcher is told; as many as it follows types, if that is more
_UPDATE_BYTES = 4096  # of an update: the rest waits for the next one
_GONE_BYTES = 150  # of an update, for a provider that is gone
_EVENT_BYTES = 400  # of an update, for a status without its metadata


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

    def content(self) -> tuple[object, ...]:
        """Return what it says, for comparison. At one revision, updates that say the same are the same."""
        if len(self.statuses) == 1 and not (self.providers or self.gone):  # as most are
            [(service_type, status)] = self.statuses.items()
            return service_type, status.state, status.provider, status.reason
        return (
            *((name, each.state, each.provider, each.reason) for name, each in self.statuses.items()),
            *((name, *_as_tuple(news)) for name, news in self.providers.items()),
            *self.gone,
        )


def _as_tuple(news: ProviderNews) -> tuple[object, ...]:
    return tuple(news.changed), tuple(news.removed), news.complete, news.reason


class Delivery(Protocol):
    """Sends updates to a watcher, without its task."""

    def is_ready(self) -> bool:
        """Whether an update may be sent to the watcher, and all that was sent before has gone out."""

    def send(self, update: Update, /) -> bool:
        """Send an update as far as that goes without waiting; return False if a part of it is left."""

    async def finish(self) -> None:
        """Send the part that is left."""


def _size(status: ServiceStatus) -> int:
    """Return how many bytes telling a status takes, or some more."""
    metadata = status.provider.metadata if status.provider is not None else None
    if not metadata:
        return _EVENT_BYTES
    return _EVENT_BYTES + sum(len(text.encode()) for entry in metadata.items() for text in entry)


def _in_short(status: ServiceStatus) -> tuple[pb.ServiceState, str]:
    return status.state, status.provider.id if status.provider is not None else ""


def id_of_provider(status: ServiceStatus) -> str:
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
        now = self._now = self._hub.registry.status(self._service_type, before.provider, self.requirement)
        if id_of_provider(now) != id_of_provider(before):
            self._hub.move(self._watch, self._service_type, before, now)

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
        self._delivery: Delivery | None = None
        self._changes = Cell(0)
        self._reader = self._changes.reader()
        self._is_awaited = False  # a task waits for news
        self._error: Exception | None = None  # of a delivery

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

    def deliver_by(self, delivery: Delivery) -> None:
        """Have updates sent by `delivery` while a task waits for the next one. The task gets the others."""
        self._delivery = delivery

    def deliver(self) -> None:
        """Send the next update, as far as that goes without waiting. Called by the hub's task."""
        delivery = self._delivery
        if delivery is None or not self._is_awaited or not delivery.is_ready():
            self._wake_reader()
            return
        if self._changed:
            self.look()
        rooms, size = self._next()
        if size > _UPDATE_BYTES:
            self._wake_reader()  # it waits for room
            return
        update = self._take(rooms)
        if update is not None and not delivery.send(update):
            self._wake_reader()

    def fail(self, error: Exception) -> None:
        """Raise the error of a delivery in the task that waits for news."""
        self._error = error
        self._wake_reader()

    def close(self) -> None:
        """End the iteration, once the changes up to now have been read."""
        if self._unsent or self._gone:
            self._wake_reader()
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
        while True:
            self._is_awaited = True
            try:
                await anext(self._reader)
            finally:
                self._is_awaited = False
            if self._error is not None:
                raise self._error
            try:
                if (update := await self._next_update()) is not None:
                    return update
            except trio.Cancelled:
                self._wake_reader()  # the update has not been taken, and is there for the next read
                raise

    async def _next_update(self) -> Update | None:
        """Take the next update, when there is room for it."""
        if self._delivery is not None:
            await self._delivery.finish()
        budget = self._hub.budget
        while True:
            self.look()
            rooms, size = self._next()
            if size <= _UPDATE_BYTES:
                return self._take(rooms)
            if budget.take(self._share, size):
                self._held = size
                return self._take(rooms)
            await budget.wait(self._share)

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
        if next(reversed(self._told_of), None) == runtime_id:
            return
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
        self._hub.forget_told_of(runtime_id, self)

    def _add_news(self, service_type: str) -> None:
        self._note_behind()
        self._unsent[service_type] = None
        self._wake()

    def _wake(self) -> None:
        """Have the next update delivered, or taken by the task that waits for it."""
        if self._delivery is None or not self._hub.deliver_soon(self):
            self._wake_reader()

    def _wake_reader(self) -> None:
        self._changes.set(self._changes.value + 1)
