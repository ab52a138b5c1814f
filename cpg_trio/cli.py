"""The command line: `cpg-trio host`, or `python -m cpg_trio host`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from ._version import __version__
from .host import DEFAULT_PORT, BaseUrls, Host, HostConfig, LeaseConfig
from .serving import StartError, port_from_environment, run


def _host_config(environment: Mapping[str, str]) -> HostConfig:
    allowed = [policy.value for policy in BaseUrls]
    base_urls = environment.get("BASE_URLS") or BaseUrls.CALLER.value
    if base_urls not in allowed:
        raise StartError(f"BASE_URLS must be one of {', '.join(allowed)}, not {base_urls!r}")
    state = environment.get("STATE_PATH")
    return HostConfig(
        base_urls=BaseUrls(base_urls),
        leases=_leases(environment),
        state_path=Path(state) if state else None,
    )


def _leases(environment: Mapping[str, str]) -> LeaseConfig:
    lease = environment.get("LEASE_S", "")
    try:
        return LeaseConfig(lease_s=float(lease)) if lease else LeaseConfig()
    except ValueError:
        raise StartError(f"LEASE_S must be a number of seconds above 0, not {lease!r}") from None


async def _host(stop: trio.Event) -> None:
    await Host(_host_config(os.environ)).serve(stop, bind=f"0.0.0.0:{port_from_environment(DEFAULT_PORT)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cpg-trio", description="A plugin platform on Trio.")
    parser.add_argument("--version", action="version", version=f"cpg-trio {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "host",
        help="run a host on the port that PORT names (8080 if it names none)",
        description="Run a host. PORT names the port that it listens on (default: 8080). BASE_URLS says where"
        " plugins may have it send traffic: 'caller', to the address that they call from (the default),"
        " or 'any'. LEASE_S is how long a plugin may be silent, in seconds, before it gets no more calls"
        " (default: 15); after as long again it is forgotten. STATE_PATH names the file in which it keeps"
        " who is registered, over a restart (default: none, and plugins register anew).",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status."""
    _parser().parse_args(arguments)
    sys.exit(run(_host))
