"""The public face: what is public can be imported, is named, and brings nothing along that is not used."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import cpg_trio

ROOT = Path(__file__).parents[1]
ROOMS = [
    f"cpg_trio{room}"
    for room in ("", ".calls", ".host", ".http", ".launch", ".plugin", ".rpc", ".store", ".testing")
]
"""The modules whose `__all__` is what is public of them."""


@pytest.mark.parametrize("room", ROOMS)
def test_all_that_is_named_can_be_imported_and_is_not_private(room: str) -> None:
    module = importlib.import_module(room)
    assert module.__all__ == sorted(set(module.__all__), key=_as_ruff_sorts)
    for name in module.__all__:
        assert name == "__version__" or not name.startswith("_")
        found = getattr(module, name)
        assert not isinstance(found, ModuleType), f"{room}.{name} is a module"
        assert name in dir(module)


def _as_ruff_sorts(name: str) -> tuple[int, str]:
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name


@pytest.mark.parametrize("room", ROOMS)
def test_all_that_a_room_takes_from_its_modules_is_named(room: str) -> None:
    module = importlib.import_module(room)
    tree = ast.parse(Path(str(module.__file__)).read_text())
    taken = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert taken == set(module.__all__)


HOMES = {"Context": "rpc", "Caller": "rpc", "HealthState": "states", "Plugin": "plugin", "run": "process"}


@pytest.mark.parametrize(("name", "home"), HOMES.items())
def test_a_name_at_the_top_is_that_of_the_room_where_it_is_at_home(name: str, home: str) -> None:
    assert getattr(cpg_trio, name) is getattr(importlib.import_module(f"cpg_trio.{home}"), name)


def test_what_there_is_not_is_an_attribute_error() -> None:
    missing = "Plugins"
    with pytest.raises(AttributeError, match="module 'cpg_trio' has no attribute 'Plugins'"):
        getattr(cpg_trio, missing)


def brought_along(program: str) -> set[str]:
    """Return the modules of the package that a program imports."""
    names = "[name for name in sys.modules if name.startswith('cpg_trio')]"
    code = f"import json, sys; {program}; print(json.dumps({names}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout))


def test_the_package_brings_along_nothing_until_a_name_of_it_is_used() -> None:
    assert brought_along("import cpg_trio") == {"cpg_trio", "cpg_trio._version"}
    assert brought_along("from cpg_trio import HealthState") == {
        "cpg_trio",
        "cpg_trio._version",
        "cpg_trio.states",
    }
    assert "cpg_trio.host" not in brought_along("from cpg_trio import Plugin")
    assert "cpg_trio.plugin" not in brought_along("from cpg_trio import Host")
