"""A directory whose etcd is restored from a backup, by the steps of `docs/guides/several-hosts.md`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from cpg_trio.host import BaseUrls, Host, HostConfig, Keys
from cpg_trio.http import StartError
from cpg_trio.store import Commit, EtcdStore, EtcdUrl
from tests.chaos_cluster.etcd_cluster import EtcdCluster, etcd_cluster
from tests.plugin.running import echo_plugin, eventually, hosting, plugged, unused_port

KEYS = ["k" * 32]


@asynccontextmanager
async def two_hosts(cluster: EtcdCluster, ports: list[int]) -> AsyncIterator[list[Host]]:
    async with AsyncExitStack() as stack:
        hosts: list[Host] = []
        for port in ports:
            store = EtcdStore(EtcdUrl.parse(cluster.url()))
            config = HostConfig(store=store, keys=Keys(KEYS), base_urls=BaseUrls.ANY)
            host, _ = await stack.enter_async_context(hosting(config, bind=f"127.0.0.1:{port}"))
            hosts.append(host)
        yield hosts


def callable_at(hosts: list[Host], service_type: str) -> bool:
    """Whether a provider of a service can be called at each of the hosts."""
    return all(
        (found := host.registry.status(service_type).provider) is not None
        and found.id in host.registry.callable_ids
        for host in hosts
    )


async def restore(cluster: EtcdCluster, backup: Path) -> None:
    for i in range(3):
        cluster.terminate(i)
    cluster.restore(backup, token="restored")
    for i in range(3):
        cluster.start(i)
    await cluster.ready()


async def provide(service_type: str, host_urls: str) -> None:
    """Provide a service until cancelled."""
    async with plugged(echo_plugin(f"{service_type}-plugin", service_type), host_urls):
        await trio.sleep_forever()


async def test_plugins_come_back_to_a_directory_that_was_restored(tmp_path: Path) -> None:
    ports = [unused_port(), unused_port()]
    urls = ",".join(f"http://127.0.0.1:{port}" for port in ports)
    async with etcd_cluster() as cluster, trio.open_nursery() as nursery:
        async with two_hosts(cluster, ports) as hosts:
            nursery.start_soon(provide, "before", urls)
            await eventually(lambda: callable_at(hosts, "before"))
            await trio.to_thread.run_sync(cluster.snapshot, tmp_path / "backup")
            nursery.start_soon(provide, "after", urls)
            await eventually(lambda: callable_at(hosts, "after"))
            (directory,) = {host.registry.id for host in hosts}
        await restore(cluster, tmp_path / "backup")
        async with two_hosts(cluster, ports) as hosts:
            await eventually(lambda: callable_at(hosts, "before"))  # as it was in the backup, or anew
            await eventually(lambda: callable_at(hosts, "after"))  # anew
            (restored,) = {host.registry.id for host in hosts}
            assert restored != directory
            nursery.cancel_scope.cancel()


async def test_hosts_that_run_while_it_is_restored_end_and_say_why(tmp_path: Path) -> None:
    async with etcd_cluster() as cluster:
        with pytest.RaisesGroup(
            pytest.RaisesExc(StartError, match="another cluster answers"), flatten_subgroups=True
        ):
            async with two_hosts(cluster, [0]):
                await trio.to_thread.run_sync(cluster.snapshot, tmp_path / "backup")
                await restore(cluster, tmp_path / "backup")
                with trio.fail_after(20):
                    await trio.sleep_forever()
        async with EtcdStore(EtcdUrl.parse(cluster.url())) as store:
            await store.commit(Commit(puts={"plugins/x": b""}))
