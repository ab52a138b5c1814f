"""What the chart promises by values alone, on a real cluster: more pods, a database, plugins of one's own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trio
import yaml

from tests.k8s.cluster import CHART, RELEASE, Cluster, Load, one_connection_each, tell
from tests.k8s.test_kubernetes import CONTAINERS, NODE_PORT

HERE = Path(__file__).parent
CODES = 1000
REPLICAS = 3


async def shorten(load: Load, count: int, until: Callable[[], bool] = lambda: True, clients: int = 8) -> None:
    """Shorten so many URLs, some at once, and on until something holds."""

    async def client(first: int) -> None:
        async with one_connection_each() as http:
            number = first
            while number < count or not until():
                await load.shorten(http, f"https://example.com/{number}")
                number += clients
                if number >= count:  # enough of them: what counts from here on is whether one fails
                    await trio.sleep(0.2)

    async with trio.open_nursery() as nursery:
        for first in range(clients):
            nursery.start_soon(client, first)


async def _all_resolve_from_every_pod(cluster: Cluster, codes: dict[str, str]) -> None:
    """Have each pod's own api resolve all codes."""
    program = (
        "import json, sys, urllib.request as u\n"
        "codes = json.load(sys.stdin)\n"
        "for code, url in codes.items():\n"
        "    answer = u.urlopen(f'http://127.0.0.1:8083/api.v1.API/Resolve?code={code}', timeout=10)\n"
        "    assert json.load(answer)['url'] == url, code\n"
        "print(len(codes), 'resolve')\n"
    )
    for pod in await cluster.pods():
        inside = ("exec", "-i", pod["metadata"]["name"], "-c", "api", "--", "python", "-c", program)
        assert f"{len(codes)} resolve" in await cluster.kubectl(*inside, stdin=json.dumps(codes))


async def test_three_replicas_alone_fail_no_request_while_pods_are_deleted(
    cluster: Cluster, postgresql: tuple[str, ...]
) -> None:
    await cluster.install(NODE_PORT, "--set=replicaCount=3", *postgresql)
    load, deleted = Load(await cluster.api()), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shorten, load, CODES, lambda: len(deleted) == REPLICAS)
        for pod in await cluster.pods():
            await cluster.kubectl("delete", "pod", pod["metadata"]["name"])
            await cluster.until_ready(REPLICAS)
            deleted.append(pod["metadata"]["name"])
    tell(f"{load.told}, while {len(deleted)} pods were deleted")
    assert load.failures == []
    assert len(load.codes) >= CODES
    await _all_resolve_from_every_pod(cluster, load.codes)


@pytest.mark.parametrize("volume", [False, True])
async def test_from_one_pod_on_sqlite_to_three_no_code_is_lost(
    cluster: Cluster, postgresql: tuple[str, ...], *, volume: bool
) -> None:
    kept = ("--set=storage.persistence.enabled=true",) if volume else ()
    await cluster.install(NODE_PORT, *kept)
    load = Load(await cluster.api())
    await shorten(load, CODES)
    await _move(cluster, load, *kept, *postgresql)


async def test_from_three_pods_to_one_or_none_no_code_is_lost(
    cluster: Cluster, postgresql: tuple[str, ...]
) -> None:
    await cluster.install(NODE_PORT, "--set=replicaCount=3", *postgresql)
    load = Load(await cluster.api())
    await shorten(load, 100)
    for count in (1, 0, 1):
        await cluster.install(NODE_PORT, f"--set=replicaCount={count}", *postgresql)
        await cluster.until_ready(count)
        await _all_resolve_from_every_pod(cluster, load.codes)
    refused = await cluster.run("./install.sh", NODE_PORT, "--set=postgresql.enabled=false", check=False)
    assert "The data of storage is in a database" in refused
    await cluster.until_ready(1)
    await _all_resolve_from_every_pod(cluster, load.codes)


async def test_what_has_come_after_a_move_is_to_be_moved_too(
    cluster: Cluster, postgresql: tuple[str, ...]
) -> None:
    await cluster.install(NODE_PORT)
    load = Load(await cluster.api())
    await shorten(load, 10)
    await cluster.run("./move-to-postgresql.sh", *postgresql)
    await cluster.kubectl("delete", "pod", await cluster.pod_name())  # and its file with it
    await cluster.until_ready(1)
    await shorten(load, 20)
    for settings in (("--set=replicaCount=3",), ()):
        refused = await cluster.run("./install.sh", NODE_PORT, *settings, *postgresql, check=False)
        assert "The data of storage is in a file" in refused
    await cluster.run("./move-to-postgresql.sh", *postgresql)
    await cluster.install(NODE_PORT, "--set=replicaCount=3", *postgresql)
    await cluster.until_ready(3)
    await _all_resolve_from_every_pod(cluster, load.codes)


async def test_from_the_chart_before_this_one_no_code_is_lost(
    cluster: Cluster, postgresql: tuple[str, ...], tmp_path: Path
) -> None:
    before = _chart_of("0.1.0", tmp_path)
    tag = f"--set-string=image.tag={cluster.tag}"
    kept = "--set=storage.persistence.enabled=true"
    await cluster.helm("install", RELEASE, str(before), NODE_PORT, tag, kept, "--wait", "--timeout=5m")
    load = Load(await cluster.api())
    await shorten(load, 100)
    await cluster.install(NODE_PORT, kept)
    await cluster.until_ready(1)
    await _all_resolve_from_every_pod(cluster, load.codes)
    await cluster.helm("rollback", RELEASE, "1", "--wait", "--timeout=5m")
    await cluster.until_ready(1)
    await _all_resolve_from_every_pod(cluster, load.codes)
    await _move(cluster, load, kept, *postgresql)


def _chart_of(version: str, folder: Path) -> Path:
    """Return the chart as it was in the last commit in which it had a version."""

    def git(*words: str) -> bytes:
        return subprocess.run(["git", "-C", CHART, *words], capture_output=True, check=True).stdout

    if shutil.which("git") is None or not (CHART.parent / ".git").exists():
        pytest.skip("the chart of before is in the history, and this is no clone")
    changes = git("log", "--format=%H", "--", "Chart.yaml").decode().split()
    for before in (f"{commit}^" for commit in changes[:-1]):
        if yaml.safe_load(git("show", f"{before}:./Chart.yaml"))["version"] == version:
            (folder / "chart.tar").write_bytes(git("archive", before, "."))
            with tarfile.open(folder / "chart.tar") as tar:
                tar.extractall(folder / "chart", filter="data")
            return folder / "chart"
    pytest.skip(f"this clone does not reach back to the chart {version}")


async def _move(cluster: Cluster, load: Load, *settings: str) -> None:
    """Go to three pods: that is refused, then the pairs are moved as the refusal says, then it is done."""
    refused = await cluster.run("./install.sh", NODE_PORT, "--set=replicaCount=3", *settings, check=False)
    assert "The data of storage is in a file, /data/urls.sqlite3" in refused
    assert "./move-to-postgresql.sh" in refused
    await _all_resolve_from_every_pod(cluster, load.codes)
    for _ in range(2):  # to do it twice does no harm
        moved = await cluster.run("./move-to-postgresql.sh", *postgresql_settings(settings))
        assert f"{len(load.codes)} pairs are in PostgreSQL" in moved
    await _new_urls_are_refused(load)  # what is not kept is not acknowledged
    await cluster.install(NODE_PORT, "--set=replicaCount=3", *settings)
    await cluster.until_ready(3)
    load.api = await cluster.api()
    async with one_connection_each() as http:
        await load.shorten(http, "https://example.com/after")
    # What the script has made is Helm's to change.
    again = "--set-string=annotations.example\\.com/again=yes"
    await cluster.install(NODE_PORT, "--set=replicaCount=3", again, *settings)
    await cluster.until_ready(3)
    await _all_resolve_from_every_pod(cluster, load.codes)


async def _new_urls_are_refused(load: Load) -> None:
    async with one_connection_each() as http:
        with trio.fail_after(60):
            while True:
                try:
                    answer = await http.get(f"{load.api}/api.v1.API/Shorten", params={"url": "https://late"})
                except httpx.TransportError:  # the pod is not ready for a moment
                    await trio.sleep(0.5)
                else:
                    assert answer.status_code >= 500, answer.text
                    return


def postgresql_settings(settings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(setting for setting in settings if "postgresql." in setting)


async def test_a_fourth_plugin_by_values_is_called_through_the_host(cluster: Cluster, tmp_path: Path) -> None:
    values = {
        "extraPlugins": [
            {
                "name": "mirror",
                "plugin": "Mirror.Plugin",
                "image": {"repository": "cpg-platform", "tag": cluster.tag},
                "port": 8090,
                "public": True,
                "requires": ["logger"],
                "command": ["python", "/code/mirror.py"],
                "volumes": [
                    {"name": "code", "mountPath": "/code", "source": {"configMap": {"name": "mirror"}}}
                ],
            }
        ],
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "mirror"},
                "data": {"mirror.py": (HERE / "mirror.py").read_text()},
            }
        ],
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    said = await cluster.install(NODE_PORT, f"--values={tmp_path / 'values.yaml'}")
    assert re.search(r"^url-shortener-\S+ +5/5 +Running +0 ", said, re.MULTILINE)
    (service,) = await cluster.objects("services")
    (port,) = [item["nodePort"] for item in service["spec"]["ports"] if item["name"] == "mirror"]
    api = await cluster.api()
    async with httpx.AsyncClient(trust_env=False) as http:
        url = f"{api.rpartition(':')[0]}:{port}/logger.v1.Logger/Log"
        answer = await http.post(url, json={"message": "hello"})
        assert answer.status_code == 200, answer.text
    pod = await cluster.pod_name()
    assert "[LOG] mirrored mirrored hello" in await cluster.kubectl("logs", pod, "-c", "logger")
    routed = await cluster.kubectl("logs", pod, "-c", "host")
    assert re.search(r"\[ROUTER\] mirror.plugin-\w+ → mirror.plugin-\w+ /Log \(service: mirror\)", routed)
    assert re.search(r"\[ROUTER\] mirror.plugin-\w+ → logger-plugin-\w+ /Log 200 ", routed)
    await cluster.run("./test.sh")


OUTSIDER = """
import json, sys, urllib.error, urllib.request as u
pod, answers = sys.argv[1], {}
for port in (8080, 8081, 8082, 8083, 9080, 9081, 9082, 9083, 10083):
    for path in ("/connectplugin.v1.HandshakeService/Handshake", "/services/storage/x/Get", "/healthz", "/"):
        headers, body = {"content-type": "application/json"}, json.dumps(HANDSHAKE).encode()
        request = u.Request(f"http://{pod}:{port}{path}", body, headers)
        try:
            answers[f"{port}{path}"] = u.urlopen(request, timeout=5).status
        except urllib.error.HTTPError as error:
            answers[f"{port}{path}"] = error.code
        except OSError:
            pass
print(json.dumps(answers))
"""
HANDSHAKE = {
    "coreProtocolVersion": 1,
    "appProtocolVersion": 1,
    "magicCookieKey": "CONNECT_PLUGIN",
    "magicCookieValue": "d3f40b3c2e1a5f8b9c4d7e6a1b2c3d4e",
    "selfId": "stranger-plugin",
    "selfVersion": "1.0.0",
}


async def test_a_program_outside_of_the_pod_reaches_the_public_port_and_the_probes_and_nothing_else(
    cluster: Cluster,
) -> None:
    await cluster.install("--set=networkPolicy.enabled=false")
    (pod,) = await cluster.pods()
    program = OUTSIDER.replace("HANDSHAKE", repr(HANDSHAKE))
    overrides = {
        "spec": {
            "containers": [
                {
                    "name": "outsider",
                    "image": f"cpg-client:{cluster.tag}",
                    "imagePullPolicy": "Never",
                    "command": ["python", "-c", program, pod["status"]["podIP"]],
                }
            ]
        }
    }
    said = await cluster.kubectl(
        *("run", "outsider", "--rm", "-i", "--restart=Never", f"--image=cpg-client:{cluster.tag}"),
        f"--overrides={json.dumps(overrides)}",
    )
    answers = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert answers.pop("8083/healthz") == 200
    for port in (9080, 9081, 9082, 9083):
        assert answers.pop(f"{port}/healthz") == 200
    assert set(answers.values()) == {404}
    assert {answer.partition("/")[0] for answer in answers} == {"8083", "9080", "9081", "9082", "9083"}
    host = await cluster.kubectl("logs", pod["metadata"]["name"], "-c", "host")
    assert "stranger-plugin" not in host


async def test_secrets_stay_over_an_upgrade_and_no_container_has_anothers(cluster: Cluster) -> None:
    await cluster.install()
    before = await cluster.kubectl("get", "secret", f"{RELEASE}-identity", "-o", "jsonpath={.data}")
    await cluster.install("--set=drainSeconds=1")
    await cluster.until_ready(1)
    assert await cluster.kubectl("get", "secret", f"{RELEASE}-identity", "-o", "jsonpath={.data}") == before
    pod, tokens = await cluster.pod_name(), set()
    for name in CONTAINERS:
        seen = await cluster.kubectl("exec", pod, "-c", name, "--", "ls", "/enrolment", "/keys", check=False)
        assert ("host.key" in seen) == (name == "host")
        if name != "host":
            read = ("exec", pod, "-c", name, "--", "cat", "/enrolment/token")
            tokens.add(await cluster.kubectl(*read))
    assert len(tokens) == 3


async def test_a_policy_that_changes_is_taken_without_a_restart(cluster: Cluster, tmp_path: Path) -> None:
    await cluster.install(NODE_PORT)
    denied = tmp_path / "denied.yaml"
    denied.write_text("policy: {plugins: {storage-plugin: {calls: [nothing]}}}\n")
    await cluster.install(NODE_PORT, f"--values={denied}")  # a policy where there was none is another pod
    pod = await cluster.pod_name()
    denied.write_text("policy: {plugins: {storage-plugin: {calls: [logger]}}}\n")
    await cluster.install(NODE_PORT, f"--values={denied}")
    with trio.fail_after(150):  # the kubelet brings it once a minute or so
        while "policy.toml: read anew" not in await cluster.kubectl("logs", pod, "-c", "host"):
            await trio.sleep(2)
            await cluster.run("./test.sh", check=False)
    assert await cluster.pod_name() == pod
