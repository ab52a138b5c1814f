"""Calls to the host that are tried again: without end while a plugin runs, a few times when it leaves."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from cpg_trio.http import StartError
from cpg_trio.plugin._backoff import LONGEST_S, Backoff, retry_after_s
from cpg_trio.rpc import Code, ConnectError, ResponseMetadata

_log = logging.getLogger("cpg_trio.plugin")
_T = TypeVar("_T")

# Errors that another attempt does not change, unless the host says when to try again.
PERMANENT_ERRORS = frozenset({Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.PERMISSION_DENIED})
LOG_AGAIN_S = 30.0  # between two lines of the log about a host that cannot be reached

_FEW = 3


class RefusedError(StartError):
    """The host refuses this plugin as it is: another protocol version, for example."""


async def retry_until_done(
    self_id: str,
    what: str,
    call: Callable[[ResponseMetadata], Awaitable[_T]],
    longest_s: float = LONGEST_S,
) -> _T:
    """Call until it succeeds, with up to `longest_s` seconds between the attempts, or as the host asks.

    `what` completes "cannot ..." in the log. Raises: RefusedError for an error that another attempt does not
    change; ConnectError `unauthenticated` from a host that does not know the plugin.
    """
    backoff = Backoff(longest_s)
    logged, log_again_at = None, -math.inf
    while True:
        answer = ResponseMetadata()
        try:
            return await call(answer)
        except ConnectError as error:
            asked_s, why = retry_after_s(answer.headers), error.message
            if error.code in PERMANENT_ERRORS and not asked_s:
                raise RefusedError(f"cannot {what}: the host refuses: {why}") from error
            if error.code == Code.UNAUTHENTICATED:
                raise
            if error.code == Code.UNIMPLEMENTED:
                why = f"what answers there is not a host ({why})"
            level = logging.DEBUG
            if error.code != logged or trio.current_time() >= log_again_at:
                logged, log_again_at = error.code, trio.current_time() + LOG_AGAIN_S
                level = logging.WARNING
            _log.log(level, "%s cannot %s yet, and tries on: %s", self_id, what, why)
        await backoff.wait(asked_s)


async def try_a_few_times(call: Callable[[], Awaitable[object]]) -> str:
    """Call up to three times; return why it failed, empty if it succeeded or has no object any more."""
    backoff, why = Backoff(), ""
    for _ in range(_FEW):
        try:
            await call()
        except ConnectError as error:
            if error.code in (Code.NOT_FOUND, Code.UNAUTHENTICATED):
                return ""
            why = error.message
            await backoff.wait()
        else:
            return ""
    return why
