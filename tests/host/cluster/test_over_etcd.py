"""Hosts with a directory in a real etcd: what one acknowledges others know, and what one ends has ended."""

from __future__ import annotations

from cpg_trio.store import EtcdStore, EtcdUrl
from tests.chaos_cluster.etcd_cluster import etcd_members
from tests.host.calls import REGISTER, REPORT, runtime_id
from tests.host.cluster.serving import serving_hosts, until
from tests.host.rpcs import renewed

SERVICE = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/t/"}
HEALTHY = {"state": "HEALTH_STATE_HEALTHY"}
WITHIN_S = 1.0


async def test_a_plugin_goes_from_host_to_host_and_what_is_revoked_at_one_has_ended_at_both() -> None:
    with etcd_members() as etcd:
        stores = [EtcdStore(EtcdUrl.parse(etcd.url("/directory"))) for _ in range(2)]
        async with serving_hosts(*stores) as (a, b):
            for revoking in (a, b):
                me = await a.calls.plugin("p")
                assert (await b.calls.post(REGISTER, SERVICE, me))[0] == 200
                _, me = await renewed(b.calls, me)
                assert (await a.calls.post(REPORT, HEALTHY, me))[0] == 200
                await until(lambda plugin=me: b.is_callable(plugin))
                assert a.owns(me)
                await revoking.host.revoke_identity(runtime_id(me), "bad")
                await until(lambda: not any(h.host.registry.provides("t") for h in (a, b)), WITHIN_S)
                for host in (a, b):
                    assert (await host.calls.post(REPORT, HEALTHY, me))[0] == 401
