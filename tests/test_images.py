"""What container images are made of. The containers themselves are tested by `nox -s e2e`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cpg_trio import __version__

ROOT = Path(__file__).parents[1]
CONTAINERS = ROOT / "containers"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize(
    ("name", "requirements"),
    [
        ("requirements", PYPROJECT["project"]["dependencies"]),
        ("requirements", PYPROJECT["project"]["optional-dependencies"]["etcd"]),
        ("requirements", PYPROJECT["project"]["optional-dependencies"]["postgres"]),
        ("build", PYPROJECT["build-system"]["requires"]),
    ],
)
def test_a_lock_has_what_the_project_requires_with_a_hash_for_each_and_says_nothing_of_where_it_is_from(
    name: str, requirements: list[str]
) -> None:
    lock = (CONTAINERS / f"{name}.lock").read_text()
    pins = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:", lock, re.MULTILINE)
    assert len(pins) == lock.count("==")
    assert not re.search(r"://|^-", lock, re.MULTILINE)
    versions = dict(pins)
    for requirement in map(Requirement, requirements):
        assert requirement.specifier.contains(versions[requirement.name]), requirement


def test_images_bear_the_version_of_the_project() -> None:
    dockerfile, compose = ((CONTAINERS / name).read_text() for name in ("Dockerfile", "compose.yaml"))
    assert re.findall(r"^ARG VERSION=(.+)$", dockerfile, re.MULTILINE) == [__version__]
    assert re.findall(r"image: [\w-]+:\$\{CPG_TAG:-(.+)\}", compose) == [__version__] * 5


def test_a_process_that_is_stopped_while_it_still_imports_ends_with_status_0() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import time; print('importing', flush=True); time.sleep(60)"],
        env={**os.environ, "PYTHONPATH": str(CONTAINERS)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
