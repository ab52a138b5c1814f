"""The example's storage plugin: provides `storage`, requires `logger`. `python -m cpg_trio.demo.storage`.

It keeps its pairs in the PostgreSQL database that `DATABASE_URL` names, which replicas may share, or else in
the SQLite file that `STORAGE_PATH` names. `_store` has all that concerns the database.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from cpg_trio import HealthState, Plugin
from cpg_trio._lines import one_line
from cpg_trio.demo._command import run_plugin
from cpg_trio.demo._plain_http import Form, plain_http
from cpg_trio.demo._store import CodeTakenError, DatabaseAwayError, InvalidPairError, Store, open_store
from cpg_trio.logs import LineLog
from cpg_trio.protos.logger.v1.logger_pb2 import LogRequest
from cpg_trio.protos.logger.v1.logger_trio import LoggerClient
from cpg_trio.protos.storage.v1 import storage_pb2 as pb
from cpg_trio.protos.storage.v1.storage_trio import StorageService
from cpg_trio.rpc import Code, ConnectError, Context

_log = logging.getLogger("cpg_trio.demo.storage")
_lines = LineLog("cpg_trio.demo.storage")

DEFAULT_PATH = Path("url-shortener.sqlite3")
_LONGEST_LINE = 1024  # characters
_LOG_TIMEOUT_S = 1.0  # the most that a slow logger costs a caller

FORMS = {
    "Store": Form(required=("code", "url"), missing="Missing code or url", post_only=True),
    "Get": Form(required=("code",), missing="Missing code", not_found="Not found"),
}


class Storage(StorageService):
    """Keeps pairs of a code and a URL, and logs each call with the logger plugin."""

    def __init__(self, store: Store, logger: LoggerClient) -> None:
        self._store = store
        self._logger = logger

    async def store(self, request: pb.StoreRequest, _ctx: Context, /) -> pb.StoreResponse:
        """Keep a pair. Raises: ConnectError `already_exists` if the code stands for another URL."""
        if not request.code or not request.url:
            raise ConnectError(Code.INVALID_ARGUMENT, "code and url cannot be empty")
        try:
            await self._store.put(request.code, request.url)
        except InvalidPairError as error:
            raise ConnectError(Code.INVALID_ARGUMENT, str(error)) from error
        except CodeTakenError:
            raise ConnectError(Code.ALREADY_EXISTS, "the code is taken") from None
        except DatabaseAwayError as error:
            raise ConnectError(Code.UNAVAILABLE, str(error)) from error
        await self._log_call(f"STORE {request.code} → {request.url}")
        return pb.StoreResponse(success=True)

    async def get(self, request: pb.GetRequest, _ctx: Context, /) -> pb.GetResponse:
        """Return the URL of a code. Raises: ConnectError `not_found`."""
        try:
            url = await self._store.get(request.code)
        except DatabaseAwayError as error:
            raise ConnectError(Code.UNAVAILABLE, str(error)) from error
        if url is None:
            raise ConnectError(Code.NOT_FOUND, "not found")
        await self._log_call(f"GET {request.code} → {url}")
        return pb.GetResponse(url=url)

    async def _log_call(self, message: str) -> None:
        """Log a line here, and with the logger plugin. Storing goes on without that."""
        _lines.info(f"[STORAGE] {one_line(message, _LONGEST_LINE)}")
        try:
            await self._logger.log(LogRequest(message=message), timeout_s=_LOG_TIMEOUT_S)
        except ConnectError as error:
            _log.debug("the logger has not got %r: %s", message, error.message)


@asynccontextmanager
async def storage_plugin(where: Path | str) -> AsyncIterator[Plugin]:
    """Yield the plugin, with its store open: a file's path, or a `DATABASE_URL`. Raises: StartError.

    It reports UNHEALTHY while its database is away.
    """
    async with open_store(where) as store:
        plugin = Plugin("storage-plugin", version="1.0.0", name="Storage Plugin", default_port=8082)
        logger = plugin.require("logger", version=">=1.0,<2").client(LoggerClient)
        plugin.provide(
            "storage",
            Storage(store, logger),
            middleware=plain_http(pb.DESCRIPTOR.services_by_name["Storage"], FORMS),
        )

        def report(away: str) -> None:
            state = HealthState.UNHEALTHY if away else HealthState.HEALTHY
            plugin.set_health(state, away)

        if not isinstance(where, Path):
            report("the database has not been checked yet")
        plugin.task(partial(store.follow, report), name="watch-database")
        yield plugin


def storage(environment: Mapping[str, str]) -> AbstractAsyncContextManager[Plugin]:
    """Return the plugin as an environment says: `DATABASE_URL`, or else `STORAGE_PATH`."""
    where = environment.get("DATABASE_URL") or Path(environment.get("STORAGE_PATH") or DEFAULT_PATH)
    return storage_plugin(where)


async def main(stop: trio.Event) -> None:
    """Run the plugin as the environment says."""
    async with storage(os.environ) as plugin:
        await plugin.serve(stop)


if __name__ == "__main__":
    sys.exit(run_plugin(main, __doc__))
