"""How long to wait before the next try."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping

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


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return how many seconds a refusal asks its caller to wait, 0 if it does not say; an hour at most."""
    said = headers.get("retry-after", "")
    return float(min(int(said), _LONGEST_ASKED_S)) if _DIGITS.fullmatch(said) else 0.0
