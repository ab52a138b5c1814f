"""Quantities as people read them: durations, rates, shares and sizes.

The command line, the dashboard and the log use the same words. Programs get plain numbers instead.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def seconds_of(length: Duration) -> float:
    """Return a span of time of a message in seconds, which the others take."""
    return length.seconds + length.nanos / 1e9


def span(seconds: float) -> str:
    """Return how long something has lasted, in the two largest units: `12 s`, `3 h 12 min`, `2 d`.

    A negative span is of clocks that differ a little, and is `0 s`.
    """
    left = max(0, math.floor(seconds))
    for place, (size, unit) in enumerate(_UNITS):
        if left >= size:
            text = f"{left // size} {unit}"
            if size > 1 and (rest := left % size // _UNITS[place + 1][0]):
                text += f" {rest} {_UNITS[place + 1][1]}"
            return text
    return "0 s"


def duration(seconds: float) -> str:
    """Return how long a call took, with two or three digits: `85 µs`, `1.3 ms`, `250 ms`, `2.5 s`."""
    for limit, factor, unit in ((0.000_9995, 1e6, "µs"), (0.9995, 1e3, "ms")):
        if seconds < limit:
            return f"{_digits(seconds * factor)} {unit}"
    return f"{_digits(seconds)} s" if seconds < 100 else span(seconds)  # noqa: PLR2004 - from then on in minutes


def rate(per_second: float) -> str:
    """Return how often something happens: `212/s`, `3.4/s`, `0.02/s`, `0/s`."""
    return f"{_digits(per_second)}/s"


def share(part: float, whole: float) -> str:
    """Return a part of a whole: `0.3 %`, `100 %`. A part that is not nothing is never `0 %`.

    Nothing of nothing is `0 %`.
    """
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.1:  # noqa: PLR2004 - the least that is shown
        return "< 0.1 %"
    return f"{_digits(percent)} %"


def size(count: float) -> str:
    """Return a number of bytes: `120 B`, `41 MiB`."""
    for unit in _SIZES[:-1]:
        if count < _STEP:
            return f"{_digits(count)} {unit}"
        count /= _STEP
    return f"{_digits(count)} {_SIZES[-1]}"


def _digits(value: float) -> str:
    """Return a number with as many digits as matter."""
    if value >= 10:  # noqa: PLR2004 - from ten on, fractions are noise
        return f"{value:,.0f}"
    if value >= 1 or value == 0:
        return f"{value:.1f}".removesuffix(".0")
    return f"{value:.2g}"
