"""One client that holds a server's connections in whatever way takes them from nobody else.

The others are a stranger at another address, and a client at the hostile one's that proves an identity.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TypeAlias

import h2.exceptions
import pytest
import trio

from cpg_trio.asgi import Receive, Scope, Send, note_proved, send_text
from cpg_trio.http import ServeConfig, TlsConfig, serve
from tests import _wire
from tests._wire import HANDSHAKE, Http2Wire, Wire, connect, dial, request
from tests.certificates import Files

MOST = 20
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"

# What a client gets that was refused, or had to make room.
REFUSED = (trio.BrokenResourceError, EOFError, OSError, h2.exceptions.ProtocolError)

Attack: TypeAlias = Callable[[str, AsyncExitStack], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await trio.sleep_forever()
    if scope["path"].startswith("/proved"):
        note_proved(scope, scope["path"])
    if scope["path"].endswith("/hang"):
        await trio.sleep_forever()
    while (await receive()).get("more_body", False):
        pass
    if scope["path"] == "/large":
        await send_text(send, 200, "x" * (6 * 2**20))
        return
    await send_text(send, 200, "hello")


async def opened(url: str, stack: AsyncExitStack, data: bytes = b"") -> Wire:
    wire = await stack.enter_async_context(dial(url, address=HERE))
    if data:
        await wire.send(data)
    return wire


async def silent(url: str, stack: AsyncExitStack) -> None:
    """Say nothing: over TLS, not even a handshake."""
    await opened(url.replace("https", "http"), stack)


async def idle(url: str, stack: AsyncExitStack) -> None:
    wire = await opened(url, stack)
    assert (await wire.get()).status in {200, 503}


async def no_head(url: str, stack: AsyncExitStack) -> None:
    await opened(url, stack, b"GET / HT")


async def no_body(url: str, stack: AsyncExitStack) -> None:
    await opened(url, stack, request("POST", "/", {"transfer-encoding": "chunked"}))


async def half_a_body(url: str, stack: AsyncExitStack) -> None:
    await opened(url, stack, request("POST", "/", {"content-length": "100"}) + b"half")


async def unread(url: str, stack: AsyncExitStack) -> None:
    wire = await stack.enter_async_context(dial(url, address=HERE, receive_buffer=4096))
    await wire.send(request("GET", "/large"))


async def calls(url: str, stack: AsyncExitStack) -> None:
    await opened(url, stack, request("GET", "/hang"))


async def calls_of_an_identity(url: str, stack: AsyncExitStack) -> None:
    await opened(url, stack, request("GET", "/proved/hostile/hang"))


async def websockets(url: str, stack: AsyncExitStack) -> None:
    await opened(url, stack, request("GET", "/", HANDSHAKE))


async def streams(url: str, stack: AsyncExitStack) -> None:
    stream = await connect(url, address=HERE)
    stack.push_async_callback(trio.aclose_forcefully, stream)
    wire = Http2Wire(stream)
    wire.h2.initiate_connection()
    await wire.flush()
    for _ in range(50):
        await wire.request("/", method="POST", body=b"")


ATTACKS = [
    silent,
    idle,
    no_head,
    no_body,
    half_a_body,
    unread,
    calls,
    calls_of_an_identity,
    websockets,
    streams,
]


async def held(attack: Attack, url: str, stack: AsyncExitStack) -> None:
    """Open more than the server takes, in one way, and leave it so."""
    for _ in range(MOST + MOST // 4):
        with suppress(*REFUSED):
            await attack(url, stack)
    await trio.sleep(0.05)


@asynccontextmanager
async def server(files: Files | None) -> AsyncIterator[str]:
    stop = trio.Event()
    tls = TlsConfig() if files is None else files.config()
    config = ServeConfig(
        max_connections=MOST,
        grace_s=0,
        linger_s=0,
        tls=tls,
    )
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(partial(serve, app, config=config, stop=stop))
            yield url
            stop.set()


@pytest.fixture
async def url(
    request: pytest.FixtureRequest, certificates: Files, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    tls = getattr(request, "param", "plain") == "tls"
    if tls:
        monkeypatch.setattr(_wire, "TRUST", [certificates.client_context(show=False)])
    async with server(certificates if tls else None) as served:
        yield served


attacks = pytest.mark.parametrize(
    ("url", "attack"),
    [
        *[("plain", attack) for attack in ATTACKS],
        ("tls", silent),
        ("tls", calls),
    ],
    indirect=["url"],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)


@attacks
async def test_a_stranger_at_another_address_is_served(attack: Attack, url: str) -> None:
    async with AsyncExitStack() as stack:
        await held(attack, url, stack)
        for _ in range(3):
            async with dial(url, address=ELSEWHERE) as wire:
                assert (await wire.get()).status == 200


@attacks
async def test_who_proves_an_identity_at_the_same_address_is_served_and_stays(
    attack: Attack, url: str
) -> None:
    async with AsyncExitStack() as stack:
        await held(attack, url, stack)
        async with dial(url, address=HERE) as wire:
            assert (await wire.get("/proved/good")).status == 200
            await held(attack, url, stack)
            assert (await wire.get("/proved/good")).status == 200


async def test_one_address_may_have_all_while_there_is_room(url: str) -> None:
    async with AsyncExitStack() as stack:
        wires = [await opened(url, stack) for _ in range(MOST - MOST // 10)]
        for _ in range(2):
            for wire in wires:
                assert (await wire.get()).status == 200
