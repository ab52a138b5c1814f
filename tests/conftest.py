"""What every test is given."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what needs a Docker engine, unless it is asked for by name: `nox -s e2e`."""
    asked_for = any("e2e" in argument for argument in config.args)
    return True if collection_path.name == "e2e" and not asked_for else None


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what a test says of where the log goes: it is the whole process's."""
    root, own = logging.getLogger(), logging.getLogger("cpg_trio")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:], root.level, own.level = before
