"""What is new on a page since it was last sent: whole parts, and single rows of its lists."""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

_COUNTING = re.compile(r"(<time [^>]*data-since>)[^<]*")


@attrs.frozen
class Parts:
    """What changes on a page while it is open."""

    regions: Mapping[str, str]
    """The contents of elements, by id."""
    lists: Mapping[str, Mapping[str, str]]
    """The rows of elements, by id: each row's key, and the row."""
    title: str = ""
    """Of the document."""
    announcement: str = ""
    """What a screen reader says when it changes."""


class Changes:
    """Tells one reader what has changed. It keeps a hash of each part of a page, which is bounded."""

    def __init__(self) -> None:
        self._sent: dict[str, int] = {}

    def of(self, parts: Parts) -> dict[str, object]:
        """Return what differs from what was returned before. The page itself counts spans of time."""
        sent, self._sent = self._sent, {}
        regions = {name: html for name, html in parts.regions.items() if self._is_new(sent, name, html)}
        lists: dict[str, object] = {}
        for name, rows in parts.lists.items():
            order_is_new = self._is_new(sent, name, " ".join(rows))
            new = {key: html for key, html in rows.items() if self._is_new(sent, f"{name} {key}", html)}
            if order_is_new or new:
                lists[name] = {"rows": new, "order": list(rows) if order_is_new else None}
        words = {"title": parts.title, "announcement": parts.announcement}
        new_words = {name: text for name, text in words.items() if self._is_new(sent, name, text)}
        return {"regions": regions, "lists": lists, **new_words}

    def _is_new(self, sent: Mapping[str, int], key: str, html: str) -> bool:
        self._sent[key] = hash(_COUNTING.sub(r"\1", html))
        return self._sent[key] != sent.get(key)
