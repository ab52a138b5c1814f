"""A host on a socket with a provider of `echo` behind it, and a caller."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from cpg_trio.host import Host, HostConfig
from tests import _wire
from tests._wire import Response, dial
from tests.certificates import Files
from tests.http import peers
from tests.http.peers import OK, Handler, Peer, answer_ok, serving, url_of

USUAL: dict[str, Any] = {"allowed_hosts": ["h.example", "h", "somewhere.example"]}
"""What hosts are told of serving."""


@pytest.fixture(params=["plain", "tls"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, certificates: Files) -> None:
    """Run a test twice: without TLS, and with it on both sides of the host."""
    if request.param == "tls":
        over_tls(monkeypatch, certificates)


def over_tls(monkeypatch: pytest.MonkeyPatch, files: Files) -> None:
    monkeypatch.setitem(USUAL, "tls", files.config())
    monkeypatch.setattr(_wire, "TRUST", [files.client_context(show=False)])
    monkeypatch.setattr(peers, "SERVED_WITH", [files.server_context()])


@attrs.frozen
class Setting:
    """A host on a socket, a caller, and a provider of `echo`."""

    host: Host
    url: str
    caller: str
    token: str
    provider: str

    @property
    def credentials(self) -> dict[str, str]:
        return {"X-Plugin-Runtime-ID": self.caller, "Authorization": f"Bearer {self.token}"}

    def path(self, method: str = "M") -> str:
        return f"/services/echo/{self.provider}/{method}"

    def head(self, method: str = "POST", path: str | None = None, *headers: str) -> bytes:
        lines = [f"{method} {path or self.path()} HTTP/1.1", "Host: h.example:28080"]
        lines += [f"{name}: {value}" for name, value in self.credentials.items()]
        return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1")

    async def call(self, data: bytes) -> Response:
        with trio.fail_after(10):
            async with dial(self.url) as wire:
                await wire.send(data)
                return await wire.response(head_only=data.startswith(b"HEAD"))


@asynccontextmanager
async def hosting(config: HostConfig | None = None) -> AsyncIterator[tuple[Host, str]]:
    config = config or HostConfig()
    host = Host(attrs.evolve(config, serve=attrs.evolve(config.serve, **USUAL)))
    stop = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(partial(host.serve, stop, bind="127.0.0.1:0"))
            yield host, url
            stop.set()


@asynccontextmanager
async def routing(
    handler: Handler = answer_ok,
    *,
    endpoint_path: str = "/echo.v1.Echo/",
    base_path: str = "",
    config: HostConfig | None = None,
) -> AsyncIterator[Setting]:
    async with serving(handler) as origin, hosting(config) as (host, url):
        caller, token = host.identities.issue("caller")
        provider, _ = host.identities.issue("echo-plugin")
        base_url = f"{url_of(origin)}{base_path}"
        host.registry.register(provider.runtime_id, "echo", "1.0.0", endpoint_path, {"base_url": base_url})
        yield Setting(host, url, caller.runtime_id, token, provider.runtime_id)


@asynccontextmanager
async def silent_address(address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Yield the base URL of a place that answers no attempt to connect: its queue is full."""
    async with trio.open_nursery() as nursery:
        with trio.socket.socket() as full:
            await full.bind((address, port))
            full.listen(0)
            for _ in range(3):
                nursery.start_soon(_occupy, full.getsockname())
            await trio.testing.wait_all_tasks_blocked(0.01)
            yield "http://{}:{}".format(*full.getsockname())
        nursery.cancel_scope.cancel()


async def _occupy(address: tuple[str, int]) -> None:
    with trio.socket.socket() as sock:
        await sock.connect(address)
        await trio.sleep_forever()


async def converse(peer: Peer) -> None:
    """Begin the answer at once, and answer each of five parts of the request before the next comes."""
    await peer.receive_head()
    await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(5):
        await peer.receive_until(b"ping\r\n")
        await peer.send(b"4\r\npong\r\n")
    await peer.receive_until(b"0\r\n\r\n")
    await peer.send(b"0\r\n\r\n")


class Recorder:
    """A provider that answers each request with `answer`, and keeps what it saw."""

    def __init__(self, answer: bytes = OK, body_end: bytes = b"") -> None:
        self.answer = answer
        self.body_end = body_end
        self.seen: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        while head := await peer.receive_head():
            self.seen.append(head + (await peer.receive_until(self.body_end) if self.body_end else b""))
            await peer.send(self.answer)

    @property
    def line(self) -> bytes:
        return self.seen[0].partition(b"\r\n")[0]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        lines = self.seen[0].partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        return [(n.lower(), v.strip()) for n, _, v in (line.partition(b":") for line in lines)]


def text(response: Response) -> tuple[int, str]:
    assert response.header(b"content-type") == b"text/plain; charset=utf-8"
    assert response.header(b"x-content-type-options") == b"nosniff"
    return response.status, response.body.decode()


@attrs.define
class Bug:
    """A method that raises a RuntimeError instead of doing its work, while `is_there`."""

    is_there: bool = False

    @classmethod
    def put(cls, patch: pytest.MonkeyPatch, where: type[object], name: str) -> Bug:
        """Put a bug into a class, which is not there yet."""
        bug, right = cls(), getattr(where, name)

        def wrong(*args: Any, **named: Any) -> Any:
            if bug.is_there:
                raise RuntimeError("a bug")
            return right(*args, **named)

        patch.setattr(where, name, wrong)
        return bug
