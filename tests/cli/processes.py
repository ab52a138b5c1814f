"""A host and the example's plugins as processes, which the tests of a module share."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import attrs

_T = TypeVar("_T")

ADMIN_TOKEN = "operator-" + "t" * 32
ROOT = Path(__file__).parents[2]
_WAIT_S = 60.0


@attrs.define
class Logged:
    """A process whose output goes to a file."""

    process: subprocess.Popen[bytes]
    log: Path

    def until(self, pattern: str) -> re.Match[str]:
        """Wait until its output has a match."""
        return eventually(lambda: re.search(pattern, self.log.read_text()), f"{pattern} in its output")

    def url(self) -> str:
        """Wait until it listens; return where."""
        return self.until(r"listening on (http://[^\s,]+)")[1]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(_WAIT_S)


@attrs.define
class Platform:
    """A host, its plugins by name, and where its admin service is."""

    folder: Path
    host: Logged
    url: str
    socket: Path
    plugins: dict[str, Logged]

    @property
    def admin_url(self) -> str:
        """Where the admin service is for who has the token."""
        return self.host.until(r"admin service on .*(http://[^\s,]+)")[1]

    def call_api(self, path: str) -> int:
        """Call the api plugin as a client outside does; return the status."""
        return status_of(f"{self.plugins['api'].url()}/api.v1.API/{path}")


@contextmanager
def process(
    folder: Path, name: str, *arguments: str, environment: dict[str, str] | None = None
) -> Iterator[Logged]:
    """Run `python -m` with these arguments in a folder, which has its output, until the end of the block."""
    log = folder / f"{name}.log"
    usual = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PORT": "0"}
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=usual | (environment or {}) | coverage_environment(),
        )
        try:
            yield Logged(child, log)
        finally:
            child.kill()
            child.wait()


def coverage_environment() -> dict[str, str]:
    """Return what has a child process measured as well, where this one is."""
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}


def eventually(look: Callable[[], _T | None], what: str) -> _T:
    """Return the first result of `look` that is not None or false."""
    end = time.monotonic() + _WAIT_S
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {_WAIT_S:g} s: {what}")


def status_of(url: str, headers: dict[str, str] | None = None) -> int:
    """Post nothing to a URL; return the HTTP status."""
    request = urllib.request.Request(url, data=b"", headers=headers or {}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=_WAIT_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
