"""What the chart renders, for a table of values and a table of versions of Kubernetes."""

from __future__ import annotations

import base64
import functools
import json
import operator
import os
import re
import shutil
import socket
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import attrs
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from cpg_trio import __version__
from cpg_trio.host import host_config
from cpg_trio.host.access.limits import Limits
from tests.chart.helm import (
    CHART,
    HELM,
    VALUES,
    Object,
    containers_of,
    helm,
    of_kind,
    pod_of,
    rendered,
    rendered_text,
)

FILES = sorted(path.stem for path in VALUES.glob("*.yaml"))
ALL_VERSIONS = ["1.20.2", *(f"1.{number}.0" for number in range(25, 38))]
VERSIONS = ["1.20.2", "1.28.9", "1.29.0", "1.37.0"]  # between which something differs
OLDEST_SCHEMA = (1, 25)  # that is published
OF_OTHERS = {"HTTPRoute", "PodMonitor", "ServiceMonitor", "PrometheusRule"}  # not Kubernetes' own
THE_SHORTENERS = [name for name in FILES if name not in {"fourth-plugin", "only-ones-own"}]

SNAPSHOT = Path(__file__).parent / "default.snapshot.yaml"

each_file = pytest.mark.parametrize("values", FILES)
each_of_both_topologies = pytest.mark.parametrize(
    "values", [*FILES, *sorted(f"separate/{path.stem}" for path in (VALUES / "separate").glob("*.yaml"))]
)
each_of_the_shortener = pytest.mark.parametrize("values", THE_SHORTENERS)
each_version = pytest.mark.parametrize("version", VERSIONS)


def minor(version: str) -> tuple[int, int]:
    major, number, _ = version.split(".")
    return int(major), int(number)


@each_of_both_topologies
def test_the_chart_has_no_lint(values: str) -> None:
    ran = helm("lint", "--strict", str(CHART), "--values", str(VALUES / f"{values}.yaml"))
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("version", ALL_VERSIONS)
@each_of_both_topologies
def test_every_object_is_one_that_kubernetes_takes(values: str, version: str) -> None:
    objects = rendered(values, version)
    assert len({(item["kind"], item["metadata"]["name"]) for item in objects}) == len(objects)
    for item in objects:
        assert item["metadata"]["namespace"] == "shortener"
        if minor(version) >= OLDEST_SCHEMA and item["kind"] not in OF_OTHERS:
            kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize(
    ("version", "budget", "autoscaler"),
    [
        ("1.20.2", "policy/v1beta1", "autoscaling/v2beta2"),
        ("1.22.0", "policy/v1", "autoscaling/v2beta2"),
        ("1.23.0", "policy/v1", "autoscaling/v2"),
        ("1.37.0", "policy/v1", "autoscaling/v2"),
    ],
)
def test_each_version_of_kubernetes_gets_the_kinds_that_it_has(
    version: str, budget: str, autoscaler: str
) -> None:
    (a_budget,) = of_kind("PodDisruptionBudget", "postgresql-autoscaled", version)
    (an_autoscaler,) = of_kind("HorizontalPodAutoscaler", "postgresql-autoscaled", version)
    assert (a_budget["apiVersion"], an_autoscaler["apiVersion"]) == (budget, autoscaler)


def test_the_default_rendering_is_the_one_that_was_reviewed() -> None:
    text = re.sub(r'(?m)^(  "?[\w.-]+"?): "[\w+/=]{40,}"$', r"\1: made", rendered_text("default", "1.33.0"))
    if os.environ.get("UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(text)
    assert text == SNAPSHOT.read_text(), "if it is meant: UPDATE_SNAPSHOT=1 nox -s chart, and review the diff"


PORTS = {"host": 8080, "logger": 8081, "storage": 8082, "api": 8083}


def environment_of(container: Object) -> dict[str, Any]:
    return {entry["name"]: entry.get("value") for entry in container["env"]}


@each_version
@each_of_the_shortener
def test_four_containers_on_the_ports_of_the_guide(values: str, version: str) -> None:
    containers = containers_of(pod_of(values, version))
    scheme = "https" if values == "tls-and-own-secrets" else "http"
    for name, port in PORTS.items():
        environment = environment_of(containers[name])
        assert environment["PORT"] == str(port)
        if name != "host":
            assert environment["HOST_URL"] == f"{scheme}://localhost:8080"
            assert environment["HOSTNAME"] == "localhost"


@each_file
def test_only_public_plugins_and_probes_are_reached_from_outside_of_the_pod(values: str) -> None:
    public = {"api": 8083} if values in THE_SHORTENERS else {}
    if values == "fourth-plugin":
        public = {"api": 8083, "thumbs": 8090}
    for name, item in _ours(values).items():
        environment = environment_of(item)
        port = int(environment["PORT"])
        assert environment["BIND"] == ("::" if name in public else "localhost")
        assert environment["PROBE_PORT"] == str(port + 1000)
        assert environment.get("CONTROL_PORT") == (str(port + 2000) if name in public else None)
        assert "ALLOW_PLAINTEXT" not in environment
        listed = [entry["containerPort"] for entry in item["ports"]]
        metrics = [port + 3000] if values == "observed" else []
        assert listed == [*([port] if name in public else []), port + 1000, *metrics]
    services = [
        item
        for item in of_kind("Service", values)
        if item["spec"].get("clusterIP") != "None" and "postgresql" not in item["metadata"]["name"]
    ]
    led_to = [entry["targetPort"] for item in services for entry in item["spec"]["ports"]]
    assert led_to == list(public.values())


def _ours(values: str, version: str = "1.33.0") -> dict[str, Object]:
    """Return the containers that the chart makes, without those that are given to it whole."""
    containers = containers_of(pod_of(values, version))
    return {name: item for name, item in containers.items() if name not in {"proxy", "first"}}


@pytest.mark.parametrize(
    ("values", "version", "native"),
    [
        ("default", "1.20.2", False),
        ("default", "1.28.9", False),
        ("default", "1.29.0", True),
        ("default", "1.37.0", True),
        ("all-off", "1.37.0", False),
    ],
)
def test_the_host_is_a_native_sidecar_where_the_cluster_has_them(
    values: str, version: str, *, native: bool
) -> None:
    pod = pod_of(values, version)
    host = containers_of(pod)["host"]
    if native:
        assert pod["initContainers"] == [host]
        assert host["restartPolicy"] == "Always"
        assert "lifecycle" not in host  # the kubelet ends it last
    else:
        assert "initContainers" not in pod
        assert pod["containers"][0] == host
        assert "restartPolicy" not in host


@each_of_the_shortener
def test_no_liveness_depends_on_a_peer_and_only_readiness_says_whether_it_can_work(values: str) -> None:
    for name, item in _ours(values).items():
        probes = {kind: item[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
        paths = {kind: probe["path"] for kind, probe in probes.items()}
        assert paths == {"startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"}
        # At a port with nothing else on it, in plaintext also where all else has TLS.
        assert {probe["port"] for probe in probes.values()} == {PORTS[name] + 1000}
        assert not any("scheme" in probe for probe in probes.values())


@pytest.mark.parametrize(("values", "drain"), [("default", 5), ("all-off", 0), ("all-on", 20)])
def test_who_is_required_ends_after_who_requires_it(values: str, drain: int) -> None:
    pod = pod_of(values, "1.20.2")
    assert pod["terminationGracePeriodSeconds"] == drain + 40
    hooks = _hooks(pod)
    assert hooks["api"] == ["sleep", str(drain)]
    waits = {"storage": (10, "8083"), "logger": (20, "8082"), "host": (30, "8081 8082 8083")}
    for name, (seconds, ports) in waits.items():
        assert hooks[name][:2] == ["timeout", str(drain + seconds)]
        assert f"sleep {drain}; for port in {ports}; do" in hooks[name][-1]


def test_a_plugin_more_is_waited_for_by_all_that_it_requires() -> None:
    pod = pod_of("fourth-plugin", "1.20.2")
    assert pod["terminationGracePeriodSeconds"] == 5 + 50
    hooks = _hooks(pod)
    assert hooks["thumbs"] == ["sleep", "5"]
    assert "for port in 8083 8090; do" in hooks["storage"][-1]
    assert "for port in 8082 8090; do" in hooks["logger"][-1]
    assert "for port in 8081 8082 8083 8090; do" in hooks["host"][-1]


def test_the_wait_of_a_container_ends_when_the_ports_before_it_are_closed(unused_port: int) -> None:
    wait = _hooks(pod_of("all-off", "1.20.2"))["storage"]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", unused_port))
        listener.listen()
        waiting = subprocess.Popen([*wait[:-1], wait[-1].replace("8083", str(unused_port))])
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
    assert waiting.wait(10) == 0


def _hooks(pod: Object) -> dict[str, list[str]]:
    return {
        name: item["lifecycle"]["preStop"]["exec"]["command"] for name, item in containers_of(pod).items()
    }


@each_version
@each_file
def test_every_pod_keeps_to_the_restricted_standard(values: str, version: str) -> None:
    pods = [pod_of(values, version), *(item["spec"] for item in of_kind("Pod", values, version))]
    pods += [item["spec"]["template"]["spec"] for item in of_kind("StatefulSet", values, version)]
    assert len(pods) == 1 + (values != "only-ones-own") + ("replicas" in values or values == "own-postgresql")
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for item in containers_of(pod).values():
            least = {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
            assert least.items() <= item["securityContext"].items()


def test_every_container_requests_what_it_needs_and_only_memory_is_limited() -> None:
    for item in containers_of(pod_of("default")).values():
        assert set(item["resources"]["requests"]) == {"cpu", "memory"}
        assert set(item["resources"]["limits"]) == {"memory"}


def test_the_network_lets_in_the_apis_port_and_nothing_else() -> None:
    (policy,) = of_kind("NetworkPolicy", "default")
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["ingress"] == [{"ports": [{"port": 8083, "protocol": "TCP"}]}]
    (narrow,) = of_kind("NetworkPolicy", "all-on")
    assert narrow["spec"]["ingress"][0]["from"] == [{"namespaceSelector": {"matchLabels": {"team": "web"}}}]
    (none,) = of_kind("NetworkPolicy", "only-ones-own")
    assert (none["spec"]["policyTypes"], "ingress" in none["spec"]) == (["Ingress"], False)


def test_the_network_lets_out_look_ups_the_own_database_and_what_is_listed_if_that_is_asked_for() -> None:
    policy, database, clients = of_kind("NetworkPolicy", "own-postgresql")
    names, listed = policy["spec"]["egress"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert [entry["port"] for entry in names["ports"]] == [53, 53]
    assert clients["spec"]["podSelector"] == policy["spec"]["podSelector"]
    (postgresql,) = clients["spec"]["egress"]
    assert postgresql["to"] == [{"podSelector": database["spec"]["podSelector"]}]
    assert listed["to"] == [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    (deployment,) = of_kind("Deployment", "own-postgresql")
    assert database["spec"]["ingress"] == [
        {
            "from": [
                {"podSelector": deployment["spec"]["selector"]},
                {"podSelector": {"matchLabels": {"app": "backup"}}},
            ],
            "ports": [{"protocol": "TCP", "port": 5432}],
        }
    ]


@each_file
def test_what_selects_pods_selects_the_shorteners_and_not_the_tests(values: str) -> None:
    (deployment,) = of_kind("Deployment", values)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    objects = [*of_kind("Service", values), *of_kind("NetworkPolicy", values)]
    ours = [item["spec"] for item in objects if "postgresql" not in item["metadata"]["name"]]
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [spec.get("selector") or spec["podSelector"]["matchLabels"] for spec in ours]
    selectors += [item["spec"]["selector"]["matchLabels"] for item in of_kind("PodDisruptionBudget", values)]
    others = [item["metadata"]["labels"] for item in of_kind("Pod", values)]
    others += [item["spec"]["template"]["metadata"]["labels"] for item in of_kind("StatefulSet", values)]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not any(selector.items() <= other.items() for other in others)


def _database(values: str) -> Object | None:
    (found,) = [
        e
        for e in containers_of(pod_of(values))["storage"]["env"]
        if e["name"] in {"DATABASE_URL", "STORAGE_PATH"}
    ]
    return found if found["name"] == "DATABASE_URL" else None


def test_a_database_url_is_read_from_a_secret_and_is_nowhere_else() -> None:
    assert _database("postgresql") == {
        "name": "DATABASE_URL",
        "valueFrom": {"secretKeyRef": {"name": "url-shortener", "key": "DATABASE_URL"}},
    }
    assert "p%40ss" not in rendered_text("postgresql", "1.33.0")
    assert _database("postgresql-autoscaled") == {
        "name": "DATABASE_URL",
        "valueFrom": {"secretKeyRef": {"name": "shortener-database", "key": "url"}},
    }
    made = [item["metadata"]["name"] for item in of_kind("Secret", "postgresql-autoscaled")]
    assert made == ["url-shortener-identity"]


def test_pods_roll_where_they_share_a_database_and_replace_each_other_where_they_do_not() -> None:
    def strategy(values: str) -> Any:
        (deployment,) = of_kind("Deployment", values)
        return deployment["spec"]["strategy"]

    for values in ("default", "volume", "volume-of-ones-own"):
        assert strategy(values) == {"type": "Recreate"}
        assert _database(values) is None
    for values in ("postgresql", "postgresql-autoscaled"):
        assert strategy(values) == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
        }
        assert "storage-data" not in [volume["name"] for volume in pod_of(values)["volumes"]]


@each_version
@each_file
def test_the_four_share_a_directory_for_their_sockets_unless_they_are_not_to(
    values: str, version: str
) -> None:
    pod = pod_of(values, version)
    shared = [volume for volume in pod["volumes"] if volume["name"] == "sockets"]
    assert shared == ([] if values == "all-off" else [{"name": "sockets", "emptyDir": {"sizeLimit": "1Mi"}}])
    for item in _ours(values, version).values():
        told = [entry["value"] for entry in item["env"] if entry["name"] == "SOCKET_DIR"]
        mounts = [mount["mountPath"] for mount in item.get("volumeMounts", []) if mount["name"] == "sockets"]
        assert told == mounts == (["/sockets"] if shared else [])


def test_sqlite_is_on_a_volume_that_lasts_if_that_is_asked_for() -> None:
    def data(values: str) -> Object:
        (volume,) = [volume for volume in pod_of(values)["volumes"] if volume["name"] == "storage-data"]
        return dict(volume)

    assert data("default") == {"name": "storage-data", "emptyDir": {}}
    assert data("volume")["persistentVolumeClaim"] == {"claimName": "url-shortener"}
    (claim,) = of_kind("PersistentVolumeClaim", "volume")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["resources"]["requests"]["storage"] == "5Gi"
    assert data("volume-of-ones-own")["persistentVolumeClaim"] == {"claimName": "urls"}
    assert not of_kind("PersistentVolumeClaim", "volume-of-ones-own")


def test_an_autoscaler_is_not_fought_over_the_number_of_pods() -> None:
    (deployment,) = of_kind("Deployment", "postgresql-autoscaled")
    assert "replicas" not in deployment["spec"]


def test_each_image_can_have_a_tag_or_a_digest_of_its_own() -> None:
    host = containers_of(pod_of("own-postgresql"))["host"]
    assert host["image"] == f"cpg-platform@sha256:{'0123456789abcdef' * 4}"
    (test,) = of_kind("Pod", "own-postgresql")
    assert test["spec"]["containers"][0]["image"] == "registry.example/client:v9"
    (database,) = of_kind("StatefulSet", "own-postgresql")
    (container,) = database["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/postgres:16.4"


def test_one_registry_and_one_tag_are_those_of_all_images() -> None:
    default = {item["image"] for item in containers_of(pod_of("default")).values()}
    assert default == {
        f"cpg-{n}:{__version__}" for n in ("platform", "logger-plugin", "storage-plugin", "api-plugin")
    }
    (test,) = of_kind("Pod", "all-on")
    other = [
        item["image"] for item in [*containers_of(pod_of("all-on")).values(), *test["spec"]["containers"]]
    ]
    assert all(
        re.fullmatch(r"registry\.example:5000/team/cpg-[a-z-]+:v1\.2\.3_rc\.1", image) for image in other
    )
    assert len(set(other)) == 5


MORE = "extraPlugins[0].name=more,extraPlugins[0].port=8090"
IMAGE = "extraPlugins[0].image.repository=registry.example/more"
DATA = "extraPlugins[0].data.mountPath=/data"
PUBLIC = "extraPlugins[0].public=true,extraPlugins[0].servicePort=8083"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("replicaCount=3,postgresql.enabled=false", "Set postgresql.enabled to auto, or storage.databaseUrl"),
        (
            "autoscaling.enabled=true,postgresql.enabled=false",
            "and postgresql.enabled is false",
        ),
        ("postgresql.enabled=true,storage.databaseUrl=postgresql://h/d", "set one of them"),
        ("postgresql.enabled=sometimes", "'auto', true, false"),
        ("keys.existingSecret=My_Secret", "does not match pattern"),
        ("serviceAccount.name=Me", "does not match pattern"),
        ("storage.persistence.existingClaim=a b", "does not match pattern"),
        ("limits.max_nonsense=1", "max_identities"),
        ("rates.handshake=often", "does not match pattern"),
        ("service.loadBalancerClass=x", "set it to LoadBalancer, or leave them out"),
        ("service.externalTrafficPolicy=Local", "set service.type to NodePort or LoadBalancer"),
        ("ingress.enabled=true", "ingress.enabled needs ingress.hosts"),
        ("gateway.enabled=true", "gateway.enabled needs gateway.parentRefs"),
        (f"{MORE}", "The plugin more has no image: set image.repository in its entry, or images.more"),
        (f"{MORE},{IMAGE},extraPlugins[0].name=api", "There are two containers named api"),
        (f"{MORE},{IMAGE},extraPlugins[0].name=My_Plugin", "does not match pattern"),
        (
            f"{MORE},{IMAGE},extraPlugins[0].port=9081",
            "that of logger's probes and of more",
        ),
        (f"{MORE},{IMAGE},extraPlugins[0].port=80", "024"),
        (f"{MORE},{IMAGE},extraPlugins[0].prot=80", "'name'"),
        (
            f"{MORE},{IMAGE},extraPlugins[0].requires={{lager}}",
            "requires lager, and there is none",
        ),
        (f"{MORE},{IMAGE},extraPlugins[0].requires={{more}}", "require each other in a ring, of which more"),
        (f"{MORE},{IMAGE},{DATA}", "The plugins storage and more both have data"),
        (
            f"{MORE},{IMAGE},extraPlugins[0].public=true,extraPlugins[0].servicePort=8083",
            "set servicePort in one",
        ),
        ("env.worker[0].name=X", "env.worker is for no container: they are api, host, logger, storage"),
        ("resources.worker.limits.memory=1Gi", "resources.worker is for no container"),
        (
            "env.host[0].name=LIMITS",
            "take it out, and set limits",
        ),
        (
            f"{MORE},{IMAGE},extraPlugins[0].plugin=Logger-Plugin",
            "The plugin more has the name logger-plugin, which is another's",
        ),
        (f"{MORE},{IMAGE},extraPlugins[0].plugin=tokens", "has the name tokens, which is another's"),
        (f"{MORE},{IMAGE},extraPlugins[0].plugin=host.key", "has the name host.key, which is another's"),
        (
            f"{MORE},{IMAGE},extraPlugins[0].name=http,extraPlugins[0].public=true",
            "The Service's first port is named http",
        ),
        ("extraContainers[0].name=api,extraContainers[0].image=x", "There are two containers named api"),
        (
            f"plugins=null,{MORE},{IMAGE},{DATA},replicaCount=2,test.enabled=false",
            "name the variable for its URL in data.databaseEnv",
        ),
        ("replicaCount=31", "set postgresql.args, as in [-c, max_connections=144]"),
        ("replicaCount=1000000", "replicaCount"),
        ("postgresql.image.repository=", "repository"),
        ("storage.sizeLimit=1.2.3", "does not match pattern"),
        (f"nameOverride={'n' * 53}", "52"),
        ("fullnameOverride=4u", "The Service would be named 4u. Its name begins with a letter"),
        ("podLabels.app\\.kubernetes\\.io/name=x", "podLabels sets app.kubernetes.io/name"),
        ("keys=null", "Use --reset-then-reuse-values in place of --reuse-values"),
        (
            f"autoscaling.enabled=true,{MORE},{IMAGE}",
            "more requests none: set resources.more.requests.cpu",
        ),
        (
            "tls.existingSecret=t,tls.clients=required,gateway.enabled=true,gateway.parentRefs[0].name=g",
            "tls.clients is required, and what leads an ingress or a gateway route shows no certificate",
        ),
        ("env.host[0].name=not a name", "does not match pattern"),
        ("replicas=1", "'replicaCount'"),
        ("replicaCount=two", "integer"),
        ("service.type=Ingress", "'ClusterIP', 'NodePort', 'LoadBalancer'"),
        ("service.prot=80", "'type', 'port'"),
        ("service.port=70000", "535"),
        ("service.nodePort=30083", "set service.type to NodePort or LoadBalancer"),
        ("image.pullPolicy=always", "'Always', 'IfNotPresent', 'Never'"),
        ("images.worker=X", "does not match pattern"),
        ("nativeSidecars=yes", "'auto', true, false"),
        (
            "storage.databaseUrl=hunter2",
            "storage.databaseUrl must be like postgresql://user:password@host:5432/database",
        ),
        (
            "storage.databaseUrl=mysql://me:hunter2@host/urls",
            "storage.databaseUrl must be like postgresql://",
        ),
        (
            "storage.databaseUrl=postgresql://me:hunter2@/urls",
            "storage.databaseUrl must be like postgresql://",
        ),
        ("storage.databaseUrl=postgresql://h/d,storage.databaseUrlSecret.name=s", "set one of them"),
        ("storage.databaseUrl=postgresql://h/d,storage.persistence.enabled=true", "set one of them"),
        (
            "env.api[0].name=HOST_URL,env.api[0].value=x",
            "env.api sets HOST_URL, which the chart sets: take it out",
        ),
        ("env.storage[0].name=DATABASE_URL", "and set storage.databaseUrl"),
        (
            "autoscaling.enabled=true,autoscaling.minReplicas=9,storage.databaseUrl=postgres://h/d",
            "set minReplicas to at most",
        ),
        ("podDisruptionBudget.maxUnavailable=half", "match pattern"),
        ("probes.liveness.path=/", "'periodSeconds'"),
        ("resources.api.cpu=1", "'requests', 'limits'"),
        ("drainSeconds=-1", "0"),
    ],
)
def test_what_is_unknown_or_wrong_is_refused_with_what_to_write_instead(settings: str, said: str) -> None:
    ran = helm("template", "url-shortener", str(CHART), "--set", settings)
    assert ran.returncode != 0
    assert said.lower() in ran.stderr.replace('"', "'").lower()  # Helm 3 and 4 do not say it alike
    assert "hunter2" not in ran.stderr


def test_native_sidecars_are_refused_where_there_are_none() -> None:
    ran = helm("template", "x", str(CHART), "--set", "nativeSidecars=true", "--kube-version", "1.27.0")
    assert "Kubernetes v1.27.0 has no native sidecars: set it to auto or false" in ran.stderr


def _leaves(values: Object, prefix: str = "") -> list[str]:
    """Return the paths of what can be set, as they are written behind --set."""
    found: list[str] = []
    for key, value in values.items():
        deeper = (
            isinstance(value, dict)
            and value
            and not f"{prefix}{key}".startswith(
                ("resources.", "host.resources", "postgresql.resources", "etcd.resources")
            )
        )
        found += _leaves(value, f"{prefix}{key}.") if deeper else [prefix + key]
    return found


def test_the_readme_and_the_schema_know_every_value_and_no_other() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    readme = (CHART / "README.md").read_text().partition("## Plugins")[0]
    told = re.findall(r"^\| `([\w.]+)` \|", readme, re.MULTILINE)
    assert sorted(told) == sorted(_leaves(values))
    defaults = dict(re.findall(r"^\| `([\w.]+)` \| `([^`]*)` \|", readme, re.MULTILINE))
    for path, default in defaults.items():
        assert yaml.safe_load(default) == functools.reduce(operator.getitem, path.split("."), values), path
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]) == {*values, "global", "enabled"}  # the last is for a chart above


@pytest.mark.parametrize(
    ("values", "told", "not_told"),
    [
        (
            "default",
            ["port-forward service/url-shortener 8083:8083", "The data ends with the pod"],
            ["NODE="],
        ),
        ("load-balancer", ["LOAD_BALANCER=", "API=http://$LOAD_BALANCER:80"], ["port-forward"]),
        ("node-port", ["API=http://$NODE:30083"], ["port-forward"]),
        ("postgresql", ["in the Secret url-shortener."], ["p%40ss", "ends with the pod"]),
        ("postgresql-autoscaled", ["in the Secret shortener-database."], ["ends with the pod"]),
        ("volume", ["PersistentVolumeClaim url-shortener, which stays"], ["ends with the pod"]),
        ("volume-of-ones-own", ["PersistentVolumeClaim urls."], ["which stays"]),
        ("all-on", ["deployment/links", "service/links"], ["url-shortener 8083"]),
        ("replicas", ["StatefulSet url-shortener-postgresql", "delete pvc,secret"], ["ends with the pod"]),
        ("replicas-autoscaled", ["It ends with its pod."], ["delete pvc"]),
    ],
)
def test_the_notes_are_right_for_the_values(values: str, told: list[str], not_told: list[str]) -> None:
    ran = helm(
        *("install", "url-shortener", str(CHART), "--namespace", "shortener", "--dry-run=client"),
        *("--values", str(VALUES / f"{values}.yaml")),
    )
    if "cluster unreachable" in ran.stderr:
        pytest.skip("Helm 3 asks the cluster even for this")
    assert ran.returncode == 0, ran.stderr
    notes = ran.stdout.partition("NOTES:")[2]
    assert "helm -n shortener test url-shortener" in notes
    for text in told:
        assert text in notes
    for text in not_told:
        assert text not in notes


SCRIPTS = sorted(CHART.glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.name for script in SCRIPTS])
def test_scripts_are_bash_and_name_no_image_themselves(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert not re.search(r"cpg-(platform|logger|storage|api|client)", script.read_text())


def test_the_scripts_know_the_images_that_the_chart_runs() -> None:
    said = subprocess.run(
        ["bash", "-c", ". ./common.sh; images"], cwd=CHART, capture_output=True, text=True, check=True
    )
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert said.stdout.split() == list(values["images"].values())


@pytest.mark.parametrize(
    ("script", "program", "said"),
    [
        ("setup.sh", "DOCKER", "❌ could not build cpg-platform"),
        (
            "install.sh",
            "HELM",
            "❌ could not install url-shortener; what happened is in: kubectl describe pod -l",
        ),
        ("port-forward.sh", "KUBECTL", "❌ could not find the service of url-shortener: is it installed?"),
        ("test.sh", "KUBECTL", "❌ could not find a ready pod of url-shortener: is it installed?"),
        ("cleanup.sh", "HELM", "❌ could not see whether url-shortener is installed"),
    ],
)
def test_a_script_that_fails_says_once_what_it_was_doing(
    tmp_path: Path, script: str, program: str, said: str
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 7\n")
    broken.chmod(0o755)
    programs = {"HELM": "false", "KUBECTL": "true", program: str(broken)}
    ran = subprocess.run(
        [CHART / script], env={**os.environ, **programs}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr.count("❌") == 1
    assert ran.stderr.strip().startswith(said)
    assert "✅" not in ran.stdout


@pytest.mark.parametrize("program", ["helm", "kubectl"])
def test_a_script_without_its_programs_says_which_is_missing(tmp_path: Path, program: str) -> None:
    for name in ("bash", "dirname", "sed", *({"helm", "kubectl"} - {program})):
        (tmp_path / name).symlink_to(shutil.which(name) or shutil.which("true") or "/bin/true")
    environment = {key: value for key, value in os.environ.items() if key not in {"HELM", "KUBECTL"}}
    ran = subprocess.run(
        [CHART / "install.sh"],
        env={**environment, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (1, f"❌ {program} is not installed\n")


def test_files_among_the_arguments_are_those_where_the_script_was_called(tmp_path: Path) -> None:
    program = tmp_path / "helm"
    program.write_text('#!/bin/sh\npwd >&2\necho "$@" >&2\nexit 1\n')
    program.chmod(0o755)
    ran = subprocess.run(
        [CHART / "install.sh", "-f", "mine.yaml"],
        cwd=tmp_path,
        env={**os.environ, "HELM": str(program), "KUBECTL": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    where, arguments, *_ = ran.stderr.splitlines()
    assert where == str(tmp_path)
    assert f" {CHART} " in arguments
    assert arguments.endswith("-f mine.yaml")


# As much of a cluster as the script asks for: a release on SQLite with a pod, and what PostgreSQL has left.
A_CLUSTER = r"""#!/bin/bash
echo "$*" >>"$LOG"
case $* in
  *"get deployment -l"*matchLabels*) echo "url-shortener host" ;;
  *"get deployment -l"*) echo "links host logger storage" ;;
  *"get deployment links"*replicas*) echo "$REPLICAS" ;;
  *"get deployment links"*) echo 7 ;;
  *"get pods"*) for pod in $PODS; do echo "$pod host storage"; done ;;
  *"config view"*) echo default ;;
  *"get secret links-postgresql --ignore-not-found"*) [ "$SECRET" != fails ] || exit 1; echo "$SECRET" ;;
  *"get statefulset"*) echo links-postgresql ;;
  *"get secret"*) printf x | base64 ;;
  *"annotate --local"*) cat ;;
  *apply*) cat >"$LOG.applied" ;;
  *exec*) cat >/dev/null; echo "3 pairs are in PostgreSQL" ;;
esac
"""


def _move(folder: Path, **cluster: str) -> tuple[int, str, str, str]:
    """Run the script; return how it ended, what it said, what it asked of the cluster, what it applied."""
    kubectl, helm_there, log = folder / "kubectl", folder / "helm", folder / "log"
    kubectl.write_text(A_CLUSTER)
    # The release has its name from its values.
    helm_there.write_text(
        "#!/bin/bash\n[[ $* == *'get values'* ]] && { echo 'fullnameOverride: links'; exit; }\n"
        f'exec {HELM} "$@"\n'
    )
    for program in (kubectl, helm_there):
        program.chmod(0o755)
    defaults = {"LOG": str(log), "REPLICAS": "1", "PODS": "links-1", "SECRET": ""}
    ran = subprocess.run(
        [CHART / "move-to-postgresql.sh"],
        env={**os.environ, **defaults, **cluster, "KUBECTL": str(kubectl), "HELM": str(helm_there)},
        capture_output=True,
        text=True,
        check=False,
    )
    applied = folder / "log.applied"
    return ran.returncode, ran.stderr, log.read_text(), applied.read_text() if applied.exists() else ""


def test_a_move_says_of_which_pod_it_is(tmp_path: Path) -> None:
    status, _, asked, applied = _move(tmp_path)
    assert status == 0
    assert "annotate --overwrite deployment/links cpg-trio/data-moved=links-1" in asked
    assert "apply --server-side --field-manager=helm --force-conflicts" in asked
    kinds = [item["kind"] for item in yaml.safe_load_all(applied) if item]
    assert {"StatefulSet", "Secret"} <= set(kinds)


def test_a_move_leaves_a_password_that_is_there_alone(tmp_path: Path) -> None:
    _, _, _, applied = _move(tmp_path, SECRET="secret/links-postgresql")
    objects = [item for item in yaml.safe_load_all(applied) if item]
    assert "Secret" not in {item["kind"] for item in objects}
    volumes = the("StatefulSet", objects)["spec"]["template"]["spec"]["volumes"]
    assert [v["secret"]["secretName"] for v in volumes if v["name"] == "secret"] == ["links-postgresql"]


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        ({"REPLICAS": "3"}, "links is not to have one pod"),
        ({"PODS": "links-1 links-2"}, "links has not one pod that runs, but: links-1 links-2"),
        ({"PODS": ""}, "links has not one pod that runs, but: none"),
        ({"SECRET": "fails"}, "could not set PostgreSQL up"),
    ],
)
def test_a_move_that_cannot_be_right_changes_nothing(
    tmp_path: Path, cluster: dict[str, str], said: str
) -> None:
    status, told, _, applied = _move(tmp_path, **cluster)
    assert (status, applied) == (1, "")
    assert told.count("❌") == 1
    assert said in told


# The database of the chart's own


@pytest.mark.parametrize("values", ["replicas", "replicas-autoscaled", "own-postgresql"])
def test_more_pods_than_one_share_a_postgresql_of_the_charts_own(values: str) -> None:
    (database,) = of_kind("StatefulSet", values)
    name = database["metadata"]["name"]
    secret = "database" if values == "own-postgresql" else name
    assert _database(values) == {
        "name": "DATABASE_URL",
        "valueFrom": {"secretKeyRef": {"name": secret, "key": "url"}},
    }
    (deployment,) = of_kind("Deployment", values)
    assert deployment["spec"]["strategy"]["type"] == "RollingUpdate"
    made = [item for item in of_kind("Secret", values) if item["metadata"]["name"] == name]
    assert len(made) == (values != "own-postgresql")
    for item in made:
        password, url = (base64.b64decode(item["data"][key]).decode() for key in ("password", "url"))
        assert len(password) >= 32
        assert url == f"postgresql://app:{password}@{name}:5432/app"
        assert password not in rendered_text(values, "1.33.0")


@pytest.mark.parametrize("values", ["default", "postgresql", "postgresql-autoscaled", "all-on", "volume"])
def test_one_pod_or_a_database_that_is_named_takes_no_other(values: str) -> None:
    assert not of_kind("StatefulSet", values)


@pytest.mark.parametrize(
    ("values", "volume", "annotations"),
    [
        ("replicas", {"claimName": "url-shortener-postgresql"}, {"helm.sh/resource-policy": "keep"}),
        ("own-postgresql", {"claimName": "url-shortener-postgresql"}, None),
        ("replicas-autoscaled", None, None),
    ],
)
def test_its_data_is_on_a_claim_that_stays_unless_it_is_not_to(
    values: str, volume: Object | None, annotations: Object | None
) -> None:
    (database,) = of_kind("StatefulSet", values)
    (data,) = [v for v in database["spec"]["template"]["spec"]["volumes"] if v["name"] == "data"]
    assert data.get("persistentVolumeClaim") == volume
    claims = of_kind("PersistentVolumeClaim", values)
    assert [claim["metadata"].get("annotations") for claim in claims] == ([annotations] if volume else [])


def test_no_claim_is_made_that_no_pod_mounts() -> None:
    ran = helm(
        *("template", "x", str(CHART), "--values", str(VALUES / "volume.yaml"), "--set", "replicaCount=2")
    )
    objects = [item for item in yaml.safe_load_all(ran.stdout) if item]
    claims = {item["metadata"]["name"] for item in objects if item["kind"] == "PersistentVolumeClaim"}
    assert claims == {"x-url-shortener-postgresql"}


# What tells plugins from strangers


@each_file
def test_each_container_has_its_own_secrets_as_files_and_no_other(values: str) -> None:
    pod = pod_of(values)
    files = {
        volume["name"]: (volume["secret"]["secretName"], [i["key"] for i in volume["secret"]["items"]])
        for volume in pod["volumes"]
        if "items" in volume.get("secret", {})
    }
    ours = "links-identity" if values == "all-on" else "url-shortener-identity"
    has_own = values == "tls-and-own-secrets"
    for name, item in _ours(values).items():
        mounted = {m["name"] for m in item["volumeMounts"] if m["mountPath"] in {"/keys", "/enrolment"}}
        lets_in = set() if values == "only-ones-own" else {f"{name}-enrolment"}
        assert mounted == lets_in | ({"keys"} if name == "host" else set())
        key = {"host": "tokens", "thumbs": "Thumbs.Plugin"}.get(name, f"{name}-plugin")
        for volume in lets_in:
            assert files[volume] == ("tokens" if has_own else ours, [key])
        environment = environment_of(item)
        for variable in ("CPG_HOST_KEY", "ENROLMENT_TOKENS", "ENROLMENT_TOKEN"):
            assert variable not in environment
    assert files["keys"] == ("host-key" if has_own else ours, ["host.key"])


def test_tokens_and_key_are_made_for_each_plugin_and_the_host_knows_all_of_them() -> None:
    (secret,) = [s for s in of_kind("Secret", "fourth-plugin") if s["metadata"]["name"].endswith("-identity")]
    made = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    tokens = dict(line.split() for line in made.pop("tokens").splitlines())
    assert len(made.pop("host.key")) >= 32
    assert tokens == made
    assert set(tokens) == {"logger-plugin", "storage-plugin", "api-plugin", "Thumbs.Plugin"}
    assert len(set(tokens.values())) == 4


def test_secrets_of_ones_own_take_the_place_of_those_that_the_chart_makes() -> None:
    assert not of_kind("Secret", "tls-and-own-secrets")


@pytest.mark.parametrize("values", ["fourth-plugin", "only-ones-own"])
def test_a_policy_is_a_file_that_is_mounted_whole_so_that_a_change_reaches_it(values: str) -> None:
    (config,) = of_kind("ConfigMap", values)
    assert tomllib.loads(config["data"]["policy.toml"])["undeclared"] == "deny"
    host = containers_of(pod_of(values))["host"]
    (mount,) = [m for m in host["volumeMounts"] if m["name"] == "policy"]
    assert environment_of(host)["POLICY_FILE"] == f"{mount['mountPath']}/policy.toml"
    assert "subPath" not in mount


# One's own plugins


def test_a_plugin_by_values_has_all_that_they_say() -> None:
    pod = pod_of("fourth-plugin")
    thumbs = containers_of(pod)["thumbs"]
    assert thumbs["image"] == f"registry.example/thumbs@sha256:{'0123456789abcdef' * 4}"
    assert (thumbs["command"], thumbs["args"]) == (["thumbs"], ["--quiet"])
    environment = environment_of(thumbs)
    assert (environment["SIZE"], environment["MORE"], environment["DIRECT_CALLS"]) == ("128", "1", "true")
    assert thumbs["envFrom"] == [{"configMapRef": {"name": "thumbs"}}]
    assert thumbs["resources"] == {"requests": {"cpu": "1m"}, "limits": {"memory": "64Mi"}}
    assert thumbs["securityContext"]["runAsUser"] == 20001
    probes = {key: value for key, value in thumbs.items() if key.endswith("Probe")}
    assert probes == {"livenessProbe": {"tcpSocket": {"port": 8090}}}
    mounts = {mount["name"]: mount["mountPath"] for mount in thumbs["volumeMounts"]}
    assert mounts["thumbs-volume-0"] == "/cache"
    assert mounts["thumbs-secret-0"] == "/credentials"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["thumbs-volume-0"]["emptyDir"] == {"sizeLimit": "1Gi"}
    assert volumes["thumbs-secret-0"]["secret"]["secretName"] == "thumbs-credentials"
    (service,) = of_kind("Service", "fourth-plugin")
    ports = {entry["name"]: (entry["port"], entry["targetPort"]) for entry in service["spec"]["ports"]}
    assert ports == {"http": (8083, 8083), "thumbs": (90, 8090)}


def test_limits_and_rates_reach_the_host() -> None:
    environment = environment_of(containers_of(pod_of("fourth-plugin"))["host"])
    assert environment["LIMITS"] == "max_identities=1000"
    assert environment["RATE_LIMITS"] == "discover=off,handshake=10/20"
    host_config({key: environment[key] for key in ("LIMITS", "RATE_LIMITS")})  # which knows them


def test_a_chart_that_depends_on_this_one_can_run_its_own_plugins_alone(tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").write_text(
        "apiVersion: v2\nname: greetings\nversion: 1.0.0\ndependencies:\n"
        f"  - {{name: url-shortener, version: '*', alias: app, repository: 'file://{CHART}'}}\n"
    )
    values = yaml.safe_load((VALUES / "only-ones-own.yaml").read_text())
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"app": {**values, "nameOverride": "greetings"}}))
    built = helm("dependency", "build", str(tmp_path))
    assert built.returncode == 0, built.stderr
    ran = helm("template", "prod", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    objects = [item for item in yaml.safe_load_all(ran.stdout) if item]
    (deployment,) = [item for item in objects if item["kind"] == "Deployment"]
    assert set(containers_of(deployment["spec"]["template"]["spec"])) == {"host", "greeter"}
    assert {item["kind"] for item in objects} == {
        "Deployment",
        "Secret",
        "ConfigMap",
        "ServiceAccount",
        "NetworkPolicy",
    }
    for name in ("logger", "storage", "shorten"):
        assert name not in ran.stdout.replace("url-shortener", "")


# What operators look for


def test_tls_is_a_secret_as_cert_manager_makes_them() -> None:
    pod = pod_of("tls-and-own-secrets")
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "tls"]
    assert volume["secret"]["secretName"] == "certificate"
    for item in _ours("tls-and-own-secrets").values():
        environment = environment_of(item)
        assert environment["TLS_CERT"] == "/tls/tls.crt"
        assert environment["TLS_KEY"] == "/tls/tls.key"
        assert environment["TLS_CA"] == "/tls/ca.crt"
        assert environment["TLS_CLIENTS"] == "optional"
        (mount,) = [mount for mount in item["volumeMounts"] if mount["name"] == "tls"]
        assert "subPath" not in mount  # a renewed certificate would not reach it


def test_an_ingress_and_a_route_lead_to_the_service() -> None:
    (ingress,) = of_kind("Ingress", "tls-and-own-secrets")
    assert ingress["spec"]["ingressClassName"] == "nginx"
    rules = ingress["spec"]["rules"]
    assert [rule["host"] for rule in rules] == ["s.example.com", "*.s.example.com"]
    assert [rule["http"]["paths"][0]["path"] for rule in rules] == ["/", "/s"]
    (route,) = of_kind("HTTPRoute", "tls-and-own-secrets")
    assert route["spec"]["parentRefs"] == [{"name": "public", "namespace": "gateways"}]
    assert route["spec"]["rules"] == [{"backendRefs": [{"name": "url-shortener", "port": 8083}]}]
    (service,) = of_kind("Service", "tls-and-own-secrets")
    assert service["spec"]["loadBalancerClass"] == "example.com/internal"
    assert service["spec"]["loadBalancerSourceRanges"] == ["192.0.2.0/24"]
    assert (service["spec"]["externalTrafficPolicy"], service["spec"]["ipFamilyPolicy"]) == (
        "Local",
        "PreferDualStack",
    )


def test_more_containers_volumes_and_objects_are_taken_as_they_are() -> None:
    pod = pod_of("tls-and-own-secrets")
    assert {"proxy", "first"} <= set(containers_of(pod))
    assert {"name": "more", "emptyDir": {}} in pod["volumes"]
    names = {item["metadata"]["name"] for item in of_kind("ConfigMap", "tls-and-own-secrets")}
    assert names == {"url-shortener-more", "text"}
    assert pod["securityContext"]["runAsUser"] == 30001


# What goes wrong only later, or elsewhere


def made(*settings: str, release: str = "x") -> list[Object]:
    """Return the objects that settings make."""
    ran = helm("template", release, str(CHART), "--namespace", "shortener", *settings)
    assert ran.returncode == 0, ran.stderr
    return [item for item in yaml.safe_load_all(ran.stdout) if item]


def the(kind: str, objects: list[Object], suffix: str = "") -> Object:
    """Return the only object of a kind, whose name has an ending."""
    (found,) = [i for i in objects if i["kind"] == kind and i["metadata"]["name"].endswith(suffix)]
    return found


MINE = """
replicaCount: {count}
plugins:
  - {{ name: mine, port: 8090, image: {{ repository: r }}, data: {{ mountPath: /d, file: d, fileEnv: F }} }}
"""


def test_a_plugin_that_can_use_no_database_keeps_its_file_and_one_pod(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(MINE.format(count=1))
    deployment = the("Deployment", made(f"--values={values}"))
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    named = made(f"--values={values}", "--set=storage.databaseUrl=postgresql://h/d")
    assert the("Deployment", named)["spec"]["strategy"] == {"type": "Recreate"}
    values.write_text(MINE.format(count=3))
    ran = helm("template", "x", str(CHART), f"--values={values}")
    assert "each would keep mine's data in a file of its own" in ran.stderr


def test_another_version_of_the_plugins_does_not_restart_the_database() -> None:
    before, after = (
        the("StatefulSet", made("--set", f"replicaCount=3,image.tag={tag},image.pullPolicy=Never"))
        for tag in ("v8", "v9")
    )
    assert before["spec"]["template"] == after["spec"]["template"]
    assert before["metadata"]["labels"]["app.kubernetes.io/version"] == "17"


def test_the_database_is_pulled_as_its_own_values_say() -> None:
    pod = the("StatefulSet", made("--set=replicaCount=3,image.pullPolicy=Never"))["spec"]["template"]["spec"]
    assert pod["containers"][0]["imagePullPolicy"] == "IfNotPresent"


def test_the_database_runs_as_the_user_and_with_the_arguments_that_are_set() -> None:
    values = "replicaCount=3,postgresql.podSecurityContext.runAsUser=70"
    values += ",postgresql.containerSecurityContext.readOnlyRootFilesystem=false"
    values += ",postgresql.args={-c,max_connections=300}"
    pod = the("StatefulSet", made("--set", values))["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 70
    assert pod["securityContext"]["fsGroup"] == 999
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is False
    assert container["args"] == ["-c", "max_connections=300"]


def test_a_database_that_recovers_is_not_ended(tmp_path: Path) -> None:
    (container,) = the("StatefulSet", made("--set=replicaCount=3"))["spec"]["template"]["spec"]["containers"]
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 3600
    program = tmp_path / "pg_isready"
    for status, alive in [(0, True), (1, True), (2, False)]:
        program.write_text(f"#!/bin/sh\nexit {status}\n")
        program.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        for kind in ("startupProbe", "livenessProbe"):
            ran = subprocess.run(container[kind]["exec"]["command"], env=environment, check=False)
            assert (ran.returncode == 0) is alive


@pytest.mark.parametrize("page", ["chart/values.yaml", "chart/README.md", "docs/guides/kubernetes.md"])
def test_the_url_that_a_secret_of_ones_own_needs_is_told_as_it_is(page: str) -> None:
    (container,) = the("StatefulSet", made("--set=replicaCount=3"))["spec"]["template"]["spec"]["containers"]
    environment = environment_of(container)
    text = (CHART.parent / page).read_text()
    (user, database) = re.findall(r"postgresql://(\w+):[^@/\s]+@[^:]+-postgresql:5432/(\w+)", text)[0]
    assert (user, database) == (environment["POSTGRES_USER"], environment["POSTGRES_DB"])


def test_what_leads_to_the_service_has_the_port_that_it_has(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(
        "plugins: [{name: web, port: 8090, image: {repository: r}, public: true, servicePort: 80}]\n"
        "gateway: {enabled: true, parentRefs: [{name: g}]}\n"
    )
    objects = made(f"--values={values}")
    assert [port["port"] for port in the("Service", objects)["spec"]["ports"]] == [80]
    assert the("HTTPRoute", objects)["spec"]["rules"][0]["backendRefs"][0]["port"] == 80
    environment = environment_of(the("Pod", objects)["spec"]["containers"][0])
    assert environment["API_URL"] == "http://x-url-shortener:80"


def test_a_services_ports_say_what_is_spoken_there() -> None:
    for settings, protocol in [((), "http"), (("--set=tls.existingSecret=t",), "https")]:
        (port,) = the("Service", made(*settings))["spec"]["ports"]
        assert port["appProtocol"] == protocol


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h/d",
        "postgres://u:p@h:5432/d?sslmode=verify-full&sslrootcert=/etc/ssl/ca.pem",
        "postgresql+psycopg://u@h/d",
    ],
)
def test_a_database_url_may_have_a_query(url: str) -> None:
    assert the("Secret", made("--set", f"storage.databaseUrl={url}"), "x-url-shortener")


@pytest.mark.parametrize(
    ("probes", "kinds"),
    [("null", 3), ("{}", 0), ("{startup: {tcpSocket: {port: 1}}, liveness: null}", 1)],
)
def test_a_plugin_has_the_probes_that_it_says_and_no_others(tmp_path: Path, probes: str, kinds: int) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(
        f"extraPlugins: [{{name: more, port: 8090, image: {{repository: r}}, probes: {probes}}}]"
    )
    deployment = the("Deployment", made(f"--values={values}"))
    more = containers_of(deployment["spec"]["template"]["spec"])["more"]
    assert len([key for key in more if key.endswith("Probe")]) == kinds


def _texts(value: Any) -> Any:
    """Yield each value that must be text: names, labels, annotations, and what refers to them."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert isinstance(key, str)
            if key in {"labels", "annotations", "matchLabels", "selector", "data"} and isinstance(item, dict):
                yield from (i for i in item.values() if not isinstance(i, dict))
            if key in {"name", "secretName", "claimName", "key", "mountPath", "storageClassName", "value"}:
                yield item
            if key in {"priorityClassName", "ingressClassName", "serviceAccountName", "path", "namespace"}:
                yield item
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def test_text_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(
        json.dumps(
            {
                "nameOverride": "1e3",
                "fullnameOverride": "yes",
                "image": {"tag": "12e4567"},
                "keys": {"existingSecret": "123"},
                "priorityClassName": "1e3",
                "serviceAccount": {"name": "123"},
                "storage": {"persistence": {"enabled": True, "storageClass": "1e3"}},
                "ingress": {"enabled": True, "className": "1e3", "hosts": [{"host": "1"}]},
                "extraPlugins": [
                    {
                        "name": "42",
                        "plugin": "true",
                        "port": 8090,
                        "public": True,
                        "image": {"repository": "r"},
                        "secrets": [{"name": "1e3", "mountPath": "/1"}],
                        "volumes": [{"name": "1", "mountPath": "/2", "source": {"emptyDir": {}}}],
                    }
                ],
            }
        )
    )
    for settings in ((), ("--set=replicaCount=3,storage.persistence.enabled=false",)):
        for item in made(f"--values={values}", *settings, release="12e45"):
            assert all(isinstance(text, str) for text in _texts(item)), item


def test_a_tag_may_be_a_number() -> None:
    for settings in ("image.tag=20261126,postgresql.image.tag=16,replicaCount=2",):
        objects = made("--set", settings)
        containers = containers_of(the("Deployment", objects)["spec"]["template"]["spec"])
        assert containers["host"]["image"] == "cpg-platform:20261126"
        database = the("StatefulSet", objects)["spec"]["template"]["spec"]["containers"][0]
        assert database["image"] == "docker.io/library/postgres:16"


@pytest.mark.parametrize("tag", ["_v1", "a" * 62 + "-b", "v1."])
def test_a_tag_that_is_no_label_is_cut_to_one(tag: str) -> None:
    label = the("Deployment", made(f"--set-string=image.tag={tag}"))["metadata"]["labels"][
        "app.kubernetes.io/version"
    ]
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{,61}[A-Za-z0-9])?", label)


def test_volumes_have_names_that_kubernetes_takes_whatever_their_secrets_are_called(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    more = {"port": 8090, "image": {"repository": "r"}}
    more |= {"name": "http", "secrets": [{"name": "a.b" * 50, "mountPath": "/1"}]}
    more |= {
        "volumes": [
            {"name": name, "mountPath": f"/{name}", "source": {"emptyDir": {}}}
            for name in ("enrolment", "data")
        ]
    }
    values.write_text(yaml.safe_dump({"extraPlugins": [more]}))
    volumes = the("Deployment", made(f"--values={values}"))["spec"]["template"]["spec"]["volumes"]
    names = [volume["name"] for volume in volumes]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{,61}[a-z0-9])?", name) for name in names)


def test_lists_and_tables_may_be_null() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    empty = [path for path in _leaves(values) if "." not in path and values[path] in ([], {}, None)]
    assert "extraPlugins" in empty
    made("--set", ",".join(f"{path}=null" for path in empty))
    made("--set", "plugins=null,test.enabled=false")


def test_every_limit_of_the_host_can_be_set() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = schema["properties"]["limits"]["propertyNames"]["enum"]
    assert sorted(known) == sorted(field.name for field in attrs.fields(Limits))


def test_a_pod_is_granted_as_long_as_is_asked_for() -> None:
    for settings, seconds in [("drainSeconds=5", 45), ("terminationGracePeriodSeconds=300", 300)]:
        pod = the("Deployment", made("--set", settings))["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == seconds


def test_a_chart_above_keeps_its_own_templates_and_can_leave_this_one_out(tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").write_text(
        "apiVersion: v2\nname: above\nversion: 1.0.0\ndependencies:\n  - {name: url-shortener, version: '*',"
        f" condition: url-shortener.enabled, repository: 'file://{CHART}'}}\n"
    )
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "_helpers.tpl").write_text(
        "".join(f'{{{{ define "app.{name}" }}}}above{{{{ end }}}}' for name in ("name", "fullname", "labels"))
    )
    assert helm("dependency", "build", str(tmp_path)).returncode == 0
    ran = helm("template", "x", str(tmp_path), "--set", "url-shortener.enabled=true")
    assert ran.returncode == 0, ran.stderr
    objects = [item for item in yaml.safe_load_all(ran.stdout) if item]
    assert the("Deployment", objects)["metadata"]["name"] == "x-url-shortener"
    without = helm("template", "x", str(tmp_path), "--set", "url-shortener.enabled=false")
    assert (without.returncode, without.stdout.strip()) == (0, "")
