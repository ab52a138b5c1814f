"""Times that people write: `30s`, `10m`, `1.5h`."""

from __future__ import annotations

import re

from cpg_trio.cli._errors import UsageError

_TIME = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(s|m|min|h)")
_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_duration(option: str, text: str) -> float:
    """Return a time in seconds. Raises: CommandError for what is none."""
    match = _TIME.fullmatch(text.replace(" ", ""))
    if match is None:
        raise UsageError(f"{option} must be a time such as 30s, 10m or 1.5h, not {text!r}")
    return float(match[1]) * _UNITS[match[2]]
