"""The questions of whoever is on call, answered by the metrics of the example's processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import trio

from tests.host.test_metrics import Scraped, scrape
from tests.plugin.running import unused_port
from tests.shortener_processes import System

CALLS = "cpg_trio_calls_total"


async def until(bind: str, condition: Callable[[Scraped], object]) -> Scraped:
    """Scrape until something holds; return the scrape in which it does."""
    with trio.fail_after(60):
        while True:
            found = await scrape(f"http://{bind}")
            if condition(found):
                return found
            await trio.sleep(0.05)


def edges(found: Scraped) -> set[tuple[str, str]]:
    """Return who has called whom."""
    labels = [dict(each.split("=") for each in key.split(",")) for key in found[CALLS]]
    return {(each["caller"], each["provider"]) for each in labels if each["provider"]}


async def test_the_metrics_of_a_host_tell_what_is_down_since_when_who_calls_whom_and_what_fails(
    tmp_path: Path,
) -> None:
    bind, provider_bind = (f"127.0.0.1:{unused_port()}" for _ in range(2))
    async with trio.open_nursery() as nursery:
        s = System(nursery, tmp_path)
        await s.start("host", LEASE_S="1", METRICS_BIND=bind)
        await s.parts["host"].url()
        for name in ("logger", "storage", "api"):
            await s.start(name, **({"METRICS_BIND": provider_bind} if name == "storage" else {}))
        await s.healthy("logger", "storage", "api")
        code = await s.shorten("https://example.com")

        # All is well: three are healthy, and who calls whom.
        found = await until(bind, lambda found: found["cpg_trio_plugins"]["state=healthy"] == 3)
        assert {("api-plugin", "storage-plugin"), ("storage-plugin", "logger-plugin")} <= edges(found)

        # What is slow: each method has its durations.
        timed = found["cpg_trio_call_duration_seconds_count"]
        assert timed["kind=routed,method=Store,provider=storage-plugin,service=storage"] == 1

        # One is killed: which, since when, and who is worse off for it.
        killed_at = time.time()
        await s.parts["logger"].end(signal.SIGKILL)
        lapsed = "plugin=logger-plugin,state=lapsed"
        found = await until(
            bind,
            lambda found: (
                lapsed in found["cpg_trio_plugin_runs"] and found["cpg_trio_plugins"]["state=degraded"] == 1
            ),
        )
        since = found["cpg_trio_plugin_state_since_timestamp_seconds"][lapsed]
        assert killed_at <= since <= time.time()
        assert found["cpg_trio_plugin_runs"]["plugin=storage-plugin,state=degraded"] == 1
        assert found["cpg_trio_service_providers"]["service=logger"] == 0
        missing = {"plugin=storage-plugin,service=logger": 1}
        assert found["cpg_trio_dependencies_missing"] == missing

        # Which calls fail, and with what.
        assert (await s.resolve(code)).status_code == 200
        assert (await s.resolve("nothing")).status_code == 404
        found = await until(bind, lambda found: any("code=not_found" in key for key in found[CALLS]))
        (failed,) = (key for key in found[CALLS] if "code=not_found" in key)
        assert "caller=api-plugin" in failed
        assert "provider=storage-plugin" in failed

        # The plugin itself tells the same of itself.
        found = await scrape(f"http://{provider_bind}")
        assert found["cpg_trio_dependency_available"] == {"required=true,service=logger": 0}
        assert found["cpg_trio_health"]["state=degraded"] == 1
        async with httpx.AsyncClient(base_url=s.host_url) as port_of_plugins:
            assert (await port_of_plugins.get("/metrics")).status_code == 404
        nursery.cancel_scope.cancel()
