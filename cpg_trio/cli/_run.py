"""The command `run`: one Python plugin, in this process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def run(
    plugin: Annotated[
        str,
        Parameter(
            help="module:attribute: a Plugin, a function that returns one, or one that is an async context"
            " manager of one. The module is in this directory, or installed."
        ),
    ],
    /,
) -> int:
    """Run a plugin as the environment says (HOST_URL, PORT, HOSTNAME), until SIGTERM or Ctrl-C."""
    from cpg_trio.launch.run import run_plugin  # noqa: PLC0415 - help does not need it

    sys.path.insert(0, str(Path.cwd()))
    return run_plugin(plugin)
