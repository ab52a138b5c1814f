"""The command line of the example's plugins, each of which runs alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable

import trio

from cpg_trio._terminal import tolerant
from cpg_trio.process import run
from cpg_trio.variables import PLUGIN, SERVING, TRACING, help_text


def run_plugin(serve: Callable[[trio.Event], Awaitable[None]], description: str | None) -> int:
    """Run a plugin as the environment says; return the exit status. The only argument is `--help`."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=help_text(PLUGIN, SERVING, TRACING),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tolerant(sys.stdout)
    parser.parse_args()
    return run(serve)
