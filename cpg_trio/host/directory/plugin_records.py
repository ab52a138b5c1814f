"""Plugins in the state of this host, as the documents that are kept of them, and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import attrs

from cpg_trio import _clock
from cpg_trio.host.access import SKEW_S, Ended, Entry, Identities
from cpg_trio.host.directory import documents
from cpg_trio.host.directory.documents import Document, Seals, Unsealed
from cpg_trio.host.directory.leases import NOT_HEARD_OF
from cpg_trio.host.directory.registration import Registration
from cpg_trio.host.directory.registry import Registry

_FEW = 100


class PluginRecords:
    """Makes documents of plugins, and puts plugins back.

    `owner` is the id of this host, empty in a store that hosts do not share: there, neither health nor drains
    are kept.
    """

    def __init__(
        self,
        identities: Identities,
        registry: Registry,
        *,
        owner: str = "",
        shared: bool = False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.identities = identities
        self.registry = registry
        self.owner = owner
        self.shared = shared
        self.seals: Seals = Unsealed()
        self._wall_clock = wall_clock
        self._sealed: dict[str, tuple[bytes, str, str]] = {}  # digest, key and sealed text, by runtime id

    def document(self, runtime_id: str) -> Document | None:
        """Return the document of a plugin, as one of this host's; None if it has no identity."""
        entry = self.identities.entry(runtime_id)
        if entry is None:
            self._sealed.pop(runtime_id, None)
            return None
        has_lapsed = self.shared and self.registry.has_lapsed(runtime_id)
        return Document(
            owner=self.owner,
            identity=entry.identity,
            digest=entry.digest,
            expires_at=entry.expires_at + self.since_1970(),
            saved_at=self._wall_clock(),
            registrations=tuple(self.registry.registrations(runtime_id)),
            health=self.registry.last_report(runtime_id) if self.shared else None,
            lapsed=self.registry.health(runtime_id).reason if has_lapsed else "",
        )

    def encoded(self, document: Document) -> bytes:
        """Return the value of a plugin's entry. What has been sealed once is not sealed again."""
        runtime_id, digest, key_id = document.identity.runtime_id, document.digest, self.seals.key_id
        sealed = self._sealed.get(runtime_id)
        if sealed is None or sealed[:2] != (digest, key_id):
            text = self.seals.seal(documents.plugin_key(runtime_id), digest)
            sealed = digest, key_id, text
            if self.shared:
                self._keep(runtime_id, sealed)
        return documents.encode(document, sealed[2])

    def _keep(self, runtime_id: str, sealed: tuple[bytes, str, str]) -> None:
        """Keep what has been sealed, and nothing of plugins that are gone."""
        self._sealed[runtime_id] = sealed
        if len(self._sealed) > 2 * len(self.identities) + _FEW:
            self._sealed = {each: text for each, text in self._sealed.items() if self.identities.entry(each)}

    def ended(self, ended: Ended) -> bytes:
        """Return the value of the entry of an identity that has ended."""
        return documents.encode_ended(ended, ended.until + self.since_1970())

    def drained(self, runtime_id: str) -> bytes | None:
        """Return the value of the entry of a plugin's drain; None for a plugin that is not drained."""
        if not self.registry.is_drained(runtime_id):
            return None
        return documents.encode_drained(self.registry.why_drained(runtime_id))

    def entry(self, document: Document) -> Entry:
        """Return the identity of a document, with the time that it has left on the clock of identities.

        Nothing has more time left than when it was saved: the clock may have been ahead then.
        """
        left_s = document.expires_at - max(self._wall_clock(), document.saved_at)
        return Entry(document.identity, document.digest, _clock.current_time() + left_s)

    def put_back(self, kept: Iterable[Document]) -> list[str]:
        """Put plugins back, which have lapsed until they are heard of; return those that have expired."""
        expired, registrations = list[str](), list[Registration]()
        for document in kept:
            runtime_id = document.identity.runtime_id
            if document.expires_at <= self._wall_clock():
                expired.append(runtime_id)
                continue
            self.identities.restore(self.entry(document))
            registrations += document.registrations
        for registration in sorted(registrations, key=lambda each: (each.sequence, each.id)):
            self.registry.set_lapsed(registration.runtime_id, NOT_HEARD_OF)
            self.registry.restore(registration)
        return expired

    def put_back_ended(self, kept: Iterable[Ended]) -> list[str]:
        """Put identities back that have ended; return those whose time is over."""
        now, since_1970 = self._wall_clock(), self.since_1970()
        over = []
        for ended in sorted(kept, key=lambda each: each.until):
            if ended.until <= now:
                over.append(ended.runtime_id)
            else:
                self.identities.restore_ended(attrs.evolve(ended, until=ended.until - since_1970))
        return over

    def put_back_not_before(self, not_before: float) -> None:
        """Put back from which time on tokens prove something by themselves; the clock may have been ahead."""
        not_before = min(not_before, self._wall_clock() + SKEW_S)
        self.identities.not_before = max(not_before, self.identities.not_before)

    def since_1970(self) -> float:
        """Return what makes a time of the identities' clock one that holds for other processes."""
        return self._wall_clock() - _clock.current_time()
