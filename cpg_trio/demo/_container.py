"""What the example's plugins have in common when each runs alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable

import trio

from cpg_trio._terminal import tolerant
from cpg_trio.process import run


def container(description: str | None, main: Callable[[trio.Event], Awaitable[None]]) -> int:
    """Run a plugin as the environment says; return the exit status. There are no arguments but `--help`."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog="PORT, HOST_URL and HOSTNAME in the environment say where it listens, where its host is,"
        " and its own name as the host resolves it; SOCKET_DIR a directory that the two share, for calls by"
        " Unix sockets in it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tolerant(sys.stdout)
    parser.parse_args()
    return run(main)
