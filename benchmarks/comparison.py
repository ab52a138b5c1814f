"""This tree beside another commit: ratios within a round, their spread, and which differences exceed it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import attrs

from .report import table

T = TypeVar("T")
K = TypeVar("K")
FEWEST = 15
"""Rounds. If nothing differs, the quartiles leave out 1 in 3 of 100 cases with 20, with 5 in 37."""
WITHIN = "within the spread"


@attrs.frozen
class Figure:
    """One figure of a case, in each round, of this tree and of the other commit."""

    case: str
    what: str
    """With its unit."""
    more_is_better: bool
    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """Ours as multiples of theirs, within each round."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return [mine / other if other else 1.0 for mine, other in pairs]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these is the middle half of the ratios."""
        if len(self.ratios) < 2:
            return self.ratios[0], self.ratios[0]
        first, _, third = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return first, third

    @property
    def verdict(self) -> str:
        """Say whether 1 is among the middle half of the ratios, which is within the spread."""
        if len(self.ratios) < 2:
            return "one round"
        first, third = self.quartiles
        if first <= 1 <= third:
            return WITHIN
        return "better" if (first > 1) == self.more_is_better else "worse"


def figures(
    case: str,
    samples: Mapping[K, Sequence[T]],
    pair: tuple[K, K] | None,
    *measures: tuple[str, Callable[[T], float], bool],
) -> list[Figure]:
    """Return the figures of a pair of peers, ours first; none if there is no other commit.

    A measure is what it is called, its value in a sample, and whether more of it is better.
    """
    if pair is None:
        return []
    ours, theirs = (samples[peer] for peer in pair)
    return [
        Figure(case, what, more, [value(s) for s in ours], [value(s) for s in theirs])
        for what, value, more in measures
    ]


def compared(part: str, found: Sequence[Figure], other: str) -> str:
    """Return the table of a part."""
    rows = [
        [
            figure.case,
            figure.what,
            f"{statistics.median(figure.theirs):,.1f}",
            f"{statistics.median(figure.ours):,.1f}",
            f"{figure.ratio:.3f}",
            "{:.3f} to {:.3f}".format(*figure.quartiles),
            figure.verdict,
        ]
        for figure in found
    ]
    return table(part, ["", other, "this tree", "ratio", "quartiles", ""], rows)


def summary(parts: Mapping[str, Sequence[Figure]], differing: Sequence[str]) -> str:
    """Return in sentences which differences exceed the spread, and what else differs."""
    several = [len(figure.ours) for found in parts.values() for figure in found if len(figure.ours) > 1]
    rounds = min(several, default=1)
    beyond = [
        f"- {part}, {figure.case}: {figure.what} {figure.ratio:.3f}, {figure.verdict}"
        for part, found in parts.items()
        for figure in found
        if figure.verdict in {"better", "worse"}
    ]
    count = sum(map(len, parts.values()))
    lines = [f"{len(beyond)} of {count} figures differ by more than the spread of their ratios.", *beyond]
    if rounds < FEWEST:
        lines.append(
            f"Quartiles of {rounds} round{'s' * (rounds > 1)} say little: figures seem to differ where"
            f" nothing does. Take {FEWEST} rounds or more (`--rounds`)."
        )
    if differing:
        lines.append(f"Dependencies that differ: {', '.join(differing)}.")
    return "\n".join(lines)
