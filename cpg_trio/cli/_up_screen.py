"""What `cpg-trio up` shows on a terminal: a block that is redrawn, and above it the lines of the plugins.

The block stands at the end of what is written while something goes on: plugins start, wait, are started again
later, or all of it is being stopped. A plugin that is ready leaves the block, and its line stays in the
scrolling text, so that the lines of the plugins go on alone once all is well.

A terminal may take nothing for a long time (Ctrl-S), and the plugins must not wait for it. So a thread
writes, what is to be written meanwhile is bounded, and only the newest picture is drawn.

A terminal may also change its width at any moment, such as between the making of a picture and its writing.
So nothing depends on the width: the cursor rests on an empty line above the block, and moves with it, and to
erase the block is to erase what follows the cursor. The terminal cuts lines of the block that it would wrap.
The empty line is for what somebody else writes, such as the interpreter when it crashes.
Tried before: the cursor below the block, and its rows counted. A width that changed in that moment, and each
row that somebody else wrote there, left a row of the block behind.
"""

from __future__ import annotations

import io
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TextIO, cast

import attrs
import trio
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from cpg_trio._human import span
from cpg_trio._lines import one_line
from cpg_trio._log_writer import Sink
from cpg_trio._on_loop import OnLoop
from cpg_trio.cli._output import Output
from cpg_trio.cli._up_view import doing
from cpg_trio.host.supervision import Phase, Replica, replica_title
from cpg_trio.states import State

_MOST_LINES = 2_000  # that wait to be written
_MOST_CHARACTERS = 4_096  # of a line
_EVERY_S = 0.1  # between two pictures while times go on
_LEAST_S = 0.03  # between any two
_LAST_S = 3.0  # that a terminal has for what is being written and the last picture
_WIDEST_NAME = 24  # columns
_TIME_COLUMNS = 8
_LEAST_COLUMNS, _LEAST_ROWS = 20, 5  # of a terminal that says something smaller, or nothing
_TENTHS_S = 100.0  # from then on, times are in whole units
_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_magenta", "bright_blue")
_SETTLED = {Phase.READY, Phase.STOPPED, Phase.FAILED}
_ENDED = {Phase.STOPPED, Phase.FAILED}
_ERASE = "\r\x1b[J"  # what follows the cursor, and its line
_NO_PICTURE = 0, ""
_SAVE_CURSOR, _RESTORE_CURSOR = "\x1b7", "\x1b8"
_CUT_LINES, _WRAP_LINES = "\x1b[?7l", "\x1b[?7h"


@attrs.define
class _Row:
    """A replica, and how long it takes to settle."""

    live: Replica
    """Which goes on changing."""
    replica: Replica
    """As it was when it changed last."""
    name: str
    began: float
    took_s: float | None = None
    """How long it has taken; None as long as it goes on."""
    is_told: bool = False
    """Whether its line stands in the scrolling text."""


class UpScreen:
    """Shows a host and its plugins. `run` has to run, and then `end`; the other methods return at once.

    `clock` gives seconds, and `wall_clock` seconds since 1970.
    """

    def __init__(
        self,
        out: Output,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._out = out
        # When rich has rendered, it writes to its file and flushes it, if only nothing: not in this thread.
        self._sink = Sink(cast(TextIO, out.console.file), "")
        out.console.file = io.StringIO()
        self._clock = clock
        self._wall_clock = wall_clock
        self._rows: dict[
            int, _Row
        ] = {}  # by the id of the replica: two may have a name while one is replaced
        self._began = clock()
        self._listening: tuple[str, float] | None = None  # where, and after how long
        self._host_is_told = False
        self._stopping_since: float | None = None
        self._colours: dict[str, str] = {}  # by the names of plugins
        self._lines: deque[Text] = deque()
        self._left_out = 0
        self._picture = _NO_PICTURE  # for how many columns, and the block that was written last
        self._has_begun = False  # to write
        self._has_ended = False
        self._is_stuck = False  # the terminal has not taken the last picture
        self._take: Callable[[Text], None] = self._add
        self._changed = trio.Event()
        # A thread that is left to itself keeps its place until it has written: what comes next stays next.
        self._one_writer = trio.CapacityLimiter(1)

    # What happens

    def listening(self, urls: Sequence[str]) -> None:
        """Note where the host listens."""
        self._listening = ", ".join(urls), self._clock() - self._began
        self._changed.set()

    def changed(self, replica: Replica) -> None:
        """Note what a replica is doing now."""
        name, now = replica_title(replica.plugin, replica.number), self._clock()
        row = self._rows.get(id(replica))
        if row is None:
            row = self._rows[id(replica)] = _Row(replica, replica, name, now)
        elif row.took_s is not None and replica.phase not in _SETTLED:
            row.began, row.took_s = now, None
        if replica.phase is Phase.STOPPED and any(
            r.name == name and r is not row for r in self._rows.values()
        ):
            del self._rows[id(replica)]  # another one has come in its place
        row.replica = attrs.evolve(replica)
        row.is_told = False
        if row.took_s is None and replica.phase in (_ENDED if self._is_stopping else _SETTLED):
            row.took_s = now - row.began
        self._changed.set()

    def output(self, plugin: str, replica: int, line: str) -> None:
        """Show a line that a plugin has written. What does not print is escaped."""
        name = replica_title(plugin, replica)
        width = min(max([len(name), *(len(row.name) for row in self._rows.values())]), _WIDEST_NAME)
        name = set_cell_size(name, width)
        bar = self._out.sign("│", "|")
        self._add(Text.assemble((f"{name} {bar} ", self._colour(plugin)), _printable(line)))

    def line(self, text: str) -> None:
        """Show a line of the host. Any thread may call this."""
        self._take(Text(_printable(text)))

    def stopping(self) -> None:
        """Note that all of it is being stopped."""
        self._stopping_since = now = self._clock()
        for row in self._rows.values():
            if row.replica.phase not in _ENDED:
                row.began, row.took_s, row.is_told = now, None, False
        self._changed.set()

    def make_room(self) -> None:
        """Take the block away, until something changes."""
        if self._picture == _NO_PICTURE and not self._lines:
            return
        self._sink.write(_ERASE + self._rendered(self._take_waiting()))
        self._picture = _NO_PICTURE

    def end(self) -> None:
        """Write the lines that have come since `run` has ended, and each that comes later at once."""
        self._has_ended = True
        if self._lines and not self._is_stuck:
            self._sink.write(self._rendered(self._take_waiting()))

    def _add(self, line: Text) -> None:
        if self._has_ended:
            if not self._is_stuck:
                self._sink.write(self._rendered([line]))
            return
        if len(self._lines) == _MOST_LINES:
            self._lines.popleft()
            self._left_out += 1
        self._lines.append(line)
        self._changed.set()

    # The picture

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Draw until cancelled; what there is to be seen then stays on the terminal."""
        self._take = OnLoop(self._add)
        task_status.started()
        try:
            while True:
                self._changed = trio.Event()
                # A picture that is made is written: its lines are in no other one.
                await trio.lowlevel.checkpoint_if_cancelled()
                if text := self.frame():
                    await self._write(text)
                    self.written()
                await trio.sleep(_LEAST_S)
                with trio.move_on_after(math.inf if self._is_quiet() else _EVERY_S - _LEAST_S):
                    await self._changed.wait()
        finally:
            with trio.move_on_after(_LAST_S, shield=True) as scope:
                await self._write(self.frame(last=True))
            self._is_stuck = scope.cancelled_caught

    async def _write(self, text: str) -> None:
        # That the terminal is gone is the end of the command, but not by this.
        await trio.to_thread.run_sync(
            self._sink.write, text, abandon_on_cancel=True, limiter=self._one_writer
        )

    def frame(self, *, last: bool = False) -> str:
        """Return what has to be written to the terminal now: the new lines, and the block in its new form."""
        columns = self._columns
        lines = self._rendered(self._take_lines())
        rows = [_cut(line, columns - 1) for line in self._block(self._out.console.height)]
        block = self._rendered(rows)
        if not lines and (columns, block) == self._picture and not last:
            return ""
        erased = _ERASE if self._has_begun else ""
        self._has_begun, self._picture = True, (columns, block)
        return erased + lines + (block if last else _resting(block, len(rows)))

    def written(self) -> None:
        """Have the block drawn anew if the terminal has another width by now, and may have cut it."""
        if self._picture[0] != self._columns:
            self._picture = _NO_PICTURE

    @property
    def _columns(self) -> int:
        return max(self._out.console.width, _LEAST_COLUMNS)

    def _rendered(self, lines: Iterable[Text]) -> str:
        with self._out.console.capture() as captured:
            for line in lines:
                self._out.console.print(line, soft_wrap=True)
        return captured.get()

    def _take_waiting(self) -> Iterator[Text]:
        """Yield the lines that have been shown."""
        if self._left_out:
            yield Text(f"({self._left_out} lines are left out, as the terminal is slow)")
        yield from self._lines
        self._lines.clear()
        self._left_out = 0

    def _take_lines(self) -> Iterator[Text]:
        """Yield what is to stand in the scrolling text from now on."""
        yield from self._take_waiting()
        if self._is_stopping or self._is_starting:
            return
        if self._listening is not None and not self._host_is_told:
            self._host_is_told = True
            yield self._host_line()
        for row in self._rows.values():
            if row.took_s is not None and not row.is_told:
                row.is_told = True
                yield self._row_line(row)

    def _block(self, height: int) -> Iterator[Text]:
        """Yield the lines of the block, as many as the terminal has room for."""
        rows = [row for row in self._rows.values() if not row.is_told]
        if self._is_stopping:
            yield Text(self._order())
            rows.reverse()
        elif self._is_starting and self._rows:
            yield self._host_line()
        rows.sort(key=lambda row: row.took_s is not None)
        room = max(height, _LEAST_ROWS) - 4
        shown = rows if len(rows) <= room else rows[: room - 1]
        for row in self._rows.values():  # in their order
            if any(row is each for each in shown):
                yield self._row_line(row)
        if len(shown) < len(rows):
            counts = Counter(row.replica.phase.value for row in rows[len(shown) :])
            yield Text(f"  and {', '.join(f'{count} {word}' for word, count in counts.items())}")

    def _host_line(self) -> Text:
        if self._listening is None:
            return self._line("host", self._clock() - self._began, State.STARTING, "starting", "")
        where, took_s = self._listening
        return self._line("host", took_s, State.HEALTHY, f"listening on {where}", "")

    def _row_line(self, row: _Row) -> Text:
        replica = row.replica
        took_s = self._clock() - row.began if row.took_s is None else row.took_s
        state, text = replica.phase.state, self._doing(replica)
        return self._line(row.name, took_s, state, text, self._colour(replica.plugin))

    def _line(self, name: str, took_s: float, state: State, text: str, colour: str) -> Text:
        width = min(max([4, *(cell_len(row.name) for row in self._rows.values())]), _WIDEST_NAME)
        took = f"{took_s:.1f} s" if took_s < _TENTHS_S else span(took_s)
        told = self._out.state(state.number, _printable(text))
        return Text.assemble(
            "  ", (set_cell_size(name, width), colour), took.rjust(_TIME_COLUMNS), "  ", told
        )

    def _doing(self, replica: Replica) -> str:
        """Return what a replica is doing, beginning with the word for it."""
        if replica.phase is Phase.READY and self._is_stopping:
            others = [r.name for r in self._rows.values() if r.replica.phase is Phase.STOPPING]
            return f"waits for {_some(others)} to stop" if others else replica.phase.value
        return doing(replica, self._wall_clock())

    def _order(self) -> str:
        """Return what is being stopped, and then what follows."""
        phases = (Phase.STOPPING, Phase.READY)
        now, later = (
            [row.name for row in self._rows.values() if row.replica.phase is phase] for phase in phases
        )
        if not (now or later):
            return "all plugins are stopped"
        order = ", then ".join(filter(None, (_some(now), _some(later[::-1]))))
        return f"stopping: {order}; Ctrl-C again ends all of it at once"

    @property
    def _is_stopping(self) -> bool:
        return self._stopping_since is not None

    @property
    def _is_starting(self) -> bool:
        """Whether the first start goes on: until then, all plugins are in the block."""
        if self._host_is_told:
            return False
        return self._listening is None or not all(
            row.took_s is not None or row.replica.failures for row in self._rows.values()
        )

    def _is_quiet(self) -> bool:
        """Whether no time on the terminal goes on."""
        return not (self._is_stopping or self._is_starting) and all(
            row.took_s is not None for row in self._rows.values()
        )

    def _colour(self, plugin: str) -> str:
        return self._colours.setdefault(plugin, _COLOURS[len(self._colours) % len(_COLOURS)])


def _resting(block: str, rows: int) -> str:
    """Return what draws a block below an empty line, and leaves the cursor there.

    The terminal first scrolls as far as it has to: it would not move the saved place of the cursor.
    """
    if not rows:
        return ""
    room = "\n" * (rows + 1) + f"\x1b[{rows + 1}A"
    return f"{room}{_SAVE_CURSOR}{_CUT_LINES}\n{block}{_WRAP_LINES}{_RESTORE_CURSOR}"


def _cut(line: Text, columns: int) -> Text:
    """Return a line that fits."""
    line.truncate(columns)
    return line


def _printable(text: str) -> str:
    return one_line(text.expandtabs(), _MOST_CHARACTERS)


def _some(names: Sequence[str], most: int = 4) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
