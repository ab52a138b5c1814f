"""What can be attacked besides the host itself: `python -m tests.abuse.victims plugin` or `slow-resolver`.

The plugin provides `echo` to everybody. The other is a host in whose process the names in `.slow.test` take
so long to resolve as a name does whose servers do not answer.
"""

from __future__ import annotations

import socket
import sys
import time
from typing import Any

import trio

from cpg_trio.cli import main
from cpg_trio.plugin import Plugin
from cpg_trio.process import run
from cpg_trio.rpc import Context
from tests._gen.echo.v1.echo_pb2 import EchoRequest, EchoResponse
from tests.rpc.echo import Echo

SLOW_S = 20.0


class Forgetful(Echo):
    """Keeps nothing of its calls, unlike the tests' usual one."""

    async def echo(self, request: EchoRequest, _ctx: Context, /) -> EchoResponse:
        if request.text == "hang":
            await trio.sleep_forever()
        return EchoResponse(text=request.text, data=request.data)


def public_plugin() -> Plugin:
    plugin = Plugin("public-plugin", version="1.0.0")
    plugin.provide("echo", Forgetful(), public=True)
    return plugin


def resolve_slowly() -> None:
    """Have names in `.slow.test` resolved as slowly as a resolver does that nobody answers."""
    usual = socket.getaddrinfo

    def slow(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:  # noqa: A002
        name = host.decode() if isinstance(host, bytes) else host
        is_asked = isinstance(name, str) and not flags & socket.AI_NUMERICHOST  # else it is only parsed
        if is_asked and name.rstrip(".").endswith(".slow.test"):
            time.sleep(SLOW_S)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return usual(host, port, family, type, proto, flags)

    socket.getaddrinfo = slow


if __name__ == "__main__":
    if sys.argv[1] == "plugin":
        sys.exit(run(public_plugin().serve))
    resolve_slowly()
    main(["host"])
