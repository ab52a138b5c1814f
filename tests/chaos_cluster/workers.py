"""Several providers in one process. Each execution of a call is a line of a journal that outlives it.

`python -m tests.chaos_cluster.workers`, configured by HOST_URL as any plugin, by SERVICES (one provider for
each type in it), and by JOURNAL.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import trio

from cpg_trio.plugin import Plugin, PluginConfig
from cpg_trio.process import run
from cpg_trio.rpc import Context
from tests._gen.echo.v1 import echo_pb2 as pb
from tests.rpc.echo import Echo


class JournalledEcho(Echo):
    """Echoes, and writes down which provider of which service did."""

    def __init__(self, journal: int, name: str) -> None:
        super().__init__()
        self._journal = journal
        self._name = name

    async def echo(self, request: pb.EchoRequest, _ctx: Context, /) -> pb.EchoResponse:
        os.write(self._journal, f"{self._name} {request.text}\n".encode())
        await trio.sleep(0.002)  # long enough to be killed in
        return pb.EchoResponse(text=request.text)


async def main(stop: trio.Event) -> None:
    journal = os.open(Path(os.environ["JOURNAL"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    async with trio.open_nursery() as nursery:
        for service_type in os.environ["SERVICES"].split(","):
            plugin = Plugin(f"{service_type}-worker", version="1.0.0")
            plugin.provide(service_type, JournalledEcho(journal, service_type))
            config = PluginConfig(
                host_url=os.environ["HOST_URL"], bind="127.0.0.1:0", hostname="127.0.0.1", grace_s=2.0
            )
            nursery.start_soon(partial(plugin.serve, stop, config=config))


if __name__ == "__main__":
    sys.exit(run(main))
