"""A replica of the echo service whose executions outlive it: each is a line of a journal.

`python -m tests.chaos.worker`, configured by HOST_URL as any plugin, and by JOURNAL. With BEHIND, it
is called through a cutter at that address.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from cpg_trio.plugin import Plugin, PluginConfig
from cpg_trio.process import run
from cpg_trio.rpc import Context
from tests._gen.echo.v1 import echo_pb2 as pb
from tests.rpc.echo import Echo


class JournalledEcho(Echo):
    """Echoes, and says that it does."""

    def __init__(self, journal: Path) -> None:
        super().__init__()
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    async def echo(self, request: pb.EchoRequest, _ctx: Context, /) -> pb.EchoResponse:
        os.write(self._journal, f"{request.text}\n".encode())
        await trio.sleep(0.002)  # long enough to be killed in
        return pb.EchoResponse(text=request.text)


async def main(stop: trio.Event) -> None:
    plugin = Plugin("worker", version="1.0.0")
    plugin.provide("echo", JournalledEcho(Path(os.environ["JOURNAL"])))
    config = PluginConfig(
        host_url=os.environ["HOST_URL"],
        bind=f"127.0.0.1:{os.environ['PORT']}",
        hostname=os.environ.get("BEHIND", "127.0.0.1"),
        grace_s=2.0,
    )
    await plugin.serve(stop, config=config)


if __name__ == "__main__":
    sys.exit(run(main))
