"""The command `top`: the status and the plugins of a host, refreshed in place."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from cpg_trio.cli._admin import HERE, AdminOptions
from cpg_trio.cli._errors import UsageError

_SHORTEST_S = 0.2


def top(
    *,
    every: Annotated[
        float, Parameter(help="Seconds between refreshes (default: 2).", metavar="SECONDS")
    ] = 2.0,
    options: AdminOptions = HERE,
) -> int:
    """Show the status and the plugins until q or Ctrl-C."""
    if not every >= _SHORTEST_S:
        raise UsageError(f"--every must be {_SHORTEST_S:g} or more, not {every:g}")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("top needs a terminal; use cpg-trio status or cpg-trio plugins")
    from cpg_trio.cli._screen import show_screen  # noqa: PLC0415 - help and completion need none of it

    show_screen(options, every)
    return 0
