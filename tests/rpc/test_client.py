"""The Connect client: what it sends, what it makes of what comes back, and when it stops waiting."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Literal

import httpx
import pytest
import trio
from hpack import HPACKError
from trio.testing import MockClock

from cpg_trio.rpc import (
    ClientConfig,
    Code,
    ConnectError,
    HttpRequest,
    HttpResponse,
    ResponseMetadata,
    ResponseStream,
    WholeResponse,
    application,
    unpack_detail,
)
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.http.apps import served
from tests.http.peers import Peer, serving
from tests.rpc.echo import Echo, canned, client_of, echo_client

Codec = Literal["proto", "json"]
BOTH = pytest.mark.parametrize("codec", ["proto", "json"])


def frame(content: bytes, flags: int = 0) -> bytes:
    return struct.pack(">BI", flags, len(content)) + content


def number(value: int) -> bytes:
    return pb.CountResponse(number=value).SerializeToString()


@BOTH
async def test_a_unary_call_carries_a_message_there_and_back(codec: Codec) -> None:
    async with echo_client(ClientConfig(codec=codec)) as client:
        response = await client.echo(pb.EchoRequest(text="✓", data=b"\0\xff"))
    assert response == pb.EchoResponse(text="✓", data=b"\0\xff")


@BOTH
async def test_a_server_stream_yields_each_message(codec: Codec) -> None:
    async with (
        echo_client(ClientConfig(codec=codec)) as client,
        client.count(pb.CountRequest(to=3)) as stream,
    ):
        assert [message.number async for message in stream] == [0, 1, 2]


@BOTH
async def test_a_client_stream_is_answered_once(codec: Codec) -> None:
    async def numbers() -> AsyncIterator[pb.SumRequest]:
        for value in (1, 2, 3):
            yield pb.SumRequest(number=value)

    async with echo_client(ClientConfig(codec=codec)) as client:
        assert (await client.sum(numbers())).sum == 6


async def test_headers_and_trailers_of_a_unary_call_are_kept_apart() -> None:
    metadata = ResponseMetadata()
    async with echo_client() as client:
        await client.echo(pb.EchoRequest(), metadata=metadata)
    assert metadata.headers["x-header"] == "h"
    assert metadata.trailers["x-trailer"] == "t"
    assert "trailer-x-trailer" not in metadata.headers


async def test_a_stream_has_its_headers_at_once_and_its_trailers_at_its_end() -> None:
    async with echo_client() as client, client.count(pb.CountRequest(to=1)) as stream:
        assert stream.metadata.headers["x-header"] == "h"
        assert "x-trailer" not in stream.metadata.trailers
        async for _ in stream:
            pass
        assert stream.metadata.trailers["x-trailer"] == "t"


async def test_large_requests_are_compressed_and_small_ones_are_not() -> None:
    echo = Echo()
    async with echo_client(ClientConfig(gzip_from_bytes=100), echo) as client:
        assert (await client.echo(pb.EchoRequest(text="a" * 1000))).text == "a" * 1000
        assert (await client.echo(pb.EchoRequest(text="a"))).text == "a"
    large, small = (ctx.request_headers for ctx in echo.contexts)
    assert large["content-encoding"] == "gzip"
    assert "content-encoding" not in small
    assert {large["accept-encoding"], small["accept-encoding"]} == {"gzip"}


async def test_compression_of_requests_can_be_off() -> None:
    echo = Echo()
    async with echo_client(ClientConfig(gzip_from_bytes=None), echo) as client:
        await client.echo(pb.EchoRequest(text="a" * 10_000))
        async with client.count(pb.CountRequest(to=1)) as stream:
            assert [m.number async for m in stream] == [0]
    assert all("content-encoding" not in ctx.request_headers for ctx in echo.contexts)
    assert all("connect-content-encoding" not in ctx.request_headers for ctx in echo.contexts)


async def test_messages_of_streams_are_compressed_both_ways() -> None:
    async def numbers() -> AsyncIterator[pb.SumRequest]:
        yield pb.SumRequest(number=5)

    echo = Echo()
    async with echo_client(ClientConfig(gzip_from_bytes=0), echo) as client:
        assert (await client.sum(numbers())).sum == 5
        async with client.count(pb.CountRequest(to=2)) as stream:
            assert stream.metadata.headers["connect-content-encoding"] == "gzip"
            assert [m.number async for m in stream] == [0, 1]
    assert echo.contexts[0].request_headers["connect-content-encoding"] == "gzip"


async def test_headers_of_the_client_and_of_the_call_are_sent() -> None:
    echo = Echo()
    async with echo_client(ClientConfig(headers={"X-A": "client", "X-B": "client"}), echo) as client:
        await client.echo(pb.EchoRequest(), headers={"x-b": "call"})
    sent = echo.contexts[0].request_headers
    assert (sent["x-a"], sent["x-b"]) == ("client", "call")
    assert sent["connect-protocol-version"] == "1"
    assert sent["user-agent"].startswith("cpg-trio/")


async def test_the_headers_of_one_call_are_not_those_of_the_next() -> None:
    echo = Echo()
    async with echo_client(ClientConfig(headers={"X-B": "client"}), echo) as client:
        await client.echo(pb.EchoRequest(), headers={"x-b": "call", "x-c": "call"}, timeout_s=5)
        await client.echo(pb.EchoRequest())
    sent = echo.contexts[1].request_headers
    assert (sent["x-b"], "x-c" in sent, "connect-timeout-ms" in sent) == ("client", False, False)
    assert all(len(sent.getall(name)) == 1 for name in sent)


async def test_metadata_is_there_when_the_call_fails_too() -> None:
    app = canned(503, b"{}", content_type="application/json", x_header="h", trailer_x_trailer="t")
    metadata = ResponseMetadata()
    async with client_of(app) as client:
        with pytest.raises(ConnectError):
            await client.echo(pb.EchoRequest(), metadata=metadata)
    assert (metadata.headers["x-header"], metadata.trailers["x-trailer"]) == ("h", "t")


@pytest.mark.parametrize("bound", ["call", "client", "scope"])
async def test_the_nearest_deadline_travels_to_the_server(bound: str) -> None:
    echo = Echo()
    client_s, call_s, scope_s = (5.0 if b == bound else 60.0 for b in ("client", "call", "scope"))
    async with echo_client(ClientConfig(timeout_s=client_s), echo) as client:
        with trio.move_on_after(scope_s):
            if bound == "client":
                await client.echo(pb.EchoRequest())
            else:
                await client.echo(pb.EchoRequest(), timeout_s=call_s)
    assert 0 < int(echo.contexts[0].request_headers["connect-timeout-ms"]) <= 5000


async def test_without_a_deadline_none_is_sent() -> None:
    echo = Echo()
    async with echo_client(None, echo) as client:
        await client.echo(pb.EchoRequest())
        await client.echo(pb.EchoRequest(), timeout_s=1e9)  # more milliseconds than the header has digits
    assert all("connect-timeout-ms" not in ctx.request_headers for ctx in echo.contexts)


async def test_a_calls_own_deadline_is_an_error_and_cancels_the_handler(autojump_clock: MockClock) -> None:
    echo = Echo()
    async with echo_client(None, echo) as client:
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest(text="hang"), timeout_s=0.05)
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        assert echo.hangs.is_set()
        with trio.fail_after(5):
            await echo.cancelled.wait()


async def test_a_deadline_that_has_passed_fails_at_once() -> None:
    async with echo_client() as client:
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest(), timeout_s=-1)
    assert caught.value.code == Code.DEADLINE_EXCEEDED


async def test_an_enclosing_scope_cancels_as_everywhere_else() -> None:
    echo = Echo()
    async with echo_client(None, echo) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.echo, pb.EchoRequest(text="hang"))
        await echo.hangs.wait()
        nursery.cancel_scope.cancel()
    assert echo.cancelled.is_set()


async def test_a_streams_deadline_ends_the_block_that_reads_it(autojump_clock: MockClock) -> None:
    async with echo_client() as client:
        seen: list[int] = []
        with pytest.raises(ConnectError) as caught:
            async with client.count(pb.CountRequest(to=99), timeout_s=0.2) as stream:
                async for message in stream:
                    seen.append(message.number)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    assert seen == list(range(99))


async def test_a_cancelled_call_yields_no_other_message_though_it_is_here() -> None:
    messages = [frame(pb.CountResponse(number=number).SerializeToString()) for number in (1, 2)]
    app = canned(200, b"".join([*messages, frame(b"{}", 2)]), content_type="application/connect+proto")
    seen: list[int] = []
    async with client_of(app) as client:
        with trio.CancelScope() as call:
            async with client.count(pb.CountRequest()) as stream:
                async for message in stream:
                    seen.append(message.number)
                    call.cancel()
    assert call.cancelled_caught
    assert seen == [1]


async def test_leaving_a_stream_early_stops_its_handler() -> None:
    echo = Echo()
    async with echo_client(None, echo) as client:
        async with client.count(pb.CountRequest(to=99)) as stream:
            async for message in stream:
                if message.number == 3:
                    break
        with trio.fail_after(5):
            await echo.closed.wait()


async def test_a_servers_error_arrives_with_code_message_and_details() -> None:
    async with echo_client() as client:
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest(text="fail"))
    assert (caught.value.code, caught.value.message) == (Code.ALREADY_EXISTS, "there it is")
    (detail,) = caught.value.details
    assert unpack_detail(detail, pb.SumResponse) == pb.SumResponse(sum=7)
    assert unpack_detail(detail, pb.EchoResponse) is None


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INTERNAL),
        (401, Code.UNAUTHENTICATED),
        (403, Code.PERMISSION_DENIED),
        (404, Code.UNIMPLEMENTED),
        (429, Code.UNAVAILABLE),
        (502, Code.UNAVAILABLE),
        (503, Code.UNAVAILABLE),
        (504, Code.UNAVAILABLE),
        (500, Code.UNKNOWN),
        (302, Code.UNKNOWN),
        (418, Code.UNKNOWN),
        (599, Code.UNKNOWN),
    ],
)
async def test_an_answer_that_is_no_connect_answer_maps_to_a_code(status: int, code: Code) -> None:
    plain = canned(status, b"what the router says\nand more", content_type="text/plain; charset=utf-8")
    bare = canned(status, b"")
    async with client_of(plain) as first, client_of(bare) as second:
        with pytest.raises(ConnectError) as caught:
            await first.echo(pb.EchoRequest())
        assert (caught.value.code, caught.value.message) == (code, "what the router says")
        with pytest.raises(ConnectError) as caught:
            await second.echo(pb.EchoRequest())
        assert caught.value.code == code
        assert caught.value.message.startswith(f"HTTP {status}")
        with pytest.raises(ConnectError) as caught:
            async with first.count(pb.CountRequest()):
                pytest.fail("the stream opened")
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"code": "aborted", "message": "m"}, Code.ABORTED, "m"),
        ({"code": "no such code", "message": "m"}, Code.UNAVAILABLE, "m"),
        ({"message": "m"}, Code.UNAVAILABLE, "m"),
        ([], Code.UNAVAILABLE, ""),
        ({"code": "aborted", "details": [{"type": "a", "value": "é"}]}, Code.ABORTED, ""),
        ({"code": "aborted", "details": [{"type": "x"}, {"type": "a.B", "value": "!"}, 3]}, Code.ABORTED, ""),
    ],
)
async def test_odd_error_bodies_fall_back_on_the_status(body: object, code: Code, message: str) -> None:
    app = canned(503, json.dumps(body).encode(), content_type="application/json")
    async with client_of(app) as client:
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest())
    assert (caught.value.code, caught.value.message) == (code, message)


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000])
async def test_an_error_body_that_is_not_json_falls_back_on_the_status(body: bytes) -> None:
    async with client_of(canned(503, body, content_type="application/json")) as client:
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest())
    assert caught.value.code == Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({"content_type": "text/html"}, b"<html>", Code.UNKNOWN),
        ({"content_type": "image/jpeg"}, b"", Code.UNKNOWN),
        ({}, b"", Code.UNKNOWN),
        ({"content_type": "application/json"}, b"{}", Code.INTERNAL),
        ({"content_type": "application/proto"}, b"\xff\xff", Code.INTERNAL),
        ({"content_type": "application/proto", "content_encoding": "br"}, b"x", Code.INTERNAL),
        ({"content_type": "application/proto", "content_encoding": "gzip"}, b"x", Code.INTERNAL),
        ({"content_type": "application/proto"}, b"\0" * 5000, Code.RESOURCE_EXHAUSTED),
        (
            {"content_type": "application/proto", "content_encoding": "gzip"},
            gzip.compress(b"\0" * 100_000),
            Code.RESOURCE_EXHAUSTED,
        ),
    ],
)
async def test_an_answer_that_is_no_message_is_an_error(
    headers: dict[str, str], body: bytes, code: Code
) -> None:
    async with client_of(canned(200, body, **headers), ClientConfig(max_message_bytes=4096)) as client:
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest())
    assert caught.value.code == code


async def test_the_limit_on_messages_can_be_lifted() -> None:
    async with echo_client(ClientConfig(max_message_bytes=None)) as client:
        assert len((await client.echo(pb.EchoRequest(data=bytes(3_000_000)))).data) == 3_000_000


END = frame(b"{}", 0b10)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (frame(number(1)), Code.INTERNAL, "broke off"),
        (frame(number(1))[:-1], Code.INTERNAL, "in the middle of a message"),
        (b"\0\0\0", Code.INTERNAL, "in the middle of a message"),
        (frame(number(1), 0b100) + END, Code.INTERNAL, "flags"),
        (frame(b"\xff\xff") + END, Code.INTERNAL, "is no echo.v1.CountResponse"),
        (frame(b"x", 0b01) + END, Code.INTERNAL, "gzip"),
        (frame(bytes(5000)) + END, Code.RESOURCE_EXHAUSTED, "larger"),
        (frame(gzip.compress(bytes(100_000)), 0b01) + END, Code.RESOURCE_EXHAUSTED, "larger"),
        (frame(b"{", 0b10), Code.INTERNAL, "not JSON"),
        (frame(b"[]", 0b10), Code.INTERNAL, "not JSON"),
        (frame(b"[" * 4000, 0b10), Code.INTERNAL, "not JSON"),
        (frame(b'{"error": {"code": "aborted", "message": "m"}}', 0b10), Code.ABORTED, "m"),
        (frame(b'{"error": {"code": "odd"}}', 0b10), Code.UNKNOWN, ""),
    ],
)
async def test_a_stream_that_goes_wrong_is_an_error(body: bytes, code: Code, message: str) -> None:
    app = canned(200, body, content_type="application/connect+proto")
    async with client_of(app, ClientConfig(max_message_bytes=4096)) as client:
        with pytest.raises(ConnectError) as caught:
            async with client.count(pb.CountRequest()) as stream:
                async for _ in stream:
                    pass
    assert caught.value.code == code
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        ("application/proto", Code.UNKNOWN),
        ("text/plain", Code.UNKNOWN),
        ("application/connect+json", Code.INTERNAL),
    ],
)
async def test_a_stream_of_another_type_is_an_error(content_type: str, code: Code) -> None:
    async with client_of(canned(200, b"", content_type=content_type)) as client:
        with pytest.raises(ConnectError) as caught:
            async with client.count(pb.CountRequest()):
                pytest.fail("the stream opened")
    assert caught.value.code == code


async def test_frames_are_found_however_the_network_cuts_them() -> None:
    whole = frame(number(300)) + frame(number(7)) + frame(b'{"metadata": {"k": ["a", "b"]}}', 0b10)

    async def drip(_request: httpx.Request) -> httpx.Response:
        async def body() -> AsyncIterator[bytes]:
            for byte in whole:
                yield bytes([byte])

        return httpx.Response(200, headers={"content-type": "application/connect+proto"}, content=body())

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(drip)) as http,
        EchoServiceClient("http://x", http).count(pb.CountRequest()) as stream,
    ):
        assert [m.number async for m in stream] == [300, 7]
    assert stream.metadata.trailers.getall("k") == ["a", "b"]


@pytest.mark.parametrize("count", [0, 2])
async def test_a_client_stream_needs_exactly_one_response(count: int) -> None:
    async def nothing() -> AsyncIterator[pb.SumRequest]:
        return
        yield

    body = frame(pb.SumResponse(sum=1).SerializeToString()) * count + END
    async with client_of(canned(200, body, content_type="application/connect+proto")) as client:
        with pytest.raises(ConnectError, match=f"{count} responses instead of one") as caught:
            await client.sum(nothing())
    assert caught.value.code == Code.UNIMPLEMENTED


class Failing(httpx.AsyncByteStream):
    """The body of a response that fails when it is read, or when it is closed."""

    def __init__(self, error: Exception, *, when_closed: bool) -> None:
        self._error = error
        self._when_closed = when_closed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield frame(number(1))
        if not self._when_closed:
            raise self._error

    async def aclose(self) -> None:
        if self._when_closed:
            raise self._error


class OddTransport(httpx.AsyncBaseTransport):
    """A transport that raises what transports do not, at some point of each exchange."""

    def __init__(self, error: Exception, at: str) -> None:
        self._error = error
        self._at = at

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._at == "send":
            raise self._error
        stream = Failing(self._error, when_closed=self._at == "close")
        kind = request.headers["content-type"]
        return httpx.Response(200, headers={"content-type": kind}, stream=stream)


@pytest.mark.parametrize("at", ["send", "read", "close"])
@pytest.mark.parametrize(
    "error",
    [
        HPACKError("bad table"),
        ValueError("no status"),
        KeyError("k"),
        RuntimeError(),
        trio.BrokenResourceError(),
    ],
)
async def test_whatever_a_client_of_the_callers_raises_is_an_error_of_the_call(
    error: Exception, at: str
) -> None:
    async with httpx.AsyncClient(transport=OddTransport(error, at)) as http:
        client = EchoServiceClient("http://x", http)
        for call in (client.echo(pb.EchoRequest()), every(client.count(pb.CountRequest()))):
            with pytest.raises(ConnectError) as caught:
                await call
            assert caught.value.code == Code.UNAVAILABLE


async def every(stream: AbstractAsyncContextManager[ResponseStream[pb.CountResponse]]) -> None:
    async with stream as messages:
        async for _ in messages:
            pass


async def test_what_the_callers_own_requests_raise_is_raised_as_it_is() -> None:
    async def requests() -> AsyncIterator[pb.SumRequest]:
        yield pb.SumRequest(number=1)
        raise ZeroDivisionError

    async with served(application([Echo()])) as url, httpx.AsyncClient() as http:
        with pytest.raises(ZeroDivisionError):
            await EchoServiceClient(url, http).sum(requests())


async def test_a_status_on_http2_that_is_no_number_is_an_error_of_the_call() -> None:
    def h2_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    async def answer(peer: Peer) -> None:
        await peer.send(h2_frame(4, 0, 0))  # settings
        await peer.send(h2_frame(1, 4, 1, b"\x08\x03abc"))  # headers, which end here: ":status: abc"
        await peer.receive_to_end()

    async with serving(answer) as origin, httpx.AsyncClient(http1=False, http2=True) as http:
        with pytest.raises(ConnectError) as caught:
            await EchoServiceClient(f"http://127.0.0.1:{origin.port}", http).echo(pb.EchoRequest())
    assert caught.value.code == Code.UNAVAILABLE


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))  # bound and not listening: refused
        async with httpx.AsyncClient() as http:
            with pytest.raises(ConnectError) as caught:
                await EchoServiceClient(f"http://127.0.0.1:{unused.getsockname()[1]}", http).echo(
                    pb.EchoRequest()
                )
    assert caught.value.code == Code.UNAVAILABLE


@pytest.mark.parametrize("address", ["", "ftp://x", "http://[", "http://x:99999999"])
async def test_an_address_that_is_none_is_an_error_of_the_caller(address: str) -> None:
    async with httpx.AsyncClient() as http:
        with pytest.raises(ConnectError) as caught:
            await EchoServiceClient(address, http).echo(pb.EchoRequest())
    assert caught.value.code in {Code.INVALID_ARGUMENT, Code.UNAVAILABLE}


class InMemory:
    """An `HttpClient` that has one whole answer."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self._answer = WholeResponse(status, headers, body)
        self.seen: list[tuple[HttpRequest, int | None]] = []

    def stream(self, request: HttpRequest) -> AbstractAsyncContextManager[HttpResponse]:
        raise AssertionError(f"{request.url} is not asked for in pieces")

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        self.seen.append((request, max_bytes))
        return self._answer


@BOTH
async def test_a_unary_call_asks_its_http_client_for_the_whole_answer(codec: Codec) -> None:
    body = {"proto": pb.EchoResponse(text="a b").SerializeToString(), "json": b'{"text": "a b"}'}[codec]
    http = InMemory(200, [("content-type", f"application/{codec}")], body)
    client = EchoServiceClient("http://x/base/", http, ClientConfig(codec=codec, max_message_bytes=99))
    assert (await client.echo(pb.EchoRequest(text="a b"))).text == "a b"
    ((request, limit),) = http.seen
    assert (request.method, request.url, limit) == ("POST", "http://x/base/echo.v1.EchoService/Echo", 99)
    assert request.body == {"proto": b"\x0a\x03a b", "json": b'{"text":"a b"}'}[codec]


async def test_an_answer_that_comes_whole_is_checked() -> None:
    packed = gzip.compress(pb.EchoResponse(text="a" * 100).SerializeToString())
    headers = [("content-type", "application/proto"), ("content-encoding", "gzip"), ("trailer-x", "t")]
    http, metadata = InMemory(200, headers, packed), ResponseMetadata()
    await EchoServiceClient("http://x", http).echo(pb.EchoRequest(), metadata=metadata)
    assert metadata.trailers["x"] == "t"
    with pytest.raises(ConnectError) as caught:
        await EchoServiceClient("http://x", http, ClientConfig(max_message_bytes=50)).echo(pb.EchoRequest())
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    refusing = InMemory(404, [("content-type", "text/plain")], b"nobody here\n")
    with pytest.raises(ConnectError, match="nobody here") as caught:
        await EchoServiceClient("http://x", refusing).echo(pb.EchoRequest())
    assert caught.value.code == Code.UNIMPLEMENTED


async def test_redirects_are_not_followed() -> None:
    app = canned(307, b"", location="http://elsewhere/")
    async with client_of(app) as client:
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest())
    assert caught.value.code == Code.UNKNOWN


async def test_a_server_that_is_faster_by_a_moment_does_not_turn_a_cancellation_into_an_error() -> None:
    error = b'{"code": "deadline_exceeded", "message": "mine was up first"}'
    async with client_of(canned(504, error, content_type="application/json")) as client:
        with trio.move_on_after(0.04) as scope:
            await client.echo(pb.EchoRequest())
        assert scope.cancelled_caught
        with trio.fail_after(60), pytest.raises(ConnectError, match="mine was up first"):
            await client.echo(pb.EchoRequest())  # a deadline of the server's own


async def test_a_header_that_is_no_header_is_an_error_of_the_caller() -> None:
    async with echo_client() as client:
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest(), headers={"x": "é"})
    assert caught.value.code == Code.INVALID_ARGUMENT


async def test_a_call_in_a_cancelled_scope_is_cancelled() -> None:
    async with echo_client() as client:
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.echo(pb.EchoRequest())
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            async with client.count(pb.CountRequest(to=1)):
                pytest.fail("the stream opened")
        assert scope.cancelled_caught
