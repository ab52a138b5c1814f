"""The query of an address: what a page shows, so that the address can be sent to a colleague."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

import attrs

_MOST_FIELDS = 20
_MOST_CHARACTERS = 2000  # of a value
_MOST_DIGITS = 6


@attrs.frozen
class Query:
    """The values of an address or a form, the first one of each name."""

    values: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Query:
        """Parse what stands after the `?`, or a form. Raises: ValueError if there are too many fields."""
        values: dict[str, str] = {}
        for name, value in parse_qsl(text, max_num_fields=_MOST_FIELDS, errors="replace"):
            values.setdefault(name, value[:_MOST_CHARACTERS].strip())
        return cls(values)

    def get(self, name: str, default: str = "") -> str:
        """Return a value, or the default if it is absent or empty."""
        return self.values.get(name) or default

    def number(self, name: str, default: int = 1) -> int:
        """Return a whole number above 0, or the default if it is none."""
        value = self.get(name)[:_MOST_DIGITS]
        return (int(value) or default) if value.isascii() and value.isdigit() else default

    def link(self, **changes: str | int | None) -> str:
        """Return a relative address with some values changed; None leaves one out."""
        values = {**self.values, **changes}
        kept = {name: value for name, value in values.items() if value not in {None, ""}}
        return f"?{urlencode(kept)}" if kept else "?"
