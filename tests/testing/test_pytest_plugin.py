"""The fixtures that come with the package, in a run of pytest of their own, as authors have it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """\
import sys

import pytest
import trio
from cpg_trio import HealthState, HostConfig, LeaseConfig, Plugin
from cpg_trio.testing import MemoryHost

@pytest.fixture
async def started(plugin_host):
    return await plugin_host.start(Plugin("greeter-plugin", version="1.0.0"))

async def test_time_is_virtual(plugin_host):
    assert isinstance(plugin_host, MemoryHost)
    began = trio.current_time()
    await trio.sleep(3600)
    assert trio.current_time() - began >= 3600

async def test_an_own_fixture_may_use_it(started):
    assert started.health is HealthState.HEALTHY

async def test_a_test_may_have_its_own_clock(plugin_host, mock_clock):
    before = trio.current_time()
    mock_clock.jump(5)
    assert trio.current_time() == before + 5

class TestOthers:
    @pytest.fixture
    def plugin_host_config(self):
        return HostConfig(leases=LeaseConfig(heartbeat_s=100.0, lease_s=300.0))

    async def test_the_host_is_configured_by_a_fixture(self, plugin_host, started):
        began = trio.current_time()
        await started.kill()
        await plugin_host.until(lambda: not started.runtime_id, 1000.0)
        assert trio.current_time() - began > 200.0
"""


def pytest_run(folder: Path, test: str, *options: str) -> str:
    (folder / "test_it.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "cpg_trio.pytest_plugin"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [*command, *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout + done.stderr


def test_a_test_has_a_host_in_virtual_time(tmp_path: Path) -> None:
    assert "4 passed" in (told := pytest_run(tmp_path, TESTS, "-p", "pytest_trio.plugin")), told


@pytest.mark.measured_processes
@pytest.mark.parametrize(
    ("test", "options", "said"),
    [
        ("async def test_it(plugin_host): ...", (), "plugin_host needs pytest-trio: pip install pytest-trio"),
        (
            "def test_it(plugin_host): ...",
            ("-p", "pytest_trio.plugin"),
            "plugin_host is for tests that are async functions",
        ),
    ],
)
def test_a_test_that_cannot_have_one_is_told_why(
    test: str, options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    assert said in pytest_run(tmp_path, test, *options)


def test_nothing_is_imported_until_a_fixture_is_used(tmp_path: Path) -> None:
    test = """\
import sys

def test_it():
    assert "trio" not in sys.modules
    assert {name for name in sys.modules if name.startswith("cpg_trio.")} <= {
        "cpg_trio._version", "cpg_trio.pytest_plugin"
    }
"""
    assert "1 passed" in (told := pytest_run(tmp_path, test)), told
