"""A program that is process 1 of its own namespace: it says what children it has in the end."""

from __future__ import annotations

import os
import signal

import trio

from cpg_trio.launch._reaper import reap_strangers, reaping_orphans
from cpg_trio.launch.process import ProcessLauncher
from tests.launch.launching import Written, assignment, children, parent_of


async def main() -> None:
    written = Written()
    script = "(setsid sleep 60 &); echo ready; sleep 61"
    async with trio.open_nursery() as nursery, reaping_orphans():
        nursery.start_soon(reap_strangers, 0.2)  # so that it need not take so long
        async with ProcessLauncher(("sh", "-c", script)).launch(assignment(written.add)) as running:
            await written.line("ready")
            assert running.pid
            os.kill(parent_of(running.pid), signal.SIGKILL)
            await running.wait()
        orphans = len(children())
        with trio.fail_after(10):
            while children():  # noqa: ASYNC110 - nothing tells it
                await trio.sleep(0.02)
        print(os.getpid(), orphans > 0)  # noqa: T201
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
