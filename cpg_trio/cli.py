"""The command line: `cpg-trio host` and `cpg-trio check`, or `python -m cpg_trio …`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cpg_trio._terminal import tolerant
from cpg_trio._version import __version__
from cpg_trio.check import check
from cpg_trio.variables import HOST, SERVING, help_text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cpg-trio", description="A plugin platform on Trio.")
    parser.add_argument("--version", action="version", version=f"cpg-trio {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "host",
        help="run a host on PORT (default: 8080)",
        description="Run a host. The environment configures it.",
        epilog=help_text(SERVING, HOST),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    probes = commands.add_parser(
        "check",
        help="check the health of the host or plugin that listens on PORT of this machine",
        description="Check the health of the host or plugin that listens on PORT of this machine. The exit"
        " status is 0 if it is healthy. Otherwise it is 1, and a line on standard error says why.",
    ).add_mutually_exclusive_group()
    for probe, question in (
        ("ready", "whether it can work now: the host has had its heartbeat within the lease (the default)"),
        ("startup", "whether it has started: it has completed a handshake with a host"),
        ("live", "whether it answers at all"),
    ):
        probes.add_argument(f"--{probe}", dest="probe", action="store_const", const=probe, help=question)
    probes.set_defaults(probe="ready")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status."""
    tolerant(sys.stdout)
    chosen = _parser().parse_args(arguments)
    if chosen.command == "check":
        sys.exit(check(chosen.probe))
    from cpg_trio.host_command import host  # noqa: PLC0415 - `check` has to start fast, and needs no host
    from cpg_trio.process import run  # noqa: PLC0415 - nor this

    sys.exit(run(host))
