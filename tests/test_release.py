"""What a release is made of: one version everywhere, and notes that can be read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cpg_trio import __version__
from release import versions

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_place_that_has_the_version_has_the_same() -> None:
    assert {(str(place), version) for place, version in versions.find()} == {
        (str(place), __version__) for place in versions.PLACES
    }


def test_code_that_comes_with_the_package_was_generated_by_its_version() -> None:
    stubs = [*ROOT.glob("cpg_trio/protos/**/*_trio.py"), *ROOT.glob("tests/_gen/**/*_trio.py")]
    assert stubs
    for path in stubs:
        (version,) = re.findall(r'check_stubs\(__name__, \d+, "(.+)"\)', path.read_text())
        assert version == __version__, f"{path}: run `nox -s proto`"


def test_a_version_is_written_in_every_place(tmp_path: Path) -> None:
    for place in versions.PLACES:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text((ROOT / place).read_text())
    versions.write("7.8.9rc1", tmp_path)
    assert {version for _, version in versions.find(tmp_path)} == {"7.8.9rc1"}
    versions.write(__version__, tmp_path)
    for place in versions.PLACES:
        assert (tmp_path / place).read_text() == (ROOT / place).read_text()


def test_what_is_no_version_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'v1' is no version: it is like 0\.3\.0"):
        versions.write("v1", tmp_path)


def fragments() -> Iterator[Path]:
    return (
        path
        for path in (ROOT / "changelog.d").iterdir()
        if path.name not in {"README.md", "template.md.jinja"}
    )


def test_notes_of_the_next_release_have_a_type_and_no_form_of_their_own() -> None:
    types = {one["directory"] for one in PROJECT["tool"]["towncrier"]["type"]}
    for path in fragments():
        name = re.fullmatch(r"[a-z0-9-]+\.([a-z]+)\.md", path.name)
        assert name, f"{path.name} is not SLUG.TYPE.md: see changelog.d/README.md"
        assert name[1] in types, f"{path.name}: there are {', '.join(sorted(types))}"
        text = path.read_text().strip()
        assert text, path.name
        assert text[0] not in "-*#", f"{path.name}: the dash is put there for it"
        assert all(len(line) <= 120 for line in text.splitlines()), path.name
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            assert "://" in target or (ROOT / target).exists(), f"{path.name}: {target}"
