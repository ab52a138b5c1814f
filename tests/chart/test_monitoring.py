"""What the chart gives Prometheus and Grafana: monitors, alert rules, a dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, containers_of, helm, of_kind, pod_of

RULES = CHART / "rules" / "cpg-trio.yaml"
RULE_TESTS = Path(__file__).parent / "rules.test.yaml"
DASHBOARD = CHART / "dashboards" / "cpg-trio.json"
METRICS_PAGE = CHART.parent / "docs" / "reference" / "metrics.md"

_promtool = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    _promtool is None, reason="there is no promtool, which comes with Prometheus, on PATH"
)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert _promtool is not None
    return subprocess.run([_promtool, *arguments], capture_output=True, text=True, check=False, timeout=60)


def rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def queries() -> list[str]:
    """Return the queries of the dashboard, with values for its variables."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return [
        re.sub(r"\$(job|instance|service)\b", ".*", text).replace("$__rate_interval", "5m") for text in found
    ]


@needs_promtool
def test_the_rules_fire_when_they_should_and_only_then() -> None:
    ran = promtool("test", "rules", str(RULE_TESTS))
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_rule_has_a_test_in_which_it_fires() -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    fired = {check["alertname"] for each in tests for check in each["alert_rule_test"] if check["exp_alerts"]}
    assert fired == set(rules())


@needs_promtool
def test_prometheus_reads_each_query_of_the_dashboard(tmp_path: Path) -> None:
    as_rules = [{"record": f"query:{index}", "expr": text} for index, text in enumerate(queries())]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": as_rules}]}))
    ran = promtool("check", "rules", str(file))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{len(as_rules)} rules found" in ran.stdout


def test_rules_and_dashboard_use_only_metrics_that_there_are() -> None:
    page = METRICS_PAGE.read_text()
    used = {
        name
        for text in [*queries(), *(rule["expr"] for rule in rules().values())]
        for name in re.findall(r"\b(?:cpg_trio|process)_\w+", text)
    }
    assert used
    for name in sorted(used):
        assert re.sub(r"_bucket$", "", name) in page, name


def monitors() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    (pods,) = of_kind("PodMonitor", "observed")
    yield "pods", pods["spec"]["podMetricsEndpoints"]
    (services,) = of_kind("ServiceMonitor", "observed")
    yield "services", services["spec"]["endpoints"]


def test_the_monitors_find_the_metrics_of_each_container() -> None:
    named = [
        port["name"]
        for container in containers_of(pod_of("observed")).values()
        for port in container["ports"]
        if "name" in port
    ]
    assert len(named) == 4
    for _, endpoints in monitors():
        assert [each["port"] for each in endpoints] == named
    (deployment,) = of_kind("Deployment", "observed")
    (pods,) = of_kind("PodMonitor", "observed")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert pods["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert pods["metadata"]["labels"]["release"] == "prometheus"


def test_the_service_monitor_selects_the_headless_service_and_not_the_public_one() -> None:
    (monitor,) = of_kind("ServiceMonitor", "observed")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    selected = [
        service
        for service in of_kind("Service", "observed")
        if wanted <= service["metadata"]["labels"].items()
    ]
    (service,) = selected
    assert service["spec"]["clusterIP"] == "None"
    assert [port["port"] for port in service["spec"]["ports"]] == [11080, 11081, 11082, 11083]


def test_only_the_peers_that_are_named_may_read_the_metrics() -> None:
    (policy,) = of_kind("NetworkPolicy", "observed")
    public, metrics = policy["spec"]["ingress"]
    assert "from" not in public
    assert [port["port"] for port in metrics["ports"]] == [f"metrics-{port}" for port in range(8080, 8084)]
    assert metrics["from"][0]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "monitoring"
    }


def test_the_rule_object_has_the_rules_of_the_file() -> None:
    (rule,) = of_kind("PrometheusRule", "observed")
    assert rule["spec"] == yaml.safe_load(RULES.read_text())


def test_the_dashboard_object_has_the_dashboard_of_the_file() -> None:
    config = next(c for c in of_kind("ConfigMap", "observed") if c["metadata"]["name"].endswith("-dashboard"))
    assert json.loads(config["data"]["cpg-trio.json"]) == json.loads(DASHBOARD.read_text())
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config["metadata"]["annotations"]["grafana_folder"] == "plugins"


def test_without_metrics_there_is_nothing_of_them() -> None:
    for kind in ("PodMonitor", "ServiceMonitor", "PrometheusRule", "ConfigMap"):
        assert not of_kind(kind, "default")
    host = containers_of(pod_of("default"))["host"]
    assert "METRICS_BIND" not in {each["name"] for each in host["env"]}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ("metrics.rules.enabled=true", "metrics.rules.enabled is for metrics, and metrics.enabled is false"),
        ("logs.format=xml", "logs.format"),
        ("logs.calls=some", "logs.calls"),
        ("logs.level=loud", "logs.level"),
        ("tracing.share=2", "tracing.share"),
        ("tracing.endpoint=collector:4318", "tracing.endpoint"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(values: str, sentence: str) -> None:
    ran = helm("template", "x", str(CHART), "--set", values)
    assert ran.returncode != 0
    assert sentence in ran.stderr.replace("/", ".")
