"""Versions and ranges: their order is semver's, and ranges read as PEP 440's comparisons do."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st
from packaging.specifiers import SpecifierSet

from cpg_trio.versions import ANY_VERSION, Requirement, Version, VersionRange, satisfies
from cpg_trio.wire import MAX_VERSION_RANGE_BYTES, InvalidError


def test_versions_are_ordered_as_semantic_versioning_says() -> None:
    ascending = [
        "0.9.9",
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
        "1.2.0",
        "1.9.0",
        "1.10.0",
        "2.0.0",
        "10.0.0",
    ]
    parsed = [Version.parse(text) for text in ascending]
    mixed = parsed[::2] + parsed[1::2]
    assert sorted(mixed) == parsed
    assert len(set(parsed)) == len(parsed)


def test_a_larger_number_satisfies_a_minimum_whose_text_sorts_after_it() -> None:
    assert satisfies("1.10.0", "1.2.0")
    assert satisfies("1.10.0", "1.9.0")
    assert not satisfies("1.9.0", "1.10.0")
    assert not satisfies("1.2.0", "10.0.0")


def test_a_prerelease_does_not_satisfy_its_release() -> None:
    assert not satisfies("1.0.0-rc.1", "1.0.0")
    assert satisfies("1.0.0", "1.0.0-rc.1")


def test_no_minimum_is_satisfied_by_anything_and_there_is_no_maximum() -> None:
    assert satisfies("0.0.0-a", "")
    assert satisfies("99.0.0", "1.0.0")


_versions = st.from_regex(r"\A[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(-[a-z0-9.\-]{1,8})?\Z").map(Version.parse)


@given(_versions, _versions, _versions)
def test_the_order_of_versions_is_total(a: Version, b: Version, c: Version) -> None:
    assert (a < b) + (b < a) + (a.precedence == b.precedence) == 1
    assert (a == b) == (not a < b and not b < a)
    if a <= b <= c:
        assert a <= c


# Ranges


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=1.2,<2", "1.2.0 1.10.3 1.99.99", "1.1.9 2.0.0 2.0.0-rc.1 1.3.0-rc.1 1.2.0-rc.1"),
        ("~=1.2", "1.2.0 1.9.0", "1.1.0 2.0.0 1.3.0-rc.1"),
        ("~=1.2.3", "1.2.3 1.2.9", "1.2.2 1.3.0"),
        ("==1.*", "1.0.0 1.9.9", "0.9.0 2.0.0 10.0.0 1.0.0-rc.1"),
        ("==1.2.*", "1.2.0 1.2.9", "1.20.0 1.3.0"),
        ("==1.2", "1.2.0", "1.2.1"),
        ("==1.2.3", "1.2.3 01.2.3", "1.2.4"),
        ("!=1.3.0", "1.2.9 1.3.1", "1.3.0 1.3.1-rc.1"),
        ("!=1.3.*", "1.2.9 1.4.0", "1.3.0 1.3.7"),
        (">1.2", "1.2.1 1.3.0", "1.2.0"),
        ("<=1.2", "1.2.0 0.1.0", "1.2.1"),
        (">=2.0.0-rc.1", "2.0.0-rc.1 2.0.0-rc.2 2.0.0 2.1.0", "2.0.0-beta 2.1.0-rc.1"),
        ("<2.0.0-rc.2", "1.0.0 2.0.0-rc.1", "2.0.0-rc.2 2.0.0 1.9.0-rc.1"),
        ("~=2.0.0-rc.1", "2.0.0-rc.2 2.0.0 2.0.5", "2.0.0-beta 2.1.0 2.0.1-rc.1"),
        ("==1.0.0-rc.1", "1.0.0-rc.1", "1.0.0 1.0.0-rc.2"),
        ("!=1.0.0-rc.1", "1.0.0", "1.0.0-rc.1 1.0.0-rc.2"),
        (" >= 1.2 ,\t< 2 ", "1.5.0", "2.0.0"),
        ("", "0.0.0 0.0.0-a 99.0.0", ""),
    ],
)
def test_a_range_has_what_its_comparisons_say(text: str, inside: str, outside: str) -> None:
    accepted = VersionRange.parse(text)
    assert [v for v in inside.split() if v not in accepted] == []
    assert [v for v in outside.split() if v in accepted] == []


@pytest.mark.parametrize(
    "text",
    [
        "1.2",
        "^1.2",
        "=1.2",
        "===1.2",
        ">=1.2 <2",
        ">=1.2,",
        ",",
        " ",
        ">=",
        ">=x",
        ">=1.2.3.4",
        ">=1.*",
        "==*",
        "==1.2.3.*",
        "~=1",
        "~=1.*",
        ">=1.2-rc.1",
        "==1.*-rc",
        ">=1.2.3-",
        ">=1.2.3+build",
        ">=1\n",
        ">=\u0661",
    ],
)
def test_a_range_that_nobody_can_read_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(InvalidError, match=r"^version range .* cannot be read at "):
        VersionRange.parse(text)


def test_a_range_is_bounded_in_bytes_and_in_comparisons() -> None:
    VersionRange.parse(",".join(["!=1.0.0"] * 8))
    with pytest.raises(InvalidError, match="too many comparisons"):
        VersionRange.parse(",".join(["!=1.0.0"] * 9))
    VersionRange.parse(">=" + "0" * (MAX_VERSION_RANGE_BYTES - 2))
    for text in (">=" + "0" * (MAX_VERSION_RANGE_BYTES - 1), "\u00e9" * 2**20):
        with pytest.raises(InvalidError, match="too long") as caught:
            Requirement.parse("", text)
        assert len(str(caught.value)) < 100


def test_what_is_no_version_is_in_no_range_but_that_of_all() -> None:
    assert "latest" in VersionRange()
    with pytest.raises(InvalidError):
        assert "latest" not in VersionRange.parse(">=1")


_numbers = st.lists(st.integers(0, 3), min_size=1, max_size=3).map(lambda n: ".".join(map(str, n)))
_comparisons = st.one_of(
    st.tuples(st.sampled_from(("==", "!=", ">=", "<=", ">", "<")), _numbers).map("".join),
    _numbers.filter(lambda n: "." in n).map("~={}".format),
    st.tuples(st.sampled_from(("==", "!=")), _numbers.filter(lambda n: n.count(".") < 2)).map(
        lambda parts: f"{parts[0]}{parts[1]}.*"
    ),
)
_ranges = st.lists(_comparisons, min_size=1, max_size=4).map(",".join)
_small = st.tuples(*[st.integers(0, 3)] * 3).map(lambda n: ".".join(map(str, n)))


@given(_ranges, _small)
def test_of_releases_a_range_has_those_that_pep_440_says(text: str, version: str) -> None:
    assert (version in VersionRange.parse(text)) == SpecifierSet(text).contains(version)


_prereleases = st.sampled_from(("", "-a", "-a.1", "-a.2", "-rc.1", "-1"))
_any_small = st.tuples(_small, _prereleases).map("".join)
_bounds = st.lists(
    st.tuples(st.sampled_from((">=", "<=", ">", "<", "==", "!=")), _any_small), min_size=1, max_size=3
)


def naive(bounds: list[tuple[str, str]], version: str) -> bool:
    """Read a range as a person does: all comparisons hold, and pre-releases have to be asked for."""
    asked_for = {bound.partition("-")[0] for sign, bound in bounds if sign != "!=" and "-" in bound}
    if "-" in version and version.partition("-")[0] not in asked_for:
        return False
    mine = Version.parse(version)
    for sign, bound in bounds:
        other = Version.parse(bound)
        position = "<" if mine < other else ">" if other < mine else "="
        if position not in {"==": "=", "!=": "<>", ">=": ">=", "<=": "<=", ">": ">", "<": "<"}[sign]:
            return False
    return True


@given(_bounds, _any_small)
@example([(">=", "1.0.0-a"), ("<", "2.0.0")], "1.0.0-rc.1")
def test_of_all_versions_a_range_has_those_that_a_naive_reading_says(
    bounds: list[tuple[str, str]], version: str
) -> None:
    text = ",".join(map("".join, bounds))
    assert (version in VersionRange.parse(text)) == naive(bounds, version)


@given(st.text(alphabet="=!<>~.*-,0123456789ac \t\n\0\u0661"))
def test_any_text_is_a_range_that_reads_the_same_again_or_refused_with_the_one_error(text: str) -> None:
    try:
        accepted = VersionRange.parse(text)
    except InvalidError:
        return
    again = VersionRange.parse(str(accepted))
    assert again == accepted
    assert hash(again) == hash(accepted)


# Requirements


def test_a_requirement_accepts_what_is_new_enough_and_in_its_range() -> None:
    required = Requirement.parse("1.2.0", "<3,!=2.0.0")
    assert [v for v in ("1.1.0", "1.2.0", "2.0.0", "2.1.0", "3.0.0") if required.admits(v)] == [
        "1.2.0",
        "2.1.0",
    ]
    assert str(required) == ">=1.2.0,<3,!=2.0.0"


def test_a_requirement_of_nothing_accepts_all() -> None:
    assert Requirement.parse() == ANY_VERSION
    assert ANY_VERSION.admits("0.0.0-a")
    assert str(ANY_VERSION) == ""


def test_requirements_are_equal_if_they_are_written_alike() -> None:
    assert {Requirement.parse("1.0.0", ">=1, <2"), Requirement.parse("1.0.0", ">=1,<2")} == {
        Requirement("1.0.0", VersionRange.parse(">=1,<2"))
    }
    assert Requirement.parse("1.0.0") != Requirement.parse("", ">=1.0.0")


@pytest.mark.parametrize(("min_version", "version_range"), [("two", ""), ("", "two"), ("1" * 65, "")])
def test_a_requirement_that_nobody_can_read_is_refused(min_version: str, version_range: str) -> None:
    with pytest.raises(InvalidError):
        Requirement.parse(min_version, version_range)
