"""What the chart renders with topology separate: a Deployment for the host, one for each plugin, and etcd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cpg_trio.host import host_config
from cpg_trio.store import EtcdUrl
from tests.chart.api_server import cluster_of
from tests.chart.helm import CHART, VALUES, Object, containers_of, helm, of_kind, rendered_text
from tests.chart.test_chart import environment_of

FILES = sorted(f"separate/{path.stem}" for path in (VALUES / "separate").glob("*.yaml"))
WITH_ETCD = ["separate/all-on", "separate/default", "separate/own-database"]
DEFAULT, ALL_ON, TLS, ONE_HOST = (f"separate/{name}" for name in ("default", "all-on", "tls", "one-host"))
PLUGINS = {"logger": 8081, "storage": 8082, "api": 8083}
SEPARATE = "topology=separate,allowPlaintext=true"

each_file = pytest.mark.parametrize("values", FILES)


def deployments(values: str, version: str = "1.33.0") -> dict[str, Object]:
    """Return the Deployments by component."""
    return {
        item["metadata"]["labels"]["app.kubernetes.io/component"]: item
        for item in of_kind("Deployment", values, version)
    }


def pod_of(values: str, component: str) -> Object:
    spec: Object = deployments(values)[component]["spec"]["template"]["spec"]
    return spec


def container_of(values: str, component: str) -> Object:
    return containers_of(pod_of(values, component))[component]


def named(kind: str, values: str) -> dict[str, Object]:
    return {item["metadata"]["name"]: item for item in of_kind(kind, values)}


# Who runs where


@each_file
def test_the_host_and_each_plugin_have_a_deployment_with_one_container(values: str) -> None:
    found = deployments(values)
    assert {"host", *PLUGINS} <= set(found)
    prefix = "links" if values == ALL_ON else "url-shortener"
    for component, item in found.items():
        assert item["metadata"]["name"] == f"{prefix}-{component}"
        assert set(containers_of(item["spec"]["template"]["spec"])) == {component}
        selector, labels = (
            item["spec"]["selector"]["matchLabels"],
            item["spec"]["template"]["metadata"]["labels"],
        )
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/component"] == component


def test_each_has_its_own_number_of_pods_or_an_autoscaler() -> None:
    counts = {name: item["spec"].get("replicas") for name, item in deployments(ALL_ON).items()}
    assert counts == {"host": None, "logger": 2, "storage": 2, "api": 2, "greeter": 4, "mirror": None}
    scaled = {name: item["spec"] for name, item in named("HorizontalPodAutoscaler", ALL_ON).items()}
    assert {name: (spec["minReplicas"], spec["maxReplicas"]) for name, spec in scaled.items()} == {
        "links-host": (3, 7),
        "links-mirror": (2, 9),
    }
    for name, spec in scaled.items():
        assert spec["scaleTargetRef"]["name"] == name
    default = {name: item["spec"]["replicas"] for name, item in deployments(DEFAULT).items()}
    assert default == {"host": 2, "logger": 1, "storage": 1, "api": 1}
    autoscaled = {
        name: "replicas" in item["spec"] for name, item in deployments("separate/own-database").items()
    }
    assert autoscaled == {"host": True, "logger": False, "storage": False, "api": False}


def test_each_has_a_budget_if_there_are_budgets_and_the_members_of_etcd_always() -> None:
    budgets = {name: item["spec"] for name, item in named("PodDisruptionBudget", ALL_ON).items()}
    assert {name: spec["maxUnavailable"] for name, spec in budgets.items()} == {
        "links-etcd": 1,
        **{f"links-{name}": "25%" for name in deployments(ALL_ON)},
    }
    for name, item in deployments(ALL_ON).items():
        assert budgets[f"links-{name}"]["selector"] == item["spec"]["selector"]
    assert set(named("PodDisruptionBudget", DEFAULT)) == {"url-shortener-etcd"}
    assert not of_kind("PodDisruptionBudget", "separate/own-database")


@each_file
def test_pods_are_replaced_one_by_one_except_where_each_has_a_file(values: str) -> None:
    alone = {DEFAULT: {"storage"}, ONE_HOST: {"host", "storage"}, TLS: {"storage"}}.get(values, set())
    for component, item in deployments(values).items():
        rolls = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
        assert item["spec"]["strategy"] == ({"type": "Recreate"} if component in alone else rolls)


@each_file
def test_hosts_and_public_plugins_go_on_until_nobody_is_sent_to_them(values: str) -> None:
    for component, item in deployments(values).items():
        pod = item["spec"]["template"]["spec"]
        container = containers_of(pod)[component]
        waits = component in {"host", "api"}
        assert ("lifecycle" in container) is waits
        if waits:
            assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
        assert pod["terminationGracePeriodSeconds"] == 25


@each_file
def test_pods_prefer_different_nodes(values: str) -> None:
    for item in [*deployments(values).values(), *of_kind("StatefulSet", values)]:
        if "postgresql" in item["metadata"]["name"]:
            continue
        spread = item["spec"]["template"]["spec"].get("topologySpreadConstraints")
        if values == "separate/own-database":
            assert spread is None
        else:
            assert spread[0]["labelSelector"] == item["spec"]["selector"]
            assert spread[0]["whenUnsatisfiable"] == "ScheduleAnyway"


@each_file
def test_every_pod_keeps_to_the_restricted_standard(values: str) -> None:
    for item in [*deployments(values).values(), *of_kind("StatefulSet", values)]:
        pod = item["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in containers_of(pod).values():
            least = {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
            assert least.items() <= container["securityContext"].items()
            assert set(container.get("resources", {}).get("limits", {})) <= {"memory"}


# How they find each other


@each_file
def test_plugins_find_all_hosts_by_one_name(values: str) -> None:
    prefix = "links" if values == ALL_ON else "url-shortener"
    scheme = "https" if values == TLS else "http"
    service = named("Service", values)[f"{prefix}-host"]["spec"]
    assert service["clusterIP"] == "None"  # so that its look-up has the address of each
    assert "publishNotReadyAddresses" not in service
    assert service["selector"] == deployments(values)["host"]["spec"]["selector"]["matchLabels"]
    for component in set(deployments(values)) - {"host"}:
        assert environment_of(container_of(values, component))["HOST_URL"] == f"{scheme}://{prefix}-host:8080"


@each_file
def test_a_plugin_is_found_at_the_address_of_its_pod(values: str) -> None:
    for component in set(deployments(values)) - {"host"}:
        container = container_of(values, component)
        environment = environment_of(container)
        assert environment["BIND"] == "::"
        assert "SOCKET_DIR" not in environment
        (hostname,) = [entry for entry in container["env"] if entry["name"] == "HOSTNAME"]
        if values == TLS:
            # The name in its certificate: the host takes the address among its pods that it hears from.
            pods = named("Service", values)[hostname["value"]]["spec"]
            assert pods["clusterIP"] == "None"
            assert pods["publishNotReadyAddresses"] is True  # they register before they are ready
            assert pods["selector"] == deployments(values)[component]["spec"]["selector"]["matchLabels"]
        else:
            assert hostname["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
        listed = [port["containerPort"] for port in container["ports"]]
        assert int(environment["PORT"]) in listed
        if component in {"api", "thumbs"}:
            assert (environment["CONTROL_PORT"], environment["CONTROL_BIND"]) == ("10083", "::")
            assert 10083 in listed
        else:
            assert "CONTROL_PORT" not in environment


@pytest.mark.parametrize("values", [DEFAULT, ALL_ON, TLS, "separate/own-database"])
def test_a_host_is_found_by_the_others_at_the_address_of_its_pod(values: str) -> None:
    prefix = "links" if values == ALL_ON else "url-shortener"
    container = container_of(values, "host")
    environment = environment_of(container)
    # By the name that is in its certificate, as no certificate has the address of a pod.
    assert environment["PEER_URL"] == f"{'https' if values == TLS else 'http'}://{prefix}-host:8080"
    (address,) = [entry for entry in container["env"] if entry["name"] == "PEER_ADDRESS"]
    assert address["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert environment["BIND"] == "::"
    assert environment.get("ALLOW_PLAINTEXT") == (None if values == TLS else "true")


def test_each_public_plugin_has_a_service_of_its_own() -> None:
    services = named("Service", TLS)
    for name, component, port in [("url-shortener", "api", 443), ("url-shortener-thumbs", "thumbs", 90)]:
        spec = services[name]["spec"]
        assert spec["type"] == "LoadBalancer"
        assert spec["loadBalancerClass"] == "example.com/internal"
        assert spec["selector"] == deployments(TLS)[component]["spec"]["selector"]["matchLabels"]
        assert [(entry["port"], entry["targetPort"]) for entry in spec["ports"]] == [(port, 8083)]
    (ports,) = named("Service", ONE_HOST)["url-shortener"]["spec"]["ports"]
    assert ports["nodePort"] == 30083
    assert named("Ingress", ALL_ON)["links"]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"][
        "name"
    ] in named("Service", ALL_ON)


# What they keep, and who they are


def test_hosts_share_a_directory_on_etcd() -> None:
    state = {values: environment_of(container_of(values, "host")) for values in FILES}
    members = ",".join(f"url-shortener-etcd-{n}.url-shortener-etcd:2379" for n in range(3))
    assert state[DEFAULT]["STATE_URL"] == f"etcd://{members}/shortener/url-shortener"
    assert state[TLS]["STATE_URL"] == (
        "etcds://$(ETCD_USER)@etcd-0.data.example:2379,192.0.2.7:2379/shortener/a"
        "?ca=/etcd/tls/ca.crt&cert=/etcd/tls/tls.crt&key=/etcd/tls/tls.key"
    )
    names = [entry["name"] for entry in container_of(TLS, "host")["env"]]
    assert names.index("ETCD_USER") < names.index("STATE_URL")  # or Kubernetes would not put it in
    assert state[TLS]["STATE_PASSWORD_FILE"] == "/etcd/user/password"
    for url in (each["STATE_URL"] for each in state.values() if "STATE_URL" in each):
        EtcdUrl.parse(url.replace("$(ETCD_USER)", "shortener"))
    for values in FILES:
        # A single host needs none.
        assert ("STATE_URL" in state[values]) is (values != ONE_HOST)
        assert ("STATE_PATH" in state[values]) is (values == ONE_HOST)


@each_file
def test_each_pod_has_its_own_secrets_as_files_and_no_other(values: str) -> None:
    own = "links-identity" if values == ALL_ON else "url-shortener-identity"
    key, tokens = ("host-key", "tokens") if values == TLS else (own, own)
    for component, item in deployments(values).items():
        volumes = item["spec"]["template"]["spec"].get("volumes", [])
        secrets = {v["name"]: v["secret"] for v in volumes if "secret" in v}
        mounted = {
            m["name"]
            for m in containers_of(item["spec"]["template"]["spec"])[component].get("volumeMounts", [])
        }
        assert mounted == {v["name"] for v in volumes}
        items = {
            name: [i["key"] for i in secret["items"]] for name, secret in secrets.items() if "items" in secret
        }
        wanted: dict[str, list[str]] = {}
        if values != "separate/own-database":
            plugin = {"host": "tokens", "thumbs": "Thumbs.Plugin"}.get(component, f"{component}-plugin")
            wanted = {f"{component}-enrolment": [plugin]}
            assert secrets[f"{component}-enrolment"]["secretName"] == tokens
        if component == "host":
            wanted["keys"] = ["host.key"]
            wanted |= {"etcd-user": ["password"]} if values == TLS else {}
            assert secrets["keys"]["secretName"] == key
        assert items == wanted


def test_each_pod_may_have_a_certificate_of_its_own() -> None:
    certificates = {
        component: [
            v["secret"]["secretName"] for v in pod_of(TLS, component)["volumes"] if v["name"] == "tls"
        ]
        for component in deployments(TLS)
    }
    assert certificates == {
        "host": ["host-certificate"],
        "thumbs": ["thumbs-certificate"],
        **{name: ["certificate"] for name in PLUGINS},
    }
    etcd = {v["name"]: v["secret"]["secretName"] for v in pod_of(TLS, "host")["volumes"] if "secret" in v}
    assert (etcd["etcd-user"], etcd["etcd-tls"]) == ("etcd-user", "etcd-certificate")
    for component in [*PLUGINS, "thumbs"]:
        assert not {"etcd-user", "etcd-tls", "keys"} & {v["name"] for v in pod_of(TLS, component)["volumes"]}


# Who may connect to whom


def _allowed(values: str) -> set[tuple[str, str, int | str]]:
    """Return who may connect to which port of whom, for pods of the release: (from, to, port)."""
    pods = {**{n: d["spec"]["template"]["metadata"]["labels"] for n, d in deployments(values).items()}}
    for item in of_kind("StatefulSet", values):
        pods[item["metadata"]["name"].rpartition("-")[2]] = item["spec"]["template"]["metadata"]["labels"]

    def chosen(selector: Object) -> set[str]:
        wanted = selector.get("matchLabels", {}).items()
        return {name for name, labels in pods.items() if wanted <= labels.items()}

    found: set[tuple[str, str, int | str]] = set()
    for policy in of_kind("NetworkPolicy", values):
        for rule in policy["spec"].get("ingress", []):
            peers = rule.get("from", [{"podSelector": {}}])
            sources = {
                name for peer in peers if set(peer) == {"podSelector"} for name in chosen(peer["podSelector"])
            }
            ends = chosen(policy["spec"]["podSelector"])
            found |= {(s, e, port["port"]) for s in sources for e in ends for port in rule["ports"]}
    return found


def test_nobody_reaches_anybody_whom_it_need_not_reach() -> None:
    everybody = {"host", *PLUGINS, "etcd"}
    assert _allowed(DEFAULT) == {
        *((name, "api", 8083) for name in everybody),
        *((name, "host", 8080) for name in ("host", *PLUGINS)),
        *(("host", name, port) for name, port in PLUGINS.items()),
        ("host", "api", 10083),
        ("host", "etcd", 2379),
        ("etcd", "etcd", 2380),
    }


def test_with_direct_calls_plugins_reach_each_other_and_of_the_database_only_its_user_knows() -> None:
    allowed = _allowed(ALL_ON)
    plugins = {**PLUGINS, "greeter": 8081, "mirror": 9000}
    assert {(f, t) for f, t, port in allowed if port == 5432} == {("storage", "postgresql")}
    for name, port in plugins.items():
        assert {f for f, t, p in allowed if (t, p) == (name, port)} == {"host", *plugins}
    assert {f for f, t, p in allowed if (t, p) == ("etcd", 2379)} == {"host"}
    # Metrics are for those who are named, and nobody reaches operators' ways in.
    assert {p for _, _, p in allowed if isinstance(p, str)} == set()
    policies = named("NetworkPolicy", ALL_ON)
    for name, metrics in {"links-host": "metrics-8080", "links-mirror": "metrics-9000"}.items():
        (rule,) = [r for r in policies[name]["spec"]["ingress"] if r["ports"][0]["port"] == metrics]
        assert rule["from"] == [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        ]


def test_pods_connect_to_nobody_else_if_that_is_asked_for() -> None:
    policies = named("NetworkPolicy", ALL_ON)

    def led_to(component: str) -> set[tuple[str, int]]:
        return {
            (peer["podSelector"]["matchLabels"].get("app.kubernetes.io/component", "etcd"), port["port"])
            for rule in policies[f"links-{component}"]["spec"]["egress"]
            for peer in rule.get("to", [])
            if "podSelector" in peer
            for port in rule["ports"]
        }

    plugins = {*PLUGINS.items(), ("greeter", 8081), ("mirror", 9000)}
    assert led_to("host") == {("host", 8080), *plugins, ("api", 10083), ("etcd", 2379)}
    assert led_to("greeter") == {("host", 8080), *plugins}
    assert led_to("etcd") == {("etcd", 2380)}
    for policy in policies.values():
        assert "Egress" in policy["spec"]["policyTypes"] or "postgresql" in policy["metadata"]["name"]


# The chart's etcd


@pytest.mark.parametrize("values", WITH_ETCD)
def test_the_members_of_etcd_know_each_other_by_names_that_stay(values: str) -> None:
    (etcd,) = [item for item in of_kind("StatefulSet", values) if item["metadata"]["name"].endswith("-etcd")]
    name, count = etcd["metadata"]["name"], etcd["spec"]["replicas"]
    assert count == (1 if values == "separate/own-database" else 3)
    scheme = "https" if values == ALL_ON else "http"
    (container,) = etcd["spec"]["template"]["spec"]["containers"]
    environment = environment_of(container)
    assert environment["ETCD_INITIAL_CLUSTER"].split(",") == [
        f"{name}-{n}={scheme}://{name}-{n}.{name}:2380" for n in range(count)
    ]
    assert environment["ETCD_ADVERTISE_CLIENT_URLS"] == f"{scheme}://$(ETCD_NAME).{name}:2379"
    assert environment.get("ETCD_CLIENT_CERT_AUTH") == ("true" if values == ALL_ON else None)
    service = named("Service", values)[name]["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert etcd["spec"]["serviceName"] == name
    assert etcd["spec"]["podManagementPolicy"] == "Parallel"


@pytest.mark.parametrize("values", WITH_ETCD)
def test_the_claims_of_the_members_are_those_that_the_stateful_set_looks_for(values: str) -> None:
    (etcd,) = [item for item in of_kind("StatefulSet", values) if item["metadata"]["name"].endswith("-etcd")]
    (template,) = etcd["spec"]["volumeClaimTemplates"]
    claims = {
        name: c for name, c in named("PersistentVolumeClaim", values).items() if name.startswith("data-")
    }
    assert set(claims) == {
        f"{template['metadata']['name']}-{etcd['metadata']['name']}-{n}"
        for n in range(etcd["spec"]["replicas"])
    }
    for claim in claims.values():
        assert claim["spec"] == template["spec"]
        assert "annotations" not in claim["metadata"]  # it ends with the release


def test_a_member_is_not_restarted_for_the_others_or_for_another_version_of_the_plugins() -> None:
    (container,) = named("StatefulSet", DEFAULT)["url-shortener-etcd"]["spec"]["template"]["spec"][
        "containers"
    ]
    paths = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")
    }
    alone = "/health?serializable=true"
    assert paths == {"startup": alone, "readiness": "/health", "liveness": alone}
    templates = [
        next(
            item["spec"]["template"]
            for item in _made(f"{SEPARATE},etcd.enabled=true,image.tag={tag}")
            if item["metadata"]["name"].endswith("-etcd") and item["kind"] == "StatefulSet"
        )
        for tag in ("v8", "v9")
    ]
    assert templates[0] == templates[1]


def _made(settings: str) -> list[Object]:
    ran = helm("template", "x", str(CHART), "--namespace", "shortener", "--set", settings)
    assert ran.returncode == 0, ran.stderr
    return [item for item in yaml.safe_load_all(ran.stdout) if item]


def test_the_members_of_etcd_stay_as_many_as_they_are(tmp_path: Path) -> None:
    there: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "url-shortener-etcd", "namespace": "shortener"},
        "spec": {"replicas": 3},
    }
    with cluster_of([there], tmp_path) as config:
        for replicas, refused in [(3, False), (1, True)]:
            ran = helm(
                *("template", "url-shortener", str(CHART), "--namespace", "shortener", "--dry-run=server"),
                *("--is-upgrade", "--disable-openapi-validation", "--kubeconfig", str(config)),
                *("--set", f"{SEPARATE},etcd.enabled=true,etcd.replicas={replicas}"),
            )
            assert (ran.returncode != 0) is refused
            assert ("the release has an etcd of 3" in ran.stderr) is refused


# What does not go together


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("topology=both", "'sidecar', 'separate'"),
        (SEPARATE, "set etcd.enabled or etcd.endpoints, or host.replicas to 1"),
        (f"{SEPARATE},host.replicas=1,host.autoscaling.enabled=true", "set etcd.enabled or etcd.endpoints"),
        ("topology=separate,etcd.enabled=true", "set tls.existingSecret, or allowPlaintext=true"),
        ("etcd.enabled=true", "The addresses in a pod of topology sidecar mean nothing to other hosts"),
        ("etcd.endpoints={etcd:2379}", "uses no etcd: take etcd.enabled and etcd.endpoints out"),
        (f"{SEPARATE},etcd.enabled=true,etcd.endpoints={{etcd:2379}}", "set one of them"),
        (f"{SEPARATE},etcd.enabled=true,etcd.existingSecret=x", "the chart's own has no users: take it out"),
        (f"{SEPARATE},etcd.enabled=true,etcd.replicas=2", "replicas"),
        (f"{SEPARATE},etcd.endpoints={{http://etcd:2379}}", "does not match pattern"),
        (f"{SEPARATE},etcd.enabled=true,etcd.prefix=shortener", "does not match pattern"),
        ("host.autoscaling.enabled=true", "host.autoscaling is for topology separate"),
        ("host.tls.existingSecret=x", "host.tls is for topology separate"),
        (
            "plugins[0].replicas=2,plugins[0].name=logger,plugins[0].port=8081",
            "The plugin logger has replicas, which is for",
        ),
        (
            f"{SEPARATE},etcd.enabled=true,extraPlugins[0].name=etcd,extraPlugins[0].port=8090,images.etcd=x",
            "The plugin etcd would have the name of another object",
        ),
        (
            f"{SEPARATE},etcd.enabled=true,tls.existingSecret=x,directCalls=true",
            "set directCalls to false, or leave tls.existingSecret out",
        ),
        (
            f"{SEPARATE},etcd.enabled=true,host.tls.existingSecret=x",
            "The host has a certificate, and the plugins",
        ),
        (
            f"{SEPARATE},etcd.enabled=true,postgresql.enabled=false,replicaCount=2",
            "each pod would keep its data in a file of its own",
        ),
        (
            f"{SEPARATE},etcd.enabled=true,host.autoscaling.enabled=true,host.autoscaling.minReplicas=9",
            "host.autoscaling.minReplicas is 9",
        ),
        (
            f"{SEPARATE},etcd.enabled=true,host.autoscaling.enabled=true,host.resources.requests.cpu=null",
            "host requests none: set host.resources.requests.cpu",
        ),
        (
            f"{SEPARATE},etcd.enabled=true,env.host[0].name=STATE_URL",
            "which the chart sets: take it out, and set etcd",
        ),
        (f"{SEPARATE},etcd.enabled=true,env.host[0].name=ALLOW_PLAINTEXT", "and set allowPlaintext"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_to_write_instead(settings: str, said: str) -> None:
    ran = helm("template", "url-shortener", str(CHART), "--set", settings)
    assert ran.returncode != 0
    assert said.lower() in ran.stderr.replace('"', "'").lower()


@pytest.mark.parametrize(
    ("values", "told", "not_told"),
    [
        (
            DEFAULT,
            [
                "rollout status deployment/url-shortener-host",
                "rollout status deployment/url-shortener-api",
                "an etcd of 3 that this chart has set up",
                "in plaintext",
                "port-forward service/url-shortener 8083:8083",
            ],
            ["certificates need"],
        ),
        (
            TLS,
            ["in etcd, at etcd-0.data.example:2379", "url-shortener-thumbs-pods, Thumbs.Plugin"],
            ["in plaintext"],
        ),
        (ONE_HOST, ["There is one host, whose directory ends with its pod"], ["an etcd of"]),
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
    for text in told:
        assert text in notes
    for text in not_told:
        assert text not in notes


# What is measured


def test_monitors_find_every_pod_in_either_topology() -> None:
    monitors = {name: item["spec"] for name, item in named("PodMonitor", ALL_ON).items()}
    ports = {entry["port"] for entry in monitors["links"]["podMetricsEndpoints"]}
    for component, item in deployments(ALL_ON).items():
        template = item["spec"]["template"]
        assert monitors["links"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        names = {port.get("name") for port in containers_of(template["spec"])[component]["ports"]}
        assert names & ports
        annotated = template["metadata"]["annotations"]["prometheus.io/port"]
        number = int(environment_of(containers_of(template["spec"])[component])["PORT"]) + 3000
        assert annotated == str(number)
    etcd = named("StatefulSet", ALL_ON)["links-etcd"]["spec"]["template"]
    for kind in ("PodMonitor", "ServiceMonitor"):
        assert (
            named(kind, ALL_ON)["links-etcd"]["spec"]["selector"]["matchLabels"].items()
            <= etcd["metadata"]["labels"].items()
        )
    headless = named("Service", ALL_ON)["links-metrics"]["spec"]
    assert (
        headless["selector"].items() <= etcd["metadata"]["labels"].items()
        or {entry["name"] for entry in headless["ports"]} == ports
    )


@pytest.mark.parametrize("values", [ONE_HOST])
def test_the_host_takes_what_it_is_told(values: str) -> None:
    host_config({"ALLOW_PLAINTEXT": environment_of(container_of(values, "host"))["ALLOW_PLAINTEXT"]})
    assert "hunter2" not in rendered_text(values, "1.33.0")
