"""The capability `logger`: plugins write to the host's log, each line with the runtime id of its plugin.

A message is one line of bounded length, and no plugin can forge another's line: the message is escaped, and
stands after the runtime id, which the host adds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

from cpg_trio._lines import one_line
from cpg_trio.host.capabilities.capability import Capability
from cpg_trio.protos.capability.logger.v1 import logger_pb2 as pb
from cpg_trio.protos.capability.logger.v1.logger_trio import LoggerService
from cpg_trio.rpc import Code, ConnectError, Context

_log = logging.getLogger("cpg_trio.capability.logger")

_MAX_MESSAGE = 8192  # characters
_MAX_FIELD = 256
_MAX_FIELDS = 32
_LEVELS = {
    "debug": logging.DEBUG,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class HostLogger(LoggerService):
    """`capability.logger.v1.Logger`."""

    async def log(self, request: pb.LogRequest, ctx: Context, /) -> pb.LogResponse:
        """Write one line. Raises: ConnectError `unauthenticated` for a call without a caller."""
        if ctx.caller is None:
            raise ConnectError(Code.UNAUTHENTICATED, "the logger has to know who calls")
        message = one_line(request.message, _MAX_MESSAGE)
        level = _LEVELS.get(request.level.lower(), logging.INFO)
        _log.log(level, "[PLUGIN] %s: %s%s", ctx.caller.id, message, _written(request.fields))
        return pb.LogResponse()


def host_logger() -> Capability:
    """Return the capability that each host has unless it is configured otherwise."""
    return Capability.of("logger", "1.0.0", HostLogger())


def _written(fields: Mapping[str, str]) -> str:
    """Return fields for the end of a line, in the order of their names: ` {a=1, b=2}`."""
    if not fields:
        return ""
    field = partial(one_line, most=_MAX_FIELD)
    kept = [f"{field(name)}={field(fields[name])}" for name in sorted(fields)[:_MAX_FIELDS]]
    left_out = [f"and {more} more"] if (more := len(fields) - _MAX_FIELDS) > 0 else []
    return f" {{{', '.join(kept + left_out)}}}"
