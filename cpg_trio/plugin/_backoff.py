"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Iterator

FIRST_S = 0.1
LONGEST_S = 5.0


def backoff(rng: random.Random | None = None) -> Iterator[float]:
    """Yield seconds to wait, for ever: doubling up to `LONGEST_S`, each cut by up to half at random.

    The chance is there so that many plugins that lost their host at once do not all return at once.
    """
    rng = rng or random.SystemRandom()
    delay = FIRST_S
    while True:
        yield delay * rng.uniform(0.5, 1.0)
        delay = min(delay * 2, LONGEST_S)
