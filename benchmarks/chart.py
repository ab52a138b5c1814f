"""A chart of the router's rates, as SVG: one panel for each number of connections, one bar for each proxy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

import attrs

_WIDTH, _MARGIN, _TOP = 880, 24, 72
_GAP, _HEAD, _BAR, _STEP = 32, 26, 16, 24
_PANEL = (_WIDTH - 2 * _MARGIN - _GAP) / 2
_LABELS, _VALUES = 168, 56
_FONT = """font-family="system-ui, 'DejaVu Sans', sans-serif" font-size="13\""""
_OURS, _OURS_TOO, _OTHERS = "#1a5fb4", "#99c1f1", "#9a9996"


@attrs.frozen
class Bar:
    """One proxy in one panel."""

    title: str
    rate: float
    ours: bool


def chart(title: str, subtitle: str, panels: Mapping[str, Sequence[Bar]]) -> str:
    """Return the chart: panels by their titles, two in a row, all to one scale."""
    panel_height = _HEAD + max(map(len, panels.values())) * _STEP + 20
    height = _TOP + (len(panels) + 1) // 2 * panel_height
    scale = (_PANEL - _LABELS - _VALUES) / max(bar.rate for of in panels.values() for bar in of)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" {_FONT}>',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(_MARGIN, 30, title, 'font-size="17" font-weight="600"'),
        _text(_MARGIN, 50, subtitle, 'fill="#5e5c64"'),
    ]
    for index, (heading, bars) in enumerate(panels.items()):
        x, y = _MARGIN + index % 2 * (_PANEL + _GAP), _TOP + index // 2 * panel_height
        lines += _panel(x, y, heading, bars, scale)
    return "\n".join([*lines, "</svg>", ""])


def _panel(x: float, y: float, heading: str, bars: Sequence[Bar], scale: float) -> Iterator[str]:
    yield _text(x, y + 14, heading, 'font-weight="600"')
    zero = x + _LABELS
    for index, bar in enumerate(bars):
        top = y + _HEAD + index * _STEP
        middle, width = top + _BAR - 3, max(1.0, bar.rate * scale)
        yield _text(zero - 8, middle, bar.title, 'text-anchor="end"')
        place = f'x="{zero:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}"'
        yield f'<rect {place} fill="{_colour(bars, bar)}"/>'
        yield _text(zero + width + 6, middle, f"{bar.rate:,.0f}", 'fill="#5e5c64"')
    bottom = y + _HEAD + len(bars) * _STEP - 4
    yield f'<path d="M{zero:.1f} {y + _HEAD - 4}V{bottom}" stroke="#5e5c64"/>'


def _colour(bars: Sequence[Bar], bar: Bar) -> str:
    if not bar.ours:
        return _OTHERS
    return _OURS if bar is next(one for one in bars if one.ours) else _OURS_TOO


def _text(x: float, y: float, text: str, more: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" {more}>{escape(text)}</text>'
