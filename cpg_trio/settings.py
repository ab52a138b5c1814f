"""The settings of a program, as an operator is shown them."""

from __future__ import annotations

import attrs


@attrs.frozen
class Setting:
    """One setting, and where its value comes from."""

    name: str
    """As the environment names it."""
    value: str
    """`(secret)` in place of a secret that is set."""
    source: str
    """`flag`, `environment`, `file` or `default`."""
    meaning: str
