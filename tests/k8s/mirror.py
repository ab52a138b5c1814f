"""A plugin of somebody's own that a test gives to the chart: it calls through the host, and is called so."""

from __future__ import annotations

import sys

from cpg_trio.plugin import Plugin
from cpg_trio.process import run
from cpg_trio.protos.logger.v1.logger_pb2 import LogRequest, LogResponse
from cpg_trio.protos.logger.v1.logger_trio import LoggerClient, LoggerService
from cpg_trio.rpc import Context


class Mirror(LoggerService):
    """Passes a line on to the logger, once it has come through the host itself."""

    async def log(self, request: LogRequest, ctx: Context, /) -> LogResponse:
        """See `LoggerService`."""
        following = logger if ctx.caller else mirror
        return await following.log(LogRequest(message=f"mirrored {request.message}"))


plugin = Plugin("Mirror.Plugin", version="1.0.0")
logger = plugin.require("logger").client(LoggerClient)
mirror = plugin.require("mirror").client(LoggerClient)
plugin.provide("mirror", Mirror(), public=True)

if __name__ == "__main__":
    sys.exit(run(plugin.serve))
