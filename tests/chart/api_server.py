"""As much of a Kubernetes API as Helm asks when templates look at what is there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KINDS = {
    "v1": {
        "Secret": "secrets",
        "Pod": "pods",
        "PersistentVolumeClaim": "persistentvolumeclaims",
        "Service": "services",
        "ServiceAccount": "serviceaccounts",
    },
    "apps/v1": {"Deployment": "deployments", "StatefulSet": "statefulsets"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
}
VERSION = {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}


def _root(version: str) -> str:
    return "/api/v1" if version == "v1" else f"/apis/{version}"


def _path(item: dict[str, Any]) -> str:
    version, name = item["apiVersion"], item["metadata"]["name"]
    return f"{_root(version)}/namespaces/shortener/{KINDS[version][item['kind']]}/{name}"


def _resources(version: str) -> dict[str, Any]:
    resources = [
        {"name": plural, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
        for kind, plural in KINDS[version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _discovery() -> dict[str, Any]:
    groups = []
    for version in list(KINDS)[1:]:
        name, _, number = version.partition("/")
        known = {"groupVersion": version, "version": number}
        groups.append({"name": name, "versions": [known], "preferredVersion": known})
    return {
        "/version": VERSION,
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
        **{_root(version): _resources(version) for version in KINDS},
    }


@contextmanager
def cluster_of(objects: Sequence[dict[str, Any]], folder: Path) -> Iterator[Path]:
    """Serve objects of the namespace `shortener`; yield the kubeconfig that leads to them."""
    answers = _discovery() | {_path(item): item for item in objects}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound"}
            body = json.dumps(answer or {**missing, "code": 404}).encode()
            self.send_response(200 if answer else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as its base has it
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        config = folder / "kubeconfig"
        config.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "it",
                    "clusters": [
                        {"name": "it", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
                    ],
                    "users": [{"name": "it", "user": {}}],
                    "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                }
            )
        )
        try:
            yield config
        finally:
            server.shutdown()
            thread.join()
