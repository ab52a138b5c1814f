"""The command line: `cpg-trio host` and `cpg-trio check`, or `python -m cpg_trio …`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cpg_trio._terminal import tolerant
from cpg_trio._version import __version__
from cpg_trio.check import check


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cpg-trio", description="A plugin platform on Trio.")
    parser.add_argument("--version", action="version", version=f"cpg-trio {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "host",
        help="run a host on the port that PORT names (8080 if it names none)",
        description="Run a host. PORT names the port that it listens on (default: 8080), and BIND the"
        " address, or several with commas between (default: 127.0.0.1, which only this machine reaches; ::"
        " is all addresses). PROBE_PORT and PROBE_BIND name where it answers probes and nothing else."
        " TLS_CERT and TLS_KEY name the files of its certificate and key, TLS_CA that of who vouches for"
        " plugins, and TLS_CLIENTS says whether callers have to show a certificate: none, optional or"
        " required (default: optional if there is a TLS_CA). The files may be replaced while it runs. Where"
        " other machines reach it, it does not start without TLS unless ALLOW_PLAINTEXT=true. BASE_URLS"
        " says where plugins may have it send traffic: 'caller', to the address that they call from (the"
        " default), or 'any'. LEASE_S is how long a plugin may be silent, in seconds, before it gets no"
        " more calls (default: 15); after as long again it is forgotten. STATE_PATH names the file in which"
        " it keeps who is registered, over a restart (default: none, and plugins register anew). SOCKET_DIR"
        " names a directory that it shares with plugins, for calls by Unix sockets in it (default: none,"
        " and calls go by TCP). SELECTION says which of several providers a caller gets, by service type,"
        " as in 'storage=round-robin,logger=random': first (the default), round-robin, random or weighted."
        " RATE_LIMITS says how often who may call what, in calls a second and at once, as in"
        " 'handshake=10/20,discover=off'; docs/security.md has the kinds and what is usual. LIMITS says how"
        " much it takes in and keeps, as in 'max_identities=1000,max_watches=500', and MAX_CONNECTIONS how"
        " many connections it has at once; what does not fit its memory is reduced. CPG_HOST_KEY or"
        " CPG_HOST_KEY_FILE is what it signs tokens with (default: a file beside STATE_PATH, or a key that"
        " ends with it). ENROLMENT_TOKENS or ENROLMENT_TOKENS_FILE says who is let in (default: everybody),"
        " POLICY_FILE what plugins may provide and call (default: what they declare), and PASS_HEADERS"
        " which request headers are passed on besides the usual ones: see docs/security.md. ALLOWED_ORIGINS"
        " says which web pages may call it (default: none), and ALLOWED_HOSTS by which names it is called"
        " besides its own. PUBLIC_URL is how plugins reach it, where a proxy stands before it (default: as"
        " they call it). HTTP_SERVER=hypercorn has Hypercorn read and write all HTTP, which is slower.",
    )
    probes = commands.add_parser(
        "check",
        help="ask the host or plugin that listens on PORT of this machine how it is",
        description="Ask the host or plugin that listens on PORT of this machine how it is. The exit status"
        " is 0 if it is well; if not it is 1, and a line says why.",
    ).add_mutually_exclusive_group()
    for probe, what in (
        ("ready", "can it do its work now: has the host had its heartbeat within the lease (the default)"),
        ("startup", "has it begun: has it shaken hands with a host"),
        ("live", "does it answer at all"),
    ):
        probes.add_argument(f"--{probe}", dest="probe", action="store_const", const=probe, help=what)
    probes.set_defaults(probe="ready")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status."""
    tolerant(sys.stdout)
    chosen = _parser().parse_args(arguments)
    if chosen.command == "check":
        sys.exit(check(chosen.probe))
    from cpg_trio.host_command import host  # noqa: PLC0415 - a check is to be quick, and needs none of this
    from cpg_trio.process import run  # noqa: PLC0415 - neither of this

    sys.exit(run(host))
