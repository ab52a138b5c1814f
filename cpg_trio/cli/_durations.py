"""Times as options: `30s`, `10m`, `1.5h`."""

from __future__ import annotations

from cpg_trio._units import parse_time
from cpg_trio.cli._errors import UsageError


def parse_duration(option: str, text: str) -> float:
    """Return a time in seconds. Raises: UsageError for what is none."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise UsageError(f"{option} {error}") from None
