"""Programs that launch, each a process of its own: `python -m tests.chaos.launching_hosts MARK`.

It starts one for each line of its input, and prints its process id. A fork is cheap; what this imports is
not. `MARK` is in the environment of all that they start, and the name of their plugins.

cycle   starts and stops a plugin, for ever
fork    starts a plugin, then forks a process that has all of its descriptors, and prints its process id
"""

from __future__ import annotations

import os
import signal
import sys

import trio

from cpg_trio.launch.process import ProcessLauncher
from tests.launch.launching import assignment

SCRIPT = """
    (setsid sleep 300 &)
    sleep 301 &
    sleep 302
"""


async def forking_host(mark: str) -> None:
    async with ProcessLauncher(("sleep", "300"), environment={"MARK": mark}).launch(assignment(plugin=mark)):
        if not (pid := os.fork()):
            signal.pause()
        os.write(1, b"%d\n" % pid)
        await trio.sleep_forever()


async def host(mark: str) -> None:
    launcher = ProcessLauncher(("sh", "-c", SCRIPT), environment={"MARK": mark})
    while True:
        async with launcher.launch(assignment(plugin=mark)) as running:
            await trio.sleep(0.01)
            running.stop()
            await trio.sleep(0.005)


def main(mark: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for what in sys.stdin:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            trio.run(forking_host if what.strip() == "fork" else host, mark)
        os.write(1, b"%d\n" % pid)


if __name__ == "__main__":
    main(sys.argv[1])
