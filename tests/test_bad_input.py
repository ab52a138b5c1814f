"""Whatever somebody sends to an RPC path is answered as bad input: never a 500, never a traceback."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings, strategies as st
from trio_websocket import ConnectionClosed

from cpg_trio import wire
from cpg_trio.asgi import App, Message, Scope
from cpg_trio.host import Host, HostConfig, Rate, RateLimits
from cpg_trio.plugin._websocket import open_websocket
from cpg_trio.rpc import application
from tests._wire import dial
from tests.host.routed import hosting
from tests.http.apps import served
from tests.rpc.echo import Echo

PATHS = [
    "/connectplugin.v1.HandshakeService/Handshake",
    "/connectplugin.v1.ServiceRegistry/RegisterService",
    "/connectplugin.v1.ServiceRegistry/WatchService",
    "/connectplugin.health.v1.HealthService/Watch",
    "/echo.v1.EchoService/Echo",
    "/echo.v1.EchoService/Count",
    "/echo.v1.EchoService/Sum",
]
TYPES = [
    *("application/json", "application/proto", "application/connect+json", "application/connect+proto"),
    *("application/grpc-web+proto", "application/grpc-web+json", ""),
]


def frame(content: bytes, flags: int = 0) -> bytes:
    return bytes([flags]) + len(content).to_bytes(4, "big") + content


BODIES: dict[str, bytes] = {
    "a lone surrogate for a text": b'{"selfId": "\\ud800", "text": "\\ud800"}',
    "a lone surrogate for a map": b'{"clientMetadata": "\\ud800"}',
    "a lone surrogate as a name": b'{"\\ud800": "\\ud800", "clientMetadata": {"\\udfff": "a"}}',
    "a lone surrogate in a list": b'{"requestedPlugins": ["\\udbff"], "metadata": {"a": "\\ud800"}}',
    "a huge number": b'{"coreProtocolVersion": 1' + b"0" * 5000 + b"}",
    "a huge fraction": b'{"coreProtocolVersion": 1e400, "to": -1e999}',
    "not a number": b'{"coreProtocolVersion": NaN, "to": Infinity}',
    "a number for a text": b'{"selfId": 5, "text": 5}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"clientMetadata":' * 10_000,
    "names twice": b'{"selfId": "a", "selfId": "b"}',
    "no JSON": b"\xff\xfe{",
    "UTF-16": '{"selfId": "a"}'.encode("utf-16"),
    "null": b"null",
    "a list": b"[]",
    "nothing": b"",
    "no UTF-8 in a field": b"\x0a\x02\xff\xfe",
    "deep messages": b"\x0a\x80\x01" * 500,
    "a long varint": b"\x08" + b"\xff" * 20,
    "no end": b"\x0a\xff\xff\xff\x7fabc",
    "groups": b"\x0b" * 1000,
    "gzip": gzip.compress(b'{"selfId": "\\ud800"}'),
    "half of gzip": gzip.compress(b"x" * 1000)[:-9],
}
HEADERS: list[tuple[str, ...]] = [
    (),
    ("Content-Encoding: gzip", "Connect-Content-Encoding: gzip", "Grpc-Encoding: gzip"),
    ("Content-Encoding: br",),
    ("Connect-Timeout-Ms: 99999999999999", "Grpc-Timeout: 99999999999999H"),
    ("Connect-Timeout-Ms: \u0661", "Grpc-Timeout: x"),
    ("Connect-Protocol-Version: 2", "Accept-Encoding: \xff"),
    ("X-Plugin-Runtime-ID: \xe9\xff", "Authorization: Bearer \xe9\xff"),
    ("X-Plugin-Runtime-ID: é", "Authorization: Bearer é", "X-Plugin-Enrolment: é"),
]


@asynccontextmanager
async def everything(host: Host) -> AsyncIterator[App]:
    """Yield an application that is a host and a service."""
    service = application([Echo()])
    async with host.application() as app:

        async def both(scope: Scope, receive: Any, send: Any) -> None:
            await (service if scope["path"].startswith("/echo.") else app)(scope, receive, send)

        yield both


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the list to which what is logged is added."""
    caplog.set_level("DEBUG", "cpg_trio")
    return caplog.records


def assert_nothing_is_wrong(records: list[logging.LogRecord]) -> None:
    for record in records:
        assert record.exc_info is None, record.exc_text or record.getMessage()
        assert record.levelno < logging.ERROR, record.getMessage()
        assert len(record.getMessage()) < 2000


def request(path: str, content_type: str, body: bytes, *lines: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: h", "TE: trailers", f"Content-Length: {len(body)}"]
    head += [f"Content-Type: {content_type}"] * bool(content_type)
    return "\r\n".join([*head, *lines, "", ""]).encode() + body


async def status_of(url: str, data: bytes) -> int:
    async with dial(url) as wire:
        await wire.send(data)
        with trio.fail_after(20):
            response = await wire.head()  # what follows may be a stream
    if response.status == 200:
        for _, value in response.headers:
            value.decode("ascii")
    return response.status


@pytest.mark.parametrize("path", PATHS)
async def test_bad_input_is_told_to_be_that(path: str, told: list[logging.LogRecord]) -> None:
    statuses: dict[tuple[str, str, tuple[str, ...]], int] = {}
    limit = trio.CapacityLimiter(20)

    async def ask(url: str, content_type: str, name: str, lines: tuple[str, ...]) -> None:
        framed = content_type.startswith(("application/connect+", "application/grpc"))
        body = frame(BODIES[name], int("gzip" in str(lines))) if framed else BODIES[name]
        async with limit:
            known = f"{content_type} {name}"
            statuses[known, name, lines] = await status_of(url, request(path, content_type, body, *lines))

    async with everything(Host()) as app, served(app) as url, trio.open_nursery() as nursery:
        for content_type in TYPES:
            for name in BODIES:
                for lines in HEADERS if name in {"nothing", "gzip"} else HEADERS[:1]:
                    nursery.start_soon(ask, url, content_type, name, lines)
    assert {key: status for key, status in statuses.items() if status >= 500 and status != 501} == {}
    assert_nothing_is_wrong(told)


async def test_bad_json_of_a_stranger_is_invalid_argument() -> None:
    async with hosting(HostConfig(rates=RateLimits(handshake=None))) as (_, url):
        for body in BODIES.values():
            if body:
                async with dial(url) as wire:
                    await wire.send(request(PATHS[0], "application/json", body))
                    answer = await wire.response()
                assert answer.status == 400
                assert json.loads(answer.body)["code"] == "invalid_argument"
                assert len(answer.body) < 2000


@pytest.mark.parametrize("content_type", ["application/json", "application/grpc-web+json"])
async def test_a_message_that_cannot_be_read_is_counted_for_where_it_comes_from(content_type: str) -> None:
    rates = RateLimits(failed_authentication=Rate(per_s=0.1, burst=2))
    body = BODIES["a lone surrogate for a map"]
    body = frame(body) if "grpc" in content_type else body
    answers = []
    async with hosting(HostConfig(rates=rates)) as (_, url):
        for _ in range(3):
            async with dial(url) as wire:
                await wire.send(request(PATHS[0], content_type, body))
                answers.append(await wire.response())
    if content_type == "application/json":
        assert [answer.status for answer in answers] == [400, 400, 429]
    assert [bool(answer.header(b"retry-after")) for answer in answers] == [False, False, True]


QUERIES = [
    *("message=%ff&encoding=proto", "message=%&encoding=json", "message=a&base64=1&encoding=proto"),
    *("message=%ED%A0%80&encoding=json", "encoding=json", "message=\xff&encoding=json", "&&==&%00"),
    *("message=AA&base64=1&compression=gzip&encoding=proto", "compression=%ff&message=a&encoding=proto"),
]


@pytest.mark.parametrize("path", PATHS)
async def test_a_get_with_any_query_is_told_what_is_wrong(path: str, told: list[logging.LogRecord]) -> None:
    async with everything(Host()) as app, served(app) as url:
        for query in QUERIES:
            async with dial(url) as wire:
                await wire.send(f"GET {path}?{query} HTTP/1.1\r\nHost: h\r\n\r\n".encode("latin-1"))
                assert 400 <= (await wire.response()).status < 500
    assert_nothing_is_wrong(told)


@pytest.mark.parametrize("text", ['{"subscribe": "\\ud800"}', '{"x": 1' + "0" * 5000 + "}", "[" * 50_000])
async def test_a_frame_of_a_watch_that_is_no_json_ends_it_with_a_word(
    text: str, told: list[logging.LogRecord]
) -> None:
    async with hosting() as (host, url):
        plugin, token = host.identities.issue("api")
        headers = {"X-Plugin-Runtime-ID": plugin.runtime_id, "Authorization": f"Bearer {token}"}
        async with open_websocket(f"{url}/watch", headers, (wire.WATCH_JSON,)) as watch:
            await watch.send_message(text)
            with pytest.raises(ConnectionClosed) as closed:
                await watch.get_message()
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1007
    assert_nothing_is_wrong(told)


# Anything at all


async def answer_of(app: App, path: str, fields: list[tuple[bytes, bytes]], body: bytes, query: bytes) -> int:
    """Return the status with which an application answers, as behind a server."""
    sent: list[Message] = []
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if pending:
            return pending.pop()
        await trio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": fields,
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 6),
        "state": {},
        "extensions": {"http.response.trailers": {}},
    }
    with trio.fail_after(20):
        await app(scope, receive, send)
    return next((message["status"] for message in sent if "status" in message), 499)


async def assert_answers(path: str, fields: list[tuple[bytes, bytes]], body: bytes, query: bytes) -> None:
    async with everything(Host()) as app:
        status = await answer_of(app, path, fields, body, query)
    assert status < 500 or status in {501, 504}  # an encoding that nobody knows, and a time of 0 ms


NAMES = st.sampled_from(
    [
        *(b"content-encoding", b"connect-content-encoding", b"connect-timeout-ms", b"grpc-timeout"),
        *(b"grpc-encoding", b"accept-encoding", b"authorization", b"x-plugin-runtime-id", b"host"),
        *(b"connect-protocol-version", b"x-plugin-enrolment", b"content-length"),
    ]
)
VALUES = st.one_of(st.binary(max_size=20), st.sampled_from([b"gzip", b"identity", b"1", b"0", b"Bearer x"]))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["selfId", "clientMetadata", "metadata", "state", "text", "to", "serviceType"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(PATHS),
    content_type=st.sampled_from(TYPES),
    fields=st.lists(st.tuples(NAMES, VALUES), max_size=3),
    body=st.one_of(
        st.binary(max_size=100),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.sampled_from(list(BODIES.values())),
    ),
    framed=st.booleans(),
    query=st.binary(max_size=10),
)
def test_no_bytes_make_a_service_fail(
    path: str,
    content_type: str,
    fields: list[tuple[bytes, bytes]],
    body: bytes,
    framed: bool,  # noqa: FBT001
    query: bytes,
) -> None:
    fields = [(b"content-type", content_type.encode()), *fields]
    trio.run(partial(assert_answers, path, fields, frame(body) if framed else body, query))
