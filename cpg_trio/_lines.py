"""What somebody else has said, as a line of a log or a short answer may have it."""

from __future__ import annotations

import json


def one_line(text: str | bytes, most: int = 256) -> str:
    """Return what a stranger says as a log may have it: `most` characters, what does not print escaped."""
    if isinstance(text, bytes):
        text = text[: most + 1].decode("latin-1")
    if len(text) <= most and text.isprintable():
        return text
    cut = text[:most] + "…" * (len(text) > most)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def printable_json(text: str) -> str:
    """Return JSON with what does not print escaped, but for line ends: a terminal would obey it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
