"""The example's logger plugin: provides `logger`, requires nothing. `python -m cpg_trio.demo.logger`."""

from __future__ import annotations

import sys

from cpg_trio import Plugin
from cpg_trio.demo._command import run_plugin
from cpg_trio.demo._plain_http import Form, plain_http
from cpg_trio.logs import LineLog
from cpg_trio.protos.logger.v1 import logger_pb2 as pb
from cpg_trio.protos.logger.v1.logger_trio import LoggerService
from cpg_trio.rpc import Context

_log = LineLog("cpg_trio.demo.logger")

FORMS = {"Log": Form()}


class Logger(LoggerService):
    """Writes each message to its own log."""

    async def log(self, request: pb.LogRequest, _ctx: Context, /) -> pb.LogResponse:
        """Write one line. Control characters are escaped: they could forge another line."""
        line = request.message
        if not line.isprintable():
            line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        _log.info(f"[LOG] {line}")
        return pb.LogResponse(success=True)


def logger_plugin() -> Plugin:
    """Return the plugin."""
    plugin = Plugin("logger-plugin", version="1.0.0", name="Logger Plugin", default_port=8081)
    plugin.provide(
        "logger",
        Logger(),
        middleware=plain_http(pb.DESCRIPTOR.services_by_name["Logger"], FORMS),
        at_once=["Log"],  # it only writes a line, and does not wait for that either
    )
    return plugin


if __name__ == "__main__":
    sys.exit(run_plugin(logger_plugin().serve, __doc__))
