"""The check for traversal, which the router, capabilities and plugins have in common."""

from __future__ import annotations

import pytest

from cpg_trio._paths import has_traversal

TRAVERSALS = (
    *("../M", "a/../../M", "a/..", "./M", "a/./b"),
    *("%2e%2e/M", "a/.%2E", "%252e%252e/M"),
    *("..;/M", "a/..;x=y/M", "%2e%2e%3b/M", ".;/M"),
    *("a%2F..%2Fb", "a%2f..", "..%2F..%2Fadmin", "a%252F..%252Fb", "a\\..\\b", "a%5C..%5Cb"),
    *("a//b", "/M", "a//", "//other.example/M"),
    *("a#b", "#/../M"),
)
HARMLESS = ("", "M", "a.v1.Service/M", "a/", "a/b%2Fc", "a%2F%2Fb", "..a/b..", "a/...", "%41/;x=..", "a%23b")


@pytest.mark.parametrize("path", TRAVERSALS)
def test_a_path_that_some_reader_takes_out_of_its_place_has_traversal(path: str) -> None:
    assert has_traversal(path.encode())


@pytest.mark.parametrize("path", HARMLESS)
def test_a_path_that_no_reader_takes_out_of_its_place_has_none(path: str) -> None:
    assert not has_traversal(path.encode())
