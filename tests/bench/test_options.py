"""The benchmark itself, with real processes and the shortest loads: run by `nox -s bench -- tests`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import installed
from benchmarks.profile import CASES, why_not
from benchmarks.revision import ROOT

SHORT = ["--quick", "--connections", "1", "--watchers", "10", "--changes", "0"]


def benchmark(*words: str) -> str:
    """Run the benchmark; return what it prints."""
    command = [sys.executable, "-m", "benchmarks", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def measured(folder: Path, *words: str) -> dict[str, Any]:
    """Run the benchmark; return its figures."""
    file = folder / "figures.json"
    benchmark(*words, "--json", str(file))
    return dict(json.loads(file.read_text()))


def test_another_commit_is_built_once_and_measured_beside_this_tree(tmp_path: Path) -> None:
    words = [*SHORT, "--against", "HEAD", "--rounds", "2", "--folder", str(tmp_path)]
    found = measured(tmp_path, "fresh", "memory", "watchers", *words)
    (folder,) = tmp_path.glob("commit-*")
    name = folder.name.removeprefix("commit-")
    assert set(found["fresh"]) == {"ours", name}
    parts = found["against"]["figures"]
    assert set(parts) == {"fresh", "memory", "watchers"}
    for figures in parts.values():
        assert figures
        assert all(len(of["ours"]) == len(of["theirs"]) > 0 for of in figures)
    environment = (folder / "environment").stat().st_ctime_ns
    said = benchmark("memory", *words)
    assert f"## Beside {name}" in said
    assert (folder / "environment").stat().st_ctime_ns == environment


def test_a_commit_that_is_not_there_ends_the_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "fresh", "--against", "no-such-commit"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no-such-commit" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_go_implementation_is_measured_beside_ours(tmp_path: Path) -> None:
    if not (host := os.environ.get("GO_HOST")):
        pytest.skip("GO_HOST names no host of the Go implementation")
    shortener = os.environ.get("GO_SHORTENER")
    words = [*SHORT, "--peers", "ours", "--go-host", host]
    words += ["--go-shortener", shortener] if shortener else []
    found = measured(tmp_path, "fresh", "router", "discovery", "shortener", *words)
    for part in ("fresh", "router", "discovery"):
        assert set(found[part]) == {"ours", "go"}
    assert ("go" in found["shortener"]) == bool(shortener)


def test_a_profile_has_the_time_of_each_case_by_groups(tmp_path: Path) -> None:
    words = [*SHORT, "--folder", str(tmp_path)]
    if (reason := why_not()) and os.geteuid():
        command = [sys.executable, "-m", "benchmarks", "profile", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, f"profile is not measured: {reason}\n")
        return
    profiles = measured(tmp_path, "profile", *words)["profile"]
    assert list(profiles) == [case.title for case in CASES]
    for profile in profiles.values():
        assert profile["cpu_us"] > 0
        assert sum(profile["shares"].values()) == pytest.approx(1)
    routed = profiles[CASES[0].title]["shares"]
    assert {"system call: send", "heads: read, judge, look up"} <= set(routed)
    assert set(profiles[CASES[4].title]["by_process"]) == {"host", "logger", "storage", "api"}


def test_two_hosts_of_one_directory_are_measured_beside_one(tmp_path: Path) -> None:
    if not installed("etcd"):
        pytest.skip("there is no etcd: install etcd-server")
    found = measured(tmp_path, "hosts", *SHORT, "--folder", str(tmp_path))["hosts"]
    assert list(found)[:3] == ["one host, no shared directory", "one host of the directory", "two hosts"]
    assert all(of["calls_per_s"] > 0 and of["other_us"] > 0 for of in found.values())
    assert len(found["two hosts"]["host_us"]) == 2


def test_tls_is_measured_beside_plaintext(tmp_path: Path) -> None:
    found = measured(tmp_path, "tls", "--peers", "ours,envoy", *SHORT)["tls"]
    assert set(found) == {"ours", "envoy", "openssl_us"}
    for name in ("ours", "envoy"):
        for figures in found[name].values():
            assert figures["cpu_us_tls"] > figures["cpu_us"] > 0
    assert found["openssl_us"]["full"]["server"] > 0
