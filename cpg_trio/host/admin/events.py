"""What has happened on a host: events that are kept for a while, and their readers.

The log is bounded. When it is full, the oldest event goes of whoever has caused most of them, so that no
stranger's flood pushes out what others have caused. A refusal that is repeated is one event with a count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

import attrs

from cpg_trio._lines import one_line
from cpg_trio.host.admin.fair_table import FairTable
from cpg_trio.host.admin.kept import Kept
from cpg_trio.host.supervision.readers import Reader, Readers
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

MAX_TEXT = 200  # characters of a text in an event
_MAX_NAME = 145  # characters of a runtime id, a name, or what it is about

_REPEATED_S = 60.0  # within which an equal refusal is counted with the former one


def cut(text: str) -> str:
    """Return what is kept of a text that others choose: one printable line."""
    return one_line(text, MAX_TEXT)


def _cut_name(name: str) -> str:
    return one_line(name, _MAX_NAME)


@attrs.frozen(kw_only=True)
class Event:
    """Something that has happened."""

    kind: pb.EventKind
    text: str = attrs.field(converter=cut)
    runtime_id: str = attrs.field(default="", converter=_cut_name)
    name: str = attrs.field(default="", converter=_cut_name)
    """The plugin's own name."""
    managed: str = attrs.field(default="", converter=_cut_name)
    """The name on its platform of a plugin that the host runs."""
    service_type: str = attrs.field(default="", converter=_cut_name)
    address: str = ""
    at: float = 0.0
    """In seconds since 1970."""
    sequence: int = 0
    count: int = 1
    """How many equal events it stands for."""

    @property
    def what(self) -> tuple[object, ...]:
        """What it says. Events that say the same differ in their times."""
        return self.kind, self.text, self.runtime_id, self.name, self.service_type, self.address

    def concerns(self, plugin: str) -> bool:
        """Whether it is about a plugin: a runtime id, a beginning of one, or a name. Empty: any plugin."""
        names = self.name, self.managed
        return not plugin or plugin in names or self.runtime_id.startswith(plugin)


EventReader: TypeAlias = Reader[Event]
"""One reader's place in the log."""


class EventLog:
    """The events that are kept, the oldest first. `wall_clock` gives seconds since 1970."""

    def __init__(self, *, most: int = Kept().events, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._events: FairTable[int, Event] = FairTable(most)  # by sequence
        self._refusals: dict[tuple[object, ...], int] = {}  # what was refused, and the sequence
        self._readers = Readers(self.after, "events")

    @property
    def last(self) -> int:
        """The sequence of the newest event."""
        return self._readers.last

    def __iter__(self) -> Iterator[Event]:
        """Yield the events that are kept, the oldest first."""
        return iter(self._events)

    def add(self, event: Event, cause: str = "") -> None:
        """Keep an event of now. `cause` is who has caused it: the address that a plugin comes from, say."""
        event = attrs.evolve(event, at=self._wall_clock(), sequence=self.last + 1)
        if event.kind == pb.EVENT_KIND_REFUSED:
            event = self._with_former(event)
            self._refusals[event.what] = event.sequence
        self._readers.last = event.sequence
        if (dropped := self._events.put(event.sequence, event, cause)) is not None:
            self._forget_refusal(dropped)
            self._readers.dropped(dropped)
        self._readers.added()

    def reading(
        self, after: int = 0, plugin: str = "", kinds: Collection[pb.EventKind] = ()
    ) -> AbstractContextManager[EventReader]:
        """Return a block with a reader of the events after a sequence; 0 is all that are kept.

        Raises, when entered: ConnectError `resource_exhausted` if there are too many readers.
        """
        wanted = frozenset(kinds)
        return self._readers.reading(
            after, lambda event: (not wanted or event.kind in wanted) and event.concerns(plugin)
        )

    def close(self) -> None:
        """End the readers that follow, once they have read what is there."""
        self._readers.close()

    def after(self, sequence: int) -> Sequence[Event]:
        """Return the events after a sequence, the oldest first."""
        found: list[Event] = []
        for event in reversed(self._events):
            if event.sequence <= sequence:
                break
            found.append(event)
        return found[::-1]

    def of(self, plugin: str) -> Sequence[Event]:
        """Return the events of a plugin that are kept, the oldest first."""
        return [event for event in self if event.concerns(plugin)]

    def _with_former(self, event: Event) -> Event:
        """Return an event that also stands for the former one that it repeats, which it replaces."""
        former = self._events.get(self._refusals.get(event.what, 0))
        if former is None or event.at - former.at >= _REPEATED_S:
            return event
        self._events.pop(former.sequence)
        return attrs.evolve(event, count=former.count + 1)

    def _forget_refusal(self, dropped: Event) -> None:
        if self._refusals.get(dropped.what) == dropped.sequence:
            del self._refusals[dropped.what]
