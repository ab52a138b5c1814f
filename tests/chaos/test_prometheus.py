"""A real Prometheus server scrapes a host and its plugins: targets, numbers, rules, alerts and exemplars."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from cpg_trio.host import Host, HostConfig
from cpg_trio.plugin import Dependency, Plugin
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import hosting, plugged, unused_port
from tests.rpc.echo import Echo

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="there is no Prometheus server here (apt install prometheus)",
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
RULES: dict[str, Any] = {
    "groups": [
        {
            "name": "cpg-trio",
            "interval": "250ms",
            "rules": [
                {"record": "code:cpg_trio_calls:sum", "expr": "sum by (code) (cpg_trio_calls_total)"},
                {"alert": "ServiceMissing", "expr": "cpg_trio_service_providers == 0"},
            ],
        }
    ]
}


@attrs.frozen
class Prometheus:
    """A Prometheus server."""

    http: httpx.AsyncClient

    async def get(self, path: str, **params: str) -> Any:
        answer = (await self.http.get(f"/api/v1/{path}", params=params)).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def query(self, query: str) -> list[Any]:
        result: list[Any] = (await self.get("query", query=query))["result"]
        return result

    async def value(self, query: str) -> float | None:
        """Return the value of a query that has one result, None if there is no result yet."""
        result = await self.query(query)
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    with trio.fail_after(30):
        while not await condition():  # noqa: ASYNC110 - there is no event
            await trio.sleep(0.1)


async def killed(process: trio.Process) -> None:
    """End a process at once: it has nothing that is worth keeping."""
    process.kill()


@asynccontextmanager
async def prometheus(folder: Path, targets: dict[str, str]) -> AsyncIterator[Prometheus]:
    """Run a Prometheus server that scrapes targets, by the names of their jobs."""
    # JSON is YAML.
    (folder / "rules.yml").write_text(json.dumps(RULES))
    jobs = [{"job_name": name, "static_configs": [{"targets": [target]}]} for name, target in targets.items()]
    config = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
        "rule_files": [str(folder / "rules.yml")],
        "scrape_configs": jobs,
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    address = f"127.0.0.1:{unused_port()}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
    ]
    with (folder / "log").open("wb") as log:
        async with trio.open_nursery() as nursery, httpx.AsyncClient(base_url=f"http://{address}") as http:
            run = partial(
                trio.run_process,
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
                deliver_cancel=killed,
            )
            await nursery.start(run)

            async def is_ready() -> bool:
                try:
                    return (await http.get("/-/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(is_ready)
            yield Prometheus(http)
            nursery.cancel_scope.cancel()


@attrs.frozen
class Watched:
    """A host with a provider and a caller, and the Prometheus server that scrapes all three."""

    host: Host
    dependency: Dependency
    prometheus: Prometheus

    async def call(self, text: str = "hello") -> None:
        client = self.dependency.client(EchoServiceClient)
        await client.echo(EchoRequest(text=text), headers={"traceparent": f"00-{TRACE}-{'b' * 16}-01"})


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Watched]:
    binds = [f"127.0.0.1:{unused_port()}" for _ in range(3)]
    provider, caller = Plugin("echo-plugin", version="1.0.0"), Plugin("caller", version="1.0.0")
    provider.provide("echo", Echo())
    caller.provide("front", Echo())
    dependency = caller.require("echo")
    caller.require("nothing", required=False)
    async with (
        hosting(HostConfig(metrics_bind=binds[0])) as (host, url),
        plugged(provider, url, metrics_bind=binds[1]),
        plugged(caller, url, metrics_bind=binds[2]),
        prometheus(folder, dict(zip(("host", "echo", "caller"), binds, strict=True))) as server,
    ):
        await dependency.wait_available()
        yield Watched(host, dependency, server)


async def test_what_prometheus_knows_is_what_has_happened(tmp_path: Path) -> None:
    async with watched(tmp_path) as s:
        server = s.prometheus
        with pytest.raises(Exception, match="there it is"):
            await s.call("fail")

        async def all_are_up() -> bool:
            return await server.value("sum(up)") == 3

        await until(all_are_up)

        # The numbers, of the host and of both plugins.
        ok = 'cpg_trio_calls_total{caller="caller",provider="echo-plugin",method="Echo",code="ok"}'
        everywhere = (
            ok,
            'cpg_trio_server_calls_total{job="echo",code="ok"}',
            'cpg_trio_client_calls_total{job="caller",code="ok"}',
        )
        for total in (20, 40):
            for _ in range(20):
                await s.call()

            async def all_are_counted(total: int = total) -> bool:
                return [await server.value(query) for query in everywhere] == [total] * 3

            await until(all_are_counted)
        assert await server.value('cpg_trio_calls_total{code="already_exists",service="echo"}') == 1

        # A rate by service is that of the samples, with at most 1.1 intervals more at each end.
        (series,) = await server.query(f"{ok}[5m]")
        first, *between, last = (float(value) for _, value in series["values"])
        rate = await server.value("sum by (service) (rate(cpg_trio_calls_total{code='ok'}[5m]))")
        assert last > first
        assert 0.95 <= (rate or 0) * 300 / (last - first) <= 1.05 + 2.2 / (len(between) + 1)
        p95 = "histogram_quantile(0.95, sum by (le) (cpg_trio_call_duration_seconds_bucket))"
        assert 0 < (await server.value(p95) or 0) < 10

        # Rules and alerts.
        async def rules_are_evaluated() -> bool:
            alerts = (await server.get("alerts"))["alerts"]
            firing = [each["labels"]["service"] for each in alerts if each["state"] == "firing"]
            return firing == ["nothing"] and await server.value('code:cpg_trio_calls:sum{code="ok"}') == 40

        await until(rules_are_evaluated)

        # From a slow call to its trace.
        found = await server.get(
            "query_exemplars", query="cpg_trio_call_duration_seconds_bucket", start="0", end="9999999999"
        )
        traces = {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}
        assert traces == {TRACE}

        # Nothing is wrong with what is exposed.
        async def nothing_is_wrong() -> bool:
            targets = (await server.get("targets"))["activeTargets"]
            return [target["lastError"] for target in targets] == ["", "", ""]

        await until(nothing_is_wrong)
