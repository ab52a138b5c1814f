"""What somebody sends who has proved nothing leaves nothing behind; nor does what is long, of anybody."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import trio.testing

from cpg_trio.host import HostConfig, Keys
from cpg_trio.http import ServeConfig
from cpg_trio.http.heads import RequestHeads
from cpg_trio.plugin import Plugin
from cpg_trio.rpc import Context
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoService
from tests._wire import dial
from tests.host.routed import USUAL, Setting, hosting, routing
from tests.http import peers
from tests.plugin.running import plugged

LONG = 60_000  # bytes
REQUESTS = 3
LEFT_BEHIND = (
    100_000  # bytes, by all of them: less than two of them have, for whatever else happens meanwhile
)

HANDSHAKE = "/connectplugin.v1.HandshakeService/Handshake"
DISCOVER = "/connectplugin.v1.ServiceRegistry/DiscoverService"


class Forgetful(EchoService):
    """Keeps nothing of a call, as `tests.rpc.echo.Echo` does."""

    async def echo(self, request: pb.EchoRequest, _ctx: Context, /) -> pb.EchoResponse:
        return pb.EchoResponse(text=request.text)


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """Have no log kept, which pytest would do."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def post(path: str, *lines: str) -> bytes:
    usual = ["Host: h", "Content-Type: application/json", "Content-Length: 2"]
    return "\r\n".join([f"POST {path} HTTP/1.1", *usual, *lines, "", "{}"]).encode()


def words(number: int, size: int = LONG) -> str:
    """Return a list of short words, another for each number."""
    return ",".join(f"w{number}-{each}" for each in range(size // 10))


def letters(number: int) -> str:
    return f"{number}".rjust(LONG, "x")


def many_names(number: int) -> list[str]:
    return [f"x-{number}-{each}: {each}" for each in range(1500)]


REQUESTS_OF_STRANGERS: dict[str, Callable[[str, int], bytes]] = {
    "connection": lambda path, n: post(path, f"Connection: {words(n)}"),
    "a long value": lambda path, n: post(path, f"User-Agent: {letters(n)}"),
    "a long name": lambda path, n: post(path, f"{letters(n)}: v"),
    "many names": lambda path, n: post(path, *many_names(n)),
    "many names and a token": lambda path, n: post(path, *many_names(n), "Authorization: Bearer x"),
    "a long path": lambda path, n: post(f"{path}/{letters(n)}"),
    "a long query": lambda path, n: post(f"{path}?{letters(n)}"),
    "a long host": lambda path, n: post(path).replace(b"Host: h", f"Host: {letters(n)}".encode()),
    "a long runtime id": lambda path, n: post(path, f"X-Plugin-Runtime-ID: {letters(n)}"),
    "a long token": lambda path, n: post(
        path, "X-Plugin-Runtime-ID: a-1", f"Authorization: Bearer {letters(n)}"
    ),
    "a long codec": lambda path, n: post(path).replace(b"application/json", letters(n).encode()),
    "a long encoding": lambda path, n: post(path, f"Content-Encoding: {letters(n)}"),
    "a long signed caller": lambda path, n: post(path, f"X-Plugin-Caller: {letters(n)}"),
    "a long trace": lambda path, n: post(path, f"traceparent: {letters(n)}", "Connection: close"),
    "an absolute target": lambda path, n: post(f"http://h{path}/{letters(n)}"),
}


async def left_behind_by(url: str, kinds: Mapping[str, Callable[[int], bytes]]) -> dict[str, int]:
    """Return of which kinds of requests more is held than may be, and how many bytes that is."""
    for kind in kinds.values():
        await answered(url, kind(REQUESTS))
    left = {}
    gc.collect()
    gc.freeze()  # what is there before need not be looked through each time, nor by later tests
    tracemalloc.start()
    try:
        for name, kind in kinds.items():
            before = await traced()
            for number in range(REQUESTS):
                await answered(url, kind(number))
            left[name] = await traced() - before
    finally:
        tracemalloc.stop()
    return {name: size for name, size in left.items() if size > LEFT_BEHIND}


async def traced() -> int:
    """Return how many bytes are held once all connections have ended."""
    await trio.testing.wait_all_tasks_blocked(0.01)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def answered(url: str, request: bytes) -> None:
    async with dial(url) as wire:
        await wire.send(request)
        await wire.response()


PLACES = ["routed", "handshake", "discover", "unknown", "public plugin"]


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, str]]:
    """Yield where strangers can call: a URL and a path."""
    name = request.param
    async with routing() as setting:
        if name == "public plugin":
            plugin = Plugin("public-plugin", version="1.0.0")
            plugin.provide("public", Forgetful(), public=True)
            async with plugged(plugin, setting.url, serve=ServeConfig(**USUAL)) as plugin_url:
                yield plugin_url, "/echo.v1.EchoService/Echo"
        else:
            paths = {
                "routed": setting.path(),
                "handshake": HANDSHAKE,
                "discover": DISCOVER,
                "unknown": "/a/b",
            }
            yield setting.url, paths[name]


async def test_a_request_that_proves_nothing_leaves_nothing_behind(place: tuple[str, str]) -> None:
    url, path = place
    kinds = {name: partial(request, path) for name, request in REQUESTS_OF_STRANGERS.items()}
    assert not await left_behind_by(url, kinds)


REQUESTS_OF_CALLERS: dict[str, Callable[[Setting, int], bytes]] = {
    "a long path": lambda s, n: s.head("GET", s.path(letters(n))),
    "a long type": lambda s, n: s.head("GET", s.path().replace("/echo/", f"/{letters(n)}/")),
    "a long provider": lambda s, n: s.head("GET", s.path().replace(s.provider, letters(n))),
    "connection": lambda s, n: s.head("GET", None, f"Connection: {words(n)}"),
    "many names": lambda s, n: s.head("GET", None, *many_names(n)),
    "a long value": lambda s, n: s.head("GET", None, f"User-Agent: {letters(n)}"),
}


async def test_nothing_long_is_kept_of_a_routed_call() -> None:
    async with routing() as setting:
        kinds = {name: partial(request, setting) for name, request in REQUESTS_OF_CALLERS.items()}
        assert not await left_behind_by(setting.url, kinds)


ANSWERS: dict[str, Callable[[int], str]] = {
    "connection": lambda n: f"connection: {words(n)}",
    "names": lambda n: "\r\n".join(many_names(n)),
    "value": lambda n: f"server: {letters(n)}",
}


async def test_nothing_long_is_kept_of_an_answer() -> None:
    async def answer(peer: peers.Peer) -> None:
        while head := await peer.receive_head():
            _, kind, number = head.split(b" ")[1].decode().rsplit("/", 2)
            line = ANSWERS[kind](int(number))
            await peer.send(f"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{line}\r\n\r\n".encode())

    def calling(kind: str, number: int) -> bytes:
        return setting.head("GET", setting.path(f"{kind}/{number}"))

    async with routing(answer) as setting:
        assert not await left_behind_by(setting.url, {kind: partial(calling, kind) for kind in ANSWERS})


async def test_a_type_or_a_plugin_with_a_longer_name_than_any_is_400() -> None:
    async with routing() as setting:
        for path in (f"/services/{'t' * 129}/{setting.provider}/M", f"/services/echo/{'p' * 146}/M"):
            answer = await setting.call(setting.head("GET", path))
            assert answer.status == 400
            assert answer.body.startswith(b"invalid service path format")
        assert (await setting.call(setting.head("GET", f"/services/echo/{'p' * 145}/M"))).status == 404


async def test_what_one_host_passes_on_another_in_the_same_process_does_not() -> None:
    seen: list[bytes] = []

    async def answer(peer: peers.Peer) -> None:
        while head := await peer.receive_head():
            seen.append(head.lower())
            await peer.send(peers.OK)

    keys = Keys(["a key that two hosts have in common"])
    one, other = (HostConfig(keys=keys, pass_headers=passed) for passed in (["x-tenant"], []))
    async with routing(answer, config=one) as setting, hosting(other) as (host, url):
        registration = setting.host.registry.registrations(setting.provider)[0]
        host.registry.register(
            setting.provider, "echo", "1.0.0", registration.endpoint_path, registration.metadata
        )
        for place in (setting.url, setting.url, url, setting.url):
            await answered(place, setting.head("GET", None, "X-Tenant: a"))
    assert [b"x-tenant: a" in head for head in seen] == [True, True, False, True]


async def test_requests_that_differ_in_metadata_share_one_head_and_nothing_of_it_is_kept() -> None:
    async with routing() as setting:
        for number in range(3):
            head = setting.head("GET", None, f"X-Pin: hush-{number}", "my_word: hush", "X-Pin: hush")
            await answered(setting.url, head)
        caches = [each for each in gc.get_objects() if isinstance(each, RequestHeads)]
        path = setting.path().encode()
        kept = {key: head for cache in caches for key, head in cache.items() if path in key}
    (shared,) = kept.values()
    remembered: Any = shared.remembered
    derived = repr([getattr(remembered, name) for name in remembered.__slots__])
    assert path.decode() in derived
    assert b"hush" not in b"".join([*kept, *(value for _, value in shared.fields), derived.encode()])
