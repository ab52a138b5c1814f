"""The command `logs`: what a plugin that the host runs has written, and what it writes now."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cpg_trio._lines import one_line
from cpg_trio.cli._admin import HERE, AdminOptions
from cpg_trio.cli._errors import UsageError
from cpg_trio.cli._managed import ManagedName
from cpg_trio.cli._output import Output, as_json
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from rich.text import Text

_MOST = 2**32 - 1


def logs(
    plugin: ManagedName,
    /,
    *,
    follow: Annotated[
        bool, Parameter(name=("--follow", "-f"), help="Go on with new lines until Ctrl-C.")
    ] = False,
    lines: Annotated[
        int, Parameter(name=("--lines", "-n"), help="So many of the last lines (default: 100).", metavar="N")
    ] = 100,
    replica: Annotated[int, Parameter(help="Only of this replica, from 1.", metavar="K")] = 0,
    json: Annotated[bool, Parameter(help="One JSON document a line, for programs.")] = False,
    options: AdminOptions = HERE,
) -> int:
    """Show the last lines that a plugin has written, the newest last."""
    if not (1 <= lines <= _MOST and 0 <= replica <= _MOST):
        raise UsageError("--lines and --replica must be 1 or more")
    from cpg_trio.cli._log_stream import show_logs  # noqa: PLC0415 - help and completion need none of it

    request = pb.WatchLogsRequest(plugin=plugin, replica=replica, lines=lines, follow=follow)
    show_logs(options, request, _json_line if json else partial(_line, out=Output()))
    return 0


def _json_line(line: pb.LogLine) -> None:
    print(as_json(line))


def _line(line: pb.LogLine, out: Output) -> None:
    out.line(log_line(line, out))


def log_line(line: pb.LogLine, out: Output) -> Text:
    """Return a line of a plugin, with its time and its replica. What does not print is escaped."""
    from rich.text import Text  # noqa: PLC0415 - JSON does not need it

    text = line.text.expandtabs()
    which = f"{line.plugin}/{line.replica}  " if line.replica > 1 else ""
    return Text.assemble((f"{out.when(line.at)}  {which}", "bright_black"), one_line(text, len(text)))
