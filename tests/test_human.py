"""Quantities as people read them."""

from __future__ import annotations

import pytest

from cpg_trio import _human


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.9, "0 s"),
        (12.7, "12 s"),
        (60, "1 min"),
        (3_599, "59 min 59 s"),
        (11_520, "3 h 12 min"),
        (86_400 * 2 + 59, "2 d"),
        (86_400 * 400, "400 d"),
    ],
)
def test_a_span_has_at_most_two_units(seconds: float, text: str) -> None:
    assert _human.span(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 µs"),
        (0.000_085, "85 µs"),
        (0.001_3, "1.3 ms"),
        (0.001, "1 ms"),
        (0.25, "250 ms"),
        (0.999_6, "1 s"),
        (2.5, "2.5 s"),
        (200, "3 min 20 s"),
    ],
)
def test_a_duration_has_the_digits_that_matter(seconds: float, text: str) -> None:
    assert _human.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0/s"), (0.02, "0.02/s"), (3.42, "3.4/s"), (1, "1/s"), (21_234, "21,234/s")]
)
def test_a_rate_has_the_digits_that_matter(value: float, text: str) -> None:
    assert _human.rate(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "0 %"),
        (0, 9, "0 %"),
        (1, 1_000_000, "< 0.1 %"),
        (3, 1_000, "0.3 %"),
        (5, 5, "100 %"),
        (2, 3, "67 %"),
    ],
)
def test_a_share_that_is_not_nothing_is_never_shown_as_nothing(part: float, whole: float, text: str) -> None:
    assert _human.share(part, whole) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (120, "120 B"), (1536, "1.5 KiB"), (41 * 1024**2, "41 MiB"), (3 * 1024**5, "3,072 TiB")],
)
def test_a_size_is_in_binary_units(count: float, text: str) -> None:
    assert _human.size(count) == text
