"""The example's storage plugin: provides `storage`, requires `logger`. `python -m cpg_trio.demo.storage`.

It keeps its pairs in the PostgreSQL database that `DATABASE_URL` names, which other replicas may share, or
without one in the SQLite file that `STORAGE_PATH` names.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from cpg_trio import rpc
from cpg_trio._gen.logger.v1.logger_pb2 import LogRequest
from cpg_trio._gen.logger.v1.logger_trio import LoggerClient
from cpg_trio._gen.storage.v1 import storage_pb2 as pb
from cpg_trio._gen.storage.v1.storage_trio import StorageService
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.demo._container import container
from cpg_trio.demo._plain_http import Form, plain_http
from cpg_trio.demo._store import MAX_CODE_BYTES, CodeTakenError, DatabaseAwayError, Store, open_store
from cpg_trio.plugin import HealthState, Plugin

_log = logging.getLogger("cpg_trio.demo.storage")

DEFAULT_PATH = Path("url-shortener.sqlite3")
_HEALTHY, _UNHEALTHY = HealthState.HEALTH_STATE_HEALTHY, HealthState.HEALTH_STATE_UNHEALTHY
_LOG_TIMEOUT_S = 1.0  # what a line in somebody else's log may cost a caller

FORMS = {
    "Store": Form(required=("code", "url"), missing="Missing code or url", post_only=True),
    "Get": Form(required=("code",), missing="Missing code", not_found="Not found"),
}


class Storage(StorageService):
    """Keeps pairs in a store, and tells the logger of what it does."""

    def __init__(self, store: Store, logger: LoggerClient) -> None:
        self._store = store
        self._logger = logger

    async def store(self, request: pb.StoreRequest, _ctx: rpc.Context, /) -> pb.StoreResponse:
        """Keep a pair. Raises: ConnectError `already_exists` if the code stands for another URL."""
        if not request.code or not request.url:
            raise rpc.ConnectError(rpc.Code.INVALID_ARGUMENT, "code and url cannot be empty")
        if not _can_be_code(request.code) or "\0" in request.url:
            raise rpc.ConnectError(
                rpc.Code.INVALID_ARGUMENT,
                f"code and url cannot contain NUL, nor code more than {MAX_CODE_BYTES} bytes",
            )
        try:
            await self._store.put(request.code, request.url)
        except CodeTakenError:
            raise rpc.ConnectError(rpc.Code.ALREADY_EXISTS, "the code is taken") from None
        except DatabaseAwayError as error:
            raise rpc.ConnectError(rpc.Code.UNAVAILABLE, str(error)) from error
        await self._tell(f"STORE {request.code} → {request.url}")
        return pb.StoreResponse(success=True)

    async def get(self, request: pb.GetRequest, _ctx: rpc.Context, /) -> pb.GetResponse:
        """Return the URL behind a code. Raises: ConnectError `not_found`."""
        try:
            url = await self._store.get(request.code) if _can_be_code(request.code) else None
        except DatabaseAwayError as error:
            raise rpc.ConnectError(rpc.Code.UNAVAILABLE, str(error)) from error
        if url is None:
            raise rpc.ConnectError(rpc.Code.NOT_FOUND, "not found")
        await self._tell(f"GET {request.code} → {url}")
        return pb.GetResponse(url=url)

    async def _tell(self, message: str) -> None:
        """Log a line with the logger, if there is one: storing does not depend on it."""
        try:
            await self._logger.log(LogRequest(message=message), timeout_s=_LOG_TIMEOUT_S)
        except rpc.ConnectError as error:
            _log.debug("nobody logs %r: %s", message, error.message)


def _can_be_code(code: str) -> bool:
    """Return whether any database could have it: none is asked for what one of them cannot be asked for."""
    return "\0" not in code and len(code.encode()) <= MAX_CODE_BYTES


@asynccontextmanager
async def storage_plugin(where: Path | str) -> AsyncIterator[Plugin]:
    """Yield the plugin, its store open: a file's path, or a `DATABASE_URL`.

    It is UNHEALTHY while its database is away, and looks for it by itself. Raises: StartError.
    """
    async with open_store(where) as store, open_plain_nursery() as nursery:
        plugin = Plugin("storage-plugin", version="1.0.0", name="Storage Plugin", default_port=8082)
        logger = plugin.require("logger", min_version="1.0.0")
        plugin.provide(
            "storage",
            Storage(store, logger.client(LoggerClient)),
            middleware=plain_http(pb.DESCRIPTOR.services_by_name["Storage"], FORMS),
        )

        def tell(away: str) -> None:
            plugin.set_health(_UNHEALTHY if away else _HEALTHY, away)

        if not isinstance(where, Path):
            tell("the database has not been asked yet")
        nursery.start_soon(store.follow, tell)
        yield plugin
        nursery.cancel_scope.cancel()


async def main(stop: trio.Event) -> None:
    """Run the plugin as the environment says."""
    where = os.environ.get("DATABASE_URL") or Path(os.environ.get("STORAGE_PATH") or DEFAULT_PATH)
    async with storage_plugin(where) as plugin:
        await plugin.serve(stop)


if __name__ == "__main__":
    sys.exit(container(__doc__, main))
