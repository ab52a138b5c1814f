"""Hosts and plugins in pods of their own, on a real cluster: each kind of pod deleted, rolled and scaled."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence

import pytest
import trio
import trustme

from tests.k8s.cluster import PODS, RELEASE, Cluster, Load, one_connection_each, tell, under_load
from tests.k8s.test_kubernetes import NODE_PORT
from tests.k8s.test_values import shorten as shorten_some

HOSTS = 3
MEMBERS = 3
REPLICAS = 2
SEPARATE = (
    NODE_PORT,
    "--set=topology=separate,allowPlaintext=true,etcd.enabled=true",
    f"--set=host.replicas={HOSTS},replicaCount={REPLICAS}",
)
COMPONENTS = {"host": HOSTS, "api": REPLICAS, "storage": REPLICAS, "logger": REPLICAS}
ALL = sum(COMPONENTS.values())
ETCD = "app.kubernetes.io/name=url-shortener-etcd"


def of(component: str) -> str:
    """Return the selector of the pods of a component."""
    return ETCD if component == "etcd" else f"{PODS},app.kubernetes.io/component={component}"


@pytest.fixture
async def separate(cluster: Cluster, postgresql: tuple[str, ...], etcd: tuple[str, ...]) -> Cluster:
    """Three hosts on three members of etcd, and two of each plugin, all ready."""
    began = trio.current_time()
    await cluster.install(*SEPARATE, *postgresql, *etcd)
    await cluster.until_ready(ALL)
    tell(f"{ALL} pods and {MEMBERS} members are ready after {trio.current_time() - began:.0f} s")
    return cluster


async def _all_resolve(cluster: Cluster, load: Load) -> None:
    assert load.codes
    async with one_connection_each() as http:
        for code, url in load.codes.items():
            assert await load.resolve(http, code) == url


async def test_the_guides_commands_do_the_same_in_either_topology(separate: Cluster) -> None:
    said = await separate.run("./test.sh")
    assert "works, and its plugins talk through the host" in said
    assert "Succeeded" in await separate.helm("test", RELEASE)
    (first, *_) = await separate.pods(of("host"))
    inside = ("exec", first["metadata"]["name"], "--", "cpg-trio")
    plugins = await separate.kubectl(*inside, "plugins")
    for name in ("api-plugin", "storage-plugin", "logger-plugin"):
        # Each host knows the plugins of all.
        assert len(set(re.findall(rf"{name}-\w+", plugins))) == REPLICAS
    await separate.run("./cleanup.sh")
    left = await separate.kubectl("get", "all,persistentvolumeclaims", "-o", "name")
    assert left.split() == [f"persistentvolumeclaim/{RELEASE}-postgresql"]


async def test_no_request_fails_while_each_pod_is_deleted(separate: Cluster) -> None:
    async with under_load(await separate.api()) as load:
        await trio.sleep(2)
        for component, count in {**COMPONENTS, "etcd": MEMBERS}.items():
            failures, requests, began = len(load.failures), load.requests, trio.current_time()
            for pod in await separate.pods(of(component)):
                await separate.kubectl("delete", "pod", pod["metadata"]["name"])
                await separate.until_ready(count, of(component))
            tell(
                f"{count} pods of {component} deleted one by one in {trio.current_time() - began:.0f} s:"
                f" {len(load.failures) - failures} of {load.requests - requests} requests failed"
            )
    assert load.failures == []
    await _all_resolve(separate, load)


async def test_what_may_be_sent_again_does_not_fail_while_pods_are_deleted_by_force(
    separate: Cluster,
) -> None:
    load, known = Load(await separate.api()), Load(await separate.api())
    await shorten_some(known, 20)

    async def resolve_for_ever(http_codes: dict[str, str]) -> None:
        async with one_connection_each() as http:
            while True:
                for code, url in http_codes.items():
                    assert await load.resolve(http, code) == url
                    await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(resolve_for_ever, dict(known.codes))
        for component in ("host", "storage", "logger", "etcd"):
            failures, requests = len(load.failures), load.requests
            (pod, *_) = await separate.pods(of(component))
            await separate.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
            await separate.until_ready({**COMPONENTS, "etcd": MEMBERS}[component], of(component))
            await trio.sleep(3)
            tell(
                f"a pod of {component} deleted by force:"
                f" {len(load.failures) - failures} of {load.requests - requests} requests failed"
            )
        nursery.cancel_scope.cancel()
    tell(load.told)
    assert load.failures == []


async def test_an_upgrade_a_rollback_and_other_numbers_fail_no_request(separate: Cluster) -> None:
    async with under_load(await separate.api()) as load:
        await trio.sleep(2)
        upgrade = ("upgrade", RELEASE, ".", "--reuse-values", "--wait", "--timeout=5m")
        await separate.helm(*upgrade, f"--set-string=image.tag={separate.tag}-next")
        await separate.until_ready(ALL)
        await separate.helm("rollback", RELEASE, "--wait", "--timeout=5m")
        await separate.until_ready(ALL)
        await separate.helm(*upgrade, "--set=host.replicas=1,replicaCount=3")
        await separate.until_ready(1 + 3 * 3)
        await separate.helm(*upgrade, f"--set=host.replicas={HOSTS},replicaCount={REPLICAS}")
        await separate.until_ready(ALL)
    assert load.failures == []
    await _all_resolve(separate, load)


async def test_from_one_topology_to_the_other_no_code_is_lost(
    cluster: Cluster, postgresql: tuple[str, ...], etcd: tuple[str, ...]
) -> None:
    await cluster.install(NODE_PORT, "--set=replicaCount=2", *postgresql)
    load = Load(await cluster.api())
    await shorten_some(load, 20)
    await cluster.install(*SEPARATE, *postgresql, *etcd)
    await cluster.until_ready(ALL)
    load.api = await cluster.api()
    await _all_resolve(cluster, load)
    await cluster.install(NODE_PORT, "--set=replicaCount=2", *postgresql)
    await cluster.until_ready(2)
    load.api = await cluster.api()
    await _all_resolve(cluster, load)


async def _certificate(cluster: Cluster, authority: trustme.CA, secret: str, names: Sequence[str]) -> None:
    """Make a Secret as cert-manager does."""
    leaf = authority.issue_cert(*names)
    data = {
        "ca.crt": authority.cert_pem.bytes(),
        "tls.crt": b"".join(blob.bytes() for blob in leaf.cert_chain_pems),
        "tls.key": leaf.private_key_pem.bytes(),
    }
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": secret},
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }
    await cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))


async def test_all_of_it_speaks_tls_with_certificates_that_name_no_address(
    cluster: Cluster, postgresql: tuple[str, ...], etcd: tuple[str, ...]
) -> None:
    authority = trustme.CA()
    plugins = [name for plugin in ("api", "storage", "logger") for name in _names_of(plugin)]
    members = [f"{RELEASE}-etcd-{number}.{RELEASE}-etcd" for number in range(MEMBERS)]
    await _certificate(cluster, authority, "host-certificate", [f"{RELEASE}-host", "localhost"])
    await _certificate(cluster, authority, "certificate", [*plugins, RELEASE, "localhost"])
    await _certificate(cluster, authority, "etcd-certificate", members)
    settings = [setting.replace(",allowPlaintext=true", "") for setting in SEPARATE]
    await cluster.install(
        *settings,
        "--set=tls.existingSecret=certificate,tls.clients=optional,host.tls.existingSecret=host-certificate",
        "--set=etcd.tls.existingSecret=etcd-certificate",
        *postgresql,
        *etcd,
    )
    await cluster.until_ready(ALL)
    await cluster.run("./test.sh")
    assert "Succeeded" in await cluster.helm("test", RELEASE)
    for pod in await cluster.pods(of("host")):
        await cluster.kubectl("delete", "pod", pod["metadata"]["name"])
        await cluster.until_ready(HOSTS, of("host"))
    await cluster.until_ready(ALL)
    await cluster.run("./test.sh")


def _names_of(plugin: str) -> Sequence[str]:
    return f"{RELEASE}-{plugin}-pods", f"{plugin}-plugin"
