"""The documentation: its Python is Python, its links lead somewhere, its commands are those that CI runs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


@EACH_PAGE
def test_python_in_a_page_is_python(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        ast.parse(block)


@EACH_PAGE
def test_links_to_files_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_names_that_pages_import_from_the_package_exist() -> None:
    for page in PAGES:
        for module, names in re.findall(
            r"^from (cpg_trio[\w.]*) import (.+)$", page.read_text(), re.MULTILINE
        ):
            for name in names.split(","):
                assert hasattr(__import__(module, fromlist=[name.strip()]), name.strip()), (page, name)


def test_each_threat_is_held_by_tests_that_there_are() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    threats = page.partition("## Threats")[2].partition("## ")[0]
    rows = [row for row in threats.splitlines() if row.startswith("| ") and not row.startswith("| threat")]
    assert rows
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)`", row)
        assert named, row
        for name in named:
            assert (ROOT / name).is_file(), name


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = re.findall(r"^\$ (python3 -m venv .+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text().splitlines()
