"""Coverage can be stopped and go on: what it looks at is chosen by `tests/conftest.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracers import stop_tracing, tracing_as_it_was

PROGRAM = """
import sys
from tests.tracers import is_traced, stop_tracing, tracing_as_it_was

before = sys.gettrace()
if before is not None:  # where Python has it, coverage is told of each line once, by other means
    assert is_traced()
    with tracing_as_it_was():
        stop_tracing()
        assert sys.gettrace() is None
        assert not is_traced()
    assert sys.gettrace() is before
"""
ROOT = Path(__file__).parents[1]


def test_coverage_traces_nothing_where_it_is_not_to_and_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "coverage", "run", f"--data-file={tmp_path / 'data'}", "program.py"]
    subprocess.run(command, cwd=tmp_path, check=True)


def test_the_trace_function_of_somebody_else_stays() -> None:
    def trace(*_: object) -> None: ...

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with tracing_as_it_was():
            stop_tracing()
            assert sys.gettrace() is trace
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
