"""To open a store in etcd: what is of no use is refused by name, and nothing is changed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
import trio

from cpg_trio.http import StartError
from cpg_trio.store import Commit, EtcdStore, EtcdUrl
from tests.chaos_cluster.etcd_cluster import PASSWORD, USER, EtcdCluster, etcd_members
from tests.plugin.running import unused_port
from tests.store.answering import answering


@pytest.fixture(scope="module")
def guarded() -> Iterator[EtcdCluster]:
    """A member that asks for TLS, certificates and users."""
    with ExitStack() as stack:
        cluster = stack.enter_context(etcd_members(tls=True))
        cluster.add_user("/cpg/tests")
        yield cluster


async def refused(url: str, password: str = "") -> str:
    store = EtcdStore(EtcdUrl.parse(url), lambda: password)
    with trio.fail_after(10), pytest.raises(StartError) as error:
        await store.__aenter__()
    with trio.fail_after(10), pytest.raises(StartError) as again:
        await store.check()
    assert _advice(again.value) == _advice(error.value)
    assert str(error.value).startswith(f"the store at {store} cannot be used: ")
    assert not password or password not in str(error.value)
    return str(error.value)


def _advice(error: StartError) -> str:
    """Return what an error says to do. How a connection ends, of which it tells before, is by chance."""
    return str(error).partition(" (")[2]


async def test_there_is_no_server() -> None:
    ports = [unused_port(), unused_port()]
    why = await refused(f"etcd://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/a")
    for port in ports:
        assert f"cannot connect to http://127.0.0.1:{port}: connection refused" in why


async def test_there_is_another_server() -> None:
    async with answering(lambda _: b"404 page not found\n") as port:
        assert "it answers 404, and not as etcd" in await refused(f"etcd://127.0.0.1:{port}/a")


async def test_the_cluster_is_too_old() -> None:
    async with answering(lambda _: b'{"etcdserver":"3.3.27","etcdcluster":"3.3.0"}') as port:
        assert "etcd 3.4 or newer is needed; the cluster's version is 3.3.0" in await refused(
            f"etcd://127.0.0.1:{port}/a"
        )


async def test_etcd_speaks_tls_and_we_do_not(guarded: EtcdCluster) -> None:
    member = guarded.members[0]
    why = await refused(f"etcd://{USER}@127.0.0.1:{member.client_port}/cpg/tests", PASSWORD)
    assert "if it speaks TLS, the URL must begin with etcds" in why


async def test_we_speak_tls_and_etcd_does_not(etcd: EtcdCluster) -> None:
    why = await refused(f"etcds://127.0.0.1:{etcd.members[0].client_port}/a")
    assert "or not speak TLS: then the URL must begin with etcd)" in why


async def test_etcd_has_a_certificate_of_somebody_else(guarded: EtcdCluster) -> None:
    member = guarded.members[0]
    why = await refused(f"etcds://{USER}@127.0.0.1:{member.client_port}/cpg/tests", PASSWORD)
    assert "its certificate is not accepted" in why


async def test_etcd_asks_for_a_certificate_that_we_do_not_show(guarded: EtcdCluster) -> None:
    member = guarded.members[0]
    assert guarded.tls
    url = f"etcds://{USER}@127.0.0.1:{member.client_port}/cpg/tests?ca={guarded.tls.ca}"
    assert "it may ask for another certificate" in await refused(url, PASSWORD)


async def test_a_certificate_with_a_common_name_is_not_taken_with_users(
    guarded: EtcdCluster, tmp_path: Path
) -> None:
    # etcd would take it for the name of a user, were it not behind the gateway.
    named = guarded.authority.issue_cert("client.example", common_name="somebody")
    named.private_key_and_cert_chain_pem.write_to_path(tmp_path / "named.pem")
    assert guarded.tls
    url = f"etcds://{USER}@127.0.0.1:{guarded.members[0].client_port}/cpg/tests"
    why = await refused(f"{url}?ca={guarded.tls.ca}&cert={tmp_path / 'named.pem'}", PASSWORD)
    assert "etcd takes no client certificate with a common name" in why


async def test_a_file_of_a_certificate_is_not_there(guarded: EtcdCluster, tmp_path: Path) -> None:
    url = f"etcds://127.0.0.1:{guarded.members[0].client_port}/a?ca={tmp_path / 'none.pem'}"
    assert f"cannot use {tmp_path / 'none.pem'} for TLS" in await refused(url)


async def test_etcd_asks_for_users_and_none_is_named(guarded: EtcdCluster) -> None:
    why = await refused(guarded.url().replace(f"{USER}@", ""))
    assert "etcd does not permit it: the URL must name a user" in why


async def test_etcd_asks_for_no_users_and_one_is_named(etcd_url: str) -> None:
    why = await refused(etcd_url.replace("etcd://", "etcd://me@"), "secret-of-mine")
    assert "etcd does not ask for users: enable its authentication, or leave the user out" in why


async def test_the_password_is_wrong(guarded: EtcdCluster) -> None:
    assert "etcd knows no such user and password" in await refused(guarded.url(), "wr0ng-password")


async def test_the_file_of_the_password_is_not_there(guarded: EtcdCluster, tmp_path: Path) -> None:
    store = EtcdStore(EtcdUrl.parse(guarded.url()), (tmp_path / "password").read_text)
    with pytest.raises(StartError, match=r"cannot read the password of etcd's user: .*No such file"):
        await store.__aenter__()


async def test_the_user_may_not_use_the_path(guarded: EtcdCluster) -> None:
    why = await refused(guarded.url("/cpg/others"), PASSWORD)
    assert "the URL must name a user with a role that has readwrite on the whole prefix" in why
    assert "/cpg/others" not in guarded.etcdctl("get", "--prefix", "/", "--keys-only")


async def test_below_the_path_is_something_else(etcd: EtcdCluster, etcd_url: str) -> None:
    prefix = EtcdUrl.parse(etcd_url).prefix
    etcd.etcdctl("put", f"{prefix}somebody", "else")
    assert f"below {prefix} there is something that is no directory" in await refused(etcd_url)
    assert etcd.etcdctl("get", "--prefix", prefix, "--keys-only").split() == [f"{prefix}somebody"]


@pytest.mark.parametrize(
    ("stamp", "reason"),
    [
        ("", "is not that of a directory"),
        ("[]", "is not that of a directory"),
        ('{"kind": "another", "format": 1, "id": "x"}', "is not that of a directory"),
        ('{"kind": "cpg_trio directory", "format": 2, "id": "x"}', "needs a newer version of this software"),
    ],
)
async def test_the_stamp_is_not_one_that_we_know(
    etcd: EtcdCluster, etcd_url: str, stamp: str, reason: str
) -> None:
    etcd.etcdctl("put", f"{EtcdUrl.parse(etcd_url).prefix}store", stamp)
    assert reason in await refused(etcd_url)


async def test_a_check_changes_nothing(etcd: EtcdCluster, etcd_url: str) -> None:
    store = EtcdStore(EtcdUrl.parse(etcd_url))
    await store.check()
    assert not etcd.etcdctl("get", "--prefix", EtcdUrl.parse(etcd_url).prefix)
    async with store:
        pass
    await store.check()


async def test_all_that_open_it_find_the_same_store(etcd_url: str) -> None:
    ids = set[str]()

    async def find() -> None:
        async with EtcdStore(EtcdUrl.parse(etcd_url)) as store:
            ids.add((await store.load()).id)

    async with trio.open_nursery() as nursery:  # all of them find nothing, and would begin it
        for _ in range(5):
            nursery.start_soon(find)
    assert len(ids) == 1


async def test_users_tls_and_certificates(guarded: EtcdCluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = EtcdUrl.parse(guarded.url().replace(f"{USER}@", f"{USER}:{quote(PASSWORD, safe='')}@"))
    assert url.password == PASSWORD
    async with EtcdStore(url) as store:
        begin = (await store.load()).revision
        async with store.present("hosts/1", b"me", 2), store.changes(begin) as changes:
            assert set((await anext(changes)).values) == {"hosts/1"}
            await store.commit(Commit(puts={"a": b"1"}))
            assert set((await anext(changes)).values) == {"a"}
        assert [entry.key for entry in (await store.load()).entries] == ["a"]
    for secret in (PASSWORD, "s3cret", store._space.gateway.token):
        assert secret not in caplog.text
        assert secret not in f"{store} {store!r} {url!r}"


async def test_a_member_that_restarts_has_forgotten_tokens(guarded: EtcdCluster) -> None:
    async def restart() -> None:
        guarded.terminate(0)
        guarded.start(0)
        await trio.to_thread.run_sync(guarded.wait_ready)

    async with EtcdStore(EtcdUrl.parse(guarded.url()), lambda: PASSWORD) as store:
        begin = (await store.load()).revision
        await store.commit(Commit(puts={"a": b"1"}))
        await restart()
        async with store.changes(begin) as changes:  # which is cancelled, in an answer that is no error
            assert set((await anext(changes)).values) == {"a"}
        await restart()
        async with trio.open_nursery() as nursery:  # one of them authenticates, for all
            for i in range(5):
                nursery.start_soon(store.commit, Commit(puts={f"b/{i}": b"1"}))
        assert len((await store.load("b/")).entries) == 5
