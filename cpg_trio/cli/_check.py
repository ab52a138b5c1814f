"""The command `check`, for command lines that `main` cannot run without a parser: help and errors."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Group, Parameter
from cyclopts.validators import mutually_exclusive

from cpg_trio.check import check

_PROBES = Group("Probes", validator=mutually_exclusive)


def check_process(
    *,
    ready: Annotated[
        bool,
        Parameter(
            group=_PROBES,
            help="Whether it can work now: the host has had its heartbeat within the lease (the default).",
        ),
    ] = False,
    startup: Annotated[
        bool,
        Parameter(group=_PROBES, help="Whether it has started: it has completed a handshake with a host."),
    ] = False,
    live: Annotated[bool, Parameter(group=_PROBES, help="Whether it answers at all.")] = False,
) -> int:
    """Make one probe of the process on `PORT`."""
    del ready  # which is the default
    return check("live" if live else "startup" if startup else "ready")
