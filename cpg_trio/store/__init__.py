"""Stores of a directory: what one has to do, and those that there are."""

from cpg_trio.store._store import (
    MAX_COMMIT_BYTES as MAX_COMMIT_BYTES,
    MAX_OPERATIONS as MAX_OPERATIONS,
    MAX_VALUE_BYTES as MAX_VALUE_BYTES,
    Changed as Changed,
    Commit as Commit,
    CompactedError as CompactedError,
    ConflictError as ConflictError,
    Entry as Entry,
    Presence as Presence,
    ReplacedError as ReplacedError,
    Snapshot as Snapshot,
    Store as Store,
    StoreError as StoreError,
)
from cpg_trio.store.counted import CountedStore as CountedStore
from cpg_trio.store.etcd import EtcdStore as EtcdStore, EtcdUrl as EtcdUrl
from cpg_trio.store.memory import MemoryStore as MemoryStore
from cpg_trio.store.sealing import Sealer as Sealer, UnsealError as UnsealError
from cpg_trio.store.sqlite import SqliteStore as SqliteStore
