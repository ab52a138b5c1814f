from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
import trio
import trio.testing

from cpg_trio.http import Origin, Pool, PoolStatistics
from cpg_trio.http.client.httpx_transport import PoolTransport, _origin_of
from tests.http.peers import BEGUN, OK, Handler, Peer, answer_ok, echo, serving
from tests.names import Names


@asynccontextmanager
async def client_of(handler: Handler) -> AsyncIterator[tuple[httpx.AsyncClient, Pool]]:
    async with serving(handler) as origin, Pool() as pool:
        url = f"http://127.0.0.1:{origin.port}"
        async with httpx.AsyncClient(transport=PoolTransport(pool), base_url=url) as client:
            yield client, pool


async def once(*chunks: bytes) -> AsyncGenerator[bytes, None]:
    for chunk in chunks:
        yield chunk


class Silent:
    """A peer that says something, and then nothing more."""

    def __init__(self, *words: bytes) -> None:
        self.words = words
        self.asked = trio.Event()

    async def __call__(self, peer: Peer) -> None:
        await peer.receive_head()
        self.asked.set()
        for words in self.words:
            await peer.send(words)
        await trio.sleep_forever()


async def test_requests_go_over_the_pools_connections() -> None:
    heads = []

    async def peer(peer: Peer) -> None:
        while head := await peer.receive_head():
            heads.append(head)
            await peer.send(OK)

    async with client_of(peer) as (client, pool):
        for _ in range(2):
            response = await client.get("/a%2Fb", params={"x": "y"}, headers={"X-Odd": "1"})
            assert (response.status_code, response.reason_phrase, response.content) == (200, "OK", b"ok")
        assert pool.statistics() == PoolStatistics(idle=1, active=0, opened=1, reused=1)
    assert heads[0].startswith(b"GET /a%2Fb?x=y HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nX-Odd: 1\r\n" in heads[0]


async def test_trailers_are_in_the_extensions_when_the_body_has_been_read() -> None:
    async def peer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(BEGUN + b"0\r\nX: y\r\n\r\n")

    async with client_of(peer) as (client, _), client.stream("GET", "/") as response:
        assert response.extensions["trailers"] == []
        assert await response.aread() == b"hello"
        assert response.extensions["trailers"] == [(b"x", b"y")]


@pytest.mark.parametrize("size", [1, 100_000], ids=["small", "large"])
async def test_a_body_in_memory_arrives_whole(size: int) -> None:
    async def peer(peer: Peer) -> None:
        await peer.receive_head()
        while len(peer.received) < size:
            peer.received += await peer.stream.receive_some()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (size, bytes(peer.received)))

    async with client_of(peer) as (client, pool):
        assert (await client.post("/", content=b"x" * size)).content == b"x" * size
        assert pool.statistics().idle == 1


async def test_both_ways_stream_at_once_and_trailers_follow() -> None:
    answered = trio.Event()

    async def body() -> AsyncGenerator[bytes, None]:
        yield b"first"
        await answered.wait()
        yield b"second"

    async with client_of(echo) as (client, pool):
        async with client.stream("POST", "/", content=body()) as response:
            chunks = response.aiter_raw()
            assert await anext(chunks) == b"first"
            answered.set()
            assert [chunk async for chunk in chunks] == [b"second"]
            assert response.extensions["trailers"] == []
        assert pool.statistics().idle == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_response_that_is_left_early_closes_its_connection(*, streamed: bool) -> None:
    closed = trio.Event()

    async def peer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(BEGUN)
        await peer.receive_to_end()
        closed.set()

    async with client_of(peer) as (client, pool):
        content = once(b"x") if streamed else b"x"
        async with client.stream("POST", "/", content=content) as response:
            assert await anext(response.aiter_raw()) == b"hello"
        await closed.wait()
        assert pool.statistics() == PoolStatistics(idle=0, active=0, opened=1, reused=0)


async def test_a_streamed_exchange_may_be_left_in_another_scope_and_task_than_it_was_begun_in() -> None:
    async with client_of(echo) as (client, pool):
        with trio.fail_after(1):
            request = client.build_request("POST", "/", content=once(b"x"))
            response = await client.send(request, stream=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(response.aclose)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics().active == 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cancelled_request_leaves_the_pool_whole(*, streamed: bool) -> None:
    silent = Silent()
    async with client_of(silent) as (client, pool), trio.open_nursery() as nursery:
        nursery.start_soon(partial(client.post, "/", content=once(b"x") if streamed else b"x"))
        await silent.asked.wait()
        nursery.cancel_scope.cancel()
    assert pool.statistics() == PoolStatistics(idle=0, active=0, opened=1, reused=0)


async def test_an_error_of_the_body_is_raised_as_itself() -> None:
    async def body() -> AsyncGenerator[bytes, None]:
        yield b"x"
        raise KeyError("reason")

    async with client_of(Silent()) as (client, _):
        with pytest.raises(KeyError, match="reason"):
            await client.post("/", content=body())


async def test_leaving_the_client_breaks_its_exchanges_off() -> None:
    async with serving(Silent(BEGUN)) as origin, Pool() as pool:
        async with httpx.AsyncClient(transport=PoolTransport(pool)) as client:
            request = client.build_request("POST", f"http://127.0.0.1:{origin.port}", content=once(b"x"))
            response = await client.send(request, stream=True)
        with pytest.raises(httpx.ReadError, match="closed before the answer ended"):
            async for _ in response.aiter_raw():
                pass
        assert pool.statistics().active == 0


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("connecting", [True, False])
async def test_leaving_the_client_ends_a_request_that_has_no_answer_yet(*, connecting: bool) -> None:
    asked = Silent()

    async def ask(client: httpx.AsyncClient, url: str) -> None:
        with pytest.raises(httpx.ReadError, match="closed before the answer ended"):
            await client.get(url, timeout=None)

    async with (
        serving(asked) as origin,
        Pool() as pool,
        trio.open_nursery() as nursery,
        httpx.AsyncClient(transport=PoolTransport(pool)) as client,
    ):
        if connecting:
            nursery.start_soon(ask, client, "http://silent.invalid")
            await trio.testing.wait_all_tasks_blocked()
        else:
            nursery.start_soon(ask, client, f"http://127.0.0.1:{origin.port}")
            await asked.asked.wait()
    assert pool.statistics().active == 0


async def test_streams_go_out_inside_the_clients_block_only() -> None:
    async with Pool() as pool:
        client = httpx.AsyncClient(transport=PoolTransport(pool))
        with pytest.raises(RuntimeError, match="async with"):
            await client.post("http://127.0.0.1:1", content=once(b"x"))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", httpx.ReadError),
        (b"SSH-2.0-OpenSSH_9.6\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc", httpx.ReadError),
        (BEGUN + b"garbage\r\n", httpx.RemoteProtocolError),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_a_peer_does_wrong_is_an_error_of_httpx(
    answer: bytes, error: type[httpx.TransportError], *, streamed: bool
) -> None:
    async def peer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(answer)

    async with client_of(peer) as (client, pool):
        with pytest.raises(error) as caught:
            await client.post("/", content=once(b"x") if streamed else b"x")
        assert caught.value.request.method == "POST"
        assert pool.statistics().idle == 0


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("ftp://127.0.0.1", httpx.UnsupportedProtocol),
        ("http://a!b", httpx.LocalProtocolError),
    ],
)
async def test_a_url_that_leads_nowhere_is_an_error_of_httpx(
    url: str, error: type[httpx.TransportError]
) -> None:
    async with Pool() as pool, httpx.AsyncClient(transport=PoolTransport(pool)) as client:
        with pytest.raises(error):
            await client.get(url)


async def test_what_cannot_be_sent_is_an_error_of_httpx() -> None:
    async with client_of(answer_ok) as (client, _):
        with pytest.raises(httpx.LocalProtocolError):
            await client.get("/", headers={"x": "a\r\nb: c"})


async def test_a_refused_connection_is_an_error_of_httpx() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        async with Pool() as pool, httpx.AsyncClient(transport=PoolTransport(pool)) as client:
            with pytest.raises(httpx.ConnectError, match="refused"):
                await client.get(url)


async def test_the_requests_own_connect_timeout_holds(
    autojump_clock: trio.testing.MockClock, names: Names
) -> None:
    assert autojump_clock.rate == 0
    async with Pool() as pool, httpx.AsyncClient(transport=PoolTransport(pool)) as client:
        started = trio.current_time()
        with pytest.raises(httpx.ConnectTimeout):
            await client.get("http://peer.invalid", timeout=httpx.Timeout(9, connect=3))
        assert trio.current_time() - started == pytest.approx(3)


@pytest.mark.parametrize("words", [(), (BEGUN,)], ids=["no head", "no body"])
async def test_the_requests_own_read_timeout_holds(
    words: tuple[bytes, ...], autojump_clock: trio.testing.MockClock
) -> None:
    async with client_of(Silent(*words)) as (client, pool):
        autojump_clock.autojump_threshold = 0.05  # the answer comes first, by a real socket
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=httpx.Timeout(3))
        assert pool.statistics().active == 0


def test_an_origin_is_the_urls() -> None:
    assert _origin_of(b"https", b"a", None) == Origin("https", "a", 443)
    assert _origin_of(b"http", b"::1", 8080) == Origin("http", "::1", 8080)
