"""What has to be changed in a store, so that it has what this host knows of a plugin.

A host writes the documents of the plugins that it owns. Any host writes that an identity has been revoked,
and that a plugin is drained. Each change expects the revision that this host knows, so that none undoes what
another host has changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import attrs

from cpg_trio.host.access import EXPIRED, Identity
from cpg_trio.host.directory.documents import (
    NOT_BEFORE,
    SERVICES,
    drained_key,
    encode_not_before,
    ended_key,
    plugin_key,
    service_key,
)
from cpg_trio.host.directory.known_entries import KnownEntries
from cpg_trio.host.directory.plugin_records import PluginRecords
from cpg_trio.store import MAX_COMMIT_BYTES, MAX_OPERATIONS, MAX_VALUE_BYTES, Commit

_MAX_SERVICES = MAX_OPERATIONS - 7  # of a plugin, so that one commit can end it


@attrs.frozen(kw_only=True)
class Change:
    """What is to be committed of one plugin; see `Commit`."""

    about: str
    """The runtime id of the plugin; or `not_before`, which is of all."""
    puts: Mapping[str, bytes] = attrs.field(factory=dict)
    deletes: Sequence[str] = ()
    expected: Mapping[str, int] = attrs.field(factory=dict)
    uniform: Mapping[str, bytes] = attrs.field(factory=dict)
    by_owner: bool = False
    """Whether it may be done only while this host is one of the directory."""
    is_too_much: bool = False
    """Whether a store has no room for as much of one plugin."""

    @property
    def bytes(self) -> int:
        """The size of its keys and values."""
        return sum(len(key) + len(value) for key, value in (*self.puts.items(), *self.uniform.items()))

    @property
    def operations(self) -> int:
        """How many entries it changes."""
        return len(self.puts) + len(self.deletes)

    @property
    def conditions(self) -> int:
        """How many conditions it has."""
        return len(self.expected) + len(self.uniform)

    @property
    def fits(self) -> bool:
        """Whether a store has room for it; one condition is left for that of the host."""
        return (
            not self.is_too_much
            and max(self.operations, self.conditions + 1) <= MAX_OPERATIONS
            and all(len(value) <= MAX_VALUE_BYTES for value in self.puts.values())
            and self.bytes <= MAX_COMMIT_BYTES
        )


class PluginChanges:
    """Compares what there is of plugins with what a store is known to have.

    `owns` tells by a runtime id whether this host owns a plugin. `may_join` tells whether a plugin may
    provide a service beside plugins of other names.
    """

    def __init__(
        self,
        records: PluginRecords,
        known: KnownEntries,
        owns: Callable[[str], bool],
        may_join: Callable[[Identity, str], bool],
    ) -> None:
        self._records = records
        self._known = known
        self._owns = owns
        self._may_join = may_join
        self.not_before = 0.0
        """What the store is known to have."""

    def of(self, about: str) -> Iterator[Change]:
        """Yield what has to be changed for a plugin, or of `not_before`."""
        return self.of_not_before() if about == NOT_BEFORE else self._of_plugin(about)

    def _of_plugin(self, runtime_id: str) -> Iterator[Change]:
        identities, known = self._records.identities, self._known
        ended, owns = identities.ended(runtime_id), self._owns(runtime_id)
        has_ended = ended is not None and (owns or ended.why != EXPIRED)
        puts, deletes = dict[str, bytes](), list[str]()
        if ended is not None and has_ended and ended_key(runtime_id) not in known:
            puts[ended_key(runtime_id)] = self._records.ended(ended)
        if ended is None and ended_key(runtime_id) in known:
            deletes.append(ended_key(runtime_id))
        if identities.entry(runtime_id) is not None:
            if owns:
                yield self._kept(runtime_id, puts, deletes)
            if (drained := self._drained(runtime_id)) is not None:
                yield drained
        elif has_ended or owns:
            keys = known.keys(runtime_id)
            if puts or deletes or keys:
                expected = {plugin_key(runtime_id): known.revision(plugin_key(runtime_id))}
                yield Change(
                    about=runtime_id,
                    puts=puts,
                    deletes=[*deletes, *keys],
                    expected=expected,
                    by_owner=owns and (ended is None or not has_ended or ended.by_owner),
                )
        elif deletes or known.leaves_something(runtime_id):
            yield Change(about=runtime_id, deletes=[*deletes, *known.keys(runtime_id)])

    def of_not_before(self, *, always: bool = False) -> Iterator[Change]:
        """Yield what makes known that tokens have to be newer, if it is not known yet."""
        if (not_before := self._records.identities.not_before) > self.not_before or always:
            expected = {NOT_BEFORE: self._known.revision(NOT_BEFORE)}
            puts = {NOT_BEFORE: encode_not_before(not_before)}
            yield Change(about=NOT_BEFORE, puts=puts, expected=expected)

    def _kept(self, runtime_id: str, puts: dict[str, bytes], deletes: list[str]) -> Change:
        """Return what writes the document of a plugin, and which services it provides."""
        document = self._records.document(runtime_id)
        assert document is not None  # noqa: S101 - it has an identity
        identity, known, key = document.identity, self._known, plugin_key(runtime_id)
        puts[key] = self._records.encoded(document)
        expected = {key: known.revision(key)}
        uniform = dict[str, bytes]()
        if self._records.shared:
            if key not in known and ended_key(runtime_id) not in known:
                expected[ended_key(runtime_id)] = 0  # another host may have revoked it
            name = identity.self_id.encode()
            provided = {registration.service_type for registration in document.registrations}
            before = set(known.types(runtime_id))
            for service_type in sorted(provided - before):
                puts[service_key(service_type, runtime_id)] = name
                if not self._may_join(identity, service_type):
                    uniform[f"{SERVICES}{service_type}/"] = name
            deletes += [service_key(each, runtime_id) for each in sorted(before - provided)]
        return Change(
            about=runtime_id,
            puts=puts,
            deletes=deletes,
            expected=expected,
            uniform=uniform,
            by_owner=True,
            is_too_much=self._records.shared and len(document.registrations) > _MAX_SERVICES,
        )

    def _drained(self, runtime_id: str) -> Change | None:
        """Return what tells that a plugin is drained, or is not any more."""
        key = drained_key(runtime_id)
        value = self._records.drained(runtime_id) if self._records.shared else None
        if (value is not None) == (key in self._known):
            return None
        expected = {key: self._known.revision(key)}
        if value is None:
            return Change(about=runtime_id, deletes=[key], expected=expected)
        return Change(about=runtime_id, puts={key: value}, expected=expected)


def packed(changes: Iterable[Change]) -> Iterator[list[Change]]:
    """Yield changes together as far as one commit has room for them, in their order."""
    some, names = list[Change](), dict[str, bytes]()
    operations = conditions = size = 0
    for change in changes:
        operations += change.operations
        conditions += change.conditions
        size += change.bytes
        is_apart = any(names.get(prefix, name) != name for prefix, name in change.uniform.items())
        if some and (max(operations, conditions + 1) > MAX_OPERATIONS or size > MAX_COMMIT_BYTES or is_apart):
            yield some
            some, names = [], {}
            operations, conditions, size = change.operations, change.conditions, change.bytes
        some.append(change)
        names.update(change.uniform)
    if some:
        yield some


def merged(changes: Iterable[Change], fence: Mapping[str, int]) -> Commit:
    """Return one commit of several changes, which expects what `fence` does, too."""
    changes = list(changes)
    return Commit(
        puts={key: value for change in changes for key, value in change.puts.items()},
        deletes=[key for change in changes for key in change.deletes],
        expected={**{key: value for change in changes for key, value in change.expected.items()}, **fence},
        uniform={key: value for change in changes for key, value in change.uniform.items()},
    )
