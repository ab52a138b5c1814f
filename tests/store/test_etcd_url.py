"""The URL of a store in etcd: what it may say, and that its secret is not told on."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpg_trio.http import Origin
from cpg_trio.store import EtcdUrl

SECRET = "s3cr3t"


def test_a_url_names_members_a_path_and_a_user() -> None:
    url = EtcdUrl.parse("etcd://me:p%40ss@etcd-0,10.0.0.1:23,[::1]:24/directories/production/")
    assert url.endpoints == (
        Origin("http", "etcd-0", 2379),
        Origin("http", "10.0.0.1", 23),
        Origin("http", "::1", 24),
    )
    assert url.prefix == "/directories/production/"
    assert (url.user, url.password) == ("me", "p@ss")
    assert str(url) == "etcd://me@etcd-0:2379,10.0.0.1:23,[::1]:24/directories/production"


def test_a_url_with_tls_names_files() -> None:
    url = EtcdUrl.parse("etcds://etcd-0/a?ca=/ca.pem&cert=/own.pem&key=/own.key")
    assert url.endpoints == (Origin("https", "etcd-0", 2379),)
    assert (url.tls.ca_file, url.tls.cert_file, url.tls.key_file) == (
        Path("/ca.pem"),
        Path("/own.pem"),
        Path("/own.key"),
    )
    assert str(url) == "etcds://etcd-0:2379/a"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("etcd-0:2379/a", "its scheme must be etcd, or etcds for TLS"),
        (f"https://me:{SECRET}@etcd-0/a", "its scheme must be etcd, or etcds for TLS"),
        ("etcd:///a", "it must name hosts"),
        ("etcd://etcd-0,,etcd-1/a", "it must name hosts"),
        ("etcd://etcd-0:x/a", "it must name hosts"),
        (f"etcd://me:{SECRET}@etcd-0:99999/a", "the port must be a number from 1 to 65535"),
        ("etcd://höst/a", "the host must be a name or an address"),
        (f"etcd://me:{SECRET}@etcd-0", "it must end with a path"),
        ("etcd://etcd-0/", "it must end with a path"),
        ("etcd://etcd-0/a//b", "its path must have no empty part"),
        ("etcd://etcd-0/a%00", "its path must have no empty part and no control characters"),
        (f"etcd://me:7/{SECRET}@etcd-0/a", "its path must have no @"),
        (f"etcd://:{SECRET}@etcd-0/a", "it has a password without a user"),
        (f"etcd://me:{SECRET}@etcd-0/a#x", "it must have no fragment"),
        ("etcds://etcd-0/a?timeout=3", "unknown option 'timeout'; there are ca, cert, key"),
        ("etcd://etcd-0/a?ca=/ca.pem", "ca= is for TLS: the scheme must be etcds"),
        ("etcds://etcd-0/a?ca=", "ca= must name a file"),
        ("etcds://etcd-0/a?key=/own.key", "key= needs cert="),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        EtcdUrl.parse(url)
    assert SECRET not in str(refused.value)


def test_the_password_is_in_no_text() -> None:
    url = EtcdUrl.parse(f"etcd://me:{SECRET}@etcd-0/a")
    assert url.password == SECRET
    assert SECRET not in f"{url} {url!r}"
