"""A store in three members of etcd, of which one is killed, stopped or cut off, or all are away for a while.

In each test two writers commit by compare-and-set, and a follower follows. Nothing that was acknowledged is
lost, and each revision is told once and in order.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from cpg_trio.store import EtcdStore, EtcdUrl
from tests.chaos_cluster.etcd_cluster import PASSWORD, EtcdCluster, etcd_cluster
from tests.chaos_cluster.history import Follower, Writer, check

FAULT_S = 4.0

_log = logging.getLogger(__name__)


def store_of(cluster: EtcdCluster, members: list[int] | None = None) -> EtcdStore:
    return EtcdStore(EtcdUrl.parse(cluster.url(members=members)), lambda: PASSWORD)


@attrs.define
class Observed:
    writers: list[Writer]
    follower: Follower

    async def commits(self, number: int) -> None:
        """Wait until each writer has so many more commits acknowledged."""
        goal = [len(writer.acknowledged) + number for writer in self.writers]
        with trio.fail_after(20):
            while not self._have(goal):  # noqa: ASYNC110 - a test may poll
                await trio.sleep(0.02)

    def _have(self, goal: list[int]) -> bool:
        return all(len(w.acknowledged) >= least for w, least in zip(self.writers, goal, strict=True))


@asynccontextmanager
async def observed(cluster: EtcdCluster) -> AsyncIterator[Observed]:
    """Have two writers and a follower, each with a store of its own; check what they saw at the end."""
    async with store_of(cluster) as one, store_of(cluster) as other, store_of(cluster) as third:
        writers = [Writer("one", one), Writer("other", other)]
        follower = Follower(third)
        await follower.begin()
        async with trio.open_nursery() as outer:
            outer.start_soon(follower.run)
            async with trio.open_nursery() as inner:
                for writer in writers:
                    inner.start_soon(writer.run)
                found = Observed(writers, follower)
                await found.commits(20)
                yield found
                await found.commits(20)
                inner.cancel_scope.cancel()
            await check(writers, follower, one)
            outer.cancel_scope.cancel()
        waits = [f"{wait:.2f}" for wait in (*(each.longest_s for each in writers), follower.longest_s)]
        failures = [*(writer.failures for writer in writers), len(follower.failures)]
        acknowledged = [len(writer.acknowledged) for writer in writers]
        _log.info("acknowledged %s, failures %s, longest waits %s s", acknowledged, failures, waits)


@pytest.mark.parametrize("which", ["leader", "follower"])
async def test_a_member_is_killed_and_comes_back(which: str) -> None:
    async with etcd_cluster() as cluster, observed(cluster) as found:
        i = cluster.leader() if which == "leader" else (cluster.leader() + 1) % 3
        cluster.kill(i)
        await found.commits(20)
        await trio.sleep(FAULT_S)
        cluster.start(i)
        await cluster.ready()


@pytest.mark.parametrize("which", ["leader", "follower"])
async def test_a_member_is_stopped_and_goes_on(which: str) -> None:
    async with etcd_cluster() as cluster, observed(cluster) as found:
        i = cluster.leader() if which == "leader" else (cluster.leader() + 1) % 3
        cluster.stop(i)
        await found.commits(20)
        await trio.sleep(FAULT_S)
        cluster.cont(i)
        await cluster.ready()


@pytest.mark.parametrize("clients", [True, False])
@pytest.mark.parametrize("which", ["leader", "follower"])
async def test_a_member_is_cut_off_and_healed(which: str, *, clients: bool) -> None:
    async with etcd_cluster(namespaces=True) as cluster, observed(cluster) as found:
        i = cluster.leader() if which == "leader" else (cluster.leader() + 1) % 3
        cluster.cut(i, clients=clients)
        await found.commits(20)
        await trio.sleep(FAULT_S)
        cluster.heal(i)
        await cluster.ready()


async def test_all_members_are_away_and_come_back() -> None:
    async with etcd_cluster() as cluster, observed(cluster) as found:
        for i in range(3):
            cluster.kill(i)
        await trio.sleep(FAULT_S)
        assert found.follower.failures
        for i in range(3):
            cluster.start(i)
        await cluster.ready()


async def test_each_member_restarts_in_order_with_tls_and_users() -> None:
    async with etcd_cluster(tls=True, users=True) as cluster, observed(cluster) as found:
        for i in range(3):
            cluster.terminate(i)
            await found.commits(10)
            cluster.start(i)
            await cluster.ready()
            await found.commits(10)


@pytest.mark.parametrize("fault", ["kill", "stop"])
async def test_a_presence_outlives_the_loss_of_the_leader(fault: str) -> None:
    async with etcd_cluster() as cluster, store_of(cluster) as store:
        async with store.present("hosts/1", b"me", 5) as presence:
            leader = cluster.leader()
            (cluster.kill if fault == "kill" else cluster.stop)(leader)
            least = presence.valid_until - trio.current_time()
            for _ in range(80):
                await trio.sleep(0.1)
                least = min(least, presence.valid_until - trio.current_time())
            assert not presence.lost.is_set()
            assert least > 0
            _log.info("least time left: %.2f s", least)
            if fault == "stop":
                cluster.cont(leader)
        assert "hosts/1" not in {entry.key for entry in (await store.load()).entries}
