"""What the chart renders, for a table of values and a table of versions of Kubernetes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from .helm import CHART, VALUES, Object, containers_of, helm, of_kind, pod_of, rendered, rendered_text

FILES = sorted(path.stem for path in VALUES.glob("*.yaml"))
VERSIONS = ["1.20.2", "1.25.0", "1.28.9", "1.29.0", "1.33.0", "1.37.0"]
OLDEST_SCHEMA = (1, 25)  # that is published

SNAPSHOT = Path(__file__).parent / "default.snapshot.yaml"

each_file = pytest.mark.parametrize("values", FILES)
each_version = pytest.mark.parametrize("version", VERSIONS)


def minor(version: str) -> tuple[int, int]:
    major, number, _ = version.split(".")
    return int(major), int(number)


@each_file
def test_the_chart_has_no_lint(values: str) -> None:
    ran = helm("lint", "--strict", str(CHART), "--values", str(VALUES / f"{values}.yaml"))
    assert ran.returncode == 0, ran.stdout + ran.stderr


@each_version
@each_file
def test_every_object_is_one_that_kubernetes_takes(values: str, version: str) -> None:
    objects = rendered(values, version)
    assert len({(item["kind"], item["metadata"]["name"]) for item in objects}) == len(objects)
    for item in objects:
        assert item["metadata"]["namespace"] == "shortener"
        if minor(version) >= OLDEST_SCHEMA:
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
    text = rendered_text("default", "1.33.0")
    if os.environ.get("UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(text)
    assert text == SNAPSHOT.read_text(), "if it is meant: UPDATE_SNAPSHOT=1 nox -s chart, and review the diff"


@each_version
@each_file
def test_four_containers_on_the_ports_of_the_guide(values: str, version: str) -> None:
    containers = containers_of(pod_of(values, version))
    assert {name: item["ports"][0]["containerPort"] for name, item in containers.items()} == {
        "host": 8080,
        "logger": 8081,
        "storage": 8082,
        "api": 8083,
    }
    for name, item in containers.items():
        environment = {entry["name"]: entry.get("value") for entry in item["env"]}
        assert environment["PORT"] == str(item["ports"][0]["containerPort"])
        if name != "host":
            assert (environment["HOST_URL"], environment["HOSTNAME"]) == (
                "http://localhost:8080",
                "localhost",
            )


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


@each_file
def test_no_liveness_depends_on_a_peer_and_only_readiness_says_whether_it_can_work(values: str) -> None:
    for item in containers_of(pod_of(values)).values():
        paths = {
            kind: item[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")
        }
        assert paths == {"startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"}
        assert {item[f"{kind}Probe"]["httpGet"]["port"] for kind in paths} == {item["name"]}


@pytest.mark.parametrize(("values", "drain"), [("default", 5), ("all-off", 0), ("all-on", 20)])
def test_the_end_of_a_pod_follows_from_one_value(values: str, drain: int) -> None:
    pod = pod_of(values, "1.20.2")
    assert pod["terminationGracePeriodSeconds"] == drain + 40
    hooks = {
        name: item["lifecycle"]["preStop"]["exec"]["command"] for name, item in containers_of(pod).items()
    }
    assert hooks["api"] == ["sleep", str(drain)]
    for name, before in (("storage", 8083), ("logger", 8082), ("host", 8081)):
        assert hooks[name][:2] == ["timeout", str(drain + 10)]
        assert f"sleep {drain}; while (: </dev/tcp/localhost/{before})" in hooks[name][-1]


@each_version
@each_file
def test_every_pod_keeps_to_the_restricted_standard(values: str, version: str) -> None:
    pods = [pod_of(values, version), *(item["spec"] for item in of_kind("Pod", values, version))]
    assert len(pods) == 2
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for item in containers_of(pod).values():
            assert item["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }


def test_every_container_requests_what_it_needs_and_only_memory_is_limited() -> None:
    for item in containers_of(pod_of("default")).values():
        assert set(item["resources"]["requests"]) == {"cpu", "memory"}
        assert set(item["resources"]["limits"]) == {"memory"}


def test_the_network_lets_in_the_apis_port_and_nothing_else() -> None:
    (policy,) = of_kind("NetworkPolicy", "default")
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "api", "protocol": "TCP"}]}]
    (narrow,) = of_kind("NetworkPolicy", "all-on")
    assert narrow["spec"]["ingress"][0]["from"] == [{"namespaceSelector": {"matchLabels": {"team": "web"}}}]


@each_file
def test_what_selects_pods_selects_the_shorteners_and_not_the_tests(values: str) -> None:
    (deployment,) = of_kind("Deployment", values)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (service,) = of_kind("Service", values)
    selectors = [deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]]
    selectors += [item["spec"]["podSelector"]["matchLabels"] for item in of_kind("NetworkPolicy", values)]
    selectors += [item["spec"]["selector"]["matchLabels"] for item in of_kind("PodDisruptionBudget", values)]
    (test,) = of_kind("Pod", values)
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= test["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["targetPort"] == "api"


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
    assert not of_kind("Secret", "postgresql-autoscaled")


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
        assert [volume["name"] for volume in pod_of(values)["volumes"]] == ["state", "sockets"]


@each_version
@each_file
def test_the_four_share_a_directory_for_their_sockets_unless_they_are_not_to(
    values: str, version: str
) -> None:
    pod = pod_of(values, version)
    shared = [volume for volume in pod["volumes"] if volume["name"] == "sockets"]
    assert shared == ([] if values == "all-off" else [{"name": "sockets", "emptyDir": {"sizeLimit": "1Mi"}}])
    for item in containers_of(pod).values():
        told = [entry["value"] for entry in item["env"] if entry["name"] == "SOCKET_DIR"]
        mounts = [mount["mountPath"] for mount in item.get("volumeMounts", []) if mount["name"] == "sockets"]
        assert told == mounts == (["/sockets"] if shared else [])


def test_sqlite_is_on_a_volume_that_lasts_if_that_is_asked_for() -> None:
    def data(values: str) -> Object:
        (volume,) = [volume for volume in pod_of(values)["volumes"] if volume["name"] == "data"]
        return dict(volume)

    assert data("default") == {"name": "data", "emptyDir": {}}
    assert data("volume")["persistentVolumeClaim"] == {"claimName": "url-shortener"}
    (claim,) = of_kind("PersistentVolumeClaim", "volume")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["resources"]["requests"]["storage"] == "5Gi"
    assert data("volume-of-ones-own")["persistentVolumeClaim"] == {"claimName": "urls"}
    assert not of_kind("PersistentVolumeClaim", "volume-of-ones-own")


def test_an_autoscaler_is_not_fought_over_the_number_of_pods() -> None:
    (deployment,) = of_kind("Deployment", "postgresql-autoscaled")
    assert "replicas" not in deployment["spec"]


def test_one_registry_and_one_tag_are_those_of_all_images() -> None:
    default = {item["image"] for item in containers_of(pod_of("default")).values()}
    assert default == {
        f"cpg-{n}:0.1.0" for n in ("platform", "logger-plugin", "storage-plugin", "api-plugin")
    }
    (test,) = of_kind("Pod", "all-on")
    other = [
        item["image"] for item in [*containers_of(pod_of("all-on")).values(), *test["spec"]["containers"]]
    ]
    assert all(
        re.fullmatch(r"registry\.example:5000/team/cpg-[a-z-]+:v1\.2\.3_rc\.1", image) for image in other
    )
    assert len(set(other)) == 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("replicaCount=3", "Set storage.databaseUrl or storage.databaseUrlSecret.name"),
        ("autoscaling.enabled=true", "autoscaling.maxReplicas is 5, but each pod would keep its pairs"),
        ("replicas=1", "'replicaCount'"),
        ("replicaCount=two", "integer"),
        ("service.type=Ingress", "'ClusterIP', 'NodePort', 'LoadBalancer'"),
        ("service.prot=80", "'type', 'port'"),
        ("service.port=70000", "535"),
        ("service.nodePort=30083", "set service.type to NodePort or LoadBalancer"),
        ("image.pullPolicy=always", "'Always', 'IfNotPresent', 'Never'"),
        ("images.worker=x", "'host', 'logger', 'storage', 'api', 'client'"),
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
    assert said in ran.stderr.replace('"', "'")  # Helm 3 and 4 do not say it alike
    assert "hunter2" not in ran.stderr


def test_native_sidecars_are_refused_where_there_are_none() -> None:
    ran = helm("template", "x", str(CHART), "--set", "nativeSidecars=true", "--kube-version", "1.27.0")
    assert "Kubernetes v1.27.0 has no native sidecars: set it to auto or false" in ran.stderr


def _leaves(values: Object, prefix: str = "") -> list[str]:
    """Return the paths of what can be set, as they are written behind --set."""
    found: list[str] = []
    for key, value in values.items():
        deeper = isinstance(value, dict) and value and prefix != "resources."
        found += _leaves(value, f"{prefix}{key}.") if deeper else [prefix + key]
    return found


def test_the_readme_and_the_schema_know_every_value_and_no_other() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    readme = (CHART / "README.md").read_text().partition("| script |")[0]
    told = re.findall(r"^\| `([\w.]+)` \|", readme, re.MULTILINE)
    assert sorted(told) == sorted(_leaves(values))
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]) == {*values, "global"}


@pytest.mark.parametrize(
    ("values", "told", "not_told"),
    [
        (
            "default",
            ["port-forward service/url-shortener 8083:8083", "The pairs end with the pod"],
            ["NODE="],
        ),
        ("load-balancer", ["LOAD_BALANCER=", "API=http://$LOAD_BALANCER:80"], ["port-forward"]),
        ("node-port", ["API=http://$NODE:30083"], ["port-forward"]),
        ("postgresql", ["in the Secret url-shortener."], ["p%40ss", "end with the pod"]),
        ("postgresql-autoscaled", ["in the Secret shortener-database."], ["end with the pod"]),
        ("volume", ["PersistentVolumeClaim url-shortener, which stays"], ["end with the pod"]),
        ("volume-of-ones-own", ["PersistentVolumeClaim urls."], ["which stays"]),
        ("all-on", ["deployment/links", "service/links"], ["url-shortener 8083"]),
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
        ("cleanup.sh", "KUBECTL", "❌ could not wait for what is left of url-shortener"),
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


def test_a_script_without_its_programs_says_which_is_missing() -> None:
    ran = subprocess.run(
        [CHART / "install.sh"],
        env={**os.environ, "HELM": "no-helm"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (1, "❌ no-helm is not installed\n")
