"""Each error of a client says where the call has failed, as far as that is known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cpg_trio.http import Pool
from cpg_trio.rpc import Code, ConnectError, Fault, HttpResponseHead, PoolClient, fault_of
from cpg_trio.rpc.client import ClientConfig
from cpg_trio.rpc.faults import fault_of_answer
from tests._gen.echo.v1.echo_pb2 import CountRequest, EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.descriptors import none_left
from tests.http.peers import Handler, Peer, serving, url_of
from tests.plugin.running import unused_port

JSON, PLAIN = "application/json", "text/plain"
MARK = ("x-plugin-undelivered", "true")


def told(value: str) -> list[tuple[str, str]]:
    return [MARK, ("x-plugin-fault", value)]


@pytest.mark.parametrize(
    ("status", "content_type", "fields", "fault"),
    [
        (502, PLAIN, told("caller"), Fault.CALLER),
        (502, PLAIN, told("host"), Fault.HOST),
        (502, PLAIN, told("provider"), Fault.PROVIDER),
        (502, PLAIN, told("guard"), Fault.GUARD),
        (502, PLAIN, told("a word of a later version"), Fault.WAY),
        (503, JSON, told("host"), Fault.HOST),
        (401, JSON, [MARK], Fault.GUARD),
        (401, PLAIN, [MARK], Fault.WAY),
        (502, PLAIN, [MARK], Fault.WAY),
        (401, PLAIN, [], Fault.WAY),
        (404, PLAIN, [], Fault.WAY),
        (429, PLAIN, [], Fault.WAY),
        (502, PLAIN, [], Fault.WAY),
        (503, "", [], Fault.WAY),
        (503, JSON, [], Fault.HANDLER),
        (401, JSON, [], Fault.HANDLER),
        (500, PLAIN, [], Fault.HANDLER),
        (418, "text/html", [], Fault.HANDLER),
    ],
)
def test_an_answer_says_where_the_call_has_failed(
    status: int, content_type: str, fields: list[tuple[str, str]], fault: Fault
) -> None:
    assert fault_of_answer(HttpResponseHead(status, fields), content_type) is fault


@pytest.mark.parametrize("fault", Fault)
def test_what_a_provider_has_no_part_in_does_not_count_against_it(fault: Fault) -> None:
    assert fault.is_providers is (fault in {Fault.PROVIDER, Fault.GUARD, Fault.HANDLER})


def test_an_error_of_an_author_says_nothing() -> None:
    assert fault_of(ConnectError(Code.INTERNAL, "x")) is None
    assert fault_of(ValueError("x")) is None


def answering(status: str, body: bytes, fields: str = "") -> Handler:
    async def answer(peer: Peer) -> None:
        while await peer.receive_head():
            head = f"HTTP/1.1 {status}\r\n{fields}content-length: {len(body)}\r\n\r\n"
            await peer.send(head.encode() + body)

    return answer


async def break_off(peer: Peer) -> None:
    await peer.receive_head()


async def stream_and_break_off(peer: Peer) -> None:
    await peer.receive_head()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/connect+proto\r\ntransfer-encoding: chunked\r\n\r\n"
    await peer.send(head + b"5\r\n\0\0\0\0\0\r\n")


TYPED = "content-type: application/proto\r\n"
ERROR = answering("503 x", b'{"code":"unavailable","message":"no"}', "content-type: application/json\r\n")
CASES: dict[str, tuple[Handler, Fault, Fault]] = {
    "it breaks off": (break_off, Fault.WAY, Fault.PROVIDER),
    "it speaks no HTTP": (answering("nonsense", b""), Fault.WAY, Fault.PROVIDER),
    "a plain 502": (answering("502 x", b""), Fault.WAY, Fault.WAY),
    "an error": (ERROR, Fault.HANDLER, Fault.HANDLER),
    "no message": (answering("200 OK", b"\xff", TYPED), Fault.HANDLER, Fault.HANDLER),
    "another type": (answering("200 OK", b"hello"), Fault.HANDLER, Fault.HANDLER),
    "more than is allowed": (answering("200 OK", b"x" * 2000, TYPED), Fault.CALLER, Fault.CALLER),
}


@asynccontextmanager
async def calling(url: str, peer: Fault) -> AsyncIterator[EchoServiceClient]:
    async with Pool() as pool:
        yield EchoServiceClient(url, PoolClient(pool, peer=peer), ClientConfig(max_message_bytes=1000))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("peer", [Fault.HOST, Fault.PROVIDER])
async def test_what_comes_back_is_the_fault_of_whoever_answers(case: str, peer: Fault) -> None:
    handler, by_host, by_provider = CASES[case]
    async with serving(handler) as origin, calling(url_of(origin), peer) as client:
        with pytest.raises(ConnectError) as caught:
            await client.echo(EchoRequest(text="x"))
        assert fault_of(caught.value) is (by_provider if peer is Fault.PROVIDER else by_host)


@pytest.mark.parametrize("peer", [Fault.HOST, Fault.PROVIDER, Fault.WAY])
async def test_no_connection_is_the_fault_of_the_peer_and_no_descriptor_is_the_callers(peer: Fault) -> None:
    async with calling(f"http://127.0.0.1:{unused_port()}", peer) as client:
        with pytest.raises(ConnectError) as caught:
            await client.echo(EchoRequest(text="x"))
        assert fault_of(caught.value) is peer
        with none_left(), pytest.raises(ConnectError) as caught:
            await client.echo(EchoRequest(text="x"))
        assert fault_of(caught.value) is Fault.CALLER
        assert caught.value.code is Code.UNAVAILABLE


async def test_a_stream_that_breaks_is_the_providers_fault_only_if_nobody_is_in_between() -> None:
    for peer, fault in ((Fault.HOST, Fault.WAY), (Fault.PROVIDER, Fault.PROVIDER)):
        async with serving(stream_and_break_off) as origin, calling(url_of(origin), peer) as client:
            with pytest.raises(ConnectError) as caught:
                async with client.count(CountRequest(to=3)) as stream:
                    assert [each.number async for each in stream] == [0]
            assert fault_of(caught.value) is fault


async def test_a_deadline_says_nothing_of_where_the_call_was() -> None:
    async def hang(peer: Peer) -> None:
        await peer.receive_to_end()

    async with serving(hang) as origin, calling(url_of(origin), Fault.PROVIDER) as client:
        with pytest.raises(ConnectError) as caught:
            await client.echo(EchoRequest(text="x"), timeout_s=0.05)
        assert (caught.value.code, fault_of(caught.value)) == (Code.DEADLINE_EXCEEDED, Fault.WAY)
