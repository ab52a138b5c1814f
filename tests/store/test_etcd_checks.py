"""A store in etcd has to do what every store does."""

from __future__ import annotations

from cpg_trio.store import EtcdStore, EtcdUrl
from cpg_trio.testing import check_store


async def test_a_store_in_etcd_passes_the_checks_of_stores(etcd_url: str) -> None:
    await check_store(lambda: EtcdStore(EtcdUrl.parse(etcd_url)))
