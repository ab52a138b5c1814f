"""What a Connect client sends its requests with, to a server on a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
import trio
from trio.testing import MockClock

from cpg_trio.http import ConnectFailedError, Pool, PoolStatistics, serve
from cpg_trio.http.client.httpx_transport import PoolTransport
from cpg_trio.rpc import (
    ClientConfig,
    Code,
    ConnectError,
    HttpRequest,
    PoolClient,
    ResponseMetadata,
    application,
)
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.http.peers import OK, Peer, serving
from tests.rpc.echo import Echo


@asynccontextmanager
async def serving_echo() -> AsyncIterator[str]:
    """Yield the URL of an echo service on a socket."""
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(partial(serve, application([Echo()]), bind="127.0.0.1:0"))
        yield url
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def served(config: ClientConfig | None = None) -> AsyncIterator[tuple[EchoServiceClient, Pool]]:
    """Yield a client of an echo service on a socket, and the pool that it is on."""
    async with serving_echo() as url, Pool() as pool:
        yield EchoServiceClient(url, pool, config), pool


async def numbers(*values: int) -> AsyncIterator[pb.SumRequest]:
    for value in values:
        yield pb.SumRequest(number=value)


async def check_every_kind_of_call(client: EchoServiceClient) -> None:
    metadata = ResponseMetadata()
    response = await client.echo(pb.EchoRequest(text="✓"), metadata=metadata)
    assert response.text == "✓"
    assert (metadata.headers["x-header"], metadata.trailers["x-trailer"]) == ("h", "t")
    async with client.count(pb.CountRequest(to=3)) as stream:
        assert [message.number async for message in stream] == [0, 1, 2]
    assert (await client.sum(numbers(1, 2, 3))).sum == 6
    large = pb.EchoRequest(data=bytes(range(256)) * 1000)
    assert (await client.echo(large)).data == large.data


async def test_every_kind_of_call_goes_over_a_pool() -> None:
    async with served() as (client, pool):
        await check_every_kind_of_call(client)
        assert pool.statistics() == PoolStatistics(idle=1, active=0, opened=1, reused=3)


async def test_every_kind_of_call_goes_over_one_connection_of_http2_if_that_is_asked_for() -> None:
    async with serving_echo() as url, Pool() as pool:
        await check_every_kind_of_call(EchoServiceClient(url, PoolClient(pool, http2=True)))
        assert pool.statistics().opened == 1


async def test_the_limit_of_an_answer_holds_over_http2_too() -> None:
    config = ClientConfig(max_message_bytes=100, gzip_from_bytes=None)
    async with serving_echo() as url, Pool() as pool:
        client = EchoServiceClient(url, PoolClient(pool, http2=True), config)
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest(data=b"x" * 1000))
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("transport", ["httpx's own", "a pool"])
async def test_an_httpx_client_goes_where_a_pool_goes(transport: str) -> None:
    async with serving_echo() as url, Pool() as pool:
        chosen = PoolTransport(pool) if transport == "a pool" else None
        async with httpx.AsyncClient(transport=chosen) as http:
            await check_every_kind_of_call(EchoServiceClient(url, http))


async def test_a_stream_that_ends_in_a_body_that_does_not_has_ended(mock_clock: MockClock) -> None:
    async def peer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/connect+proto\r\n\r\n\2\0\0\0\2{}")
        await trio.sleep_forever()

    mock_clock.rate = 100
    async with serving(peer) as origin, Pool() as pool:
        client = EchoServiceClient(f"http://127.0.0.1:{origin.port}", pool)
        async with client.count(pb.CountRequest(to=0)) as stream:
            assert [message async for message in stream] == []
        assert pool.statistics().active == 0


async def test_unary_calls_share_a_connection() -> None:
    async with served() as (client, pool):
        for _ in range(3):
            await client.echo(pb.EchoRequest())
        assert pool.statistics() == PoolStatistics(idle=1, active=0, opened=1, reused=2)


async def test_an_error_of_the_service_is_its_own() -> None:
    async with served() as (client, pool):
        with pytest.raises(ConnectError, match="there it is") as caught:
            await client.echo(pb.EchoRequest(text="fail"))
        assert caught.value.code == Code.ALREADY_EXISTS
        assert pool.statistics().idle == 1


async def test_a_call_that_is_given_up_closes_its_connection() -> None:
    async with served() as (client, pool):
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest(text="hang"), timeout_s=0.01)
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        assert pool.statistics().active == 0


async def test_a_message_that_is_too_large_closes_its_connection() -> None:
    async with served(ClientConfig(max_message_bytes=10)) as (client, pool):
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest(text="x" * 11))
        assert caught.value.code == Code.RESOURCE_EXHAUSTED
        assert pool.statistics().active == 0


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))  # bound and not listening: refused
        async with Pool() as pool:
            with pytest.raises(ConnectError, match=r"no answer: .*refused") as caught:
                client = EchoServiceClient(f"http://127.0.0.1:{unused.getsockname()[1]}", pool)
                await client.echo(pb.EchoRequest())
    assert caught.value.code == Code.UNAVAILABLE


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\ncontent-length: 9\r\n\r\nabc",
    ],
)
async def test_an_answer_that_the_network_breaks_is_unavailable(answer: bytes) -> None:
    async def peer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(answer)

    async with serving(peer) as origin, Pool() as pool:
        with pytest.raises(ConnectError, match="no answer: ") as caught:
            await EchoServiceClient(f"http://127.0.0.1:{origin.port}", pool).echo(pb.EchoRequest())
    assert caught.value.code == Code.UNAVAILABLE


async def test_what_breaks_within_the_block_is_unavailable_there_and_no_other_error_is_touched() -> None:
    async def peer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")

    async with serving(peer) as origin, Pool() as pool:
        request = HttpRequest("POST", f"http://127.0.0.1:{origin.port}", [], b"")
        with pytest.raises(ConnectFailedError):
            async with PoolClient(pool).stream(request) as response:
                assert await anext(response.body) == b"abc"
                with pytest.raises(ConnectError):
                    await anext(response.body)
                raise ConnectFailedError("the block's own, of somewhere else")


@pytest.mark.parametrize(
    "address", ["", "ftp://x", "http://[", "http://x:99999999", "http://x/\xe9", "http://x/a b"]
)
async def test_an_address_that_is_none_is_an_error_of_the_caller(address: str) -> None:
    async with Pool() as pool:
        with pytest.raises(ConnectError) as caught:
            await EchoServiceClient(address, pool).echo(pb.EchoRequest())
    assert caught.value.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("value", ["\xe9", "a\r\nb: c"])
async def test_a_header_that_cannot_be_sent_is_an_error_of_the_caller(value: str) -> None:
    async with Pool() as pool:
        client = EchoServiceClient("http://127.0.0.1:1", pool, ClientConfig(headers={"x": value}))
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest())
    assert caught.value.code == Code.INVALID_ARGUMENT


async def test_a_request_goes_to_the_urls_target_or_to_another_host_that_is_told_of_the_urls() -> None:
    heads = []

    async def peer(peer: Peer) -> None:
        while head := await peer.receive_head():
            heads.append(head)
            await peer.send(OK)

    async with serving(peer) as origin, Pool() as pool:
        client = PoolClient(pool, (origin.host,))
        for path in ["", "/", "/a%2Fb/?q=http://x/"]:
            request = HttpRequest("GET", f"http://peer.test:{origin.port}{path}", [("X-Odd", "1")], b"")
            async with client.stream(request) as response:
                assert (response.status, response.header("content-length")) == (200, "2")
                assert [chunk async for chunk in response.body] == [b"ok"]
        assert pool.statistics() == PoolStatistics(idle=1, active=0, opened=1, reused=2)
    rest = b" HTTP/1.1\r\nhost: peer.test:%d\r\ncontent-length: 0\r\nX-Odd: 1\r\n\r\n" % origin.port
    assert heads == [b"GET /" + rest, b"GET /" + rest, b"GET /a%2Fb/?q=http://x/" + rest]


@pytest.mark.parametrize("http2", [True, False])
async def test_http2_of_httpx_is_warned_of_once(caplog: pytest.LogCaptureFixture, *, http2: bool) -> None:
    async with (
        serving_echo() as url,
        httpx.AsyncClient(http1=not http2, http2=http2, trust_env=False) as http,
    ):
        client = EchoServiceClient(url, http)
        for _ in range(2):
            await client.echo(pb.EchoRequest(text="x"))
    assert [record.levelname for record in caplog.records if "HTTP/2 of httpx" in record.message] == (
        ["WARNING"] if http2 else []
    )
