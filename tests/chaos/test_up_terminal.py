"""`cpg-trio up` on a real terminal, which is made narrower, or takes nothing."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.cli.processes import ROOT, coverage_environment, eventually
from tests.cli.terminal import Terminal
from tests.plugin.running import unused_port

PLATFORM = """
[host]
port = {port}

[plugins.logger]
plugin = "cpg_trio.demo.logger:logger_plugin"

[plugins.storage]
plugin = "cpg_trio.demo.storage:storage"
environment = {{ STORAGE_PATH = "urls.sqlite3" }}

[plugins.printer]
plugin = "printer:printer"

[plugins.chatty]
command = ["/bin/sh", "-c", "{script}"]
ready = "running"
"""
PRINTER = """
import os, sys
from contextlib import asynccontextmanager
from cpg_trio import Plugin

@asynccontextmanager
async def printer():
    yield Plugin("printer", version="1.0.0")
    print("it ends", file=sys.stderr)
    os.write(2, b"past the screen\\n")
"""
_NEAR_S = 60.0


@attrs.define
class Screen:
    """A terminal with a platform that runs on it."""

    process: subprocess.Popen[bytes]
    controller: int
    terminal: Terminal
    port: int
    reads: threading.Event = attrs.field(factory=threading.Event)
    """Whether what is written is taken."""
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    """Of the terminal, which a thread writes to."""

    def read(self) -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        while True:
            self.reads.wait()
            try:
                data = os.read(self.controller, 65536)
            except OSError:  # nobody has the other end any more
                return
            with self.lock:
                self.terminal.write(decode(data))

    def matches(self, pattern: str) -> int:
        """Return how many lines of the screen match."""
        with self.lock:
            return sum(bool(re.search(pattern, line)) for line in self.terminal.text)

    def shows(self, pattern: str, times: int | None = None) -> None:
        """Wait until a line of the screen matches, or so many of them do. A picture may come in pieces."""
        try:
            eventually(
                lambda: self.matches(pattern) > 0 if times is None else self.matches(pattern) == times,
                pattern,
            )
        except AssertionError as error:
            error.add_note("\n".join(self.terminal.text))
            raise

    def resize(self, columns: int) -> None:
        with self.lock:
            self.terminal.resize(columns)
        fcntl.ioctl(self.controller, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))

    def cpg(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another command for the host."""
        return subprocess.run(
            [sys.executable, "-m", "cpg_trio", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=_NEAR_S,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PORT": str(self.port)},
        )


@contextmanager
def screen(folder: Path, script: str, columns: int = 100) -> Iterator[Screen]:
    port = unused_port()
    (folder / "platform.toml").write_text(PLATFORM.format(port=port, script=script))
    (folder / "printer.py").write_text(PRINTER)
    controller, terminal = pty.openpty()
    fcntl.ioctl(controller, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "cpg_trio", "up"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | coverage_environment(),
    )
    os.close(terminal)
    found = Screen(process, controller, Terminal(columns), port)
    found.reads.set()
    reader = threading.Thread(target=found.read)
    reader.start()
    try:
        yield found
    finally:
        process.kill()
        process.wait()
        found.reads.set()
        reader.join()
        os.close(controller)


def test_a_start_and_a_stop_are_seen_and_a_narrower_terminal_has_no_remains(tmp_path: Path) -> None:
    with screen(tmp_path, "echo it begins; exec sleep 1000") as seen:
        seen.shows(r"^  host +\d+\.\d s  . listening on http://127\.0\.0\.1:")
        seen.shows(r"^  storage +\d+\.\d s  . ready, task")
        seen.shows(r"^chatty +│ it begins$")
        seen.shows(r"^  chatty +\d+\.\d s  . ready")
        seen.shows(r"^  storage ", times=1)
        seen.resize(50)
        seen.process.send_signal(signal.SIGINT)
        assert seen.process.wait(_NEAR_S) == 0
        seen.shows(r"^all plugins are stopped$")
        seen.shows(r"^printer +│ it ends$")
        seen.shows("^past the screen")
        for name in ("logger", "storage", "printer", "chatty"):
            seen.shows(rf"^  {name} +\d+\.\d s  . stopped$")
        seen.shows("^stopping:", times=0)


def test_a_terminal_that_takes_nothing_holds_up_no_plugin(tmp_path: Path) -> None:
    with screen(tmp_path, "while :; do echo noise; sleep 0.001; done") as seen:
        seen.shows(r"^chatty +│ noise$")
        seen.shows("ready, task")
        seen.reads.clear()
        time.sleep(3)  # in which far more is written than a terminal keeps
        status = seen.cpg("status")
        assert status.returncode == 0, status.stdout
        assert status.stdout.startswith("healthy: ")
        logs = seen.cpg("logs", "chatty", "--lines", "2")
        assert logs.stdout.count("noise") == 2
        seen.process.send_signal(signal.SIGINT)
        time.sleep(1)
        seen.reads.set()
        assert seen.process.wait(_NEAR_S) == 0
