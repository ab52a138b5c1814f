"""Commits of changes: as many at once as a store permits, and those that conflict apart.

A commit that failed may have been done, so that what the store has of its plugins is looked at before the
next one. A conflict concerns one plugin: the others of its commit are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from cpg_trio.host.directory.documents import (
    NOT_BEFORE,
    SERVICES,
    Document,
    Unsealed,
    decode,
    decode_not_before,
    drained_key,
    plugin_key,
)
from cpg_trio.host.directory.known_entries import KnownEntries
from cpg_trio.host.directory.plugin_changes import Change, PluginChanges, merged, packed
from cpg_trio.host.directory.plugin_records import PluginRecords
from cpg_trio.rpc import Code, ConnectError
from cpg_trio.store import Commit, ConflictError, Entry, Store, StoreError

_TRIES = 5  # to write what is changed by others at the same time


class _Unread(Unsealed):
    """For documents whose digest is of no interest."""

    def unseal(self, _: str, __: str) -> bytes:
        return b""


class Commits:
    """Writes changes to a store.

    `fence` returns what each commit of an owner expects in addition; it raises StoreError while this host may
    not write. `refuse` is called with a plugin whose change is not possible, and with the reason.
    `refuse_service` is called with a plugin, a service that plugins of other names provide, and their names.
    """

    def __init__(
        self,
        store: Store,
        records: PluginRecords,
        known: KnownEntries,
        changes: PluginChanges,
        fence: Callable[[], Mapping[str, int]],
        refuse: Callable[[str, Exception], None],
        refuse_service: Callable[[str, str, list[str]], None],
    ) -> None:
        self._store = store
        self._records = records
        self._known = known
        self._changes = changes
        self._fence = fence
        self._refuse = refuse
        self._refuse_service = refuse_service
        self._uncertain: dict[str, None] = {}  # plugins of a commit that may have been done

    async def write(self, changes: Iterable[Change]) -> None:
        """Write changes, first those of any host. Raises: StoreError, and some may have been written."""
        changes = list(self._fitting(changes))
        for by_owner in (False, True):
            for some in packed(change for change in changes if change.by_owner is by_owner):
                await self._commit(some)

    async def look_again(self) -> None:
        """Look at what may have been changed by commits that failed. Raises: StoreError."""
        while self._uncertain:
            about = next(iter(self._uncertain))
            await self._look(about)
            del self._uncertain[about]

    def _fitting(self, changes: Iterable[Change]) -> Iterable[Change]:
        for change in changes:
            if change.fits:
                yield change
            else:
                message = f"{self._store} has no room for as much of one plugin; nothing has changed"
                self._refuse(change.about, ConnectError(Code.RESOURCE_EXHAUSTED, message))

    async def _commit(self, changes: list[Change]) -> None:
        fence = self._fence() if any(change.by_owner for change in changes) else {}
        try:
            await self._try(changes, fence)
        except ConflictError as error:
            if fence and not await self._holds(Commit(expected=fence)):
                raise StoreError("this host has been away, and is none of the directory's now") from error
            if len(changes) == 1:
                await self._resolve(changes[0].about, changes[0])
                return
            half = len(changes) // 2
            await self._commit(changes[:half])
            await self._commit(changes[half:])

    async def _try(self, changes: list[Change], fence: Mapping[str, int]) -> None:
        commit = merged(changes, fence)
        try:
            with self._known.committing(commit):
                revision = await self._store.commit(commit)
        except StoreError:
            self._uncertain.update((change.about, None) for change in changes)
            raise
        self._known.committed(commit, revision)
        if (not_before := commit.puts.get(NOT_BEFORE)) is not None:
            self._changes.not_before = decode_not_before(not_before)

    async def _holds(self, commit: Commit) -> bool:
        try:
            await self._store.commit(commit)
        except ConflictError:
            return False
        return True

    async def _resolve(self, about: str, change: Change) -> None:
        """Write what is in conflict with the store once that is known, or refuse it: the store wins."""
        for _ in range(_TRIES):
            for prefix, name in change.uniform.items():
                if others := [n for n in await self._names(prefix) if n != name.decode()]:
                    self._refuse_service(about, prefix.removeprefix(SERVICES).removesuffix("/"), others)
                    return
            if not await self._look(about) and change.by_owner:
                break
            try:
                for each in self._fitting(list(self._changes.of(about))):
                    change = each
                    await self._try([change], self._fence() if change.by_owner else {})
            except ConflictError:
                continue
            return
        if not change.by_owner:  # what any host may change has to be written: the end of a plugin, a drain
            raise StoreError(f"{about} is changed by others all the time")
        message = "another host has changed this plugin at the same time; nothing has changed"
        self._refuse(about, ConnectError(Code.UNAVAILABLE, message))

    async def _names(self, prefix: str) -> list[str]:
        found = await self._store.load(prefix)
        return sorted({entry.value.decode(errors="replace") for entry in found.entries})

    async def _look(self, about: str) -> bool:
        """Look at what the store has of a plugin; return whether this host may change it.

        It may not if the plugin has another owner by now, or is not there any more.
        """
        if about == NOT_BEFORE:
            entry = await self._look_at(NOT_BEFORE)
            self._changes.not_before = _time(entry)
            return True
        if self._records.shared:
            await self._look_at(drained_key(about))
        entry = await self._found(plugin_key(about))
        document = _read(about, entry)
        if self._is_of_owner(about) and not self._is_own(about, entry, document):
            return False
        revision = entry.revision if entry is not None else 0
        self._known.take_over(plugin_key(about), revision)
        if self._records.shared and document is not None:
            types = {registration.service_type for registration in document.registrations}
            self._known.take_over_types(about, types, revision)
        return True

    async def _look_at(self, key: str) -> Entry | None:
        entry = await self._found(key)
        self._known.take_over(key, entry.revision if entry is not None else 0)
        return entry

    def _is_of_owner(self, about: str) -> bool:
        """Whether what is to be written of a plugin is for its owner to write: also that it was silent."""
        identities = self._records.identities
        ended = identities.ended(about)
        return identities.entry(about) is not None or (ended is not None and ended.by_owner)

    def _is_own(self, about: str, entry: Entry | None, document: Document | None) -> bool:
        if entry is None:
            return plugin_key(about) not in self._known
        return document is not None and document.owner == self._records.owner

    async def _found(self, key: str) -> Entry | None:
        found = await self._store.load(key)
        return next((entry for entry in found.entries if entry.key == key), None)


def _time(entry: Entry | None) -> float:
    """Return the time of an entry; 0 if there is none, or none that can be read."""
    try:
        return decode_not_before(entry.value) if entry is not None else 0.0
    except (ValueError, RecursionError):
        return 0.0


def _read(runtime_id: str, entry: Entry | None) -> Document | None:
    """Return a document; None if there is none, or none that this release understands."""
    if entry is None:
        return None
    try:
        return decode(runtime_id, entry.value, _Unread())
    except (ValueError, RecursionError):
        return None
