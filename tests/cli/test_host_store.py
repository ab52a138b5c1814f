"""A host whose state is in a store that others share: which settings and stores it refuses, and how."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import pytest
import trio

from cpg_trio.cli._host import TABLE
from cpg_trio.cli._host_check import find
from cpg_trio.host import Keys
from cpg_trio.host.cluster import META, join
from cpg_trio.settings import settle
from cpg_trio.store import Commit, EtcdStore, EtcdUrl
from tests.chaos_cluster.etcd_cluster import PASSWORD, USER, EtcdCluster, etcd_members

A, B = "a-key-" * 6, "b-key-" * 6


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TABLE:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdCluster]:
    with etcd_members() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def with_users() -> Iterator[EtcdCluster]:
    with etcd_members() as cluster:
        cluster.add_user()
        yield cluster


def url_of_nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"etcd://127.0.0.1:{server.getsockname()[1]}/cpg/nobody"


def dump(cluster: EtcdCluster) -> str:
    """Return all that is in an etcd, with the revision of each entry and of the whole."""
    found = json.loads(cluster.etcdctl("get", "", "--prefix", "-w", "json"))
    return json.dumps({"revision": found["header"]["revision"], "kvs": found.get("kvs")}, sort_keys=True)


async def errors(environment: Mapping[str, str], *, reach: bool = True) -> list[str]:
    """Return what `cpg-trio host --check --reach` says of some settings."""
    given = {"PORT": "0", "ADMIN_SOCKET": "off", **environment}
    return list((await find(settle(TABLE, {}, given), reach=reach)).errors)


# Settings


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"STATE_URL": "etcd://a/x", "STATE_PATH": "b"}, "STATE_PATH and STATE_URL are two places for one"),
        ({"STATE_URL": "etcd://a", "CPG_HOST_KEY": A}, "STATE_URL: it must end with a path, as in etcd://"),
        ({"STATE_URL": "etcd://a/", "CPG_HOST_KEY": A}, "STATE_URL: it must end with a path, as in etcd://"),
        ({"STATE_URL": "http://a/x", "CPG_HOST_KEY": A}, "STATE_URL: its scheme must be etcd, or etcds"),
        ({"STATE_URL": "etcd://a/x"}, "set CPG_HOST_KEY or CPG_HOST_KEY_FILE, the same for all of them"),
        (
            {"STATE_URL": "etcd://u:pw@a/x", "CPG_HOST_KEY": A},
            "which others may see: put it in STATE_PASSWORD",
        ),
        (
            {"STATE_URL": "etcd://u@a/x", "CPG_HOST_KEY": A},
            "STATE_URL names the user 'u': set STATE_PASSWORD",
        ),
        (
            {"STATE_URL": "etcd://a/x", "CPG_HOST_KEY": A, "STATE_PASSWORD": "pw-of-somebody"},
            "STATE_PASSWORD needs the user whose it is",
        ),
        (
            {"STATE_URL": "etcd://u@a/x", "CPG_HOST_KEY": A, "STATE_PASSWORD_FILE": "/nowhere"},
            "STATE_PASSWORD_FILE: cannot read /nowhere: no such file or directory",
        ),
    ],
)
async def test_settings_that_make_no_sense_are_refused_by_name(
    environment: Mapping[str, str], said: str
) -> None:
    found = await errors(environment, reach=False)
    assert said in found[0]
    assert "pw" not in "".join(found)


async def test_a_check_asks_the_store_only_if_that_is_wanted() -> None:
    environment = {"STATE_URL": url_of_nobody(), "CPG_HOST_KEY": A}
    assert await errors(environment, reach=False) == []
    [error] = await errors(environment)
    assert error.startswith(f"the store at {environment['STATE_URL']} cannot be used: ")


def test_a_password_in_a_url_is_not_shown() -> None:
    listed = settle(TABLE, {}, {"STATE_URL": "etcd://me:s3cr3t:x@a:2379,b/x?ca=f"}).listed
    [shown] = [each.value for each in listed if each.name == "STATE_URL"]
    assert shown == "etcd://me:(secret)@a:2379,b/x?ca=f"


async def test_a_check_of_a_store_changes_nothing_and_makes_no_key(etcd: EtcdCluster, tmp_path: Path) -> None:
    before, key = dump(etcd), tmp_path / "host.key"
    begun = etcd.url("/checked")
    assert await errors({"STATE_URL": etcd.url("/new"), "CPG_HOST_KEY_FILE": str(key)}) == []
    assert dump(etcd) == before
    async with EtcdStore(EtcdUrl.parse(begun)) as store:
        await join(store, Keys([A]))
    before = dump(etcd)
    assert await errors({"STATE_URL": begun, "CPG_HOST_KEY": A}) == []
    [missing] = await errors({"STATE_URL": begun, "CPG_HOST_KEY_FILE": str(key)})
    assert "host.key" in missing
    [unfit] = await errors({"STATE_URL": begun, "CPG_HOST_KEY": B})
    assert unfit.startswith("the key of this host does not fit the directory")
    assert dump(etcd) == before
    assert not key.exists()


# Stores, with the process of a host


@attrs.frozen
class Case:
    """A store that a host does not fit."""

    environment: Mapping[str, str]
    said: str
    by_process: bool = False
    """Whether a host is started, too, and not only checked. That takes a second."""


async def refused(case: Case) -> None:
    """Check the settings of a host, and start it: it ends with one line and the status 1."""
    environment = {"PORT": "0", "ADMIN_SOCKET": "off", "CPG_HOST_KEY": A, **case.environment}
    [error] = await errors(environment)
    assert re.search(case.said, error), error
    assert not any(secret in error for secret in (A, B, PASSWORD, "wrong-password"))
    if case.by_process:
        with trio.fail_after(60):
            done = await trio.run_process(
                [sys.executable, "-m", "cpg_trio", "host"],
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
                env={**os.environ, **environment},
            )
        assert (done.returncode, done.stdout.decode()) == (1, f"{error}\n")


async def prepared(etcd: EtcdCluster) -> list[Case]:
    """Return the stores that are in an etcd and do not fit a host with the key A."""
    etcd.etcdctl("put", "/registry/pods/default/web-0", "of Kubernetes")
    etcd.etcdctl("put", "/stamped/store", "somebody's own")
    urls = {name: etcd.url(f"/{name}") for name in ("registry", "stamped", "theirs", "newer", "odd")}
    for name in ("theirs", "newer", "odd"):
        async with EtcdStore(EtcdUrl.parse(urls[name])) as store:
            await join(store, Keys([B if name == "theirs" else A]))
            if name == "newer":
                [meta] = (await store.load(META)).entries
                value = json.dumps({**json.loads(meta.value), "schema": 99}).encode()
                await store.commit(Commit(puts={META: value}))
            if name == "odd":
                await store.commit(Commit(puts={META: b"not ours"}))
    return [
        Case(
            {"STATE_URL": url_of_nobody()},
            r"the store at etcd://127\S+ cannot be used: .*refused",
            by_process=True,
        ),
        Case({"STATE_URL": urls["registry"]}, r"below /registry/ there is something that is no directory"),
        Case({"STATE_URL": urls["stamped"]}, r"/stamped/store is not that of a directory"),
        Case(
            {"STATE_URL": urls["theirs"]},
            r"key of this host does not fit the directory .*CPG_HOST_KEY",
            by_process=True,
        ),
        Case({"STATE_URL": urls["newer"]}, r"has schema 99, and this release reads 1"),
        Case({"STATE_URL": urls["odd"]}, r"its entry 'meta' is not that of a directory"),
        Case({"STATE_URL": etcd.url("")}, r"STATE_URL: it must end with a path"),
        Case({"STATE_URL": urls["theirs"], "CPG_HOST_KEY": ""}, r"set CPG_HOST_KEY or CPG_HOST_KEY_FILE"),
    ]


async def test_a_store_that_a_host_does_not_fit_is_refused_by_name_and_is_as_before(
    etcd: EtcdCluster,
) -> None:
    cases = await prepared(etcd)
    before = dump(etcd)
    async with trio.open_nursery() as nursery:
        for case in cases:
            nursery.start_soon(refused, case)
    assert dump(etcd) == before


async def test_wrong_credentials_are_refused_by_name_and_change_nothing(
    with_users: EtcdCluster, tmp_path: Path
) -> None:
    url, before = with_users.url(), dump(with_users)
    elsewhere, password = with_users.url("/not/theirs"), tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    cases = [
        Case(
            {"STATE_URL": url, "STATE_PASSWORD": "wrong-password"},
            r"etcd knows no such user and password",
            by_process=True,
        ),
        Case({"STATE_URL": url.replace(f"{USER}@", "")}, r"etcd asks for a user: name one in the URL"),
        Case(
            {"STATE_URL": elsewhere, "STATE_PASSWORD_FILE": str(password)},
            r"etcd does not permit it: the URL must name a user with a role that has readwrite on the whole",
        ),
    ]
    async with trio.open_nursery() as nursery:
        for case in cases:
            nursery.start_soon(refused, case)
    assert dump(with_users) == before
    assert await errors({"STATE_URL": url, "STATE_PASSWORD": PASSWORD, "CPG_HOST_KEY": A}) == []
