"""The chart on a cluster, driven by its scripts, by kubectl and by helm, as the guide does it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio

CHART = Path(__file__).parents[2] / "chart"
RELEASE = "url-shortener"
PODS = "app.kubernetes.io/name=url-shortener"
PATIENCE_S = 180.0
PAUSE_S = 0.1  # of a client between one URL and the next


@attrs.frozen
class Cluster:
    """A namespace of its own on the cluster that KUBECONFIG names, and the images of one build."""

    tag: str
    namespace: str = attrs.field(factory=lambda: f"cpg-{secrets.token_hex(4)}")

    @property
    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "NAMESPACE": self.namespace, "TAG": self.tag, "RELEASE": RELEASE}

    async def run(self, *command: str, check: bool = True, stdin: str = "") -> str:
        """Run a command in the chart's folder; return all that it says."""
        done = await trio.run_process(
            command,
            cwd=CHART,
            env=self.environment,
            stdin=stdin.encode(),
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
        said = done.stdout.decode()
        tell(f"$ {' '.join(command)}\n{said}")
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{said}"
        return said

    async def kubectl(self, *arguments: str, check: bool = True, stdin: str = "") -> str:
        kubectl = os.environ.get("KUBECTL", "kubectl")
        return await self.run(kubectl, "--namespace", self.namespace, *arguments, check=check, stdin=stdin)

    async def helm(self, *arguments: str) -> str:
        return await self.run(os.environ.get("HELM", "helm"), "--namespace", self.namespace, *arguments)

    async def install(self, *arguments: str) -> str:
        return await self.run("./install.sh", *arguments)

    async def objects(self, kind: str, selector: str = PODS) -> Sequence[dict[str, Any]]:
        kubectl = os.environ.get("KUBECTL", "kubectl")
        done = await trio.run_process(
            [kubectl, "--namespace", self.namespace, "get", kind, "-l", selector, "-o", "json"],
            capture_stdout=True,
        )
        items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
        return items

    async def pods(self, selector: str = PODS) -> Sequence[dict[str, Any]]:
        """Return the pods that are not about to end."""
        return [
            pod for pod in await self.objects("pods", selector) if "deletionTimestamp" not in pod["metadata"]
        ]

    async def pod_name(self) -> str:
        (pod,) = await self.pods()
        return str(pod["metadata"]["name"])

    async def until_ready(self, count: int, selector: str = PODS) -> None:
        """Wait until there are so many pods, and all are ready."""
        with trio.fail_after(PATIENCE_S):
            while True:
                pods = await self.pods(selector)
                if len(pods) == count and all(is_ready(pod) for pod in pods):
                    return
                await trio.sleep(0.2)

    async def until_not_ready(self) -> None:
        with trio.fail_after(PATIENCE_S):
            while any(is_ready(pod) for pod in await self.pods()):  # noqa: ASYNC110 - nobody tells of it
                await trio.sleep(0.2)

    async def api(self) -> str:
        """Return where the api is, for what is not in the cluster: its Service's port on a node."""
        services = await self.objects("services")
        (service,) = [item for item in services if item["spec"]["type"] == "NodePort"]
        return f"http://{node_address()}:{service['spec']['ports'][0]['nodePort']}"


def tell(text: str) -> None:
    """Print what was seen: `nox -s k8s` is as much a report as a test."""
    print(text, flush=True)  # noqa: T201 - that is what it is for


def is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def restarts(pod: Mapping[str, Any]) -> Mapping[str, int]:
    return {item["name"]: item["restartCount"] for item in pod["status"]["containerStatuses"]}


def node_address() -> str:
    """Return the address of a node."""
    path = "{.items[0].status.addresses[?(@.type=='InternalIP')].address}"
    kubectl = os.environ.get("KUBECTL", "kubectl")
    said = subprocess.run(
        [kubectl, "get", "nodes", "-o", f"jsonpath={path}"], capture_output=True, text=True, check=True
    )
    return said.stdout.split()[0]


def is_ours(address: str) -> bool:
    """Return whether it is an address of this machine."""
    with socket.socket() as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True


@attrs.define
class Load:
    """Clients that shorten and resolve, each request on a connection of its own."""

    api: str
    codes: dict[str, str] = attrs.field(factory=dict)
    """The codes that were given, and the URLs that they stand for."""
    failures: list[str] = attrs.field(factory=list)
    """When a request failed, after how long, and how."""
    requests: int = 0
    failing_s: float = 0.0
    """The longest time, in seconds, for which one request failed, with whoever asked trying on."""

    @property
    def told(self) -> str:
        failed = f"{len(self.failures)} failed, for at most {self.failing_s:.1f} s"
        return f"{self.requests} requests, {failed}; {len(self.codes)} URLs shortened"

    async def shorten(self, http: httpx.AsyncClient, url: str) -> str:
        """Shorten, trying on until it is done."""
        answer = await self._ask(http, "Shorten", {"url": url})
        code = str(answer["short_code"])
        self.codes[code] = url
        return code

    async def resolve(self, http: httpx.AsyncClient, code: str) -> str:
        return str((await self._ask(http, "Resolve", {"code": code}))["url"])

    async def _ask(
        self, http: httpx.AsyncClient, method: str, params: Mapping[str, str]
    ) -> Mapping[str, str]:
        began = trio.current_time()
        while True:
            self.requests += 1
            tried = trio.current_time()
            try:
                answer = await http.get(f"{self.api}/api.v1.API/{method}", params=params)
                answer.raise_for_status()
            except httpx.HTTPError as error:
                now = trio.current_time()
                said = error.response.text if isinstance(error, httpx.HTTPStatusError) else ""
                self.failures.append(
                    f"{datetime.now(UTC):%H:%M:%S}, {method}, after {now - tried:.1f} s: {error!r} {said}"
                )
                tell(self.failures[-1])
                await trio.sleep(0.1)
                self.failing_s = max(self.failing_s, trio.current_time() - began)
            else:
                return dict(answer.json())

    async def client(self, number: int) -> None:
        """Shorten and resolve for ever; what counts is whether a request fails, not how many there are."""
        async with one_connection_each() as http:
            count = 0
            while True:
                url = f"https://example.com/{number}/{count}"
                assert await self.resolve(http, await self.shorten(http, url)) == url
                count += 1
                await trio.sleep(PAUSE_S)


def one_connection_each() -> httpx.AsyncClient:
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(limits=limits, timeout=10, trust_env=False)


@asynccontextmanager
async def under_load(api: str, clients: int = 4) -> AsyncIterator[Load]:
    """Have clients ask for as long as the block lasts."""
    load = Load(api)
    async with trio.open_nursery() as nursery:
        for number in range(clients):
            nursery.start_soon(load.client, number)
        yield load
        nursery.cancel_scope.cancel()
    tell(load.told)
