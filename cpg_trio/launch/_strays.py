"""What is left of a run whose guardian was killed: found by a variable that all of the run have inherited.

Nobody is their guardian any more, so that they cannot be known by their parents: they are anybody's children.
The variable is random, so nothing else has it. Linux only; and a process that hides its environment, or has
cleared it, is not found.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

RUN_ID = "PLUGIN_RUN_ID"
"""The variable, whose value is of this run alone."""

_ROUND_S = 0.02
_MOST_S = 10.0


def end_strays(run_id: str) -> list[int]:
    """Kill all processes of a run until there are none; return those that did not end in some seconds."""
    if not hasattr(os, "pidfd_open"):
        return []
    until = time.monotonic() + _MOST_S
    while found := list(_strays(run_id)):
        for pid in found:
            _end(pid, run_id)
        if time.monotonic() > until:
            break
        time.sleep(_ROUND_S)
    return found


def _strays(run_id: str) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _is_of(int(entry.name), run_id):
            yield int(entry.name)


def _is_of(pid: int, run_id: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has ended, or is another user's
        return False
    return f"{RUN_ID}={run_id}".encode() in environment.split(b"\0")


def _end(pid: int, run_id: str) -> None:
    """Kill a process, unless its id has become another's since it was found."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # What was looked at by its id after it was opened is what was opened, or else that has ended.
        if _is_of(pid, run_id):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        pass  # it has ended
    finally:
        os.close(descriptor)
