"""What the commands that change something have in common: which plugin is meant, and whether to go on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cpg_trio.cli._errors import CommandError, UsageError
from cpg_trio.cli._output import Output, call_cells, since
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient

ReasonOption = Annotated[
    str, Parameter(name="--reason", help="Why, for the audit trail and the log.", metavar="TEXT")
]
YesFlag = Annotated[
    bool, Parameter(name=("--yes", "-y"), help="Do not ask; needed where there is no terminal.")
]


async def confirmed_plugin(host: AdminServiceClient, name: str, action: str, *, yes: bool) -> pb.Plugin:
    """Return the plugin that a name means, once somebody has said that it may be done.

    What is done is done to the plugin that was shown. Raises: CommandError.
    """
    plugin = (await host.get_plugin(pb.GetPluginRequest(plugin=name))).plugin
    if not yes:
        pace = call_cells(plugin.calls_in)[0]
        state = Output(sys.stderr).word(plugin.state)
        confirm(
            f"{action} {plugin.runtime_id} ({state} for {since(plugin.state_since)}, {pace} calls to it)?"
        )
    return plugin


def confirm(question: str) -> None:
    """Ask on the terminal. Raises: CommandError without one, or if the answer is not yes."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("this needs to be confirmed, and there is no terminal: say --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CommandError("nothing was done")
