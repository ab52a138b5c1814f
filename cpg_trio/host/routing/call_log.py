"""The lines `[ROUTER]` of the log: one when a routed call begins, and one when it has ended."""

from __future__ import annotations

import logging

from cpg_trio.calls import Call, CallKind, Calls
from cpg_trio.logs import LineLog

_log = logging.getLogger("cpg_trio.router")
_lines = LineLog("cpg_trio.router")


class CallLog:
    """Writes the lines of routed calls."""

    def __init__(self, calls: Calls) -> None:
        calls.begun.add(self._begun)
        calls.ended.add(self._ended)
        calls.refused.add(self._refused)

    def _begun(self, call: Call) -> None:
        if call.kind is CallKind.ROUTED:
            _lines.info(f"[ROUTER] {call.caller} → {call.provider} /{call.method} (service: {call.service})")

    def _ended(self, call: Call) -> None:
        if call.kind is CallKind.ROUTED:
            outcome = f"FAILED: {call.failure}" if call.failure else call.status
            duration = go_duration(call.duration_s)
            _lines.info(
                f"[ROUTER] {call.caller} → {call.provider} /{call.method} {outcome} (duration: {duration})"
            )

    def _refused(self, call: Call) -> None:
        if call.kind is CallKind.ROUTED and call.failure:
            _log.warning("[ROUTER] %s", call.failure)


def go_duration(seconds: float) -> str:
    """Return a duration as Go prints it, to three or four digits: `429.5µs`, `1.2ms`, `2.05s`."""
    if seconds < 1e-3:  # noqa: PLR2004 - the next unit begins there
        return f"{seconds * 1e6:.1f}µs".replace(".0µ", "µ")
    if seconds < 1:
        return f"{seconds * 1e3:.1f}ms".replace(".0m", "m")
    return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"
