"""Runs a Python plugin in a process of its own: `python -m cpg_trio.launch.run module:attribute`.

The environment says where it runs, as of every plugin. With `--describe` it only prints what the plugin says
of itself, as JSON; the exit status is 1 if there is no such plugin, and the last line says why.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial

import trio

from cpg_trio.launch.describe import NoPluginError, describe, plugin_of
from cpg_trio.process import run

_USAGE = 2


async def serve(target: str, stop: trio.Event) -> None:
    """Run a plugin until `stop` is set. Raises: StartError."""
    async with plugin_of(target, os.environ) as plugin:
        await plugin.serve(stop)


def run_plugin(target: str) -> int:
    """Run a plugin until a signal; return the exit status."""
    return run(partial(serve, target))


def main(arguments: Sequence[str]) -> int:
    """Run, or describe, a plugin; return the exit status."""
    match arguments:
        case ["--describe", target]:
            return _describe(target)
        case [target] if not target.startswith("-"):
            return run_plugin(target)
    print("usage: python -m cpg_trio.launch.run [--describe] module:attribute", file=sys.stderr)
    return _USAGE


def _describe(target: str) -> int:
    try:
        with redirect_stdout(sys.stderr):  # what the module prints is no part of the answer
            description = trio.run(describe, target, os.environ)
    except NoPluginError as error:
        print(error, file=sys.stderr)
        return 1
    print(description.as_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
