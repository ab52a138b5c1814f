"""The URL shortener on real sockets, in one nursery."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx

from cpg_trio.demo.api import api_plugin
from cpg_trio.demo.logger import logger_plugin
from cpg_trio.demo.storage import storage_plugin
from cpg_trio.host import Host
from tests.plugin.running import hosting, is_healthy, plugged, until


@attrs.frozen
class Shortener:
    host: Host
    host_url: str
    logger: str
    storage: str
    api: str
    http: httpx.AsyncClient

    async def shorten(self, url: str) -> httpx.Response:
        return await self.http.post(f"{self.api}/api.v1.API/Shorten", params={"url": url})

    async def resolve(self, code: str) -> httpx.Response:
        return await self.http.get(f"{self.api}/api.v1.API/Resolve", params={"code": code})


@asynccontextmanager
async def shortener(where: Path | str) -> AsyncIterator[Shortener]:
    """Run it. Storage and logger answer callers that go around the host, too."""
    async with (
        httpx.AsyncClient() as http,
        hosting() as (host, url),
        storage_plugin(where) as storage,
        plugged(api_plugin(), url) as api_url,
        plugged(storage, url, accept_unsigned=True) as storage_url,
        plugged(logger_plugin(), url, accept_unsigned=True) as logger_url,
    ):
        await until(host, lambda: all(is_healthy(host, t) for t in ("logger", "storage", "api")))
        yield Shortener(host, url, logger_url, storage_url, api_url, http)
