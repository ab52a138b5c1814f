"""Applies the entries of a shared store to the memory of a host: what differs, and nothing else.

The store says who owns a plugin. Of a plugin that another host owns, what the store says holds. Of its own
plugins a host knows more than the store does, so memory holds, and what differs in the store is written
again. What is applied is not written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import attrs

from cpg_trio.host.access import Ended, Identities
from cpg_trio.host.cluster.owners import HOSTS, NOBODY, Member, Owners
from cpg_trio.host.directory import Health, Journal, Liveness, Registration, Registry
from cpg_trio.host.directory.documents import (
    DRAINED,
    ENDED,
    PLUGINS,
    Document,
    decode,
    decode_drained,
    decode_ended,
)
from cpg_trio.store import Entry

_log = logging.getLogger("cpg_trio.host")

_MAX_SHOWN = 200  # characters of a key, or of what is wrong with it
_MAX_UNREADABLE = 1000  # keys that are remembered, so that each is logged once


@attrs.frozen(kw_only=True)
class Applier:
    """Applies entries, one by one. Nothing that stands in one raises an error."""

    owners: Owners
    identities: Identities
    registry: Registry
    liveness: Liveness
    journal: Journal
    may_own: Callable[[], bool]
    """Whether this host may own plugins now."""
    end: Callable[[Ended], object]
    """Ends a plugin with all that it has."""
    in_use: Callable[[str], bool]
    """Whether a plugin has something here that lasts only as long as its identity is kept."""
    adopted: Callable[[str, str], object]
    """Called with each plugin that this host has come to own, and with its former owner."""
    hooks: dict[str, Callable[[str, bytes | None], object]] = attrs.field(factory=dict)
    """What is called with the rest of a key and its value, by the beginning of the key."""
    _unreadable: set[str] = attrs.field(factory=set, init=False)

    def apply(self, key: str, entry: Entry | None, revision: int, *, anew: bool = False) -> None:
        """Apply what a key has as of a revision; None: nothing.

        `anew`: memory may differ though this has been applied.
        """
        revision = entry.revision if entry is not None else revision
        try:
            if key.startswith(HOSTS):
                self._host(key, entry)
            elif (hook := self._hook(key)) is not None:
                prefix, call = hook
                call(key.removeprefix(prefix), entry.value if entry is not None else None)
            else:
                value = entry.value if entry is not None else None
                is_known = self.journal.known(key.removeprefix(PLUGINS)) > 0
                is_news = self.journal.applied(key, revision, value)
                if is_news or (anew and self._may_differ(key)):
                    with self.journal.reading(key), self._unread(key, is_known=is_known):
                        self._kept(key, entry)
        except Exception as error:  # noqa: BLE001 - anything may stand in a store, also of a later release
            self._tell(key, error)

    @contextmanager
    def _unread(self, key: str, *, is_known: bool) -> Iterator[None]:
        """Take a plugin whose document cannot be read within the block, and never could be, for another's."""
        try:
            yield
        except Exception:
            if key.startswith(PLUGINS) and not is_known:
                self.liveness.release(runtime_id := key.removeprefix(PLUGINS))
                self.owners.set(runtime_id, NOBODY)
            raise

    def _may_differ(self, key: str) -> bool:
        """Whether memory may have something else than what has been read under a key, and that holds."""
        if not key.startswith(PLUGINS):
            return False
        runtime_id = key.removeprefix(PLUGINS)
        return not (self.owners.owns(runtime_id) and self.journal.is_applied(runtime_id))

    def _hook(self, key: str) -> tuple[str, Callable[[str, bytes | None], object]] | None:
        return next(((p, call) for p, call in self.hooks.items() if key.startswith(p)), None)

    def _kept(self, key: str, entry: Entry | None) -> None:
        """Apply what the journal of a host has written. Raises: ValueError for what cannot be read."""
        for prefix, apply in ((PLUGINS, self._plugin), (ENDED, self._ended), (DRAINED, self._drained)):
            if key.startswith(prefix):
                apply(key.removeprefix(prefix), entry)
                return

    def missing(self, keys: Iterable[str]) -> Iterator[str]:
        """Yield the keys that are known here, or that memory has something of, and that a store has not."""
        there = set(keys)
        yield from [key for key in self.journal.known_keys() if key not in there]
        identities = filter(self.identities.entry, self.identities.known())
        known = {*identities, *self.registry.plugins(), *self.owners.others()}
        for prefix, ids in (
            (HOSTS, self.owners.members),
            (DRAINED, self.registry.drained()),
            (PLUGINS, known),
        ):
            yield from [key for each in ids if (key := f"{prefix}{each}") not in there]

    # What is kept of a plugin

    def _plugin(self, runtime_id: str, entry: Entry | None) -> None:
        document = decode(runtime_id, entry.value, self.journal.seals) if entry is not None else None
        ended = self.identities.ended(runtime_id)
        if ended is not None and ended.by_owner and document and document.owner != self.owners.own_id:
            self.identities.revive(runtime_id)  # another host has adopted it before that was written
            ended = None
        if ended is not None:
            self.journal.note(runtime_id)  # it has ended here, which the store is yet to be told
        elif document is None:
            self._removed(runtime_id)
        else:
            self._changed(document)

    def _changed(self, document: Document) -> None:
        runtime_id = document.identity.runtime_id
        if document.owner == self.owners.own_id:
            self._own(runtime_id)
            return
        self.owners.set(runtime_id, document.owner)  # first, so that nothing of it is seen as this host's
        self.liveness.release(runtime_id)
        with self.journal.applying(runtime_id):
            self.identities.follow(self.journal.records.entry(document))
            self._health(runtime_id, document.health, document.lapsed)
            self._registrations(runtime_id, document.registrations)

    def _own(self, runtime_id: str) -> None:
        """Own a plugin, as the store says. Nobody else has changed it since this host has: memory holds."""
        owned, former = self.owners.owns(runtime_id), self.owners.owner(runtime_id)
        if not self.may_own():
            self.owners.set(runtime_id, NOBODY)
            return
        if not owned:
            self.owners.set(runtime_id, self.owners.own_id)
            self.adopted(runtime_id, former)
        if owned or former == NOBODY:
            self.journal.note(runtime_id)

    def _health(self, runtime_id: str, health: Health | None, lapsed: str) -> None:
        registry = self.registry
        if health is not None and registry.last_report(runtime_id) != health:
            registry.report_health(runtime_id, health)
        if registry.why_lapsed(runtime_id) != lapsed:
            registry.set_lapsed(runtime_id, lapsed)

    def _registrations(self, runtime_id: str, registrations: Iterable[Registration]) -> None:
        registry = self.registry
        before = {r.service_type: r for r in registry.registrations(runtime_id)}
        for registration in registrations:
            known = before.pop(registration.service_type, None)
            if known is None or not registration.is_same_as(known):
                registry.add(registration)
        for registration in before.values():
            registry.unregister(runtime_id, registration.id)

    def _removed(self, runtime_id: str) -> None:
        """Note that nothing is kept of a plugin any more, and that it has not ended."""
        if self.owners.owns(runtime_id):
            self.journal.note(runtime_id)  # memory holds
            return
        with self.journal.applying(runtime_id):
            self.registry.remove_plugin(runtime_id)
            if not self.in_use(runtime_id):
                self.identities.forget(runtime_id)
        self.owners.forget(runtime_id)
        if self.identities.entry(runtime_id) is not None:
            self.journal.note(runtime_id)  # it is this host's from now on, unless another one was first

    def _ended(self, runtime_id: str, entry: Entry | None) -> None:
        if entry is None:
            return  # memory drops it by itself
        ended = decode_ended(runtime_id, entry.value)
        self.liveness.release(runtime_id)
        with self.journal.applying(runtime_id):
            self.end(attrs.evolve(ended, until=ended.until - self.journal.records.since_1970()))
        self.owners.forget(runtime_id)

    def _drained(self, runtime_id: str, entry: Entry | None) -> None:
        why = decode_drained(entry.value) if entry is not None else ""
        with self.journal.applying(runtime_id):
            if not why:
                self.registry.undrain(runtime_id)
            elif self.registry.why_drained(runtime_id) != why:
                self.registry.drain(runtime_id, why)

    def _host(self, key: str, entry: Entry | None) -> None:
        if entry is None:
            self.owners.departed(key.removeprefix(HOSTS))
        else:
            self.owners.arrived(Member.read(key, entry.value))

    def release_all(self) -> None:
        """Own nothing any more: what is known stays as it is, and nothing lapses."""
        for runtime_id in {*self.identities.known(), *self.registry.plugins()}:
            if self.owners.owns(runtime_id) and self.identities.entry(runtime_id) is not None:
                self.liveness.release(runtime_id)
                self.owners.set(runtime_id, NOBODY)

    def _tell(self, key: str, error: Exception) -> None:
        if key in self._unreadable:
            return
        if len(self._unreadable) < _MAX_UNREADABLE:
            self._unreadable.add(key)
        _log.error(
            "the entry %.*r of the store is left out, as it cannot be read: %.*s",
            _MAX_SHOWN,
            key,
            _MAX_SHOWN,
            error,
        )
