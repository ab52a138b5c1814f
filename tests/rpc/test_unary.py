"""Plain unary calls: whoever answers them, this project or connectrpc's application, a client cannot tell."""

from __future__ import annotations

import gzip
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import attrs
import pytest
import trio
from connectrpc.compat import google_protobuf_binary_codec
from connectrpc.request import RequestContext

from cpg_trio.asgi import CANCEL_ON_DISCONNECT, App, ClientDisconnectedError, Message, Scope
from cpg_trio.rpc import MAX_MESSAGE_BYTES, Code, ConnectError, Context, Interceptor, application
from cpg_trio.rpc.server import _Concealing
from cpg_trio.rpc.stubs import StubApplication
from tests._gen.echo.v1 import echo_pb2 as pb
from tests.rpc.echo import Echo

PROTO, JSON = {"content-type": "application/proto"}, {"content-type": "application/json"}
SHORT = 128  # bytes
MAX_BYTES = 4 * 1024 * 1024
Headers = dict[str, str]
Given = RequestContext[Any, Any]
Q = TypeVar("Q")
R = TypeVar("R")


class Telling(Echo):
    """Says what it was told, or says it with metadata, or fails with metadata; or does not keep its time."""

    async def echo(self, request: pb.EchoRequest, ctx: Context, /) -> pb.EchoResponse:
        if request.text in {"late", "late and failing", "stubborn"}:
            await self._be_late(request.text)
        elif request.text not in {"told", "metadata", "fail with metadata"}:
            return await super().echo(request, ctx)
        for metadata in (ctx.response_headers, ctx.response_trailers):
            metadata["X-One"] = "1"
            metadata.add("x-two", "a")
            metadata.add("x-two", "é")
        if request.text == "fail with metadata":
            raise ConnectError(Code.NOT_FOUND, "no such thing: é")
        return pb.EchoResponse(text=_told(ctx) if request.text == "told" else "")

    async def _be_late(self, how: str) -> None:
        if how == "stubborn":
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                raise ConnectError(Code.ABORTED, "in its own words") from None
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(1)  # at one go, as one who never waits
        if how == "late and failing":
            raise ConnectError(Code.ABORTED, "in its own words")


def _told(ctx: Context) -> str:
    headers = sorted(ctx.request_headers.allitems())
    in_time = None if ctx.timeout_ms is None else 0 < ctx.timeout_ms <= 5000
    method = (ctx.http_method, ctx.method.service_name, ctx.method.name)
    return f"{method} {ctx.client_address} {ctx.server_address} {in_time} {headers}"


@attrs.define
class Peer:
    """A server as an application sees it, and what the application does to it."""

    chunks: list[bytes]
    leaves: bool = False
    sent: list[Message] = attrs.field(factory=list)
    asked: list[int] = attrs.field(factory=list)
    """How many chunks were left each time the application asked to be cancelled when the client leaves."""

    async def receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        if self.chunks:
            return {"type": "http.request", "body": self.chunks.pop(0), "more_body": bool(self.chunks)}
        if not self.leaves:
            await trio.sleep_forever()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(message)

    def answer(self) -> tuple[int, list[tuple[str, str]], object]:
        """Return the status, the headers that are no framing, and the body (JSON as what it says)."""
        start, *rest = self.sent
        body = b"".join(message.get("body", b"") for message in rest)
        headers = [(k.decode(), v.decode()) for k, v in start["headers"] if k != b"content-length"]
        if ("content-encoding", "gzip") in headers:
            body = gzip.decompress(body)
        if len(body) <= SHORT:  # these are not compressed, as they are by connectrpc
            headers = [(k, v) for k, v in headers if k != "content-encoding"]
        is_json = ("content-type", "application/json") in headers
        return start["status"], headers, json.loads(body) if is_json else body

    @property
    def is_lean(self) -> bool:
        """Whether the answer is one head with its length, and one body."""
        start, *rest = self.sent
        length = dict(start["headers"]).get(b"content-length")
        return [m["body"] for m in rest] == [rest[0]["body"]] and length == b"%d" % len(rest[0]["body"])


def a_scope(headers: Headers, peer: Peer, method: str, *, extended: bool) -> Scope:
    extension = {"request": lambda: peer.asked.append(len(peer.chunks))}
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/echo.v1.EchoService/Echo",
        "raw_path": b"/echo.v1.EchoService/Echo",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"echo")] + [(k.encode(), v.encode()) for k, v in headers.items()],
        "client": ("192.0.2.1", 4242),
        "extensions": {CANCEL_ON_DISCONNECT: extension} if extended else {},
    }


async def call(
    app: App, headers: Headers, *chunks: bytes, method: str = "POST", extended: bool = True
) -> Peer:
    peer = Peer([*chunks] or [b""])
    await app(a_scope(headers, peer, method, extended=extended), peer.receive, peer.send)
    return peer


def connectrpc_only(*interceptors: Interceptor) -> App:
    return Telling().application([*interceptors, _Concealing()], MAX_MESSAGE_BYTES)


def proto(text: str) -> bytes:
    return pb.EchoRequest(text=text).SerializeToString()


def said(text: str) -> bytes:
    return json.dumps({"text": text}).encode()


PLAIN: list[tuple[Headers, list[bytes]]] = [
    (PROTO, [proto("a")]),
    (PROTO, [b""]),
    (PROTO, [proto("a" * 1000)[:7], b"", proto("a" * 1000)[7:]]),
    (PROTO, [b"\xff\xff"]),
    (PROTO, [proto("fail")]),
    (JSON, [said("é")]),
    (JSON, [b'{"text": "a", "bogus": {"b": [1]}}']),
    (JSON, [b'{"text": 1}']),
    (JSON, [b'{"text": "a", "text": "b"}']),
    (JSON, [b"{"]),
    (JSON, [b""]),
    (JSON, [b"\xff"]),
    (JSON, [b"null"]),
    ({"content-type": "Application/JSON; charset=utf-8"}, [said("a")]),
    # Errors, expected and not
    *[(JSON, [said(text)]) for text in ("fail", "explode", "group", "groups", "wrong type")],
    *[(PROTO, [proto(text)]) for text in ("metadata", "fail with metadata", "told")],
    ({**PROTO, "x-a": "1", "X-B": "2", "user-agent": "test"}, [proto("told")]),
    # Compression
    ({**PROTO, "content-encoding": "gzip"}, [gzip.compress(proto("a" * 100))]),
    ({**PROTO, "content-encoding": "gzip"}, [b""]),
    ({**PROTO, "content-encoding": "gzip"}, [proto("a")]),
    ({**PROTO, "content-encoding": "gzip"}, [gzip.compress(proto("a" * 100))[:-9]]),
    ({**PROTO, "content-encoding": "gzip"}, [gzip.compress(bytes(MAX_BYTES + 1))]),
    ({**PROTO, "content-encoding": "identity"}, [proto("a")]),
    ({**PROTO, "content-encoding": ""}, [proto("a")]),
    *[
        ({**PROTO, "accept-encoding": accepted}, [proto("a")])
        for accepted in ("gzip", "br, gzip", "identity, gzip", "gzip;q=0", "*", "")
    ],
    *[({**PROTO, "accept-encoding": "gzip"}, [proto("a" * size)]) for size in (0, 1000)],
    ({**JSON, "accept-encoding": "gzip"}, [said("a")]),
    ({**JSON, "accept-encoding": "gzip"}, [said("fail")]),
    # Size
    (PROTO, [proto("a" * MAX_BYTES)]),
    (PROTO, [bytes(MAX_BYTES), b"\0", b"never read"]),
    # Version and time
    ({**PROTO, "connect-protocol-version": "1"}, [proto("a")]),
    *[({**PROTO, "connect-timeout-ms": ms}, [proto("told")]) for ms in ("5000", "0005000", "")],
    *[({**PROTO, "connect-timeout-ms": ms}, [proto("hang")]) for ms in ("0", "20")],
    *[
        ({**PROTO, "connect-timeout-ms": "20"}, [proto(text)])
        for text in ("late", "late and failing", "stubborn")
    ],
    ({**PROTO, "connect-timeout-ms": "0"}, [proto("a")]),
]

LEFT_TO_CONNECTRPC: list[tuple[str, Headers, list[bytes]]] = [
    ("GET", JSON, []),
    ("PUT", JSON, [said("a")]),
    ("POST", {}, [said("a")]),
    ("POST", {"content-type": "json"}, [said("a")]),
    ("POST", {"content-type": "text/plain"}, [said("a")]),
    ("POST", {"content-type": "application/connect+proto"}, [said("a")]),
    ("POST", {"content-type": "application/grpc-web+proto"}, [b"\0\0\0\0\0"]),
    ("POST", {**PROTO, "content-encoding": "br"}, [proto("a")]),
    ("POST", {**PROTO, "x": "é"}, [proto("told")]),
    *[
        ("POST", {**PROTO, "connect-timeout-ms": ms}, [proto("a")])
        for ms in ("abc", "-1", "1_0", "12345678901", "1.5")
    ],
]


@pytest.mark.parametrize("extended", [True, False], ids=["cancelled by the server", "watched"])
@pytest.mark.parametrize(("headers", "chunks"), PLAIN)
async def test_a_plain_call_is_answered_as_connectrpc_would(
    headers: Headers, chunks: list[bytes], autojump_clock: trio.testing.MockClock, *, extended: bool
) -> None:
    ours = await call(application([Telling()]), headers, *chunks, extended=extended)
    theirs = await call(connectrpc_only(), headers, *chunks)
    assert ours.answer() == theirs.answer()
    assert ours.chunks == theirs.chunks
    assert ours.is_lean
    assert not theirs.is_lean


@pytest.mark.parametrize(("method", "headers", "chunks"), LEFT_TO_CONNECTRPC)
async def test_what_is_not_plain_is_left_to_connectrpc(
    method: str, headers: Headers, chunks: list[bytes]
) -> None:
    ours = await call(application([Telling()]), headers, *chunks, method=method)
    theirs = await call(connectrpc_only(), headers, *chunks, method=method)
    assert ours.sent == theirs.sent


async def test_json_is_answered_without_white_space() -> None:
    peer = await call(application([Echo()]), JSON, b'{"text": "a b", "data": "AA=="}')
    assert peer.sent[1]["body"] == b'{"text":"a b","data":"AA=="}'


async def test_the_server_is_asked_to_cancel_when_the_request_has_been_received_whole() -> None:
    peer = await call(application([Echo()]), PROTO, b"", proto("a"), b"")
    assert peer.asked == [0]
    assert (await call(application([Echo()]), PROTO, b"\xff\xff")).asked == []


async def test_a_client_that_leaves_cancels_the_method_and_is_told_nothing() -> None:
    echo, peer = Echo(), Peer([proto("hang")], leaves=True)
    with pytest.raises(ClientDisconnectedError):
        await application([echo])(a_scope(PROTO, peer, "POST", extended=False), peer.receive, peer.send)
    assert echo.cancelled.is_set()
    assert peer.sent == []


@pytest.mark.parametrize("extended", [True, False])
async def test_a_client_that_leaves_before_the_end_of_its_request_runs_no_method(*, extended: bool) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    echo, peer = Echo(), Peer([])
    with pytest.raises(ClientDisconnectedError):
        await application([echo])(a_scope(PROTO, peer, "POST", extended=extended), receive, peer.send)
    assert (echo.contexts, peer.sent) == ([], [])


@pytest.mark.parametrize("make", [lambda echo: application([echo]), lambda echo: echo.application([], None)])
@pytest.mark.parametrize("extended", [True, False])
async def test_a_client_whose_call_is_cancelled_by_the_server_is_told(
    make: Callable[[Echo], App], *, extended: bool
) -> None:
    echo, peer = Echo(), Peer([proto("hang")])
    async with trio.open_nursery() as nursery:
        scope = a_scope(PROTO, peer, "POST", extended=extended)
        nursery.start_soon(make(echo), scope, peer.receive, peer.send)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert echo.cancelled.is_set()
    message = {"code": "canceled", "message": "Request was cancelled"}
    assert peer.answer() == (499, [("content-type", "application/json")], message)


async def test_a_server_that_cancels_because_the_client_left_gets_its_cancellation_back() -> None:
    echo, peer = Echo(), Peer([proto("hang")])

    async def serve() -> None:
        await application([echo])(a_scope(PROTO, peer, "POST", extended=True), peer.receive, refuse)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()
        assert peer.asked == [0]
        nursery.cancel_scope.cancel()
    assert echo.cancelled.is_set()


class Stamping:
    """Adds a header, and fails itself for one request."""

    async def intercept_unary(
        self, call_next: Callable[[Q, Given], Awaitable[R]], request: Q, ctx: Given, /
    ) -> R:
        ctx.response_headers["x-stamp"] = ctx.request_headers["content-type"]
        if request == pb.EchoRequest(text="odd"):
            raise LookupError("the interceptor's own")
        return await call_next(request, ctx)


@pytest.mark.parametrize("text", ["a", "fail", "explode"])
async def test_an_interceptor_takes_part_as_it_would_in_connectrpc(text: str) -> None:
    ours = await call(application([Telling()], [Stamping()]), PROTO, proto(text))
    theirs = await call(connectrpc_only(Stamping()), PROTO, proto(text))
    assert ours.answer() == theirs.answer()
    assert ("x-stamp", "application/proto") in ours.answer()[1]
    assert ours.is_lean


async def test_what_an_interceptor_raises_is_logged_and_hidden_as_what_a_method_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    peer = await call(application([Echo()], [Stamping()]), PROTO, proto("odd"))
    status, _, body = peer.answer()
    assert (status, body) == (500, {"code": "internal", "message": "internal error"})
    assert caplog.records[-1].exc_info is not None


async def refuse(_: Message) -> None:
    """Send nothing: the client has left."""
    raise ClientDisconnectedError


def raise_lookup_error(_: Context) -> None:
    raise LookupError("a bug")


async def test_an_unexpected_error_reaches_the_server_although_the_client_has_left() -> None:
    peer, app = Peer([b"\xff\xff"]), application([Echo()], on_unreadable=raise_lookup_error)
    with pytest.raises(LookupError, match="a bug"):
        await app(a_scope(PROTO, peer, "POST", extended=True), peer.receive, refuse)


async def test_an_expected_error_is_nobody_s_when_the_client_has_left() -> None:
    peer = Peer([proto("fail")])
    await application([Echo()])(a_scope(PROTO, peer, "POST", extended=True), peer.receive, refuse)


async def test_an_unexpected_error_reaches_the_server_although_the_time_of_the_call_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def be_late(ctx: Context) -> None:
        autojump_clock.jump(1)
        raise_lookup_error(ctx)

    peer, app = Peer([b"\xff\xff"]), application([Echo()], on_unreadable=be_late)
    scope = a_scope({**PROTO, "connect-timeout-ms": "20"}, peer, "POST", extended=True)
    with pytest.raises(LookupError, match="a bug"):
        await app(scope, peer.receive, peer.send)


async def test_an_interceptor_of_metadata_is_asked_before_the_body_is_read() -> None:
    class Refusing:
        async def on_start(self, _ctx: Given) -> None:
            raise ConnectError(Code.PERMISSION_DENIED, "not you")

        async def on_end(self, _token: None, _ctx: Given, _error: Exception | None, /) -> None:
            pass

    peer = await call(application([Echo()], [Refusing()]), PROTO, proto("a"))
    assert peer.answer()[0] == 403
    assert peer.chunks == [proto("a")]


async def test_an_application_with_codecs_of_its_own_is_left_to_connectrpc() -> None:
    class ProtoOnly(Echo):
        def application(self, interceptors: Iterable[Interceptor], _max_message_bytes: int | None) -> App:
            codecs = [google_protobuf_binary_codec()]
            return StubApplication(
                self, self.service_name, self.rpcs, interceptors=interceptors, codecs=codecs
            )

    app = application([ProtoOnly()])
    assert not (await call(app, PROTO, proto("a"))).is_lean
    assert (await call(app, JSON, b"{}")).answer()[0] == 415


async def test_the_limit_and_the_compressions_of_an_application_are_kept() -> None:
    class Narrow(Echo):
        def application(self, interceptors: Iterable[Interceptor], max_message_bytes: int | None) -> App:
            limits: Any = {"read_max_bytes": max_message_bytes, "compressions": []}
            return StubApplication(self, self.service_name, self.rpcs, interceptors=interceptors, **limits)

    app = application([Narrow()], max_message_bytes=10)
    assert (await call(app, PROTO, proto("a" * 8))).answer()[0] == 200
    large = await call(app, {**PROTO, "accept-encoding": "gzip"}, proto("a" * 9))
    assert (large.answer()[0], large.is_lean) == (429, True)
    packed = await call(app, {**PROTO, "content-encoding": "gzip"}, b"")
    assert packed.answer()[0] == 501


@pytest.mark.parametrize(("size", "coding"), [(100, "identity"), (1000, "gzip")])
async def test_an_answer_is_compressed_if_that_makes_it_shorter(size: int, coding: str) -> None:
    peer = await call(application([Echo()]), {**PROTO, "accept-encoding": "gzip"}, proto("a" * size))
    fields = dict(peer.sent[0]["headers"])
    assert fields[b"content-encoding"] == coding.encode()
    assert peer.answer()[2] == proto("a" * size)
