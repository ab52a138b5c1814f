"""The entry `meta` of a directory that several hosts share: which directory it is, and which hosts fit it.

Its canary is sealed by the key of the hosts, so a host with another key is refused before it has written or
read anything else. The same refuses a store that has something else in it, and a schema that a later release
has written.

The id that clients see is another one once the store is: one that was restored from a backup has revisions
that clients may have seen, with something else in them. What is sealed is sealed for the `origin`, which
stays.
"""

from __future__ import annotations

import json
import logging
import secrets

import attrs
import trio

from cpg_trio.host.access import Keys
from cpg_trio.http import StartError
from cpg_trio.store import Commit, ConflictError, Entry, Sealer, Snapshot, Store, StoreError, UnsealError

_log = logging.getLogger("cpg_trio.host")

META = "meta"
SCHEMA = 1
"""Grows with each change that a host of the release before would misread."""

_CANARY = b"cpg_trio"
_ID_BYTES = 8
_LOOK_S = 5.0  # for other keys
_PREFIX = "End STATE_URL with a prefix that nothing else uses"
_TEXTS = ("id", "origin", "store", "canary")  # fields of the entry
_MAX_SHOWN = 80  # characters of a key that somebody else has written


@attrs.frozen(kw_only=True)
class _Meta:
    schema: int
    id: str
    origin: str
    store: str
    """`Snapshot.id` of the store that it was written to."""
    canary: str

    def encoded(self) -> bytes:
        return json.dumps(attrs.asdict(self)).encode()


@attrs.frozen
class Joined:
    """A directory that this host fits."""

    id: str
    """Of the directory. Another one if the store was restored, and has lost what clients may have seen."""
    sealer: Sealer
    """Seals what is secret in it."""
    store: Store = attrs.field(repr=False)

    async def follow_keys(self) -> None:
        """Seal the canary anew whenever the hosts' key that seals is another one.

        A host does so once for each change of its own keys: while keys are changed, hosts differ in which is
        the first.
        """
        sealed_by = self.sealer.key_id
        while True:
            await trio.sleep(_LOOK_S)
            if (key_id := self.sealer.key_id) != sealed_by and await self._reseal():
                sealed_by = key_id

    async def _reseal(self) -> bool:
        """Return whether the canary is sealed by the key of now; it is tried again if not."""
        try:
            snapshot = await self.store.load(META)
            meta = _read(next(entry for entry in snapshot.entries if entry.key == META))
            await _write(self.store, snapshot, _sealed(meta, self.sealer))
        except (StartError, StoreError, ConflictError, StopIteration) as error:
            _log.warning("the hosts' key has changed, and that cannot be noted in the store yet: %s", error)
            return False
        _log.info("the hosts' key has changed: the key %s seals in the store now", self.sealer.key_id)
        return True


async def join(store: Store, keys: Keys) -> tuple[Joined, Snapshot]:
    """Return the directory in a store, which is begun if the store is empty, and what was in it before.

    Raises: StartError for a store that this host does not fit, and then nothing has changed.
    """
    keys.open()
    while True:
        snapshot = await _loaded(store)
        before, now, sealer = _examined(snapshot, keys)
        try:
            if now is not before:
                await _write(store, snapshot, now)
        except ConflictError:  # another host has begun it, or has changed the key
            continue
        except StoreError as error:
            raise StartError(f"the store cannot be used: {error}") from error
        return Joined(now.id, sealer, store), snapshot


async def check_fit(store: Store, keys: Keys) -> None:
    """Check that a host fits a store, with its keys, which are open; change nothing. Raises: StartError."""
    _examined(await _loaded(store), keys)


def check_given(keys: Keys) -> None:
    """Check that other hosts can have the keys, before a store is opened. Raises: StartError."""
    if not keys.given:
        raise StartError(
            "a store that several hosts share needs the key that they share: set CPG_HOST_KEY or"
            " CPG_HOST_KEY_FILE, the same for all of them"
        )


async def _loaded(store: Store) -> Snapshot:
    try:
        return await store.load()
    except StoreError as error:
        raise StartError(f"the store cannot be used: {error}") from error


def _examined(snapshot: Snapshot, keys: Keys) -> tuple[_Meta | None, _Meta, Sealer]:
    """Return the entry as it is and as it is to be, and what seals. Raises: StartError."""
    entry = next((entry for entry in snapshot.entries if entry.key == META), None)
    before = _read(entry) if entry is not None else None
    origin = before.origin if before is not None else secrets.token_hex(_ID_BYTES)
    sealer = Sealer(lambda: keys.all, origin)
    now = _begun(snapshot, sealer) if before is None else _continued(before, snapshot, sealer)
    return before, now, sealer


def _begun(snapshot: Snapshot, sealer: Sealer) -> _Meta:
    """Return the entry of a new directory. Raises: StartError unless the store is empty."""
    if snapshot.entries:
        key = snapshot.entries[0].key
        raise StartError(
            f"there is something else in the store already, and no directory of hosts: {key!r:.{_MAX_SHOWN}}."
            f" {_PREFIX}"
        )
    id_ = sealer.directory
    return _sealed(_Meta(schema=SCHEMA, id=id_, origin=id_, store=snapshot.id, canary=""), sealer)


def _continued(meta: _Meta, snapshot: Snapshot, sealer: Sealer) -> _Meta:
    """Return the entry of a directory as it is from now on. Raises: StartError if the key does not fit."""
    if why := _why_unfit(meta, sealer):
        raise StartError(
            f"the key of this host does not fit the directory {meta.id} in the store: {why}. Is another"
            f" directory meant? {_PREFIX}"
        )
    now = meta if sealer.sealed_by_first(meta.canary) else _sealed(meta, sealer)
    if meta.store == snapshot.id:
        return now
    now = attrs.evolve(now, id=secrets.token_hex(_ID_BYTES), store=snapshot.id)
    _log.warning(
        "the store was restored or copied since the directory %s was kept in it, which is %s from now on",
        meta.id,
        now.id,
    )
    return now


def _why_unfit(meta: _Meta, sealer: Sealer) -> str:
    try:
        canary = sealer.unseal(META, meta.canary)
    except UnsealError as error:
        return str(error)
    return "" if canary == _CANARY else "it has another canary"


def _read(entry: Entry) -> _Meta:
    """Return the content of the entry. Raises: StartError."""
    try:
        fields = json.loads(entry.value)
    except ValueError:
        fields = None
    schema = fields.get("schema") if isinstance(fields, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise StartError(
            f"the directory in the store has schema {schema}, and this release reads {SCHEMA}: a later"
            " release has written it; run that one"
        )
    if isinstance(schema, int):
        texts = {name: fields.get(name) for name in _TEXTS}
        if all(isinstance(text, str) for text in texts.values()):
            return _Meta(schema=schema, **texts)
    raise StartError(
        f"there is something else in the store already: its entry {META!r} is not that of a directory of"
        f" hosts. {_PREFIX}"
    )


def _sealed(meta: _Meta, sealer: Sealer) -> _Meta:
    return attrs.evolve(meta, canary=sealer.seal(META, _CANARY))


async def _write(store: Store, snapshot: Snapshot, meta: _Meta) -> None:
    """Write the entry if it is as in the snapshot. Raises: ConflictError; StoreError."""
    revision = next((entry.revision for entry in snapshot.entries if entry.key == META), 0)
    await store.commit(Commit(puts={META: meta.encoded()}, expected={META: revision}))
