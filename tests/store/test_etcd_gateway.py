"""What a gateway may answer that no member of today does when it is asked to: by servers that do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from cpg_trio.http import Origin
from cpg_trio.store import EtcdUrl, StoreError
from cpg_trio.store.etcd._gateway import AttemptError, Gateway, RefusedError, UncertainError
from tests.store.answering import answering

OK = b'{"header":{}}'


def error(message: str, code: int) -> bytes:
    return json.dumps({"error": message, "message": message, "code": code}).encode()


@asynccontextmanager
async def gateway_of(*answers: Callable[[bytes], bytes], user: str = "") -> AsyncIterator[Gateway]:
    """Run a server for each of these ways to answer; the first one is used first."""
    async with answering(answers[0]) as port, answering(answers[-1]) as other:
        ports = [port, other][: len(answers)]
        hosts = ",".join(f"127.0.0.1:{each}" for each in ports)
        url = EtcdUrl.parse(f"etcd://{user}{hosts}/a")
        async with Gateway(url, lambda: "password") as gateway:
            while gateway.endpoint.port != port:
                gateway.leave(gateway.endpoint, "another is to be used")
            yield gateway


async def test_an_error_that_may_hide_a_deed_is_no_answer() -> None:
    timed_out = error("etcdserver: request timed out", 14)
    async with gateway_of(lambda _: timed_out, lambda _: OK) as gateway:
        with pytest.raises(UncertainError, match="request timed out; it may have been done"):
            await gateway.call("/v3/kv/txn", {}, may_repeat=False)
        assert (await gateway.call("/v3/kv/txn", {})).body == {"header": {}}


async def test_an_error_that_hides_none_is_an_answer() -> None:
    refused = error("etcdserver: too many operations in txn request", 3)
    async with gateway_of(lambda _: refused, lambda _: OK) as gateway:
        with pytest.raises(RefusedError, match="too many operations"):
            await gateway.call("/v3/kv/txn", {})


async def test_members_that_elect_a_leader_are_asked_again() -> None:
    asked = list[bytes]()

    def elect(path: bytes) -> bytes:
        asked.append(path)
        return OK if len(asked) > 4 else error("etcdserver: no leader", 14)

    async with gateway_of(elect, elect) as gateway:
        await gateway.call("/v3/kv/txn", {}, may_repeat=False)
    assert len(asked) == 5


async def test_a_call_that_nobody_answers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpg_trio.store.etcd._gateway._CALL_S", 0.3)
    async with gateway_of(lambda _: error("etcdserver: no leader", 14)) as gateway:
        with pytest.raises(StoreError, match="etcdserver: no leader"), trio.fail_after(5):
            await gateway.call("/v3/kv/txn", {})


async def test_a_token_that_is_never_taken_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpg_trio.store.etcd._gateway._CALL_S", 0.3)

    def answer(path: bytes) -> bytes:
        return b'{"token":"t"}' if b"authenticate" in path else error("etcdserver: invalid auth token", 16)

    async with gateway_of(answer, user="me@") as gateway:
        with pytest.raises(StoreError, match="does not accept a token"), trio.fail_after(10):
            await gateway.call("/v3/kv/range", {})
        async with gateway.stream("/v3/watch", {}) as stream:
            with pytest.raises(AttemptError, match="invalid auth token"):
                await stream.next()
        assert not gateway.token


@pytest.mark.parametrize("answer", [b"{}", b'{"token":7}', b'{"token":"a\\nb"}'])
async def test_an_authentication_without_a_token_is_an_error(answer: bytes) -> None:
    async with gateway_of(lambda _: answer, user="me@") as gateway:
        with pytest.raises(StoreError, match="answers an authentication without a token"):
            await gateway.call("/v3/kv/txn", {}, may_repeat=False)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"result":{"header":{}}}\n{"result":{"created":true}}\n', "it has ended the stream"),
        (
            b'{"result":{"header":{}}}\n{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}\n',
            "no leader",
        ),
        (b'{"result":{"header":{}}}\n{"error":{"code":14,"message":"etcdserver: no leader"}}', "no leader"),
        (b'{"result":{"header":{}}}\n{"result":', "it answers 200, and not as etcd"),
        (b'{"result":{"header":{}}}\n{"result":"' + bytes(200), "a message is too large"),
    ],
)
async def test_a_stream_ends_with_its_reason(
    body: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpg_trio.store.etcd._gateway._MAX_MESSAGE_BYTES", 100)
    async with gateway_of(lambda _: body) as gateway, gateway.stream("/v3/watch", {}) as stream:
        assert await stream.next() == {"header": {}}
        with pytest.raises(AttemptError, match=reason):
            while True:
                await stream.next()


async def say_nothing(_: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_streams_of_a_member_end_when_it_is_left() -> None:
    async with trio.open_nursery() as nursery:
        (silent,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, say_nothing, [silent])
        port = silent.socket.getsockname()[1]
        url = EtcdUrl.parse(f"etcd://127.0.0.1:{port},127.0.0.1:1/a")
        async with Gateway(url, str) as gateway:
            if gateway.endpoint.port != port:
                gateway.leave(gateway.endpoint, "")
            async with gateway.stream("/v3/watch", {}) as stream:
                await trio.testing.wait_all_tasks_blocked()
                gateway.leave(Origin("http", "127.0.0.1", 1), "")  # which is not used
                gateway.leave(gateway.endpoint, "")
                with pytest.raises(AttemptError, match="has not answered other calls"):
                    await stream.next()
        nursery.cancel_scope.cancel()
