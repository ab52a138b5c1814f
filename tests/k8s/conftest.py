"""A build of the images, a namespace for each test, a database that pods reach."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.postgres import Postgres, binaries, postgres_server
from tests.k8s.cluster import CHART, Cluster, is_ours, node_address

KUBECTL = os.environ.get("KUBECTL", "kubectl")
DOCKER = os.environ.get("DOCKER", "docker")


@pytest.fixture(scope="session")
def tag() -> Iterator[str]:
    """The tag of freshly built images; there is the same again with `-next` behind it."""
    tag = os.environ.get("K8S_TAG") or f"test-{secrets.token_hex(4)}"
    for one in (tag, f"{tag}-next"):
        subprocess.run([CHART / "setup.sh"], env={**os.environ, "TAG": one}, check=True)
    yield tag
    if "K8S_TAG" not in os.environ and not os.environ.get("REGISTRY"):
        images = subprocess.run(
            ["bash", "-c", ". ./common.sh; images"], cwd=CHART, capture_output=True, text=True, check=True
        ).stdout.split()
        built = [f"{image}:{one}" for image in images for one in (tag, f"{tag}-next")]
        subprocess.run([DOCKER, "rmi", "--force", *built], stdout=subprocess.DEVNULL, check=False)


@pytest.fixture
def cluster(tag: str) -> Iterator[Cluster]:
    cluster = Cluster(tag)
    subprocess.run([KUBECTL, "create", "namespace", cluster.namespace], check=True)
    try:
        yield cluster
    finally:
        subprocess.run([KUBECTL, "delete", "namespace", cluster.namespace, "--timeout=120s"], check=True)


@pytest.fixture
def database() -> Iterator[Postgres]:
    """An empty PostgreSQL that pods reach."""
    address = node_address()
    if binaries() is None or not is_ours(address):
        pytest.skip(
            f"a database for pods needs PostgreSQL on this machine, and a node that is it, not {address}"
        )
    with postgres_server(address) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> tuple[str, ...]:
    """What the chart is told of the image of its own PostgreSQL.

    The official image, or, where the cluster pulls none and `K8S_POSTGRESQL_BASE` names an image of Debian,
    what is built from that.
    """
    base = os.environ.get("K8S_POSTGRESQL_BASE")
    return _stand_in("postgresql", base) if base else ()


@pytest.fixture(scope="session")
def etcd() -> tuple[str, ...]:
    """What the chart is told of the image of its own etcd: likewise, with `ETCD_BASE`."""
    base = os.environ.get("ETCD_BASE")
    return _stand_in("etcd", base) if base else ()


def _stand_in(name: str, base: str) -> tuple[str, ...]:
    image, folder = f"stand-in/{name}", Path(__file__).parent / name
    build = [DOCKER, "build", "--quiet", f"--tag={image}:1", f"--build-arg=BASE={base}", str(folder)]
    subprocess.run(build, check=True)
    return f"--set={name}.image.repository={image}", f"--set-string={name}.image.tag=1"
