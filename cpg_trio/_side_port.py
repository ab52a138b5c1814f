"""A port beside the one that a program is for: it answers one application, without TLS."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import attrs

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import App
from cpg_trio.http import ServeConfig, TlsConfig, serve

_log = logging.getLogger("cpg_trio.http")


@asynccontextmanager
async def side_port(
    app: App, bind: str | Sequence[str], config: ServeConfig, what: str
) -> AsyncIterator[tuple[str, ...]]:
    """Answer an application at `bind` until the end of the block; yield the URLs. The log says `what` it is.

    Raises: BindError.
    """
    plain = attrs.evolve(config, tls=TlsConfig())
    async with open_plain_nursery() as nursery:
        bound = await nursery.start(partial(serve, app, bind=bind, config=plain))
        _log.info("%s on %s", what, ", ".join(bound))
        yield bound
        nursery.cancel_scope.cancel()
