"""Versions of services, how they are ordered, and which of them a caller accepts. Pure; no I/O.

Versions are those of https://semver.org, ordered as its item 11 says. A range has the comparisons of PEP 440,
all of which have to hold:

    >=1.2,<2        at least 1.2.0, and before 2.0.0
    ~=1.2           >=1.2,==1.*
    ~=1.2.3         >=1.2.3,==1.2.*
    ==1.*,!=1.3.0   any 1, but not 1.3.0

Numbers that are left out are zeros. A pre-release is in a range only if one of its bounds is a pre-release of
the same three numbers: `>=2.0.0-rc.1` has 2.0.0-rc.2 and not 2.1.0-rc.1, and `<2` has no 2.0.0-rc.1.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from cpg_trio import wire
from cpg_trio.wire import InvalidError

_MAX_COMPARISONS = 8
_COMPARISON_BYTES = 500  # that one takes in memory
_COMPARISON = re.compile(
    r"[ \t]*(==|!=|>=|<=|>|<|~=)[ \t]*([0-9]+(?:\.[0-9]+){0,2})(?:(\.\*)|-([a-zA-Z0-9.\-]+))?[ \t]*"
)
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@functools.total_ordering
@attrs.frozen(order=False)
class Version:
    """A version. Two are equal if neither comes before the other."""

    numbers: tuple[int, int, int] = attrs.field(eq=False)
    prerelease: tuple[str, ...] = attrs.field(default=(), eq=False)
    precedence: tuple[object, ...] = attrs.field(init=False, repr=False)
    """What versions are compared by."""

    @precedence.default
    def _precedence(self) -> tuple[object, ...]:
        # A pre-release comes before its release; numeric identifiers compare as numbers and come before
        # others; of two that agree as far as they go, the shorter comes first.
        identifiers = tuple((0, int(i), "") if i.isdigit() else (1, 0, i) for i in self.prerelease)
        return (*self.numbers, not self.prerelease, identifiers)

    @classmethod
    def parse(cls, text: str) -> Version:
        """Return a version from its text. Raises: InvalidError."""
        wire.validate_version(text)
        core, _, prerelease = text.partition("-")
        return cls(_three(core), _identifiers(prerelease))

    def __lt__(self, other: Version) -> bool:
        """Whether this version comes before another."""
        return self.precedence < other.precedence


def satisfies(version: str, min_version: str) -> bool:
    """Whether a provider's version is new enough. An empty minimum accepts any.

    A minimum is no upper bound: 2.0.0 satisfies a minimum of 1.0.0. Raises: InvalidError.
    """
    return not min_version or not _parsed(version) < _parsed(min_version)


@attrs.frozen
class _Comparison:
    """A part of a range. `prefix`: the numbers before `.*`, which are compared alone."""

    sign: str
    version: Version
    prefix: tuple[int, ...] = ()

    def holds(self, version: Version) -> bool:
        """Whether a version is as the comparison says."""
        compare = _COMPARE[self.sign]
        if self.prefix:
            return compare(version.numbers[: len(self.prefix)], self.prefix)
        return compare(version.precedence, self.version.precedence)

    def bounds_prereleases_of(self, version: Version) -> bool:
        """Whether it is a bound that is a pre-release of the same three numbers."""
        return self.sign != "!=" and bool(self.version.prerelease) and self.version.numbers == version.numbers


@attrs.frozen(cache_hash=True)
class VersionRange:
    """Which versions count. Two are equal if their comparisons are written alike; spaces do not count."""

    text: str = ""
    """As it is written on the wire; empty for the range that has all versions, pre-releases, too."""
    _comparisons: tuple[_Comparison, ...] = attrs.field(default=(), eq=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> VersionRange:
        """Return a range from its text. Raises: InvalidError."""
        _check_length(text)
        if not text:
            return cls()
        parts = text.split(",")
        if len(parts) > _MAX_COMPARISONS:
            raise InvalidError(f"too many comparisons in a version range (max: {_MAX_COMPARISONS})")
        comparisons = tuple(comparison for part in parts for comparison in _read(text, part))
        return cls(re.sub(r"[ \t]", "", text), comparisons)

    @property
    def held_bytes(self) -> int:
        """How many bytes it takes in memory, or some more."""
        return len(self.text) + _COMPARISON_BYTES * len(self._comparisons)

    def __contains__(self, version: str) -> bool:
        """Whether a version is in the range. Raises: InvalidError for a text that is no version."""
        if not self.text:
            return True
        parsed = _parsed(version)
        if parsed.prerelease and not any(c.bounds_prereleases_of(parsed) for c in self._comparisons):
            return False
        return all(comparison.holds(parsed) for comparison in self._comparisons)

    def __str__(self) -> str:
        """Return it as it is written on the wire."""
        return self.text


@attrs.frozen(cache_hash=True)
class Requirement:
    """Which versions of a service a caller accepts: those that are new enough, and in a range."""

    min_version: str = ""
    version_range: VersionRange = VersionRange()

    @staticmethod
    def parse(min_version: str = "", version_range: str = "") -> Requirement:
        """Return a requirement from its texts, of which an empty one accepts all. Raises: InvalidError."""
        if min_version:
            wire.validate_version(min_version)
        _check_length(version_range)
        return _requirement(min_version, version_range)

    def admits(self, version: str) -> bool:
        """Whether a version is good enough. Raises: InvalidError for a text that is no version."""
        if not (self.min_version or self.version_range.text):
            return True
        return satisfies(version, self.min_version) and version in self.version_range

    def __str__(self) -> str:
        """Return it as one range; empty if it accepts all."""
        return ",".join(filter(None, (self.min_version and f">={self.min_version}", self.version_range.text)))


ANY_VERSION = Requirement()


# What strangers send is in these caches: of at most 64 bytes for each version, 256 and 64 for a requirement.
@functools.lru_cache(maxsize=1024)
def _parsed(version: str) -> Version:
    return Version.parse(version)


@functools.lru_cache(maxsize=256)
def _requirement(min_version: str, version_range: str) -> Requirement:
    return Requirement(min_version, VersionRange.parse(version_range))


def _check_length(text: str) -> None:
    if (length := len(text.encode())) > wire.MAX_VERSION_RANGE_BYTES:
        most = wire.MAX_VERSION_RANGE_BYTES
        raise InvalidError(f"version range too long: {length} bytes (max: {most})")


def _read(text: str, part: str) -> Iterator[_Comparison]:
    """Yield the comparisons that a part of a range stands for."""
    if (found := _COMPARISON.fullmatch(part)) is None:
        raise _unreadable(text, part)
    sign, numbers, wildcard, prerelease = found.groups()
    given = tuple(map(int, numbers.split(".")))
    is_partial = len(given) < 3  # noqa: PLR2004 - versions have three numbers
    version = Version(_three(numbers), _identifiers(prerelease or ""))
    if prerelease and is_partial:
        raise _unreadable(text, part, "a pre-release has three numbers before it")
    if wildcard:
        if sign not in {"==", "!="} or not is_partial:
            raise _unreadable(text, part, ".* follows one or two numbers after == or !=")
        yield _Comparison(sign, version, given)
    elif sign == "~=":
        if len(given) == 1:
            raise _unreadable(text, part, "~= is followed by two or three numbers")
        yield _Comparison(">=", version)
        yield _Comparison("==", version, given[:-1])
    else:
        yield _Comparison(sign, version)


def _unreadable(
    text: str,
    part: str,
    rule: str = "write comparisons (==, !=, >=, <=, >, <, ~=) with commas between, such as >=1.2,<2",
) -> InvalidError:
    return InvalidError(f"version range {wire.quote(text)} cannot be read at {wire.quote(part)}: {rule}")


def _three(numbers: str) -> tuple[int, int, int]:
    major, minor, patch = (*map(int, numbers.split(".")), 0, 0)[:3]
    return major, minor, patch


def _identifiers(prerelease: str) -> tuple[str, ...]:
    return tuple(prerelease.split(".")) if prerelease else ()
