"""Diagrams that are drawn from the code's own tables, as SVG: states and their transitions, and the rooms.

Scripts that draw in a browser are not for forges and files; these are pictures that are committed, and a test
says when they are not as the code is.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from html import escape
from pathlib import Path
from typing import TypeVar

from cpg_trio.host.directory import leases
from cpg_trio.http.server import states as connections

_State = TypeVar("_State", bound=Enum)
_Event = TypeVar("_Event", bound=Enum)

ROOT = Path(__file__).parents[1]

_LINE, _FAINT, _TEXT, _OWN = "#5e5c64", "#9a9996", "#241f31", "#1a5fb4"
_HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    ' font-family="system-ui, \'DejaVu Sans\', sans-serif" font-size="13">\n'
    "<title>{title}</title>\n"
    '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
    f' orient="auto"><path d="M0 0L8 4L0 8z" fill="{_LINE}"/></marker></defs>\n'
    '<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>\n'
)
_ROW, _BOX_WIDTH, _BOX_HEIGHT, _STEP = 64, 112, 30, 46  # of a diagram of states


def pictures() -> dict[str, str]:
    """Return the diagrams, by their paths from the root of the project."""
    lost = {state.name for state in connections.LOST}
    return {
        "docs/images/lease-states.svg": _states("The states of a lease", _named(leases.TRANSITIONS)),
        "docs/images/connection-states.svg": _states(
            "The states of a connection", _named(connections.TRANSITIONS), without=lost
        ),
        "docs/images/rooms.svg": _rooms(rooms()),
    }


def rooms() -> tuple[str, ...]:
    """Return the rooms from the lowest to the highest, as the test of the structure has them."""
    tree = ast.parse((ROOT / "tests/test_rooms.py").read_text())
    (value,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROOMS"
    ]
    return tuple(ast.literal_eval(value))


def _named(table: Mapping[_State, Mapping[_Event, _State]]) -> dict[str, dict[str, str]]:
    return {
        state.name: {event.name: target.name for event, target in events.items()}
        for state, events in table.items()
    }


def _states(title: str, table: Mapping[str, Mapping[str, str]], without: Collection[str] = ()) -> str:
    """Return a column of states; transitions down are on the right, and those up on the left."""
    order = [state for state in table if state not in without]
    events: dict[tuple[int, int], list[str]] = {}
    for state in order:
        for event, target in table[state].items():
            if target != state and target not in without:
                events.setdefault((order.index(state), order.index(target)), []).append(event)
    up = max((start - end for start, end in events if end < start), default=0)
    down = max((end - start for start, end in events if end > start), default=0)
    left = 24 + up * _STEP + (110 if up else 0)
    width, height = left + _BOX_WIDTH + down * _STEP + 150, len(order) * _ROW + 16
    lines = [_HEAD.format(width=width, height=height, title=escape(title))]
    # The widest arcs first, so that the labels of the others are above them.
    for (start, end), names in sorted(events.items(), key=lambda each: -abs(each[0][0] - each[0][1])):
        lines += _arc(start, end, ", ".join(name.lower() for name in names), left)
    for row, state in enumerate(order):
        final = not any(start == row for start, _ in events)
        lines += _box(left, 24 + row * _ROW, state.lower().replace("_", " "), dashed=final)
    return "".join([*lines, "</svg>\n"])


def _arc(start: int, end: int, label: str, left: int) -> Iterator[str]:
    down = end > start
    side = left + _BOX_WIDTH if down else left
    reach = abs(end - start) * _STEP * (1 if down else -1)
    # Arcs leave below the middle of a box and come in above it, and the other way round on the way up.
    begin = 24 + start * _ROW + _BOX_HEIGHT / 2 + (5 if down else -5)
    finish = 24 + end * _ROW + _BOX_HEIGHT / 2 - (5 if down else -5)
    x, y = side + reach * 0.75, (begin + finish) / 2
    yield (
        f'<path d="M{side} {begin}C{side + reach} {begin} {side + reach} {finish} {side} {finish}"'
        f' fill="none" stroke="{_LINE}" marker-end="url(#end)"/>\n'
    )
    place = f'x="{x + (4 if down else -4):g}" y="{y + 4:g}" text-anchor="{"start" if down else "end"}"'
    halo = 'stroke="#ffffff" stroke-width="5" paint-order="stroke"'  # so that it can be read over an arc
    yield f'<text {place} fill="{_TEXT}" {halo}>{escape(label)}</text>\n'


def _box(x: int, y: int, label: str, *, dashed: bool) -> Iterator[str]:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    yield (
        f'<rect x="{x}" y="{y}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="6" fill="#ffffff"'
        f' stroke="{_OWN}"{dash}/>\n'
    )
    yield _label(x + _BOX_WIDTH / 2, y + 20, label)


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" fill="{_TEXT}">{escape(text)}</text>\n'


def _rooms(order: tuple[str, ...]) -> str:
    """Return the rooms as layers, the lowest below. What stands on nothing of its neighbour is beside it."""
    within = [room for room in order if room.startswith("host.")]
    below, above = order[: order.index(within[0])], order[order.index("plugin") + 1 :]
    width, high, gap = 640, 26, 4
    middle = (len(within) + 1) * (high + gap) + gap
    height = (len(below) + len(above)) * (high + gap) + middle + gap + 24
    lines = [_HEAD.format(width=width, height=height, title="The rooms, each on those that it may import")]
    y = 16
    for room in reversed(above):
        lines += _layer(16, y, width - 32, room)
        y += high + gap
    half = (width - 32 - gap) * 2 // 3
    lines += _part(16, y, half, middle - gap)
    lines.append(_label(16 + half / 2, y + 19, "host"))
    for index, room in enumerate(reversed(within)):
        lines += _layer(28, y + (index + 1) * (high + gap) - gap, half - 24, room.removeprefix("host."))
    rest = width - 32 - gap - half
    lines += _part(16 + half + gap, y, rest, middle - gap)
    lines.append(_label(16 + half + gap + rest / 2, y + middle / 2, "plugin"))
    y += middle
    for room in reversed(below):
        lines += _layer(16, y, width - 32, room)
        y += high + gap
    return "".join([*lines, "</svg>\n"])


def _part(x: int, y: int, width: int, height: int) -> Iterator[str]:
    size = f'width="{width}" height="{height}"'
    yield f'<rect x="{x}" y="{y}" {size} rx="6" fill="#f0f4fa" stroke="{_OWN}"/>\n'


def _layer(x: int, y: int, width: int, label: str) -> Iterator[str]:
    yield f'<rect x="{x}" y="{y}" width="{width}" height="26" rx="4" fill="#ffffff" stroke="{_FAINT}"/>\n'
    yield _label(x + width / 2, y + 18, label)
