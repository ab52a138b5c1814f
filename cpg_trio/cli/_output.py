"""How commands write: tables and lines for people, JSON for programs.

On a terminal: sized to it, in colour unless NO_COLOR is set, ids shortened, times relative. Anywhere else:
words only, whole ids, one row a line of any length.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import attrs
from cyclopts import Parameter

from cpg_trio._human import duration, rate, seconds_of, share, span
from cpg_trio._lines import one_line, printable_json
from cpg_trio.states import State

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cpg_trio.protos.cpgtrio.admin.v1.admin_pb2 import CallStatistics

NOTHING = "-"
_UNLIMITED = 100_000  # columns, where no terminal limits them
_SHORT_ID = 4  # the least letters of the random part of a runtime id
_NEAR_S = 12 * 3600.0
_LEAST_PROSE = 30  # columns; optional ones are left out for it
_GREY = "bright_black"

JsonFlag = Annotated[bool, Parameter(help="One JSON document, for programs.")]


@attrs.frozen
class Column:
    """A column of a table."""

    title: str
    right: bool = False
    """Whether it is aligned to the right: numbers."""
    prose: bool = False
    """Whether it is broken into lines where the terminal is narrow. Others are not."""
    optional: bool = False
    """Whether it is left out where the terminal is narrow."""


class Output:
    """Where a command writes for people."""

    def __init__(
        self,
        file: TextIO | None = None,
        *,
        terminal: bool | None = None,
        width: int = 0,
        plain: bool | None = None,
    ) -> None:
        """Take a file (stdout by default); the rest is for tests, and found out otherwise."""
        from cpg_trio.cli._console import CommandConsole  # noqa: PLC0415 - JSON needs none of it

        out = sys.stdout if file is None else file
        self.is_terminal = out.isatty() if terminal is None else terminal
        no_colour = bool(os.environ.get("NO_COLOR")) if plain is None else plain
        self._signs = self.is_terminal and not no_colour
        self.is_ascii = not _has_letters(out)
        self.console: Console = CommandConsole(
            file=out,
            force_terminal=self.is_terminal,
            color_system=("auto" if plain is None else "standard") if self._signs else None,
            width=width or (None if self.is_terminal else _UNLIMITED),
            highlight=False,
            markup=False,
            emoji=False,
            safe_box=True,
        )

    def line(self, *parts: str | Text) -> None:
        """Write a line."""
        self.console.print(*map(printable, parts), soft_wrap=not self.is_terminal)

    def state(self, number: int, text: str = "") -> Text:
        """Return a state as its word (or another text), with its sign and colour where there are some."""
        from rich.text import Text  # noqa: PLC0415 - see Output

        try:
            state = State.of(number)
        except KeyError:
            return Text(text or f"state {number}")
        shown = text or state.word
        if not self._signs:
            return Text(shown)
        sign = state.ascii_sign if self.is_ascii else state.sign
        return Text.assemble((f"{sign} {shown}", _GREY if state.colour == "grey" else state.colour))

    def word(self, number: int) -> str:
        """Return the word of a state."""
        return State.of(number).word if number in {state.number for state in State} else f"state {number}"

    def label(self, text: str, width: int) -> Text:
        """Return the name of something that follows it."""
        from rich.text import Text  # noqa: PLC0415 - see Output

        return Text.assemble((text.ljust(width), "bold"))

    def joined(self, *groups: Iterable[str | Text], between: str = "   ") -> Text:
        """Return texts in one line."""
        from rich.text import Text  # noqa: PLC0415 - see Output

        parts = [Text(part) if isinstance(part, str) else part for group in groups for part in group]
        return Text(between).join(parts)

    def sign(self, text: str, ascii_text: str) -> str:
        """Return a sign that the encoding has."""
        return ascii_text if self.is_ascii else text

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str | Text]], empty: str = "") -> None:
        """Write a table; on a terminal `empty` in place of one without rows."""
        lines = list(rows)
        table = self.as_table(columns, lines)
        if not self.is_terminal:
            with self.console.capture() as written:
                self.console.print(table, crop=False)
            self.console.file.writelines(f"{line.rstrip()}\n" for line in written.get().splitlines())
        elif lines or not empty:
            self.console.print(table)
        else:
            self.line(empty)

    def as_table(self, columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> Table:
        """Return a table that fits the terminal, without its optional columns if it has to."""
        from rich.table import Table  # noqa: PLC0415 - see Output

        lines = [list(map(printable, row)) for row in rows]
        shown = _fitting(columns, lines, self.console.width)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for index in shown:
            column = columns[index]
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                no_wrap=not column.prose,
                overflow="fold" if column.prose else "ellipsis",
            )
        for line in lines:
            table.add_row(*(line[index] for index in shown))
        return table

    def when(self, moment: Timestamp) -> str:
        """Return a moment: for people its local time, with the date if it is long ago; else RFC 3339."""
        if not moment.seconds:
            return NOTHING
        if not self.is_terminal:
            return moment.ToJsonString()
        is_near = abs(time.time() - moment.seconds) < _NEAR_S
        return time.strftime("%H:%M:%S" if is_near else "%Y-%m-%d %H:%M:%S", time.localtime(moment.seconds))

    def ids(self, runtime_ids: Iterable[str]) -> dict[str, str]:
        """Return how ids are shown: on a terminal as short as they are unique."""
        every = list(runtime_ids)
        return shortened(every) if self.is_terminal else {each: each for each in every}


def printable(text: str | Text) -> str | Text:
    """Return a text as a terminal may have it. Names and reasons are what plugins say of themselves."""
    plain = text if isinstance(text, str) else text.plain
    return text if plain.isprintable() else one_line(plain, len(plain))


def show_json(message: Message) -> None:
    """Write a message as one JSON document: protobuf's mapping, with all fields."""
    print(as_json(message, indent=2))


def as_json(message: Message, indent: int | None = None) -> str:
    """Return a message in protobuf's JSON mapping, with all fields, and all of it printable."""
    from google.protobuf.json_format import MessageToJson  # noqa: PLC0415 - tables do not need it

    return printable_json(
        MessageToJson(message, always_print_fields_with_no_presence=True, indent=indent, ensure_ascii=False)
    )


def since(moment: Timestamp) -> str:
    """Return for how long something has been so."""
    return span(time.time() - moment.seconds - moment.nanos / 1e9) if moment.seconds else NOTHING


def until(moment: Timestamp) -> str:
    """Return how long it takes until a moment."""
    return span(moment.seconds - time.time()) if moment.seconds else NOTHING


def took(statistics: CallStatistics, quantile: Literal["p50", "p95", "p99"]) -> str:
    """Return a quantile of the durations of calls, such as `p95`."""
    return duration(seconds_of(getattr(statistics, quantile))) if statistics.HasField(quantile) else NOTHING


def call_cells(statistics: CallStatistics) -> tuple[str, str, str, str]:
    """Return calls a second, p50, p95 and the share that failed."""
    failed = share(statistics.failed, statistics.calls) if statistics.calls else NOTHING
    return rate(statistics.calls_per_second), took(statistics, "p50"), took(statistics, "p95"), failed


def shortened(runtime_ids: Sequence[str]) -> dict[str, str]:
    """Return for each id its shortest beginning that no other one has, with four random letters at least."""
    every = sorted(set(runtime_ids))
    short: dict[str, str] = {}
    for index, each in enumerate(every):
        near = every[max(index - 1, 0) : index] + every[index + 1 : index + 2]
        name, _, _ = each.rpartition("-")
        least = len(name) + 1 + _SHORT_ID if name else len(each)
        shared = max((_common(each, other) + 1 for other in near), default=0)
        short[each] = each[: max(least, shared)]
    return short


def _common(one: str, other: str) -> int:
    """Return how many letters two texts begin with in common."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _has_letters(file: TextIO) -> bool:
    """Whether the encoding of a file has the signs of states."""
    try:
        "●◐○◌…◔↓■↻▲✕─▶✓✗".encode(getattr(file, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _fitting(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], width: int) -> list[int]:
    """Return the indexes of the columns to show: all, or without optional ones, the last of them first."""
    shown = list(range(len(columns)))
    needs = [max([len(column.title), *(len(row[i]) for row in rows)]) for i, column in enumerate(columns)]
    needs = [
        min(need, _LEAST_PROSE) if column.prose else need for need, column in zip(needs, columns, strict=True)
    ]
    for index in reversed([i for i, column in enumerate(columns) if column.optional]):
        if sum(needs[i] + 2 for i in shown) - 2 <= width:
            break
        shown.remove(index)
    return shown
