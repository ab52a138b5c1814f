"""A member of etcd for the tests of a store, where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from tests.chaos_cluster.etcd_cluster import EtcdCluster, etcd_members

_numbers = count()


@pytest.fixture(scope="package")
def etcd() -> Iterator[EtcdCluster]:
    """A member that runs, and asks for no user."""
    with etcd_members() as cluster:
        yield cluster


@pytest.fixture
def etcd_url(etcd: EtcdCluster) -> str:
    """The URL of a store that nobody has used."""
    return etcd.url(f"/cpg/{next(_numbers)}")
