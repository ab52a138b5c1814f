"""The chart on a real cluster: the guide's commands, and what the shortener survives."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from tests.chart.helm import CHART, VALUES
from tests.demo.postgres import Postgres
from tests.k8s.cluster import (
    PODS,
    RELEASE,
    Cluster,
    Load,
    is_ready,
    one_connection_each,
    restarts,
    tell,
    under_load,
)
from tests.plugin.running import unused_port

NODE_PORT = "--set=service.type=NodePort"
CONTAINERS = ("host", "logger", "storage", "api")


def _shared(database: Postgres, replicas: int) -> tuple[str, ...]:
    return (NODE_PORT, f"--set=replicaCount={replicas}", f"--set-string=storage.databaseUrl={database.url}")


async def _nothing_is_left(cluster: Cluster) -> None:
    await cluster.run("./cleanup.sh")
    kinds = (
        "all,secrets,configmaps,serviceaccounts,networkpolicies,persistentvolumeclaims,poddisruptionbudgets"
    )
    left = await cluster.kubectl("get", kinds, "-o", "name")
    # What every namespace has.
    theirs = r"serviceaccount/default|secret/default-token-\w+|configmap/kube-root-ca.crt"
    assert [name for name in left.split() if not re.fullmatch(theirs, name)] == []


async def test_the_guides_commands_one_by_one(cluster: Cluster) -> None:
    installed = await cluster.install()
    assert "✅ Deployment successful!" in installed
    assert re.search(r"^url-shortener-\S+ +4/4 +Running +0 ", installed, re.MULTILINE)
    pod = await cluster.pod_name()

    await cluster.kubectl("get", "pods", "-l", PODS)
    await cluster.run("./test.sh")
    assert "Succeeded" in await cluster.helm("test", RELEASE)

    everything = await cluster.kubectl("logs", pod, "--all-containers")
    logs = {name: await cluster.kubectl("logs", pod, "-c", name) for name in CONTAINERS}
    for name in CONTAINERS:
        where = "[::]" if name == "api" else "127.0.0.1"  # only api is reached from outside of the pod
        assert f"listening on http://{where}:808" in logs[name]
        assert logs[name].splitlines()[0] in everything
    assert re.search(
        r"\[ROUTER\] api-plugin-\w+ → storage-plugin-\w+ /Store \(service: storage\)", logs["host"]
    )
    assert re.search(r"\[ROUTER\] storage-plugin-\w+ → logger-plugin-\w+ /Log 200 \(duration: ", logs["host"])
    assert re.search(r"\[LOG\] STORE [0-9a-f]{8} → https://example.com/", logs["logger"])
    # What the troubleshooting greps for.
    assert re.search(r"Registered service: storage v1.0.0 of storage-plugin-\w+", logs["host"])
    assert "storage-plugin is healthy" in logs["storage"]

    await cluster.kubectl("describe", "pod", pod)
    assert "8083" in await cluster.kubectl("get", "svc", RELEASE)
    await _forwarded(cluster)
    await _nothing_is_left(cluster)


async def _forwarded(cluster: Cluster) -> None:
    """Use port-forward.sh and test-api.sh, each in a terminal of its own."""
    port = str(unused_port())
    environment = {**cluster.environment, "PORT": port, "API_URL": f"http://localhost:{port}"}
    forward = await trio.lowlevel.open_process(
        [CHART / "port-forward.sh"], env=environment, start_new_session=True
    )
    try:
        with trio.fail_after(30):
            while not await _works(CHART / "test-api.sh", environment):  # noqa: ASYNC110 - nobody tells of it
                await trio.sleep(0.5)
    finally:
        os.killpg(forward.pid, signal.SIGINT)
        with trio.CancelScope(shield=True):
            await forward.wait()


async def _works(script: Path, environment: Mapping[str, str]) -> bool:
    return (await trio.run_process([script], env=environment, check=False)).returncode == 0


async def test_each_container_that_is_killed_heals_alone(cluster: Cluster) -> None:
    await cluster.install(NODE_PORT)
    api, pod = await cluster.api(), await cluster.pod_name()
    async with one_connection_each() as http:
        load = Load(api)
        first = await load.shorten(http, "https://example.com/first")
        for name in CONTAINERS:
            # Of two signals the second ends it at once. No other reaches a container's first process.
            await cluster.kubectl("exec", pod, "-c", name, "--", "sh", "-c", "kill 1; kill 1", check=False)
            await _until_restarted(cluster, name)
            began = trio.current_time()
            await cluster.until_ready(1)
            assert await load.resolve(http, first) == "https://example.com/first"
            await load.shorten(http, f"https://example.com/{name}")
            tell(f"{name}: ready and working {trio.current_time() - began:.1f} s after it was started again")
    (healed,) = await cluster.pods()
    assert healed["metadata"]["name"] == pod
    assert restarts(healed) == dict.fromkeys(CONTAINERS, 1)


async def _until_restarted(cluster: Cluster, name: str) -> None:
    with trio.fail_after(120):
        while True:
            (pod,) = await cluster.pods()
            if restarts(pod)[name] == 1:
                return
            await trio.sleep(0.1)


async def test_an_upgrade_and_a_rollback_fail_no_request(cluster: Cluster, database: Postgres) -> None:
    await cluster.install(*_shared(database, 2))
    async with under_load(await cluster.api()) as load:
        await trio.sleep(2)
        next_tag = f"--set-string=image.tag={cluster.tag}-next"
        await cluster.helm("upgrade", RELEASE, ".", "--reuse-values", next_tag, "--wait", "--timeout=5m")
        assert await _tags(cluster) == {f"{cluster.tag}-next"}
        await cluster.until_ready(2)
        await cluster.helm("rollback", RELEASE, "--wait", "--timeout=5m")
        await cluster.until_ready(2)
        assert await _tags(cluster) == {cluster.tag}
    assert load.failures == []
    assert len(load.codes) > 50
    async with one_connection_each() as http:
        assert {code: await load.resolve(http, code) for code in load.codes} == load.codes
    assert "Succeeded" in await cluster.helm("test", RELEASE)
    await _nothing_is_left(cluster)


async def _tags(cluster: Cluster) -> set[str]:
    return {
        item["image"].rpartition(":")[2] for pod in await cluster.pods() for item in pod["spec"]["containers"]
    }


async def test_a_thousand_urls_all_resolve_while_three_pods_are_deleted_one_after_another(
    cluster: Cluster, database: Postgres
) -> None:
    await cluster.install(*_shared(database, 3))
    load = Load(await cluster.api())
    deleted: list[str] = []

    async def delete_pods() -> None:
        for pod in await cluster.pods():
            await cluster.kubectl("delete", "pod", pod["metadata"]["name"])
            await cluster.until_ready(3)
            deleted.append(pod["metadata"]["name"])

    async def shorten(first: int) -> None:
        async with one_connection_each() as http:
            number = first
            while number < 1000 or len(deleted) < 3:
                await load.shorten(http, f"https://example.com/{number}")
                number += 4

    async with trio.open_nursery() as nursery:
        nursery.start_soon(delete_pods)
        for first in range(4):
            nursery.start_soon(shorten, first)
    tell(load.told)
    assert len(load.codes) >= 1000
    async with one_connection_each() as http:
        assert {code: await load.resolve(http, code) for code in load.codes} == load.codes
    assert load.failing_s < 30, load.failures[:5]
    await _nothing_is_left(cluster)


async def test_an_upgrade_to_a_database_that_is_not_there_is_stopped_and_the_service_is_not(
    cluster: Cluster, database: Postgres
) -> None:
    await cluster.install(*_shared(database, 1))
    async with under_load(await cluster.api(), clients=1) as load:
        nowhere = "--set-string=storage.databaseUrl=postgresql://me@127.0.0.1:1/urls"
        said = await cluster.run(
            *shlex.split(f"env TIMEOUT=20s ./install.sh {NODE_PORT} {nowhere}"), check=False
        )
        assert "❌ could not install" in said
        assert sorted(is_ready(pod) for pod in await cluster.pods()) == [False, True]
    assert load.failures == []


async def test_pods_wait_for_their_database_and_are_not_restarted_for_it(
    cluster: Cluster, database: Postgres
) -> None:
    await cluster.install(*_shared(database, 1))
    async with one_connection_each() as http:
        load = Load(await cluster.api())
        code = await load.shorten(http, "https://example.com/kept")
        database.stop()
        await cluster.until_not_ready()
        database.start()
        await cluster.until_ready(1)
        assert await load.resolve(http, code) == "https://example.com/kept"
    (pod,) = await cluster.pods()
    assert restarts(pod) == dict.fromkeys(CONTAINERS, 0)
    logs = await cluster.kubectl("logs", await cluster.pod_name(), "--all-containers")
    assert "reports UNHEALTHY: the database postgres on" in logs
    assert "s3cret" not in logs


async def test_a_container_can_write_nothing_and_is_nobody(cluster: Cluster) -> None:
    await cluster.install()
    pod = await cluster.pod_name()
    for name in CONTAINERS:
        inside = ("exec", pod, "-c", name, "--")
        assert (await cluster.kubectl(*inside, "id", "-u")).strip() == "10001"
        refused = await cluster.kubectl(*inside, "touch", "/written", "/tmp/written", check=False)
        assert refused.count("Read-only file system") == 2
        no_token = await cluster.kubectl(*inside, "ls", "/var/run/secrets/kubernetes.io", check=False)
        assert "No such file" in no_token


@pytest.mark.parametrize(
    "values",
    sorted(VALUES.rglob("*.yaml")),
    ids=lambda path: str(Path(path).relative_to(VALUES).with_suffix("")),
)
async def test_the_cluster_would_take_every_object(cluster: Cluster, values: Path) -> None:
    version = re.search(r"Server Version: .*?v(\d+\.\d+\.\d+)", await cluster.kubectl("version"), re.DOTALL)
    version = version or re.search(r"Server.*GitVersion:\"v(\d+\.\d+\.\d+)", await cluster.kubectl("version"))
    assert version
    # What a cluster has only if it is new enough, has a gateway, or the Prometheus operator.
    lacking = ["--set=gateway.enabled=false"]
    monitors = await cluster.kubectl("api-resources", "--api-group=monitoring.coreos.com", "-o=name")
    if "podmonitors" not in monitors:
        lacking += [
            f"--set=metrics.{kind}.enabled=false" for kind in ("podMonitor", "serviceMonitor", "rules")
        ]
    if tuple(map(int, version[1].split(".")[:2])) < (1, 24):
        lacking.append("--set=service.loadBalancerClass=")
    manifests = await cluster.helm(
        *("template", RELEASE, ".", "--values", str(values), f"--kube-version={version[1]}", "--skip-tests"),
        *lacking,
    )
    await cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=manifests)


async def test_a_release_that_cannot_start_is_told_of_with_where_to_look(cluster: Cluster) -> None:
    said = await cluster.run(
        *shlex.split(
            "env TIMEOUT=5s ./install.sh --set image.pullPolicy=Never --set image.tag=nobody-has-it"
        ),
        check=False,
    )
    assert "❌ could not install url-shortener; what happened is in: kubectl describe pod -l" in said
    assert not any(is_ready(pod) for pod in await cluster.pods())
