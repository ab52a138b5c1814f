"""A plugin whose handler holds up its event loop, for as many seconds as the text that it is sent says.

`python -m tests.chaos.blocker`, configured by its environment as any plugin.
"""

from __future__ import annotations

import sys
import time

from cpg_trio.plugin import Plugin
from cpg_trio.process import run
from cpg_trio.rpc import Context
from tests._gen.echo.v1.echo_pb2 import EchoRequest, EchoResponse
from tests.rpc.echo import Echo


class Blocker(Echo):
    async def echo(self, request: EchoRequest, _ctx: Context, /) -> EchoResponse:
        time.sleep(float(request.text))  # noqa: ASYNC251 - this is the fault
        return EchoResponse(text=request.text)


def blocker_plugin() -> Plugin:
    plugin = Plugin("blocker-plugin", version="1.0.0")
    plugin.provide("blocker", Blocker())
    return plugin


if __name__ == "__main__":
    sys.exit(run(blocker_plugin().serve))
