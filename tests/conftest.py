"""What every test is given."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what a test says of where the log goes: it is the whole process's."""
    root, own = logging.getLogger(), logging.getLogger("cpg_trio")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:], root.level, own.level = before
