"""Reads, writes and comparisons, as the gateway takes them, and what it answers. No I/O.

Keys and values are base64, numbers are text, and what is zero, empty or false is left out.
"""

from __future__ import annotations

from base64 import b64decode, b64encode

from cpg_trio.store._store import Entry
from cpg_trio.store.etcd._gateway import Json


def text(data: str | bytes) -> str:
    """Return a key or a value as JSON has it."""
    return b64encode(data.encode() if isinstance(data, str) else data).decode()


def below(prefix: str, begin: str = "") -> Json:
    """Return the keys that begin with a prefix, from `begin` on. The last character of a prefix is no ÿ."""
    end = prefix.encode()
    return {"key": text(begin or prefix), "range_end": text(end[:-1] + bytes([end[-1] + 1]))}


def put(key: str, value: bytes, lease: str = "0") -> Json:
    """Return the operation that puts an entry."""
    return {"request_put": {"key": text(key), "value": text(value), "lease": lease}}


def delete(key: str) -> Json:
    """Return the operation that deletes an entry."""
    return {"request_delete_range": {"key": text(key)}}


def read(key: str) -> Json:
    """Return the operation that reads an entry."""
    return {"request_range": {"key": text(key)}}


def read_revision(key: str) -> Json:
    """Return the operation that reads an entry without its value, which may be large."""
    return {"request_range": {"key": text(key), "keys_only": True}}


def read_first(prefix: str) -> Json:
    """Return the operation that reads the first key that begins with a prefix."""
    return {"request_range": {**below(prefix), "limit": "1", "keys_only": True}}


def has_revision(key: str, revision: int) -> Json:
    """Return the comparison: an entry is of this revision; 0: it is not there."""
    return {"key": text(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def has_value(key: str, value: bytes) -> Json:
    """Return the comparison: an entry is there, and has this value."""
    return {"key": text(key), "target": "VALUE", "result": "EQUAL", "value": text(value)}


def all_have_value(prefix: str, value: bytes) -> Json:
    """Return the comparison: there are entries with this prefix, and all have this value."""
    return {**below(prefix), "target": "VALUE", "result": "EQUAL", "value": text(value)}


def none_is_there(prefix: str) -> Json:
    """Return the comparison: there are no entries with this prefix."""
    return {**below(prefix), "target": "VERSION", "result": "EQUAL", "version": "0"}


def entries(answer: Json) -> list[Json]:
    """Return what a read has found."""
    found: list[Json] = answer.get("kvs", [])
    return found


def reads(answer: Json) -> list[Json]:
    """Return what each operation of a transaction has found; the operations are reads."""
    return [each["response_range"] for each in answer.get("responses", ())]


def key_of(kv: Json) -> str:
    """Return the key of an entry. One that is no UTF-8 is not ours, and is kept apart."""
    return b64decode(kv["key"]).decode("utf-8", "surrogateescape")


def revision_of(kv: Json) -> int:
    """Return the revision of the commit that has last changed an entry."""
    return int(kv["mod_revision"])


def value_of(kv: Json) -> bytes:
    """Return the value of an entry."""
    return b64decode(kv.get("value", ""))


def entry_of(kv: Json, prefix: str) -> Entry:
    """Return an entry, whose key is without the prefix."""
    return Entry(key_of(kv).removeprefix(prefix), value_of(kv), revision_of(kv))
