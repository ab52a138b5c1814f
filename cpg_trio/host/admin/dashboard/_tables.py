"""Tables that the host sorts and cuts into pages, by the query of the address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import attrs

from cpg_trio.host.admin.dashboard._query import Query

ROWS = 100
"""Of a page of a table, which bounds its weight, whatever there is on the host."""

T = TypeVar("T")


@attrs.frozen
class Column(Generic[T]):
    """A column. `sort_by` gives what it is sorted by; None: it cannot be sorted."""

    key: str
    label: str
    sort_by: Callable[[T], Any] | None = None
    numeric: bool = False
    """Set to the right, and sorted from the largest at first."""
    title: str = ""
    """What it means, where the label does not say it."""


@attrs.frozen
class Heading:
    """The head of a column, as it is shown."""

    column: Column[Any]
    link: str
    """Where it is sorted by this column. Empty: it cannot be."""
    sorted: str
    """`ascending`, `descending` or empty, as `aria-sort` has it."""


@attrs.frozen
class Pager:
    """Which rows of how many are shown."""

    first: int
    last: int
    total: int
    previous: str
    """The address of the page before. Empty: there is none."""
    next: str


@attrs.frozen
class Shown(Generic[T]):
    """A page of a table."""

    headings: Sequence[Heading]
    items: Sequence[T]
    pager: Pager


@attrs.frozen
class Table(Generic[T]):
    """The columns of a table. Without a wish, the rows have the order that they come in."""

    columns: Sequence[Column[T]]

    def shown(self, items: Sequence[T], query: Query) -> Shown[T]:
        """Return what a query shows: `sort`, `dir` (asc or desc) and `page`."""
        column = next((c for c in self.columns if c.sort_by and c.key == query.get("sort")), None)
        descending = False
        if column is not None and column.sort_by is not None:
            descending = query.get("dir", "desc" if column.numeric else "asc") == "desc"
            items = sorted(items, key=column.sort_by, reverse=descending)
        pages = max(1, -(-len(items) // ROWS))
        page = min(query.number("page"), pages)
        start = (page - 1) * ROWS
        return Shown(
            headings=[_heading(each, query, each is column, descending) for each in self.columns],
            items=items[start : start + ROWS],
            pager=Pager(
                first=min(start + 1, len(items)),
                last=min(start + ROWS, len(items)),
                total=len(items),
                previous=query.link(page=page - 1) if page > 1 else "",
                next=query.link(page=page + 1) if page < pages else "",
            ),
        )


def _heading(column: Column[Any], query: Query, current: bool, descending: bool) -> Heading:  # noqa: FBT001 - see its caller
    if column.sort_by is None:
        return Heading(column, "", "")
    first = "desc" if column.numeric else "asc"
    other = ("asc" if descending else "desc") if current else first
    order = ("descending" if descending else "ascending") if current else ""
    return Heading(column, query.link(sort=column.key, dir=other, page=None), order)
