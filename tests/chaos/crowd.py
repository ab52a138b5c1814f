"""Many plugins in one process, each of which requires `logger` and says when it has lost it.

`python -m tests.chaos.crowd`, configured by HOST_URL as any plugin, and by CROWD: how many there are.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import partial

import trio

from cpg_trio.plugin import Dependency, Plugin, PluginConfig
from cpg_trio.process import run
from tests.rpc.echo import Echo

_log = logging.getLogger("cpg_trio.crowd")


async def main(stop: trio.Event) -> None:
    config = PluginConfig(host_url=os.environ["HOST_URL"], hostname="127.0.0.1")
    async with trio.open_nursery() as tellers:
        async with trio.open_nursery() as plugins:
            for number in range(int(os.environ["CROWD"])):
                plugin = Plugin(f"crowd-{number}", version="1.0.0")
                plugin.provide(f"crowd-{number}", Echo())
                tellers.start_soon(_tell_losses, f"crowd-{number}", plugin.require("logger"), stop)
                plugins.start_soon(partial(plugin.serve, stop, config=config))
        tellers.cancel_scope.cancel()


async def _tell_losses(name: str, logger: Dependency, stop: trio.Event) -> None:
    await logger.wait_available()
    async for state in logger.changes():
        if not state.providers and not stop.is_set():
            _log.info("%s has lost logger", name)


if __name__ == "__main__":
    sys.exit(run(main))
