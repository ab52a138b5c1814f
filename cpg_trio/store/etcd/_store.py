"""A store in etcd. Several hosts share it, and each sees what the others change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Self

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.http import StartError
from cpg_trio.store._store import Changed, Commit, ConflictError, Entry, Snapshot, StoreError
from cpg_trio.store.etcd import _operations as op
from cpg_trio.store.etcd._gateway import Gateway, Json, RefusedError, TooLargeError
from cpg_trio.store.etcd._keyspace import STAMP, Keyspace
from cpg_trio.store.etcd._lease import Lease
from cpg_trio.store.etcd._url import EtcdUrl
from cpg_trio.store.etcd._watch import Changes, Watch

_PAGE = 500  # entries
_TRIES = 10
_COMPACTED = "etcdserver: mvcc: required revision has been compacted"


class EtcdStore:
    """See `Store`. etcd 3.4 or newer, by the JSON gateway of its members.

    `password` is of the user that the URL names, in place of one in the URL; it is called each time that the
    user proves who it is. It raises OSError or ValueError if there is none.
    """

    shared = True

    def __init__(self, url: EtcdUrl, password: Callable[[], str] | None = None) -> None:
        self._url = url
        self._space = Keyspace(Gateway(url, password or (lambda: url.password)), url.prefix)
        self._stack = AsyncExitStack()

    def __str__(self) -> str:
        """Return where it is, without secrets."""
        return str(self._url)

    async def check(self) -> bool:
        """See `Store`."""
        with self._refusing():
            async with self._space.gateway:
                return await self._space.look()

    async def __aenter__(self) -> Self:
        """Open it. Raises: StartError; nothing has changed then."""
        with self._refusing():
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._space.gateway)
                await self._space.open()
                self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self._stack.aclose()

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (StoreError, StartError) as error:
            raise StartError(f"the store at {self} cannot be used: {error}") from error

    async def load(self, prefix: str = "") -> Snapshot:
        """See `Store`."""
        for _ in range(_TRIES):
            try:
                return await self._load(prefix)
            except RefusedError as error:
                if error.message != _COMPACTED:
                    raise
        raise StoreError("the store is compacted faster than it can be read")

    async def _load(self, prefix: str) -> Snapshot:
        """Read page after page, all as of the revision of the first one."""
        space, entries = self._space, list[Entry]()
        under = begin = space.prefix + prefix
        limit, revision, more = _PAGE, 0, True
        while more:
            page = {**op.below(under, begin), "limit": str(limit), "revision": str(revision)}
            try:
                answer = await space.ask("/v3/kv/range", page)
            except TooLargeError:
                if limit == 1:
                    raise
                limit = max(1, limit // 4)
                continue
            revision = revision or int(answer["header"]["revision"])
            more = answer.get("more", False)
            found = op.entries(answer)
            entries += [op.entry_of(kv, space.prefix) for kv in found if not space.is_own(op.key_of(kv))]
            begin = op.key_of(found[-1]) + "\0" if found else under
        return Snapshot(space.id, revision, entries)

    async def commit(self, commit: Commit) -> int:
        """See `Store`.

        A comparison of the values of a range is false if the range is empty, and one that it is empty is a
        different comparison. So one of them is made, and what is read if it fails says whether it was the
        wrong one. Nothing has been done then, and the other one is made.
        """
        if any(self._space.is_own(self._space.prefix + key) for key in (*commit.puts, *commit.deletes)):
            raise ValueError(f"the key {STAMP!r}, and what is below it, is the store's own")
        empty = dict.fromkeys(commit.uniform, False)
        for _ in range(_TRIES):
            answer, found = await self._transact(commit, empty)
            if found is None:
                return self._revision_after(commit, answer)
            by_key, by_prefix = found[: len(commit.expected)], found[len(commit.expected) :]
            for (key, expected), each in zip(commit.expected.items(), by_key, strict=True):
                if _revision_of(each) != expected:
                    raise ConflictError(f"{key} has changed")
            is_empty = {prefix: not op.entries(each) for prefix, each in zip(empty, by_prefix, strict=True)}
            if is_empty == empty:
                raise ConflictError(f"not all entries of {' or '.join(empty)} have the expected value")
            empty = is_empty
        raise ConflictError(f"the entries of {' or '.join(empty)} come and go")

    async def _transact(self, commit: Commit, empty: dict[str, bool]) -> tuple[Json, list[Json] | None]:
        space, prefix = self._space, self._space.prefix
        deletes = sorted(set(commit.deletes).difference(commit.puts))
        compare = [op.has_revision(prefix + key, revision) for key, revision in commit.expected.items()]
        compare += [
            op.none_is_there(prefix + under) if empty[under] else op.all_have_value(prefix + under, value)
            for under, value in commit.uniform.items()
        ]
        success = [op.delete(prefix + key) for key in deletes]
        success += [op.put(prefix + key, value) for key, value in commit.puts.items()]
        success.append(space.restamp() if success else op.read(space.stamp))
        failure = [op.read_revision(prefix + key) for key in commit.expected]
        failure += [op.read_first(prefix + under) for under in commit.uniform]
        return await space.transact(compare, success, failure)

    def _revision_after(self, commit: Commit, answer: Json) -> int:
        """Return the revision of a commit; of one that changes nothing, that of the last one."""
        if commit.puts or commit.deletes:
            return int(answer["header"]["revision"])
        return self._space.check_stamp(op.reads(answer)[-1])

    async def revision(self) -> int:
        """See `Store`."""
        return (await self._space.read()).committed

    @asynccontextmanager
    async def changes(self, after: int) -> AsyncIterator[AsyncIterator[Changed]]:
        """See `Store`."""
        changes = Changes()
        async with open_plain_nursery() as nursery:
            await nursery.start(Watch(self._space, after, changes).run)
            yield changes
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def present(self, key: str, value: bytes, ttl_s: float) -> AsyncIterator[Lease]:
        """See `Store`."""
        lease = await Lease.granted(self._space, key, ttl_s)
        try:
            await lease.attach(self._space, value)
            async with open_plain_nursery() as nursery:
                nursery.start_soon(lease.keep, self._space)
                yield lease
                nursery.cancel_scope.cancel()
        finally:
            await lease.revoke(self._space)


def _revision_of(found: Json) -> int:
    """Return the revision of an entry that was read, 0 if it is not there."""
    kvs = op.entries(found)
    return op.revision_of(kvs[0]) if kvs else 0
