"""The documentation: its Python is Python, its links lead somewhere, its commands are those that CI runs."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from cpg_trio import Plugin

from .rpc.echo import Echo

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def python_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


@EACH_PAGE
def test_python_in_a_page_is_python(page: Path) -> None:
    for block in python_of(page.read_text()):
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


async def test_the_test_in_the_guide_to_plugins_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "guides" / "writing-a-plugin.md").read_text()
    (test,) = [block for block in python_of(page) if "async def test_it_registers" in block]
    plugin = Plugin("greeter-plugin", version="1.0.0")
    plugin.provide("greeter", Echo())
    monkeypatch.setitem(sys.modules, "greeter_plugin", SimpleNamespace(plugin=plugin))
    names: dict[str, Any] = {}
    exec(test, names)
    with trio.fail_after(10):
        await names["test_it_registers"]()


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
