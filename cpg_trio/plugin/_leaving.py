"""Leaving the host: the last health report, and taking all registrations back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import trio

from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.plugin._registration import LEAVE_S, unregister
from cpg_trio.plugin._retry import try_a_few_times
from cpg_trio.plugin._session import Session

_log = logging.getLogger("cpg_trio.plugin")


async def leave(self_id: str, session: Session, registration_ids: Sequence[str]) -> None:
    """Tell the host to send no more calls. What it cannot be told is written to the log once."""
    stopping = pb.ReportHealthRequest(state=pb.HEALTH_STATE_UNHEALTHY, reason="stopping")
    failures: list[str] = []
    with trio.move_on_after(LEAVE_S) as limit:
        failures.append(await try_a_few_times(partial(session.lifecycle.report_health, stopping)))
        failures += await unregister(session, registration_ids)
    if limit.cancelled_caught:
        failures.append(f"no answer within {LEAVE_S:g} s")
    if why := next(filter(None, failures), ""):
        _log.info("%s leaves without its host: %s", self_id, why)
