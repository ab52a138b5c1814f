"""The overview of a host that shares its directory: the hosts, and how this one stands with the store."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.running import Shortener, shortener, window
from tests.browser.test_dashboard import assert_accessible
from tests.chaos_cluster.etcd_cluster import EtcdCluster, etcd_members


@pytest.fixture
def sharing() -> Iterator[tuple[Shortener, EtcdCluster]]:
    """A host whose directory is in etcd, and that etcd."""
    with etcd_members() as etcd, tempfile.TemporaryDirectory() as folder, shortener(Path(folder)) as running:
        shared = {"STATE_URL": etcd.url(), "CPG_HOST_KEY": "k" * 32, "BASE_URLS": "any", "LEASE_S": "5"}
        running.start("host", ADMIN_SOCKET=str(running.socket), **shared)
        running.do(running.system.parts["host"].url)
        yield running, etcd


@pytest.mark.parametrize("width", [1280, 400])
def test_the_hosts_are_shown_and_a_store_that_is_lost_is_seen_at_once(
    browser: Browser, sharing: tuple[Shortener, EtcdCluster], width: int
) -> None:
    running, etcd = sharing
    with window(browser, running.open_dashboard(), viewport={"width": width, "height": 800}) as seen:
        seen.live()
        hosts = seen.page.locator("#hosts")
        expect(hosts.get_by_role("row").nth(1)).to_contain_text("this one")
        expect(hosts).to_contain_text(re.compile(r"store etcd://\S+: in touch, revision \d+"))
        assert_accessible(seen.page)
        etcd.stop(0)
        try:
            expect(hosts).to_contain_text("not in touch for")
            expect(seen.page.locator("#sentence")).to_contain_text("cut off from etcd://")
            assert_accessible(seen.page)
            wide = seen.page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide <= 0
        finally:
            etcd.cont(0)
        expect(hosts).to_contain_text("in touch, revision")
