"""What container images are made of. The containers themselves are tested by `nox -s e2e`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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


def test_what_the_dockerfile_copies_is_not_left_out_of_its_context() -> None:
    copied = {
        name
        for names in re.findall(
            r"^COPY (?!--from)(.+) \S+$", (CONTAINERS / "Dockerfile").read_text(), re.MULTILINE
        )
        for name in names.split()
    }
    let_in = re.findall(r"^!(\S+)$", (CONTAINERS / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert copied
    assert not [name for name in copied if not any(fnmatch(name, pattern) for pattern in let_in)]


def test_a_process_that_is_stopped_while_it_still_imports_ends_with_status_0() -> None:
    # Not in one long sleep: Python may handle a signal behind the call that follows it. 3.14 often does.
    importing = "import time; print('importing', flush=True)\nwhile True: time.sleep(0.01)"
    with subprocess.Popen(
        [sys.executable, "-c", importing],
        env={**os.environ, "PYTHONPATH": str(CONTAINERS)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
