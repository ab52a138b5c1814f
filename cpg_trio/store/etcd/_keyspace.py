"""The keys of one directory in one cluster, and whether it is still the one that was opened.

The directory has a key of its own, the *stamp*. Its value is the random id of the store, and each commit puts
it again. That does three things:

- Each commit compares its value. So nothing is changed in another cluster, or where all was deleted.
- Its revision is that of the last commit below the prefix. The revision of the cluster also grows by what
  others do in it, which those who follow this prefix never see.
- To put it when nothing happens (`touch`) shows that a watch is alive, and how far it has come. A watch of
  the whole cluster would need more permission, and etcd's notices of progress come once in ten minutes.

A commit whose answer is lost may be done later: it may wait in the buffer of a member that is stopped. So
each commit expects that a key, its *fence*, is not there. After one that is in doubt, the fence is put before
anything else is asked, and commits have a new one. What is read from then on is all that was done.
"""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from hashlib import sha256

import attrs
import trio

from cpg_trio.http import StartError
from cpg_trio.store._store import ReplacedError
from cpg_trio.store.etcd import _operations as op
from cpg_trio.store.etcd._gateway import Gateway, Json, RefusedError, UncertainError

_LEAST_VERSION = (3, 4)  # whose gateway has these paths and names
_FENCE_S = "3600"
_KIND, _FORMAT = "cpg_trio directory", 1

#: The key of the stamp, below which are the fences.
STAMP = "store"


@attrs.frozen
class Reading:
    """What a read of the stamp says."""

    committed: int
    """The revision of the last commit of the directory."""
    revision: int
    """That of the last change of anybody in the cluster."""


class Keyspace:
    """The keys below a prefix. Once it is open, each answer is checked to come from the same store."""

    def __init__(self, gateway: Gateway, prefix: str) -> None:
        self.gateway = gateway
        self.prefix = prefix
        self.id = ""
        """Which store this is, in this cluster: another one after it was restored as a new cluster."""
        self.stamp = prefix + STAMP
        self._value = b""
        self._cluster = ""
        self._seen = 0
        self._replaced: ReplacedError | None = None
        self._fence = self._new_fence()
        self._in_doubt: list[str] = []  # the fences of commits that may still be done
        self._settling = trio.Lock()

    async def open(self) -> None:
        """Find the store, or begin one where nothing is. Raises: StoreError; StartError."""
        new = json.dumps({"kind": _KIND, "format": _FORMAT, "id": secrets.token_hex(8)}).encode()
        answer, found = await self._find([op.put(self.stamp, new)])
        self._value = new if found is None else found
        store_id = _id_of(self._value, self.stamp)
        self._replaced = None
        self._cluster = answer["header"]["cluster_id"]
        self._seen = int(answer["header"]["revision"])
        self.id = sha256(f"{store_id} {self._cluster}".encode()).hexdigest()[:16]

    async def look(self) -> bool:
        """Return whether there is a store, which could be opened; change nothing. Raises: as `open`."""
        _, found = await self._find([])
        if found is not None:
            _id_of(found, self.stamp)
        return found is not None

    async def _find(self, begin: list[Json]) -> tuple[Json, bytes | None]:
        """Return the value of the stamp. Where nothing is, do `begin`, and return None."""
        await self._check_version()
        body: Json = {
            "compare": [op.none_is_there(self.prefix)],
            "success": begin,
            "failure": [op.read(self.stamp)],
        }
        answer = (await self.gateway.call("/v3/kv/txn", body)).body
        if answer.get("succeeded"):
            return answer, None
        found = op.entries(op.reads(answer)[0])
        if not found:
            raise StartError(f"below {self.prefix} there is something that is no directory: use another path")
        return answer, op.value_of(found[0])

    async def _check_version(self) -> None:
        version = str((await self.gateway.call("/version", None)).body.get("etcdcluster", ""))
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < _LEAST_VERSION:
            raise StartError(f"etcd 3.4 or newer is needed; the cluster's version is {version or 'unknown'}")

    # Asking

    async def ask(
        self, path: str, body: Json, *, may_repeat: bool = True, attempt_s: float | None = None
    ) -> Json:
        """Call a method whose answer is as new as all that was answered before it was called.

        Raises: RefusedError; ReplacedError; StoreError.
        """
        if self._replaced is not None:
            raise self._replaced
        if self._in_doubt:
            await self._settle()
        at_least = self._seen
        answer = (await self.gateway.call(path, body, may_repeat=may_repeat, attempt_s=attempt_s)).body
        revision = self.check(answer)
        if revision < at_least:
            raise self.replaced(f"its revision went back from {at_least} to {revision}")
        self._seen = max(self._seen, revision)
        return answer

    async def transact(
        self, compare: list[Json], success: list[Json], failure: list[Json]
    ) -> tuple[Json, list[Json] | None]:
        """Do `success` if all comparisons are true.

        Return the answer, and what the reads of `failure` have found if it was not done, otherwise None.
        Raises: ReplacedError; RefusedError; StoreError.
        """
        while True:
            fence = self._fence
            body: Json = {
                "compare": [op.has_value(self.stamp, self._value), op.has_revision(fence, 0), *compare],
                "success": success,
                "failure": [op.read(self.stamp), op.read(fence), *failure],
            }
            try:
                answer = await self.ask("/v3/kv/txn", body, may_repeat=False)
            except (UncertainError, trio.Cancelled):
                self._doubt(fence)
                raise
            if answer.get("succeeded"):
                return answer, None
            stamp, fenced, *found = op.reads(answer)
            self.check_stamp(stamp)
            if not op.entries(fenced):
                return answer, found

    def _doubt(self, fence: str) -> None:
        """Have the commits with this fence fail that have not been done yet, and others have a new one."""
        if fence == self._fence:
            self._in_doubt.append(fence)
            self._fence = self._new_fence()

    async def _settle(self) -> None:
        """Put the fences of commits that are in doubt. They lapse long after any of those can come."""
        async with self._settling:
            while self._in_doubt:
                # What is refused now (the database is full, say) is refused of a commit as well.
                with suppress(RefusedError):
                    lease = (await self.gateway.call("/v3/lease/grant", {"TTL": _FENCE_S})).body["ID"]
                    put: Json = {"success": [op.put(self._in_doubt[0], b"", lease)]}
                    self.check((await self.gateway.call("/v3/kv/txn", put)).body)
                self._in_doubt.pop(0)

    def _new_fence(self) -> str:
        return f"{self.stamp}/fences/{secrets.token_hex(8)}"

    def is_own(self, key: str) -> bool:
        """Whether a key is the stamp or a fence, and no entry."""
        return key == self.stamp or key.startswith(f"{self.stamp}/")

    def restamp(self) -> Json:
        """Return the operation that is part of each commit."""
        return op.put(self.stamp, self._value)

    async def read(self, attempt_s: float | None = None) -> Reading:
        """Read the stamp. Raises: StoreError."""
        answer = await self.ask("/v3/kv/range", {"key": op.text(self.stamp)}, attempt_s=attempt_s)
        return Reading(self.check_stamp(answer), int(answer["header"]["revision"]))

    async def touch(self) -> None:
        """Have every watch of the directory get a change that changes nothing. Raises: StoreError."""
        compare = [op.has_value(self.stamp, self._value)]
        body: Json = {"compare": compare, "success": [self.restamp()], "failure": [op.read(self.stamp)]}
        answer = await self.ask("/v3/kv/txn", body)
        if not answer.get("succeeded"):
            self.check_stamp(op.reads(answer)[0])

    # Checking

    def check(self, answer: Json) -> int:
        """Check which cluster answers; return its revision. Raises: ReplacedError."""
        header: Json = answer.get("header", {})
        if header.get("cluster_id") != self._cluster:
            raise self.replaced("another cluster answers")
        return int(header.get("revision", 0))

    def check_stamp(self, answer: Json) -> int:
        """Check what a read of the stamp has found; return its revision. Raises: ReplacedError."""
        found = op.entries(answer)
        if not found or op.value_of(found[0]) != self._value:
            raise self.replaced(f"{self.stamp} is gone" if not found else f"{self.stamp} is another one")
        return op.revision_of(found[0])

    def replaced(self, how: str) -> ReplacedError:
        """Return the error that everything ends with from now on."""
        self._replaced = ReplacedError(f"the store was replaced while it was open: {how}")
        return self._replaced


def _id_of(value: bytes, stamp: str) -> str:
    """Return the id in the value of a stamp. Raises: StartError."""
    try:
        found = json.loads(value)
        kind, number, store_id = found["kind"], found["format"], found["id"]
    except (ValueError, TypeError, KeyError):
        kind = number = store_id = None
    if kind != _KIND or not isinstance(store_id, str):
        raise StartError(f"{stamp} is not that of a directory: use another path")
    if number != _FORMAT:
        raise StartError(f"the directory of {stamp} needs a newer version of this software")
    return store_id
