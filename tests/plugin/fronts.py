"""Several ways to a host: each is a proxy that can be closed or silent, as a host that is gone or stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import trio

from cpg_trio._nursery import open_plain_nursery
from tests.plugin.running import unused_port

_MOST_BYTES = 64 * 1024


class Front:
    """A TCP proxy to a host."""

    def __init__(self, host_url: str, address: str = "127.0.0.1", port: int = 0) -> None:
        parts = urlsplit(host_url)
        self._to = parts.hostname or "", parts.port or 0
        self.address = address
        self.port = port or unused_port()
        self.url = f"http://{address}:{self.port}"
        self.opened = 0
        """How many connections it has taken."""
        self._scope = trio.CancelScope()
        self._closed = trio.Event()
        self._passes = trio.Event()
        self._passes.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and pass on, until it is closed."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    serve = partial(trio.serve_tcp, self._pass_on, self.port, host=self.address)
                    await nursery.start(serve)
                    task_status.started()
        finally:
            self._closed.set()

    async def close(self) -> None:
        """End all connections, and take no more."""
        self._scope.cancel()
        await self._closed.wait()

    def freeze(self) -> None:
        """Take connections and pass nothing on, until `thaw`."""
        self._passes = trio.Event()

    def thaw(self) -> None:
        """Pass on again, also what has come meanwhile."""
        self._passes.set()

    async def _pass_on(self, client: trio.SocketStream) -> None:
        self.opened += 1
        try:
            async with client, await trio.open_tcp_stream(*self._to) as server, open_plain_nursery() as both:
                both.start_soon(self._copy, client, server, both.cancel_scope)
                both.start_soon(self._copy, server, client, both.cancel_scope)
        except (OSError, trio.BrokenResourceError):
            pass

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
        try:
            while data := await source.receive_some(_MOST_BYTES):
                await self._passes.wait()
                await sink.send_all(data)
        except trio.BrokenResourceError:
            pass
        await self._passes.wait()
        both.cancel()


@asynccontextmanager
async def fronted(host_url: str, count: int = 2, *, port: int = 0) -> AsyncIterator[list[Front]]:
    """Run so many fronts of a host; with a `port`, each at an address of its own."""
    fronts = [Front(host_url, f"127.0.0.{1 + i if port else 1}", port) for i in range(count)]
    async with trio.open_nursery() as nursery:
        for front in fronts:
            await nursery.start(front.run)
        yield fronts
        nursery.cancel_scope.cancel()


def urls_of(fronts: list[Front]) -> str:
    """Return the value of `HOST_URL` for all of them."""
    return ",".join(front.url for front in fronts)
