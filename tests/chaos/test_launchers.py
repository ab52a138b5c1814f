"""The launcher of processes, put through its paces: each check starts processes, and ends them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cpg_trio.launch.process import ProcessLauncher
from cpg_trio.testing import check_launcher


async def test_a_launcher_of_processes_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    await check_launcher(
        lambda target: ProcessLauncher(
            (sys.executable, "-m", "cpg_trio.launch.run", target), directory=tmp_path, port=0
        )
    )
