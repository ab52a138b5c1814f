"""A guide to the sidecar pattern, typed line by line: what people type who come from elsewhere.

Its folder and its images' names are this chart's; all else is as it is written there. The table in
docs/guides/kubernetes.md says the same of each line.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
from pathlib import Path

import pytest
import trio

from tests.k8s.cluster import CHART, RELEASE, Cluster
from tests.plugin.running import unused_port

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "kubernetes.md"
PODS = "kubectl get pods -l app.kubernetes.io/name=url-shortener"
POD = f"POD=$({PODS} -o jsonpath='{{.items[0].metadata.name}}')"
SHORTEN = 'curl -X POST "http://localhost:8083/api.v1.API/Shorten?url=https://example.com"'
RESOLVE = 'curl "http://localhost:8083/api.v1.API/Resolve?code=abc123"'
SHORTEN_PLAINLY = "curl http://localhost:8083/api.v1.API/Shorten?url=https://test.com"
FORWARD = "kubectl port-forward svc/url-shortener 8083:8083"

# What is typed while a release is there, and what has to be in the answer, as a pattern.
LINES = {
    PODS: r"url-shortener-\S+ +4/4 +Running +0",
    "kubectl logs <pod-name> --all-containers": r"\[ROUTER\]",
    "kubectl logs <pod-name> -c host": r"host listening on",
    "kubectl logs <pod-name> -c logger": r"\[LOG\] STORE",
    "kubectl logs <pod-name> -c storage": r"storage-plugin listening on",
    "kubectl logs <pod-name> -c api": r"api-plugin listening on",
    "kubectl logs $POD --all-containers": r"\[ROUTER\]",
    "kubectl logs $POD -c host": r"host listening on",
    "kubectl logs $POD -c logger": r"\[LOG\] STORE",
    "kubectl logs $POD -c storage": r"storage-plugin listening on",
    "kubectl logs $POD -c api": r"api-plugin listening on",
    "kubectl logs $POD -c host | grep ROUTER": (
        r"\[ROUTER\] api-plugin-\w+ → storage-plugin-\w+ /Store \(service: storage\)"
    ),
    "kubectl logs $POD -c logger | grep LOG": r"\[LOG\] STORE \w{8} → https://",
    "kubectl describe pod <pod-name>": r"Containers:",
    'kubectl logs <pod> -c host | grep "Registered service"': r"Registered service: storage v1\.0\.0",
    'kubectl logs <pod> -c storage | grep -E "degraded|healthy"': r"storage-plugin is healthy",
    "kubectl get svc url-shortener": r"url-shortener +ClusterIP .* 8083/TCP",
}
SCRIPTS = ("./setup.sh", "./install.sh", "./test.sh", "./cleanup.sh", "./port-forward.sh", "./test-api.sh")
INSTALLS = (
    "helm install url-shortener . --set service.type=LoadBalancer",
    "helm install url-shortener . --set replicaCount=3",
    "helm install url-shortener . --set image.repository=myregistry.io --set image.tag=v1.0.0",
)
UNINSTALL = "helm uninstall url-shortener"


def test_the_guide_here_has_a_row_for_each_line() -> None:
    told = GUIDE.read_text()
    for line in (*LINES, *SCRIPTS, *INSTALLS, UNINSTALL, POD, SHORTEN, RESOLVE, SHORTEN_PLAINLY, FORWARD):
        assert f"`{line}`".replace("|", r"\|") in told, line


async def _type(cluster: Cluster, line: str, *, check: bool = True) -> str:
    """Type a line in the chart's folder, where kubectl and helm have the namespace for their own."""
    kubectl, helm = (os.environ.get(name.upper(), name) for name in ("kubectl", "helm"))
    own = (
        f'kubectl() {{ command {kubectl} --namespace {cluster.namespace} "$@"; }}\n'
        f'helm() {{ command {helm} --namespace {cluster.namespace} "$@"; }}\n'
    )
    typed = re.sub(r"<pod(-name)?>", "$POD", line)
    return await cluster.run("bash", "-o", "pipefail", "-c", f"{own}{POD}\n{typed}", check=check)


async def test_every_line_of_the_guide_does_what_it_says(cluster: Cluster) -> None:
    assert "✅ Deployment successful!" in await cluster.run("./install.sh")
    assert "https://" in await cluster.run("./test.sh")
    for line, found in LINES.items():
        assert re.search(found, await _type(cluster, line)), line
    async with _forwarding(cluster, FORWARD) as port:
        shortened = await _type(cluster, SHORTEN.replace("8083", port, 1))
        code = re.search(r'"short_code": *"([0-9a-f]{8})"', shortened)
        assert code
        resolved = await _type(cluster, RESOLVE.replace("8083", port, 1).replace("abc123", code[1]))
        assert re.search(r'"url": *"https://example.com"', resolved)
        assert "short_code" in await _type(cluster, SHORTEN_PLAINLY.replace("8083", port, 1))
    assert "✅" in await cluster.run("./cleanup.sh")


class _forwarding:  # noqa: N801 - a context manager
    """`kubectl port-forward`, from another port of this machine, in another terminal."""

    def __init__(self, cluster: Cluster, line: str) -> None:
        self._cluster, self._line, self._port = cluster, line, str(unused_port())

    async def __aenter__(self) -> str:
        words = shlex.split(self._line.replace("8083:8083", f"{self._port}:8083"))
        kubectl = os.environ.get("KUBECTL", "kubectl")
        command = [kubectl, "--namespace", self._cluster.namespace, *words[1:]]
        self._process = await trio.lowlevel.open_process(command, start_new_session=True)
        with trio.fail_after(30):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", int(self._port))).aclose()
                except OSError:
                    await trio.sleep(0.1)
                else:
                    return self._port

    async def __aexit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGINT)
        with trio.CancelScope(shield=True):
            await self._process.wait()


@pytest.mark.parametrize("line", INSTALLS)
async def test_every_installation_of_the_guide_installs(
    cluster: Cluster, postgresql: tuple[str, ...], line: str
) -> None:
    # The images that were built have a tag of their own, but where the line says another.
    ours = "" if "image.tag" in line else f" --set-string image.tag={cluster.tag}"
    assert "STATUS: deployed" in await _type(cluster, f"{line}{ours} {shlex.join(postgresql)}")
    if ours:
        await cluster.until_ready(3 if "replicaCount=3" in line else 1)
        await cluster.run("./test.sh")
    else:
        pods = await _type(cluster, "kubectl describe pod -l app.kubernetes.io/name=url-shortener")
        assert "myregistry.io/cpg-api-plugin:v1.0.0" in pods
    assert "uninstalled" in await _type(cluster, UNINSTALL)


async def test_a_script_that_is_ended_leaves_no_forwarding_behind(cluster: Cluster) -> None:
    await cluster.run("./install.sh")
    environment = {**cluster.environment, "PORT": str(unused_port())}
    forwarding = f"port-forward .*{cluster.namespace}|{cluster.namespace} port-forward"
    for script in ("port-forward.sh", "test.sh"):
        process = await trio.lowlevel.open_process([CHART / script], env=environment)
        with trio.fail_after(60):
            while not await _running(forwarding):  # noqa: ASYNC110 - nobody tells of it
                await trio.sleep(0.05)
        process.terminate()
        await process.wait()
        with trio.fail_after(15):
            while await _running(forwarding):  # noqa: ASYNC110 - the same
                await trio.sleep(0.05)


async def _running(pattern: str) -> bool:
    found = await trio.run_process(["pgrep", "-f", pattern], check=False, capture_stdout=True)
    return bool(found.stdout.strip())


assert RELEASE == "url-shortener"  # as the lines have it
