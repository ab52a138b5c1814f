"""Calls to the host that are tried again: without end while a plugin runs, a few times when it leaves.

`Backoff` says how long to wait before the next attempt.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import trio

from cpg_trio.calls.backoff import asked_by_field
from cpg_trio.http import StartError
from cpg_trio.rpc import CallError, Code, ConnectError, Fault, ResponseMetadata, fault_of

_log = logging.getLogger("cpg_trio.plugin")
_T = TypeVar("_T")

FIRST_S = 0.1
LONGEST_S = 5.0

# Errors that another attempt does not change, unless the host says when to try again.
PERMANENT_ERRORS = frozenset({Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.PERMISSION_DENIED})
LOG_AGAIN_S = 30.0  # between two lines of the log about a host that cannot be reached


_FEW = 3


class Backoff:
    """Waits between attempts: each is twice as long as the one before, up to a limit.

    The limit is `longest_s`, or `LONGEST_S` if that is less. Each wait is reduced by up to half at random, so
    that many plugins that lost their host at the same moment do not return at the same moment.

    An attempt that succeeds calls `reset`. For what stays open (a stream, a connection, a session) call
    `opened` instead, each time: success alone does not shorten the next wait, since what is opened may end at
    once each time. What stayed open for longer than the limit starts again with the shortest wait.
    """

    def __init__(self, longest_s: float = LONGEST_S) -> None:
        self._longest_s = min(longest_s, LONGEST_S)
        self._opened_at = math.inf
        self._next_s = FIRST_S

    def reset(self) -> None:
        """Start again with the shortest wait."""
        self._next_s = FIRST_S

    def opened(self) -> None:
        """Note that it is opened now."""
        self._opened_at = trio.current_time()

    def next_s(self) -> float:
        """Return how many seconds to wait now; the next wait is longer."""
        wait_s = min(self._next_s, self._longest_s)
        self._next_s = min(2 * self._next_s, LONGEST_S)
        return wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, no secret

    async def wait(self, asked_s: float = 0.0) -> None:
        """Wait before the next attempt, for at least the seconds that the other side has asked for."""
        if trio.current_time() - self._opened_at > self._longest_s:
            self.reset()
        await trio.sleep(max(self.next_s(), asked_s))


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds of a `Retry-After` header, at most an hour; 0 if there is none."""
    return asked_by_field(headers.get("retry-after", ""))


class RefusedError(StartError):
    """The host refuses this plugin as it is: another protocol version, for example."""


async def retry_until_done(
    self_id: str,
    what: str,
    call: Callable[[ResponseMetadata], Awaitable[_T]],
    longest_s: float = LONGEST_S,
    *,
    within_s: float = math.inf,
) -> _T:
    """Call until it succeeds, with up to `longest_s` seconds between the attempts, or as the host asks.

    `what` completes "cannot ..." in the log. Raises: RefusedError for an error that another attempt does not
    change; ConnectError `unauthenticated` from a host that does not know the plugin; that of the last attempt
    once `within_s` seconds are over.
    """
    backoff, give_up_at = Backoff(longest_s), trio.current_time() + within_s
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
            if trio.current_time() >= give_up_at:
                fault = fault_of(error) or Fault.HOST
                raise CallError(error.code, f"cannot {what}: {why}", fault=fault) from error
            level = logging.DEBUG
            if error.code != logged or trio.current_time() >= log_again_at:
                logged, log_again_at = error.code, trio.current_time() + LOG_AGAIN_S
                level = logging.WARNING
            _log.log(level, "%s cannot %s yet, and tries on: %s", self_id, what, why)
        with trio.move_on_at(give_up_at):
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
