"""Several hosts of this process, each at a port of its own, with one directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import httpx
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host import BaseUrls, Host, HostConfig, Keys, LeaseConfig
from cpg_trio.host.access import Peer
from cpg_trio.host.cluster.statements import NOBODY, HostStatement, sign_statement
from cpg_trio.store import MemoryStore, Store
from tests.host.calls import Headers, WireCaller, runtime_id

KEYS = ["k" * 32]
WITHIN_S = 20.0


@attrs.frozen
class Served:
    """A host, its URL, and how to call it."""

    host: Host
    url: str
    calls: WireCaller
    stop: trio.Event

    @property
    def id(self) -> str:
        return self.host.owners.own_id

    def owns(self, plugin: Headers) -> bool:
        return self.host.owners.owns(runtime_id(plugin))

    def knows(self, plugin: Headers) -> bool:
        """Whether what is in the store of a plugin has come here."""
        return self.host.cluster is not None and self.host.cluster.knows(runtime_id(plugin))

    def is_callable(self, plugin: Headers, service_type: str = "t") -> bool:
        registration = self.host.registry.provider(service_type, runtime_id(plugin))
        return registration is not None and registration.id in self.host.registry.callable_ids

    async def send(
        self, path: str, body: dict[str, Any], headers: Headers, address: str = "127.0.0.1"
    ) -> httpx.Response:
        """Make a call from an address of this machine; return its whole answer."""
        transport = httpx.AsyncHTTPTransport(local_address=address, verify=False)
        async with httpx.AsyncClient(transport=transport, base_url=self.url, timeout=20) as http:
            return await http.post(path, json=body, headers=headers)

    def stated(self, to: Served, path: str, plugin: str, now: float, peer: Peer = NOBODY) -> Headers:
        """Return the header by which this host states that it forwards a call."""
        statement = HostStatement(issuer=self.id, audience=to.id, path=path, plugin=plugin, peer=peer)
        return {"X-Plugin-Forwarded": sign_statement(Keys(KEYS).all, statement, now)}


@asynccontextmanager
async def serving_hosts(*stores: Store | None, **config: Any) -> AsyncIterator[list[Served]]:
    """Serve a host for each way to a store; by default two that share one in memory."""
    if not stores:
        stores = (MemoryStore(),) * 2
    async with open_plain_nursery() as nursery, AsyncExitStack() as stack:
        yield [await serving_host(nursery, stack, store, **config) for store in stores]
        nursery.cancel_scope.cancel()


async def serving_host(
    nursery: trio.Nursery,
    stack: AsyncExitStack,
    store: Store | None,
    bind: str = "127.0.0.1:0",
    **config: Any,
) -> Served:
    defaults = {"keys": Keys(KEYS), "base_urls": BaseUrls.ANY, "leases": LeaseConfig(lease_s=15.0)}
    host, stop = Host(HostConfig(store=store, **{**defaults, **config})), trio.Event()

    async def serve(*, task_status: trio.TaskStatus[tuple[str, ...]]) -> None:
        await host.serve(stop, bind=bind, task_status=task_status)

    url, *_ = await nursery.start(serve)
    http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20))
    return Served(host, url, WireCaller(http), stop)


async def until(condition: Any, within_s: float = WITHIN_S) -> None:
    """Wait until something holds that tells nobody when it does."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - see above
            await trio.sleep(0.01)
