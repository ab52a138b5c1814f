"""Network namespaces: a network of its own for one thread of a test, where settings harm nobody."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

_T = TypeVar("_T")
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


def in_namespace(commands: list[str], question: Callable[[], _T]) -> _T:
    """Return what `question` returns in a new network, in which these commands have been run.

    It runs in a thread, which has the network for itself and ends with it. What it starts is in that network,
    too, and Trio keeps threads for later: what needs Trio's threads or processes runs in a process.
    Skips the test where no network can be made: that takes root.
    """
    found: list[_T] = []
    failed: list[BaseException] = []

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEW_NETWORK):
            failed.append(pytest.skip.Exception(f"no network namespace: {os.strerror(ctypes.get_errno())}"))
            return
        try:
            for command in commands:
                subprocess.run(shlex.split(command), check=True, capture_output=True)
            found.append(question())
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread of the test
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
