"""The least that a host is, so that it starts fast: `python -I -S bare_host.py FOLDER MARK [fork]`.

It starts a guardian of FOLDER as the launcher does, has it start a plugin, and goes on until it is killed.
With `fork`, it prints the id of a process that it has forked, which has all of its descriptors.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from importlib import import_module

SCRIPT = "(setsid sleep 300 &); sleep 301 & sleep 302"


def main(folder: str, mark: str, *what: str) -> None:
    sys.path.insert(0, folder)
    guardian = import_module("guardian")
    ours, theirs = socket.socketpair()
    arguments = (str(guardian.__file__), str(theirs.fileno()), "-1", str(os.getpid()), f"{mark}/1")
    with subprocess.Popen(
        (sys.executable, "-I", "-S", *arguments), pass_fds=[theirs.fileno()], start_new_session=True
    ):
        theirs.close()
        environment = [f"MARK={mark}", f"PATH={os.defpath}"]
        ours.sendall(guardian.Order(("sh", "-c", SCRIPT), environment, "/").encode())
        if what:
            assert ours.recv(100).startswith(b"pid ")
            if pid := os.fork():
                os.write(1, b"%d\n" % pid)
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
