"""Tables in Markdown, and their places in the documentation."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
K = TypeVar("K")


def table(subject: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column names what was measured."""
    lines = [[subject, *heads], ["---", *("---:" for _ in heads)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_ratios(samples: Mapping[K, Sequence[T]], value: Callable[[T], float]) -> dict[K, str]:
    """Return medians, each with its ratio to the first one's: the median of the ratios within a round."""
    base = [value(sample) for sample in next(iter(samples.values()))]
    written = {}
    for subject, of in samples.items():
        values = [value(sample) for sample in of]
        ratio = statistics.median(mine / first for mine, first in zip(values, base, strict=True))
        written[subject] = f"{statistics.median(values):,.0f} ({ratio:.2f})"
    return written


def place(documents: Sequence[Path], name: str, block: str) -> list[Path]:
    """Put a block between its markers, wherever they are; return the documents that have changed."""
    markers = re.compile(rf"(<!-- bench:{re.escape(name)} -->\n).*?(<!-- /bench -->)", re.DOTALL)
    changed = []
    for document in documents:
        old = document.read_text()
        new = markers.sub(lambda found: f"{found[1]}\n{block}\n\n{found[2]}", old)
        if new != old:
            document.write_text(new)
            changed.append(document)
    return changed
