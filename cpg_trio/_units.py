"""Quantities that people write: times such as `30s`, sizes such as `512MiB`."""

from __future__ import annotations

import re

TIME = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) *(ms|s|m|min|h)")
SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?) *(B|[kK]B|KiB|MB|MiB|GB|GiB|TB|TiB)")
_TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_POWERS = "BKMGT"


def parse_time(text: str) -> float:
    """Return a time in seconds. Raises: ValueError for what is none."""
    if (match := TIME.fullmatch(text.strip())) is None:
        raise ValueError(f"must be a time such as 30s, 10m or 1.5h, not {text!r:.100}")
    return float(match[1]) * _TIMES[match[2]]


def parse_size(text: str) -> int:
    """Return a size in bytes. Raises: ValueError for what is none."""
    if (match := SIZE.fullmatch(text.strip())) is None:
        raise ValueError(f"must be a size such as 512MiB or 2GiB, not {text!r:.100}")
    unit = match[2]
    step = 1024 if unit.endswith("iB") else 1000
    power = _POWERS.index(unit[0].upper())
    return round(float(match[1]) * float(step**power))
