"""The metrics of a host: what is on the page is exposed, and an operator's questions have answers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cpg_trio import HealthState
from cpg_trio.host import Health, Host, HostConfig
from tests.host.calls import DISCOVER
from tests.host.routed import Recorder, Setting, routing
from tests.host.supervision.launching import Launches, spec
from tests.http.peers import OK
from tests.plugin.running import eventually

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()
FORGED = {"X-Plugin-Runtime-ID": "a-1", "Authorization": "Bearer forged"}
METRICS = HostConfig(metrics_bind="127.0.0.1:0")

Samples = Mapping[str, float]


@attrs.frozen
class Scraped:
    """What a scrape has brought."""

    text: str

    @property
    def types(self) -> dict[str, tuple[str, frozenset[str]]]:
        """The type and the labels of each metric."""
        return {
            family.name + ("_total" if family.type == "counter" else ""): (
                family.type,
                frozenset(label for s in family.samples for label in s.labels if label != "le"),
            )
            for family in text_string_to_metric_families(self.text)
        }

    def __getitem__(self, name: str) -> Samples:
        """Return the values of a metric by its labels, as in `kind=routed,service=echo`."""
        return {
            ",".join(f"{label}={value}" for label, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
            if sample.name == name
        }


async def scrape(url: str) -> Scraped:
    async with httpx.AsyncClient() as client:
        response = await client.get(f"{url}/metrics")
    assert response.status_code == 200
    return Scraped(response.text)


async def scraped(host: Host) -> Scraped:
    return await scrape(host.metrics_urls[0])


def page_of(*headings: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Return the metrics that the page has below some headings."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for heading in headings:
        section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        for name, kind, labels in re.findall(
            r"^\| `(cpg_trio_\w+)` \| (\w+) \| (.*?) ?\|", section, re.MULTILINE
        ):
            found[name] = kind, frozenset(re.findall(r"`(\w+)`", labels))
    return found


@asynccontextmanager
async def metered(config: HostConfig = METRICS) -> AsyncIterator[Setting]:
    """Run a host with metrics, a provider and a caller."""
    async with routing(Recorder(OK), config=config) as s:
        yield s


async def test_the_page_has_each_metric_of_a_host_with_its_type_and_labels() -> None:
    async with metered() as s:
        await s.call(s.head())
        await s.call(s.head(path="/services/echo/nobody/M"))
        needy, _ = s.host.identities.issue("needy", requires=("nothing",))
        s.host.registry.register(needy.runtime_id, "other", "1.0.0", "/", {})
        async with httpx.AsyncClient(base_url=s.url) as client:
            assert (await client.post(DISCOVER, json={}, headers=FORGED)).status_code == 401
        await s.host.plugins.add(spec("thumbs", Launches()), wait=False)
        types = (await scraped(s.host)).types
    exposed = {name: shown for name, shown in types.items() if name.startswith("cpg_trio_")}
    assert exposed == page_of("Of a host", "Of both")
    assert types.keys() - exposed.keys() == set(re.findall(r"`((?:process|python)_\w+)`", PAGE))


async def test_a_call_is_counted_with_its_caller_provider_method_and_code() -> None:
    async with metered() as s:
        await s.call(s.head())
        await s.call(s.head(path="/services/echo/nobody/M"))
        found = await scraped(s.host)
    (labels,) = found["cpg_trio_calls_total"]
    caller, provider = (runtime_id.rpartition("-")[0] for runtime_id in (s.caller, s.provider))
    assert labels == f"caller={caller},code=ok,kind=routed,method=M,provider={provider},service=echo"
    assert found["cpg_trio_calls_refused_total"] == {"code=not_found,kind=routed": 1}
    assert (
        found["cpg_trio_call_duration_seconds_count"][
            f"kind=routed,method=M,provider={provider},service=echo"
        ]
        == 1
    )
    assert found["cpg_trio_pool_connections"]["pool=routing,state=idle"] == 1
    assert s.caller not in found.text
    assert s.provider not in found.text


async def test_what_a_stranger_tries_is_no_label() -> None:
    async with metered() as s:
        for number in range(50):
            await s.call(s.head(path=f"/services/guess{number}/who{number}/Try{number}"))
        found = await scraped(s.host)
    assert "guess" not in found.text
    assert "who1" not in found.text
    assert "Try" not in found.text


async def test_states_are_told_with_since_when_and_what_is_missing() -> None:
    async with metered() as s:
        registry = s.host.registry
        registry.report_health(s.provider, Health(HealthState.DEGRADED, "no disk"))
        needy, _ = s.host.identities.issue("needy", requires=("echo", "nothing"))
        registry.register(needy.runtime_id, "other", "1.0.0", "/", {})
        found = await scraped(s.host)
        provider = s.provider.rpartition("-")[0]
        assert found["cpg_trio_plugins"]["state=degraded"] == 1
        assert found["cpg_trio_plugin_runs"][f"plugin={provider},state=degraded"] == 1
        since = found["cpg_trio_plugin_state_since_timestamp_seconds"][f"plugin={provider},state=degraded"]
        assert since == pytest.approx(found["process_start_time_seconds"][""], abs=3600)
        assert found["cpg_trio_service_providers"] == {
            "service=echo": 1,
            "service=other": 1,
            "service=nothing": 0,
        }
        assert found["cpg_trio_dependencies_missing"] == {"plugin=needy,service=nothing": 1}
        registry.set_lapsed(s.provider, "no sign of life")
        found = await scraped(s.host)
        assert found["cpg_trio_service_providers"]["service=echo"] == 0
        assert found["cpg_trio_lapses_total"] == {"": 1}
        assert found["cpg_trio_plugin_runs"] == {
            f"plugin={provider},state=lapsed": 1,
            "plugin=needy,state=healthy": 1,
        }


async def test_a_plugin_that_was_lost_is_gone_and_one_that_has_left_is_not_there() -> None:
    async with metered() as s:
        lost, left = (s.host.identities.issue(name)[0].runtime_id for name in ("lost", "left"))
        for runtime_id in (lost, left):
            s.host.registry.register(runtime_id, "other", "1.0.0", "/", {})
        s.host.registry.set_lapsed(lost, "no sign of life")
        for runtime_id in (lost, left):
            await s.host.revoke_identity(runtime_id)
        found = await scraped(s.host)
    assert [runs for runs in found["cpg_trio_plugin_runs"] if "left" in runs] == []
    assert found["cpg_trio_plugin_runs"]["plugin=lost,state=gone"] == 1


async def test_services_that_are_only_required_are_bounded() -> None:
    async with metered() as s:
        for number in range(60):
            types = tuple(f"t{number}-{each}" for each in range(100))
            needy, _ = s.host.identities.issue(f"needy{number}", requires=types)
            s.host.registry.register(needy.runtime_id, "other", "1.0.0", "/", {})
        found = await scraped(s.host)
    assert len(found["cpg_trio_dependencies_missing"]) == 1000


async def test_the_metrics_are_not_on_the_port_of_the_plugins() -> None:
    async with metered() as s, httpx.AsyncClient(base_url=s.url) as client:
        assert (await client.get("/metrics")).status_code == 404


async def test_without_an_address_there_are_no_metrics() -> None:
    async with routing(Recorder(OK)) as s:
        assert s.host.metrics_urls == ()


async def test_a_watcher_that_does_not_read_is_behind() -> None:
    async with metered() as s:
        with s.host.watches.watch(s.caller) as watch:
            watch.subscribe("echo")
            found = await scraped(s.host)
            assert found["cpg_trio_watches_behind"] == {"": 1}
            assert 0 < found["cpg_trio_watch_lag_seconds"][""] < 60
            await anext(watch)
            found = await scraped(s.host)
            assert (found["cpg_trio_watches_behind"], found["cpg_trio_watches"]) == ({"": 0}, {"": 1})


async def test_the_lag_of_the_loop_is_measured() -> None:
    async with metered() as s:
        await eventually(lambda: s.host.admin.loop_lag.most_s)
        assert (await scraped(s.host))["cpg_trio_event_loop_lag_seconds_count"][""] >= 1
