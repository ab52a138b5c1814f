"""An ASGI application on a real socket, for as long as a block lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from cpg_trio.asgi import App
from cpg_trio.http import ServeConfig, serve


@asynccontextmanager
async def served(app: App, config: ServeConfig | None = None) -> AsyncIterator[str]:
    """Serve `app`; yield its URL."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(partial(serve, app, config=config or ServeConfig(), stop=stop))
        try:
            yield url
        finally:
            stop.set()
