"""One request and its response: what is sent, read and raised, and whether another may follow."""

from __future__ import annotations

import gc
from contextlib import aclosing
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

from cpg_trio.http import (
    BodyTooLargeError,
    ClientExchange,
    ConnectionBrokenError,
    InvalidRequestError,
    Origin,
    ProtocolError,
    Request,
    Response,
    UpstreamError,
)
from cpg_trio.http.client.exchange import Connection
from cpg_trio.http.client.request import ONE_WRITE_BYTES, PreparedRequest
from cpg_trio.http.heads import ResponseHeads
from tests.http.peers import EMPTY, OK, ORIGIN, Peer, StreamChannel, chunked, get, once, sized

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable


@attrs.define
class OneConnection:
    """A pool of the one connection that it is given."""

    connection: Connection
    max_head_bytes: int = 65536
    reusable: bool = False
    """Whether another exchange may follow the last."""
    heads: ResponseHeads | None = None

    def take(self, _origin: Origin, _caller: str = "") -> Connection:
        self.reusable = False
        return self.connection

    async def open(self, origin: Origin, caller: str = "", *, timeout_s: float | None = None) -> Connection:
        raise NotImplementedError

    def give_back(self, connection: Connection, *, reusable: bool) -> None:
        assert connection is self.connection
        self.reusable = reusable

    def request(self, request: Request) -> ClientExchange:
        return ClientExchange(self, ORIGIN, PreparedRequest.of(request, b"peer.test"))


@attrs.frozen
class Wire:
    """A connection in memory, and the raw peer at its other end. Neither direction ever blocks."""

    pool: OneConnection
    peer: Peer
    client: trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]

    @classmethod
    def new(cls, max_head_bytes: int = 65536) -> Wire:
        client, server = trio.testing.memory_stream_pair()
        pool = OneConnection(Connection(ORIGIN, StreamChannel(client)), max_head_bytes)
        return cls(pool, Peer(server), client)

    @property
    def reusable(self) -> bool:
        return self.pool.reusable

    def exchange(self, request: Request) -> ClientExchange:
        return self.pool.request(request)

    def on_write(self, handle: Callable[[bytes], Awaitable[None]]) -> None:
        """Have each of the client's writes handled, within the write itself, in place of the peer."""

        async def hook() -> None:
            await handle(bytes(self.client.send_stream.get_data_nowait()))

        self.client.send_stream.send_all_hook = hook

    async def answer(self, *pieces: bytes, close: bool = False) -> None:
        """Have the answer lie ready, before there is a request."""
        for piece in pieces:
            await self.peer.send(piece)
        if close:
            await self.peer.stream.aclose()


@pytest.fixture
def wire() -> Wire:
    return Wire.new()


async def read(response: Response) -> bytes:
    return b"".join([chunk async for chunk in response.body()])


async def fetch(wire: Wire, request: Request) -> tuple[int, bytes]:
    async with wire.exchange(request) as response:
        return response.status, await read(response)


class Endless:
    """A body that never ends by itself; `stopped` when it has been closed."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.stopped = trio.Event()

    async def chunks(self, chunk: bytes = b"more") -> AsyncGenerator[bytes, None]:
        try:
            while True:
                self.begun.set()
                yield chunk
                await trio.lowlevel.checkpoint()
        finally:
            self.stopped.set()


class BodyError(Exception):
    pass


class BlockError(Exception):
    pass


# The request, on the wire


async def test_target_and_headers_go_out_byte_for_byte(wire: Wire) -> None:
    await wire.answer(OK)
    headers = [(b"X-Odd", b"a"), (b"hOST", b"h"), (b"x-odd", b"b,  c"), (b"Cookie", b"\xff=1")]
    await fetch(wire, Request(b"GET", b"/a%2Fb//../c;d?x=%20&&y=[]", headers))
    assert await wire.peer.receive_head() == (
        b"GET /a%2Fb//../c;d?x=%20&&y=[] HTTP/1.1\r\n"
        b"X-Odd: a\r\nhOST: h\r\nx-odd: b,  c\r\nCookie: \xff=1\r\n\r\n"
    )


async def test_host_comes_first_when_the_caller_gives_none(wire: Wire) -> None:
    await wire.answer(OK)
    await fetch(wire, get(b"/", (b"a", b"b")))
    assert await wire.peer.receive_head() == b"GET / HTTP/1.1\r\nhost: peer.test\r\na: b\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (sized(b"hello", 5), b"hello"),
        (Request(b"POST", b"/", [(b"transfer-encoding", b"chunked")], b"hello"), b"5\r\nhello\r\n0\r\n\r\n"),
    ],
)
async def test_head_and_small_body_go_out_in_one_write(wire: Wire, request_: Request, body: bytes) -> None:
    writes: list[bytes] = []

    async def peer(data: bytes) -> None:
        writes.append(data)
        await wire.answer(OK)

    wire.on_write(peer)
    await fetch(wire, request_)
    assert [data.partition(b"\r\n\r\n")[2] for data in writes] == [body]


@pytest.mark.parametrize("size", [0, 1, ONE_WRITE_BYTES, ONE_WRITE_BYTES + 1])
async def test_a_body_in_bytes_arrives_whole_at_any_size(wire: Wire, size: int) -> None:
    await wire.answer(EMPTY)
    async with wire.exchange(sized(b"x" * size, size)):
        await wire.peer.receive_head()
        while len(wire.peer.received) < size:
            wire.peer.received += await wire.peer.stream.receive_some()
    assert wire.peer.received == b"x" * size


async def test_an_iterated_body_goes_out_a_chunk_at_a_time_without_empty_ones(wire: Wire) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch, wire, chunked(once(b"ab", b"", b"c")))
        await wire.peer.receive_head()
        assert await wire.peer.receive_until(b"0\r\n\r\n") == b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        await wire.answer(OK)
    assert wire.reusable


async def test_a_body_is_not_asked_for_its_next_chunk_before_the_peer_took_the_last() -> None:
    client, server = trio.testing.lockstep_stream_pair()
    pool, asked = OneConnection(Connection(ORIGIN, StreamChannel(client))), 0

    async def body() -> AsyncGenerator[bytes, None]:
        nonlocal asked
        for _ in range(3):
            asked += 1
            yield b"x"

    async def run() -> None:
        async with pool.request(chunked(body())) as response:
            assert response.status == 204

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await Peer(server).receive_head()
        for expected in [1, 2, 3]:
            await trio.testing.wait_all_tasks_blocked()
            assert asked == expected
            await server.receive_some()
        await server.send_all(EMPTY)


async def test_a_body_is_read_no_further_than_its_content_length(wire: Wire) -> None:
    body = Endless()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch, wire, sized(body.chunks(b"abcd"), 8))
        assert (await wire.peer.receive_until(b"abcdabcd")).endswith(b"\r\n\r\nabcdabcd")
        await body.stopped.wait()
        await wire.answer(OK)
    assert wire.reusable


async def test_a_body_that_no_header_announces_is_not_touched(wire: Wire) -> None:
    body = Endless()
    await wire.answer(OK)
    async with aclosing(body.chunks()) as chunks:
        await fetch(wire, Request(b"GET", b"/", [], chunks))
    assert not body.begun.is_set()
    assert wire.reusable


@pytest.mark.parametrize("chunks", [[b"abc"], [b"ab", b"cde"]])
async def test_a_body_that_belies_its_content_length_is_the_callers_error(
    wire: Wire, chunks: list[bytes]
) -> None:
    with pytest.raises(InvalidRequestError):
        await fetch(wire, sized(once(*chunks), 4))
    assert not wire.reusable


# The response


async def test_the_head_arrives_as_it_was_sent_with_names_in_lower_case(wire: Wire) -> None:
    await wire.answer(
        b"HTTP/1.1 207 Some Thing\r\nSet-Cookie: b=2\r\nX: \xe9\r\n"
        b"set-cookie: a=1\r\nContent-Length: 0\r\n\r\n"
    )
    async with wire.exchange(get()) as response:
        assert (response.status, response.reason) == (207, b"Some Thing")
        assert response.headers == [
            (b"set-cookie", b"b=2"),
            (b"x", b"\xe9"),
            (b"set-cookie", b"a=1"),
            (b"content-length", b"0"),
        ]
        assert await read(response) == b""


async def test_a_body_is_not_decoded(wire: Wire) -> None:
    await wire.answer(
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x00\x00"
    )
    assert await fetch(wire, get()) == (200, b"\x1f\x8b\x00\x00")


async def test_a_body_streams_as_it_arrives(wire: Wire) -> None:
    await wire.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
    async with wire.exchange(get()) as response:
        for piece in [b"ab", b"cd"]:
            await wire.answer(piece)
            assert await anext(aiter(response)) == piece
        with pytest.raises(StopAsyncIteration):
            await anext(aiter(response))
        with pytest.raises(StopAsyncIteration):
            await anext(aiter(response))


async def test_a_peer_sends_no_faster_than_the_caller_reads() -> None:
    client, server = trio.testing.lockstep_stream_pair()
    sent = 0

    async def answer() -> None:
        nonlocal sent
        await Peer(server).receive_head()
        await server.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(3):
            await server.send_all(b"x")
            sent += 1
        await server.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        async with OneConnection(Connection(ORIGIN, StreamChannel(client))).request(get()) as response:
            for expected in [0, 1, 2]:
                await trio.testing.wait_all_tasks_blocked()
                assert sent == expected
                assert await anext(aiter(response)) == b"x"


async def test_trailers_are_there_after_a_chunked_body(wire: Wire) -> None:
    await wire.answer(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        b"3;ext=1\r\nabc\r\n0\r\nGrpc-Status: 0\r\nA: 1\r\na: 2\r\n\r\n"
    )
    async with wire.exchange(get()) as response:
        assert response.trailers == []
        assert await read(response) == b"abc"
        assert response.trailers == [(b"grpc-status", b"0"), (b"a", b"1"), (b"a", b"2")]
    assert wire.reusable


async def test_a_body_without_framing_ends_with_the_connection(wire: Wire) -> None:
    await wire.answer(b"HTTP/1.0 200 OK\r\n\r\nabc", b"def", close=True)
    assert await fetch(wire, get()) == (200, b"abcdef")
    assert not wire.reusable


@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("iterate", [True, False])
async def test_responses_without_a_body_end_with_their_head(
    wire: Wire, method: bytes, head: bytes, *, iterate: bool
) -> None:
    await wire.answer(head)
    async with wire.exchange(Request(method, b"/", [])) as response:
        if iterate:
            assert await read(response) == b""
    assert wire.reusable


async def test_informational_responses_are_skipped(wire: Wire) -> None:
    await wire.answer(b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", OK)
    assert await fetch(wire, get()) == (200, b"ok")


@pytest.mark.parametrize("headers", [[], [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]])
async def test_a_switch_of_protocols_is_refused(wire: Wire, headers: list[tuple[bytes, bytes]]) -> None:
    await wire.answer(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    with pytest.raises(ProtocolError):
        await fetch(wire, get(b"/", *headers))


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x16\x03\x01",
        b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 099 Too Low\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: secret\x00secret\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: secret\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nsecret\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nxsecret\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nsecret\r\n\r\n",
    ],
)
async def test_an_answer_that_is_no_http_is_a_protocol_error_that_shows_none_of_it(
    wire: Wire, answer: bytes
) -> None:
    await wire.answer(answer)
    with pytest.raises(ProtocolError) as caught:
        await fetch(wire, get())
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert not wire.reusable


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n",
    ],
)
async def test_an_answer_that_is_cut_short_is_a_broken_connection(wire: Wire, answer: bytes) -> None:
    await wire.answer(answer, close=True)
    with pytest.raises(ConnectionBrokenError):
        await fetch(wire, get())


async def test_a_head_beyond_the_limit_is_refused_and_body_bytes_do_not_count() -> None:
    wire = Wire.new(max_head_bytes=100)
    await wire.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n" + b"x" * 200)
    assert await fetch(wire, get()) == (200, b"x" * 200)
    wire = Wire.new(max_head_bytes=100)
    await wire.answer(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100)
    with pytest.raises(ProtocolError, match="too large"):
        await fetch(wire, get())


async def test_what_came_of_a_body_before_it_went_wrong_is_delivered_first(wire: Wire) -> None:
    await wire.answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n2\r\nabc")
    async with wire.exchange(get()) as response:
        assert await anext(aiter(response)) == b"xab"
        with pytest.raises(ProtocolError):
            await anext(aiter(response))


@pytest.mark.parametrize("framing", [b"content-length: 4", b"transfer-encoding: chunked"])
async def test_a_body_read_whole_is_no_larger_than_the_bound(wire: Wire, framing: bytes) -> None:
    body = b"abcd" if b"length" in framing else b"2\r\nab\r\n2\r\ncd\r\n0\r\nx: y\r\n\r\n"
    for bound in [4, 3]:
        await wire.answer(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing, body)
        async with wire.exchange(get()) as response:
            if bound == 4:
                assert await response.read(4) == b"abcd"
                assert response.trailers == ([(b"x", b"y")] if b"chunked" in framing else [])
            else:
                with pytest.raises(BodyTooLargeError, match="larger than 3 bytes"):
                    await response.read(3)


async def test_a_body_read_whole_may_come_in_pieces(wire: Wire) -> None:
    await wire.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
    async with wire.exchange(get()) as response:
        await wire.answer(b"ab", b"cd")
        assert await response.read(4) == b"abcd"


async def test_a_body_that_declares_too_much_is_refused_before_it_comes(wire: Wire) -> None:
    await wire.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
    async with wire.exchange(get()) as response:
        with pytest.raises(BodyTooLargeError):
            await response.read(4)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=12),
            st.sampled_from(
                [
                    b"HTTP/1.1 200 OK\r\n",
                    b"HTTP/1.0 404 \r\n",
                    b"HTTP/1.1 100 Continue\r\n\r\n",
                    b"HTTP/1.1 101 Switching\r\n\r\n",
                    b"content-length: 5\r\n",
                    b"transfer-encoding: chunked\r\n",
                    b"connection: close\r\n",
                    b" folded\r\n",
                    b"\r\n",
                    b"\n",
                    b"hello",
                    b"5\r\nhello\r\n",
                    b"0\r\n",
                ]
            ),
        ),
        max_size=12,
    ),
    st.sampled_from([b"GET", b"HEAD", b"POST"]),
)
async def test_whatever_a_peer_sends_it_is_a_response_or_an_upstream_error(
    pieces: list[bytes], method: bytes
) -> None:
    wire = Wire.new()
    await wire.answer(*pieces, close=True)
    try:
        status, _ = await fetch(wire, Request(method, b"/", [(b"upgrade", b"x")]))
    except UpstreamError:
        assert not wire.reusable
    else:
        assert 200 <= status < 1000


# Both directions at once


async def test_a_response_may_begin_before_the_request_has_ended(wire: Wire) -> None:
    answered = trio.Event()

    async def body() -> AsyncGenerator[bytes, None]:
        yield b"first"
        await answered.wait()
        yield b"second"

    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            await wire.peer.receive_until(b"first\r\n")
            await wire.answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
            await wire.peer.receive_until(b"second\r\n0\r\n\r\n")
            await wire.answer(b"0\r\n\r\n")

        nursery.start_soon(peer)
        async with wire.exchange(chunked(body())) as response:
            assert await anext(aiter(response)) == b"hello"
            answered.set()
            assert await read(response) == b""
    assert wire.reusable


@pytest.mark.parametrize("iterate", [True, False])
async def test_a_complete_answer_stops_the_request_and_the_connection_is_not_kept(
    wire: Wire, *, iterate: bool
) -> None:
    body = Endless()
    await wire.answer(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
    async with wire.exchange(chunked(body.chunks())) as response:
        assert response.status == 413
        await body.begun.wait()
        if iterate:
            assert await read(response) == b""
            await body.stopped.wait()
    assert body.stopped.is_set()
    assert not wire.reusable


async def test_an_answer_that_overtakes_the_end_of_the_last_write_keeps_the_connection(wire: Wire) -> None:
    async def peer(data: bytes) -> None:
        if data == b"abc":
            await wire.answer(OK)
            # As a socket does when its bytes are gone: others run first, and no cancellation is noticed.
            await trio.lowlevel.cancel_shielded_checkpoint()

    wire.on_write(peer)
    assert await fetch(wire, sized(once(b"abc"), 3)) == (200, b"ok")
    assert wire.reusable


async def test_an_answer_is_delivered_though_the_peer_stops_reading_and_closes(wire: Wire) -> None:
    await wire.answer(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\n", b"no!", close=True)
    body = Endless()
    assert await fetch(wire, chunked(body.chunks())) == (413, b"no!")
    assert not wire.reusable


async def test_an_answer_is_delivered_though_the_peer_stops_reading_within_the_body(wire: Wire) -> None:
    body = Endless()
    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            await wire.peer.receive_until(b"more")
            await wire.answer(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nno!", close=True)

        nursery.start_soon(peer)
        async with wire.exchange(chunked(body.chunks())) as response:
            await body.stopped.wait()
            assert (response.status, await read(response)) == (413, b"no!")
    assert not wire.reusable


async def test_an_unfinished_request_may_end_before_its_last_chunk_is_taken(wire: Wire) -> None:
    async def peer(data: bytes) -> None:
        if data.startswith(b"0\r\n"):
            raise trio.BrokenResourceError

    wire.on_write(peer)
    await wire.answer(OK)
    assert await fetch(wire, chunked(once())) == (200, b"ok")
    assert not wire.reusable


async def test_a_peer_that_closes_without_an_answer_is_a_broken_connection(wire: Wire) -> None:
    await wire.answer(close=True)
    with pytest.raises(ConnectionBrokenError):
        await fetch(wire, chunked(Endless().chunks()))


# Who fails, and what the caller gets


async def failing(*, after: trio.Event | None = None) -> AsyncGenerator[bytes, None]:
    yield b"x"
    if after is not None:
        await after.wait()
    raise BodyError from KeyError("reason")


async def test_an_error_of_the_body_is_raised_as_itself_before_there_is_an_answer(wire: Wire) -> None:
    with pytest.raises(BodyError) as caught:
        await fetch(wire, chunked(failing()))
    assert isinstance(caught.value.__cause__, KeyError)
    assert not wire.reusable


async def test_an_error_of_the_body_cancels_the_block_and_is_raised_as_itself(wire: Wire) -> None:
    answered = trio.Event()
    await wire.answer(b"HTTP/1.1 200 OK\r\n\r\n")

    async def run() -> None:
        async with wire.exchange(chunked(failing(after=answered))):
            answered.set()
            await trio.sleep_forever()

    with pytest.raises(BodyError):
        await run()
    assert not wire.reusable


async def test_a_body_that_is_itself_a_failing_exchange_fails_as_itself(wire: Wire) -> None:
    error = ConnectionBrokenError("of the other connection")

    async def body() -> AsyncGenerator[bytes, None]:
        yield b"x"
        raise error

    with pytest.raises(ConnectionBrokenError) as caught:
        await fetch(wire, chunked(body()))
    assert caught.value is error


@pytest.mark.parametrize("small", [True, False])
async def test_an_error_of_the_block_is_raised_as_itself(wire: Wire, *, small: bool) -> None:
    await wire.answer(OK)
    body = Endless()
    request = get() if small else chunked(body.chunks())
    error = BlockError()
    with pytest.raises(BlockError) as caught:
        async with wire.exchange(request):
            raise error
    assert caught.value is error
    assert error.__context__ is None
    assert not wire.reusable


async def test_a_group_that_the_block_raises_is_raised_as_itself(wire: Wire) -> None:
    await wire.answer(OK)
    group = ExceptionGroup("the block's own", [BlockError()])
    with pytest.raises(ExceptionGroup) as caught:
        async with wire.exchange(chunked(Endless().chunks())):
            raise group
    assert caught.value is group


async def test_if_both_fail_the_error_of_the_block_is_raised_with_the_bodys_as_context(wire: Wire) -> None:
    await wire.answer(OK)

    async def run() -> None:
        async with wire.exchange(chunked(failing())):
            try:
                await trio.sleep_forever()
            finally:
                raise BlockError

    with pytest.raises(BlockError) as caught:
        await run()
    assert isinstance(caught.value.__context__, trio.Cancelled)
    assert isinstance(caught.value.__context__.__context__, BodyError)


async def test_one_error_raised_on_both_sides_is_raised_once(wire: Wire) -> None:
    await wire.answer(OK)
    error = BodyError()

    async def body() -> AsyncGenerator[bytes, None]:
        yield b"x"
        raise error

    async def run() -> None:
        async with wire.exchange(chunked(body())):
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            raise error

    with pytest.raises(BodyError) as caught:
        await run()
    assert caught.value is error
    assert error.__context__ is None


async def test_a_cancelled_part_of_the_blocks_group_does_not_leave_with_it(wire: Wire) -> None:
    await wire.answer(OK)

    async def run() -> None:
        async with wire.exchange(chunked(failing())), trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise BlockError

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert [type(exc) for exc in caught.value.exceptions] == [BlockError]


async def test_a_cancelled_block_is_cancelled_not_failed(wire: Wire) -> None:
    await wire.answer(OK)
    body = Endless()
    with trio.CancelScope() as scope:
        async with wire.exchange(chunked(body.chunks())):
            await body.begun.wait()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert body.stopped.is_set()
    assert not wire.reusable


async def test_a_body_that_is_left_half_way_is_closed(wire: Wire) -> None:
    body = Endless()
    await wire.answer(b"HTTP/1.1 200 OK\r\n\r\n")
    async with wire.exchange(chunked(body.chunks())):
        await body.begun.wait()
    assert body.stopped.is_set()
    gc.collect()  # Trio warns of a generator that nobody closed, and a warning is an error


async def test_a_body_need_not_be_a_generator(wire: Wire) -> None:
    class Two:
        def __init__(self) -> None:
            self.left = 2

        def __aiter__(self) -> Two:
            return self

        async def __anext__(self) -> bytes:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return b"x"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch, wire, chunked(Two()))
        assert (await wire.peer.receive_until(b"0\r\n\r\n")).endswith(b"1\r\nx\r\n1\r\nx\r\n0\r\n\r\n")
        await wire.answer(OK)


# expect: 100-continue


EXPECT = (b"expect", b"100-Continue")


async def test_an_expecting_body_waits_for_the_100(wire: Wire) -> None:
    body = Endless()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch, wire, chunked(body.chunks(), EXPECT))
        await wire.peer.receive_head()
        await wire.answer(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert not body.begun.is_set()
        await wire.answer(b"HTTP/1.1 100 Continue\r\n\r\n")
        await wire.peer.receive_until(b"more")
        await wire.answer(OK)


async def test_an_expecting_body_waits_a_second_at_most(
    wire: Wire, autojump_clock: trio.testing.MockClock
) -> None:
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch, wire, chunked(once(b"x"), EXPECT))
        await wire.peer.receive_head()
        assert await wire.peer.receive_until(b"0\r\n\r\n") == b"1\r\nx\r\n0\r\n\r\n"
        assert trio.current_time() - started == pytest.approx(1.0)
        await wire.answer(OK)
    assert autojump_clock.autojump_threshold == 0


async def test_an_expecting_body_that_is_refused_is_not_touched(wire: Wire) -> None:
    body = Endless()
    await wire.answer(b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 1\r\n\r\n")
    async with aclosing(body.chunks()) as chunks, wire.exchange(chunked(chunks, EXPECT)) as response:
        assert response.status == 417
        await trio.testing.wait_all_tasks_blocked()
        assert not body.begun.is_set()
    assert not wire.reusable


async def test_an_expecting_body_follows_a_response_that_wants_it(wire: Wire) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch, wire, sized_expecting(b"abc"))
        await wire.peer.receive_head()
        await wire.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        assert await wire.peer.receive_until(b"abc") == b"abc"
        await wire.answer(b"ok")
    assert wire.reusable


def sized_expecting(body: bytes) -> Request:
    return Request(b"PUT", b"/", [(b"content-length", str(len(body)).encode()), EXPECT], body)


# What may follow


async def test_a_whole_exchange_leaves_a_connection_for_the_next(wire: Wire) -> None:
    await wire.answer(OK)
    assert await fetch(wire, get(b"/1")) == (200, b"ok")
    await wire.answer(EMPTY)
    assert await fetch(wire, get(b"/2")) == (204, b"")
    assert wire.reusable


async def test_a_body_of_known_length_need_not_be_read_to_its_stop(wire: Wire) -> None:
    await wire.answer(OK)
    async with wire.exchange(get()) as response:
        assert await anext(aiter(response)) == b"ok"
    assert wire.reusable


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\n",
    ],
)
async def test_no_exchange_follows_a_peer_that_closes_or_says_too_much(wire: Wire, answer: bytes) -> None:
    await wire.answer(answer)
    assert await fetch(wire, get()) == (200, b"ok")
    assert not wire.reusable


async def test_a_response_that_was_read_to_its_end_is_whole_though_its_block_fails_then(wire: Wire) -> None:
    await wire.answer(OK)
    with pytest.raises(BlockError):
        async with wire.exchange(get()) as response:
            assert await read(response) == b"ok"
            raise BlockError
    assert wire.reusable


async def test_no_exchange_follows_a_request_that_says_close(wire: Wire) -> None:
    await wire.answer(OK)
    await fetch(wire, get(b"/", (b"connection", b"close")))
    assert not wire.reusable


@pytest.mark.parametrize("rest", [b"", b"ab", b"garbage"])
async def test_no_exchange_follows_a_response_that_is_left_early(wire: Wire, rest: bytes) -> None:
    await wire.answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n" + rest)
    async with wire.exchange(get()) as response:
        assert await anext(aiter(response)) == b"x"
    assert not wire.reusable


async def test_a_response_cannot_be_read_after_its_block(wire: Wire) -> None:
    await wire.answer(OK)
    async with wire.exchange(get()) as response:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await read(response)


# Aborting


async def test_an_exchange_that_is_aborted_when_its_connection_has_just_been_opened_sends_nothing(
    wire: Wire,
) -> None:
    class Opening(OneConnection):
        def take(self, _origin: Origin, _caller: str = "") -> None:  # type: ignore[override] # none is idle
            return None

        async def open(self, *_: object, **__: object) -> Connection:
            await trio.lowlevel.checkpoint()
            exchange.abort()
            return self.connection

    written: list[bytes] = []

    async def note(data: bytes) -> None:
        written.append(data)

    wire.on_write(note)
    exchange = Opening(wire.pool.connection).request(get())
    with pytest.raises(ConnectionBrokenError, match="aborted"):
        await exchange.__aenter__()
    assert not written
