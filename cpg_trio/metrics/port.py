"""The address of the metrics. Nothing else is answered there, and they are answered nowhere else.

There is no TLS and no token: who may scrape is for the network to say. A web page may not (see
`http.server.browsers`): names and rates of plugins are nothing that a page of somebody else's is to read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import attrs
from prometheus_client.registry import Collector

from cpg_trio._side_port import side_port
from cpg_trio.http import ServeConfig
from cpg_trio.http.server.browsers import BrowserGuard
from cpg_trio.metrics.exposition import Exposition
from cpg_trio.metrics.process import registry_of

_MOST_CONNECTIONS = 32  # scrapers are few


@asynccontextmanager
async def metrics_port(
    bind: str | Sequence[str] | None, config: ServeConfig, collectors: Callable[[], Iterable[Collector]]
) -> AsyncIterator[tuple[str, ...]]:
    """Answer metrics at `bind` until the end of the block; yield the URLs. Do nothing for None.

    `collectors` makes what is asked at each scrape, beside the collectors of process and interpreter.
    Raises: BindError.
    """
    if bind is None:
        yield ()
        return
    binds = [bind] if isinstance(bind, str) else list(bind)
    exposition = Exposition(registry_of(collectors()))
    guarded = BrowserGuard(config, binds=binds).guarding(exposition)
    limited = attrs.evolve(config, max_connections=_MOST_CONNECTIONS, backlog=_MOST_CONNECTIONS)
    async with side_port(guarded, binds, limited, "metrics are answered") as urls:
        yield urls
