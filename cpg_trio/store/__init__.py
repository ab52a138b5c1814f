"""Stores of a directory: what one has to do, and those that there are."""

from cpg_trio.store._store import (
    MAX_COMMIT_BYTES,
    MAX_OPERATIONS,
    MAX_VALUE_BYTES,
    Changed,
    Commit,
    CompactedError,
    ConflictError,
    Entry,
    Presence,
    ReplacedError,
    Snapshot,
    Store,
    StoreError,
)
from cpg_trio.store.counted import CountedStore
from cpg_trio.store.etcd import EtcdStore, EtcdUrl
from cpg_trio.store.memory import MemoryStore
from cpg_trio.store.sealing import Sealer, UnsealError
from cpg_trio.store.sqlite import SqliteStore

__all__ = [
    "MAX_COMMIT_BYTES",
    "MAX_OPERATIONS",
    "MAX_VALUE_BYTES",
    "Changed",
    "Commit",
    "CompactedError",
    "ConflictError",
    "CountedStore",
    "Entry",
    "EtcdStore",
    "EtcdUrl",
    "MemoryStore",
    "Presence",
    "ReplacedError",
    "Sealer",
    "Snapshot",
    "SqliteStore",
    "Store",
    "StoreError",
    "UnsealError",
]
