"""Helm, run on the chart."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Object: TypeAlias = dict[str, Any]

CHART = Path(__file__).parents[2] / "chart"
VALUES = Path(__file__).parent / "values"
HELM = os.environ.get("HELM", "helm")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it; what it says is the caller's to judge."""
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False, timeout=60)


@functools.cache
def rendered_text(values: str, version: str) -> str:
    """Return the manifests that a values file makes on a version of Kubernetes."""
    ran = helm(
        *("template", "url-shortener", str(CHART), "--namespace", "shortener", "--kube-version", version),
        *("--values", str(VALUES / f"{values}.yaml")),
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def rendered(values: str, version: str = "1.33.0") -> list[Object]:
    """Return the objects that a values file makes on a version of Kubernetes."""
    return [item for item in yaml.safe_load_all(rendered_text(values, version)) if item]


def of_kind(kind: str, values: str, version: str = "1.33.0") -> list[Object]:
    return [item for item in rendered(values, version) if item["kind"] == kind]


def pod_of(values: str, version: str = "1.33.0") -> Object:
    """Return the spec of the shortener's pods."""
    (deployment,) = of_kind("Deployment", values, version)
    spec: Object = deployment["spec"]["template"]["spec"]
    return spec


def containers_of(pod: Object) -> dict[str, Object]:
    return {item["name"]: item for item in [*pod.get("initContainers", []), *pod["containers"]]}
