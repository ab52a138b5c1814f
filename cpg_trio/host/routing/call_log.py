"""The lines `[ROUTER]` of the log: one when a routed call begins, and one when it has ended.

Their format is that of the Go host, with the request id behind it.
"""

from __future__ import annotations

import logging
from zlib import crc32

from cpg_trio.call_record import Call, CallKind, Calls
from cpg_trio.logs import LineLog, ids

_log = logging.getLogger("cpg_trio.router")
_lines = LineLog("cpg_trio.router")

_ALL = 1.0
_CLIENT_ERROR = 400
_ROUTED = CallKind.ROUTED  # a member of an Enum takes ten times as long to look up


class CallLog:
    """Writes the lines of routed calls.

    Of the calls that go well it writes a share, from 0 to 1: for a request id both lines of all its calls, or
    none. Of a call that fails it always writes the line of its end.
    """

    def __init__(self, calls: Calls, share: float = _ALL) -> None:
        self._share = share
        self._is_whole = share >= _ALL
        calls.begun.add(self._begun)
        calls.ended.add(self._ended)
        calls.refused.add(self._refused)

    def _begun(self, call: Call) -> None:
        if call.kind is _ROUTED and (self._is_whole or self._is_chosen(call)):
            _lines.info(
                f"[ROUTER] {call.caller} → {call.provider} /{call.method} (service: {call.service})",
                call.context,
            )

    def _ended(self, call: Call) -> None:
        if call.kind is _ROUTED and (self._is_whole or _failed(call) or self._is_chosen(call)):
            outcome = f"FAILED: {call.failure}" if call.failure else call.status
            duration = go_duration(call.duration_s)
            _lines.info(
                f"[ROUTER] {call.caller} → {call.provider} /{call.method} {outcome} (duration: {duration})",
                call.context,
            )

    def _refused(self, call: Call) -> None:
        if call.kind is _ROUTED and call.failure:
            _log.warning("[ROUTER] %s", call.failure, extra=ids(call.context))

    def _is_chosen(self, call: Call) -> bool:
        return crc32(call.request_id.encode()) < self._share * 2**32


def _failed(call: Call) -> bool:
    return bool(call.failure) or call.code != "ok" or call.status >= _CLIENT_ERROR


def go_duration(seconds: float) -> str:
    """Return a duration as Go prints it, to three or four digits: `429.5µs`, `1.2ms`, `2.05s`."""
    if seconds < 1e-3:  # noqa: PLR2004 - the next unit begins there
        return f"{seconds * 1e6:.1f}µs".replace(".0µ", "µ")
    if seconds < 1:
        return f"{seconds * 1e3:.1f}ms".replace(".0m", "m")
    return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"
