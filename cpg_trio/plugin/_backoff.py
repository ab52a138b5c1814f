"""How long to wait before the next attempt."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping

import trio

FIRST_S = 0.1
LONGEST_S = 5.0

_LONGEST_ASKED_S = 3600
_DIGITS = re.compile(r"[0-9]{1,18}")


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
    value = headers.get("retry-after", "")
    return float(min(int(value), _LONGEST_ASKED_S)) if _DIGITS.fullmatch(value) else 0.0
