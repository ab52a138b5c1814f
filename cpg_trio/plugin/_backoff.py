"""How long to wait before the next try."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping

import trio

FIRST_S = 0.1
LONGEST_S = 5.0

_LONGEST_ASKED_S = 3600
_DIGITS = re.compile(r"[0-9]{1,18}")


def backoff(longest_s: float = LONGEST_S) -> Iterator[float]:
    """Yield seconds to wait, for ever, each cut by up to half at random.

    They double up to `longest_s`, or `LONGEST_S` if that is less. The chance is there so that many plugins
    that lost their host at once do not all return at once.
    """
    delay = FIRST_S
    while True:
        yield min(delay, longest_s) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, no secret
        delay = min(delay * 2, LONGEST_S)


class Reopening:
    """Waits before something is opened again that has ended: a stream, a connection, a session.

    Call `opened` each time, and `wait` each time that it has ended, for whatever reason. That it could be
    opened, or ended in good order, makes no wait shorter: what ends at once may do so each time. What has
    lasted for longer than the longest wait begins with the shortest one again.
    """

    def __init__(self, longest_s: float = LONGEST_S) -> None:
        self._longest_s = min(longest_s, LONGEST_S)
        self._delays = backoff(longest_s)
        self._opened_at = trio.current_time()

    def opened(self) -> None:
        """Note that it is being opened."""
        self._opened_at = trio.current_time()

    async def wait(self, asked_s: float = 0.0) -> None:
        """Wait until it is to be opened again, for at least as long as the other side has asked."""
        if trio.current_time() - self._opened_at > self._longest_s:
            self._delays = backoff(self._longest_s)
        await trio.sleep(max(next(self._delays), asked_s))


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return how many seconds a refusal asks its caller to wait, 0 if it does not say; an hour at most."""
    said = headers.get("retry-after", "")
    return float(min(int(said), _LONGEST_ASKED_S)) if _DIGITS.fullmatch(said) else 0.0
