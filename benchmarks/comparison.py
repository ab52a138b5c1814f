"""This tree beside another commit: ratios within a round, their spread, and which differences exceed it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import attrs

from .report import table

T = TypeVar("T")
K = TypeVar("K")
FEWEST = 10
"""Rounds for a verdict. If nothing differs, quartiles leave out 1 in 14 of 100 cases with 10, 3 with 20."""
WITHIN, BETTER, WORSE, FEW = "within the spread", "better", "worse", "few rounds"


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
        if len(self.ratios) < FEWEST:
            return FEW
        first, third = self.quartiles
        if first <= 1 <= third:
            return WITHIN
        return BETTER if (first > 1) == self.more_is_better else WORSE


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
    judged = [(part, each) for part, found in parts.items() for each in found if each.verdict != FEW]
    beyond = [
        f"- {part}, {figure.case}: {figure.what} {figure.ratio:.3f}, {figure.verdict}"
        for part, figure in judged
        if figure.verdict != WITHIN
    ]
    lines = [
        f"{len(beyond)} of {len(judged)} figures differ by more than the spread of their ratios.",
        *beyond,
    ]
    if few := sum(map(len, parts.values())) - len(judged):
        lines.append(
            f"{few} figures are of fewer than {FEWEST} rounds, whose quartiles say nothing (`--rounds`)."
        )
    if differing:
        lines.append(f"Dependencies that differ: {', '.join(differing)}.")
    return "\n".join(lines)
