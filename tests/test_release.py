"""What a release is made of: one version everywhere, and notes that can be read."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpg_trio import __version__
from release import notes, versions

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
OWNERS = {module: owners for module, owners in packages_distributions().items() if module != "cpg_trio"}


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
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            assert "://" in target or (ROOT / target).exists(), f"{path.name}: {target}"


def test_the_notes_of_a_version_are_its_section() -> None:
    changelog = "# Changelog\n\n## 0.3.0 (2027-01-31)\n\n### Added\n\n- A.\n\n## 0.2.0 (2026-11-27)\n\n- B.\n"
    assert notes.notes_of("0.3.0", changelog) == "### Added\n\n- A.\n"
    assert notes.notes_of("0.2.0", changelog) == "- B.\n"
    with pytest.raises(ValueError, match=r"has no notes of 0\.3"):
        notes.notes_of("0.3", changelog)


def named(requirement: str) -> str:
    return re.split(r"[\[<>=~! ]", requirement)[0].lower().replace("_", "-")


def test_each_requirement_with_an_upper_end_says_why() -> None:
    lines = re.findall(
        r'^  "([\w.-]+(?:==|[^"]*<)[^"]*)",(.*)$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    required = {each for each in PROJECT["project"]["dependencies"] if re.search("==|<", each)}
    assert required
    assert required == {each for each, why in lines if "# " in why} & required
    extras = PROJECT["project"]["optional-dependencies"].values()
    assert not [each for extra in extras for each in extra if re.search("==|<", each)]


def test_what_the_package_imports_is_required_by_name() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    required = {
        named(each) for each in [*PROJECT["project"]["dependencies"], *(e for extra in extras for e in extra)]
    }
    imported = {
        module
        for path in ROOT.glob("cpg_trio/**/*.py")
        for module in re.findall(r"^ *(?:import|from) (\w+)", path.read_text(), re.MULTILINE)
        if module in OWNERS
    }
    assert imported
    # Those who use the fixtures have pytest; protobuf-py comes in parts.
    assert imported - {"pytest", "protobuf"} <= {
        module for module in OWNERS if required & {named(owner) for owner in OWNERS[module]}
    }


def test_each_extra_is_explained_once() -> None:
    page = (ROOT / "docs/reference/extras.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == sorted(
        PROJECT["project"]["optional-dependencies"]
    )


def workflows() -> dict[str, Any]:
    return {
        path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")
    }


IN_A_CLONE = pytest.mark.skipif(not (ROOT / ".github").exists(), reason="an sdist has no workflows")


@IN_A_CLONE
def test_ci_tests_the_interpreters_that_the_package_names() -> None:
    said = [each.rpartition(" ")[2] for each in PROJECT["project"]["classifiers"] if ":: 3." in each]
    assert workflows()["ci"]["jobs"]["tests"]["strategy"]["matrix"]["python"] == said


@IN_A_CLONE
def test_ci_runs_the_sessions_of_nox() -> None:
    (text,) = re.findall(
        r"^nox.options.sessions = \[(.*?)\]", (ROOT / "noxfile.py").read_text(), re.MULTILINE | re.DOTALL
    )
    default = set(re.findall(r'"([\w-]+)"', text))
    jobs = workflows()["ci"]["jobs"]
    assert default - {"tests"} <= {*jobs["sessions"]["strategy"]["matrix"]["session"]}
    assert jobs["done"]["needs"] == ["tests", "sessions"]


@IN_A_CLONE
def test_an_action_is_one_commit_which_has_one_name() -> None:
    used = Counter(
        match
        for path in (ROOT / ".github/workflows").glob("*.yml")
        for match in re.findall(
            r"uses: (\S+?)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)$", path.read_text(), re.MULTILINE
        )
    )
    assert used.total() == sum(
        path.read_text().count("uses: ") for path in (ROOT / ".github/workflows").glob("*.yml")
    )
    assert len({action for action, _, _ in used}) == len(used)
