"""What is new on a page since it was last sent: whole parts, and single rows of its lists."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs
import trio

PROCESSOR_SHARE = 0.2
"""How much of a core all open pages together may cost."""

_T = TypeVar("_T")

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


class Pace:
    """Bounds what all open pages together cost. Where that is much, each is told of changes less often."""

    def __init__(self) -> None:
        self._turn = trio.Lock()
        self._free_at = -math.inf

    async def look(self, look: Callable[[], _T]) -> _T:
        """Call a function that takes a while, once it is its turn."""
        async with self._turn:
            await trio.sleep_until(self._free_at)
            began = time.perf_counter()
            try:
                return look()
            finally:
                self._free_at = trio.current_time() + (time.perf_counter() - began) / PROCESSOR_SHARE
