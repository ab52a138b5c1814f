"""What the kernel is told to do about a peer whose machine vanishes, as the sockets themselves say."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from cpg_trio._sockets import enable_keepalive
from cpg_trio.asgi import Receive, Scope, Send, send_text
from cpg_trio.http import Origin, Pool, ServeConfig, serve
from cpg_trio.http.channel import SocketChannel
from cpg_trio.http.server.connection import ServerConnection
from tests._wire import dial

Options = dict[str, int]

PROBING = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


def options(stream: trio.SocketStream | socket.socket) -> Options:
    """The options of a socket, as far as this platform has them."""
    known = {name: getattr(socket, name, None) for name in (*PROBING, "TCP_USER_TIMEOUT")}
    found = {
        name: int(stream.getsockopt(socket.IPPROTO_TCP, option))
        for name, option in known.items()
        if option is not None
    }
    return {"SO_KEEPALIVE": int(bool(stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))), **found}


def expected(*, user_timeout_ms: int) -> Options:
    every = {**PROBING, "TCP_USER_TIMEOUT": user_timeout_ms}
    return {"SO_KEEPALIVE": 1, **{name: value for name, value in every.items() if hasattr(socket, name)}}


async def hello(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send_text(send, 200, "hello")


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """A list to which every socket is added that a server serves."""
    sockets: list[socket.socket] = []
    run = ServerConnection.run

    async def recording(self: ServerConnection) -> None:
        sockets.append(self.channel.socket)
        await run(self)

    monkeypatch.setattr(ServerConnection, "run", recording)
    return sockets


async def exchange(bind: str, look: Callable[[], Any], **settings: Any) -> Any:
    """Serve one request on one connection, and look while the connection is open."""
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(partial(serve, hello, bind=bind, config=ServeConfig(**settings)))
        async with dial(url) as wire:
            assert (await wire.get()).body == b"hello"
            seen = look()
        nursery.cancel_scope.cancel()
    return seen


@pytest.mark.parametrize(
    ("send_timeout_s", "user_timeout_ms"),
    [(30.0, 35_000), (0.1, 35_000), (300.0, 300_000), (math.inf, 2**31 - 1)],
)
async def test_a_server_notices_a_client_that_vanished_or_leaves_unread_what_the_kernel_holds(
    send_timeout_s: float, user_timeout_ms: int, accepted: list[socket.socket]
) -> None:
    seen = await exchange("127.0.0.1:0", lambda: options(accepted[0]), send_timeout_s=send_timeout_s)
    assert seen == expected(user_timeout_ms=user_timeout_ms)


async def test_a_unix_socket_is_left_alone(short_path: Path, accepted: list[socket.socket]) -> None:
    def keepalive() -> int:
        return int(accepted[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    assert await exchange(f"unix:{short_path / 'socket'}", keepalive) == 0


async def test_a_pool_notices_a_vanished_peer_and_lets_a_living_one_read_in_its_own_time() -> None:
    async with trio.open_nursery() as nursery, Pool() as pool:
        (url,) = await nursery.start(partial(serve, hello))
        origin = Origin("http", "127.0.0.1", int(url.rpartition(":")[2]))
        connection = await pool.open(origin)
        assert isinstance(connection.channel, SocketChannel)
        assert options(connection.channel.socket) == expected(user_timeout_ms=0)
        pool.give_back(connection, reusable=False)
        nursery.cancel_scope.cancel()


async def test_a_peer_that_has_left_already_is_no_error() -> None:
    async with trio.SocketStream(trio.socket.socket()) as stream:
        stream.socket.close()
        enable_keepalive(stream.socket)
