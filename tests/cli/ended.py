"""Commands that run in the process of the test, and end: as fast as what they do."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import pytest

from cpg_trio import cli


@attrs.frozen
class Ended:
    """A command that has ended."""

    status: int
    out: str
    err: str


@contextmanager
def limits_as_they_were() -> Iterator[None]:
    """Undo that hosts and plugins raise a limit of their process."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)


def ended(capsys: pytest.CaptureFixture[str], *words: str) -> Ended:
    """Run `cpg-trio` with these words; return its status, and what it has written."""
    capsys.readouterr()
    with limits_as_they_were(), pytest.raises(SystemExit) as end:
        cli.main(words)
    out, err = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return Ended(end.value.code, out, err)
