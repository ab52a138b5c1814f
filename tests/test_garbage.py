"""A failed call leaves nothing behind that only the garbage collector would find."""

from __future__ import annotations

import gc
import gzip
import json
import logging
import resource
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import pytest
import trio
import trio.testing

from cpg_trio import _garbage as garbage
from cpg_trio._garbage import collecting_garbage
from cpg_trio.http import ServeConfig
from cpg_trio.http.server.config import Http1Engine
from cpg_trio.plugin import Plugin
from cpg_trio.rpc import Code, ConnectError, Context, application
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoService
from tests._wire import dial, dial_http2
from tests.host.routed import USUAL, routing
from tests.http.apps import served
from tests.http.peers import Handler, Peer, answer_ok
from tests.plugin.running import hosting, plugged

SIZE = 800_000  # bytes of each body
CALLS = 2
LEFT_BEHIND = SIZE // 2  # bytes, by all of them

Call: TypeAlias = Callable[[str], Awaitable[None]]


class Failing(EchoService):
    """Fails in every way, and keeps nothing."""

    async def echo(self, request: pb.EchoRequest, _ctx: Context, /) -> pb.EchoResponse:
        if request.text.startswith("explode"):
            raise RuntimeError("it is broken")
        if request.text.startswith("hang"):
            await trio.sleep_forever()
        raise ConnectError(Code.ABORTED, "no")

    async def count(self, _request: pb.CountRequest, _ctx: Context, /) -> AsyncIterator[pb.CountResponse]:
        yield pb.CountResponse(number=1)
        raise ConnectError(Code.ABORTED, "no more")

    async def sum(self, requests: AsyncIterator[pb.SumRequest], _ctx: Context, /) -> pb.SumResponse:
        async for _ in requests:
            pass
        raise ConnectError(Code.ABORTED, "no")


def frame(content: bytes, flags: int = 0) -> bytes:
    return bytes([flags]) + len(content).to_bytes(4, "big") + content


NONSENSE = b"\xff" * SIZE
JSON_NONSENSE = json.dumps({"text": 5, "x": "y" * SIZE}).encode()
BOMB = gzip.compress(bytes(10 * SIZE))
EXPLODE = pb.EchoRequest(text="explode", data=b"x" * SIZE).SerializeToString()
REFUSED = pb.EchoRequest(text="no", data=b"x" * SIZE).SerializeToString()
HANG = pb.EchoRequest(text="hang", data=b"x" * SIZE).SerializeToString()

ECHO, COUNT, SUM = (f"/echo.v1.EchoService/{name}" for name in ("Echo", "Count", "Sum"))


def post(path: str, content_type: str, body: bytes, *lines: str) -> bytes:
    head = [
        f"POST {path} HTTP/1.1",
        "Host: h",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, *lines, "", ""]).encode() + body


async def http1(data: bytes, url: str) -> None:
    """Make a call, and have its answer."""
    async with dial(url) as wire:
        await wire.send(data)
        await wire.response()


async def breaks(peer: Peer) -> None:
    await peer.receive_head()


async def breaks_in_its_answer(peer: Peer) -> None:
    await peer.receive_head()
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx")


async def speaks_no_http(peer: Peer) -> None:
    await peer.receive_head()
    await peer.send(b"SSH-2.0-x\r\n")


async def leave(data: bytes, url: str) -> None:
    """Make a call, and leave in the middle of it."""
    async with dial(url) as wire:
        await wire.send(data)
        await trio.testing.wait_all_tasks_blocked()


async def until_it_ends(data: bytes, url: str) -> None:
    """Make a call, and have all that comes of it."""
    async with dial(url) as wire:
        with suppress(trio.BrokenResourceError):
            await wire.send(data)
        with suppress(EOFError, trio.BrokenResourceError):
            await wire.response()


async def http2(path: str, content_type: str, body: bytes, url: str) -> None:
    async with dial_http2(url) as wire:
        fields = (("content-type", content_type), ("te", "trailers"))
        stream_id = await wire.request(path, *fields, body=body, method="POST")
        await wire.response(stream_id)


UNARY: dict[str, Call] = {
    "proto": partial(http1, post(ECHO, "application/proto", NONSENSE)),
    "json": partial(http1, post(ECHO, "application/json", JSON_NONSENSE)),
    "gzip": partial(http1, post(ECHO, "application/proto", NONSENSE, "Content-Encoding: gzip")),
    "bomb": partial(http1, post(ECHO, "application/proto", BOMB, "Content-Encoding: gzip")),
    "large": partial(http1, post(ECHO, "application/proto", bytes(4 * SIZE + 1))),
    "refused": partial(http1, post(ECHO, "application/proto", REFUSED)),
    "exploded": partial(http1, post(ECHO, "application/proto", EXPLODE)),
    "late": partial(http1, post(ECHO, "application/proto", HANG, "Connect-Timeout-Ms: 1")),
    "left": partial(leave, post(ECHO, "application/proto", HANG)),
    "cut short": partial(leave, post(ECHO, "application/proto", HANG)[:-1]),
}


def uncommon(name: str, call: Call) -> Call:
    """Return a call that connectrpc's application answers, as it has a header that is not ASCII."""
    del name
    (data,) = call.args  # type: ignore[attr-defined]
    changed = data.replace(b"Host: h\r\n", "Host: h\r\nX-Name: é\r\n".encode(), 1)
    return partial(call.func, changed)  # type: ignore[attr-defined]


CALLS_OF: dict[str, Call] = {
    **{
        f"refused for its head, {line}": partial(http1, post(ECHO, "application/proto", bytes(SIZE), line))
        for line in ("Connect-Timeout-Ms: x", "Content-Encoding: br", "Connect-Protocol-Version: 2")
    },
    "refused for its type": partial(http1, post(ECHO, "application/x", bytes(SIZE))),
    "refused for its method": partial(http1, post(ECHO, "application/proto", b"").replace(b"POST", b"GET")),
    **{f"unary, {name}": call for name, call in UNARY.items()},
    **{f"unary of connectrpc, {name}": uncommon(name, call) for name, call in UNARY.items()},
    **{
        f"{kind}, {name}": partial(http1, post(path, kind, body))
        for kind in ("application/grpc-web+proto", "application/connect+proto")
        for name, path, body in (
            *(("nonsense", COUNT, frame(NONSENSE)), ("no gzip", COUNT, frame(NONSENSE, 1))),
            *(("ends early", SUM, frame(NONSENSE)[:-9]), ("flags", SUM, frame(NONSENSE, 0xF0))),
            *(("refused", SUM, frame(b"") * 9), ("refused late", COUNT, frame(b""))),
            ("large", COUNT, (4 * SIZE + 1).to_bytes(5, "big") + bytes(SIZE)),
        )
    },
    "grpc-web unary, refused": partial(http1, post(ECHO, "application/grpc-web+proto", frame(REFUSED))),
    "grpc-web unary, nonsense": partial(http1, post(ECHO, "application/grpc-web+proto", frame(NONSENSE))),
    "grpc-web unary, left": partial(leave, post(ECHO, "application/grpc-web+proto", frame(HANG))),
    "grpc, nonsense": partial(http2, ECHO, "application/grpc", frame(NONSENSE)),
    "grpc, refused": partial(http2, ECHO, "application/grpc", frame(REFUSED)),
    "grpc, stream": partial(http2, COUNT, "application/grpc", frame(NONSENSE)),
    "grpc, exploded": partial(http2, ECHO, "application/grpc", frame(EXPLODE)),
}


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Have no garbage collected but by counting references, and no log kept, which pytest would do."""
    logging.disable()
    gc.collect()
    gc.freeze()  # for later tests, too: it is there until the end
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()
    logging.disable(logging.NOTSET)


async def left_behind_by(call: Call, url: str) -> int:
    """Return how many bytes more there are after some calls than before them."""
    await call(url)
    await settled()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(CALLS):
        await call(url)
    await settled()
    return tracemalloc.get_traced_memory()[0] - before


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked(0.02)


@pytest.mark.parametrize("engine", Http1Engine)
async def test_a_failed_call_leaves_its_message_to_nobody(engine: Http1Engine, no_collector: None) -> None:
    left = {}
    config = ServeConfig(http1_engine=engine)
    async with served(application([Failing()], max_message_bytes=4 * SIZE), config=config) as url:
        for name, call in CALLS_OF.items():
            left[name] = await left_behind_by(call, url)
    assert {name: size // 1000 for name, size in left.items() if size > LEFT_BEHIND} == {}


ROUTED: dict[str, tuple[Handler, tuple[str, ...]]] = {
    "no provider": (answer_ok, ("/services/echo/nobody/M",)),
    "no path": (answer_ok, ("/services/echo",)),
    "breaks": (breaks, ()),
    "breaks in its answer": (breaks_in_its_answer, ()),
    "speaks no HTTP": (speaks_no_http, ()),
}


async def test_a_head_that_is_refused_leaves_nothing_behind(no_collector: None) -> None:
    long, left = "x" * 60_000, {}
    async with served(application([Failing()])) as url:
        for line in (
            *(
                f"Connect-Timeout-Ms: {long}",
                f"Content-Encoding: {long}",
                f"Connect-Protocol-Version: {long}",
            ),
            *(f"Accept: {long}", f"Grpc-Timeout: {long}", f"Authorization: {long}", f"X-Auth-Token: {long}"),
        ):
            for kind in ("application/proto", "application/grpc-web", long):
                call = partial(http1, post(ECHO, kind, b"", line))
                left[f"{line[:20]} {kind[:20]}"] = await left_behind_by(call, url)
    assert {name: size for name, size in left.items() if size > 2 * len(long)} == {}


@pytest.mark.parametrize("engine", Http1Engine)
async def test_a_routed_call_that_fails_leaves_its_message_to_nobody(
    engine: Http1Engine, monkeypatch: pytest.MonkeyPatch, no_collector: None
) -> None:
    monkeypatch.setitem(USUAL, "http1_engine", engine)
    left = {}
    for name, (handler, path) in ROUTED.items():
        async with routing(handler) as setting:
            head = setting.head("POST", *(path or (None,)), f"Content-Length: {SIZE}")
            left[name] = await left_behind_by(partial(until_it_ends, head + bytes(SIZE)), setting.url)
    assert {name: size // 1000 for name, size in left.items() if size > LEFT_BEHIND} == {}


async def test_a_call_that_a_plugin_refuses_leaves_nothing_behind(no_collector: None) -> None:
    plugin = Plugin("echo-plugin", version="1.0.0")
    plugin.provide("echo", Failing())
    left = {}
    async with hosting() as (_, host_url), plugged(plugin, host_url) as url:
        for path in (ECHO, "/connectplugin.v1.PluginControl/Shutdown", "/nothing"):
            call = partial(until_it_ends, post(path, "application/proto", bytes(SIZE)))
            left[path] = await left_behind_by(call, url)
    assert {path: size // 1000 for path, size in left.items() if size > LEFT_BEHIND} == {}


class Cycle:
    """What refers to itself, and is large: as what a service keeps of a failed call may be."""

    def __init__(self) -> None:
        self.me = self
        self.message = b"x" * 4_000_000


async def test_garbage_is_collected_when_few_objects_hold_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "_INTERVAL_S", 0.0)
    monkeypatch.setattr(garbage, "_GROWTH", 0.0)  # a process that runs many tests is large
    alive: weakref.WeakSet[Cycle] = weakref.WeakSet()
    most = 0
    with collecting_garbage():
        for _ in range(100):
            alive.add(Cycle())
            most = max(most, len(alive))
            await trio.lowlevel.checkpoint()
    assert most < 40


async def test_garbage_is_collected_when_there_is_no_descriptor_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "_INTERVAL_S", 0.0)
    monkeypatch.setattr(garbage, "_GROWTH", 0.0)  # a process that runs many tests is large
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with collecting_garbage():
        alive = weakref.WeakSet[Cycle]()
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            for _ in range(60):
                alive.add(Cycle())
                await trio.lowlevel.checkpoint()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    assert len(alive) < 40


async def test_nothing_about_the_collector_is_changed_for_code_that_is_not_ours() -> None:
    gc.freeze()
    before = gc.get_threshold(), gc.isenabled()
    with collecting_garbage():
        assert (gc.get_threshold(), gc.isenabled()) == before
    assert (gc.get_threshold(), gc.isenabled()) == before
    assert gc.get_freeze_count()


async def test_what_was_there_before_is_looked_through_again_afterwards_unless_others_have_frozen_it() -> (
    None
):
    gc.unfreeze()
    try:
        with collecting_garbage():
            assert gc.get_freeze_count()
        assert not gc.get_freeze_count()
    finally:
        gc.freeze()
