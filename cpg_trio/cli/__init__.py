"""The command line: `cpg-trio COMMAND`, or `python -m cpg_trio COMMAND`.

`_app` has the table of commands; each is a module of its own, which is imported when its command runs.
`check` starts without all of it: orchestrators run it every few seconds in each container.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

_CHECK: Mapping[tuple[str, ...], str] = {
    ("check",): "ready",
    ("check", "--ready"): "ready",
    ("check", "--startup"): "startup",
    ("check", "--live"): "live",
}
"""The arguments that need no parser, and the probe of each."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status."""
    words = tuple(sys.argv[1:] if arguments is None else arguments)
    if (probe := _CHECK.get(words)) is not None:
        from cpg_trio.check import check  # noqa: PLC0415 - each command imports what it needs

        sys.exit(check(probe))
    try:
        from cpg_trio.cli._app import run  # noqa: PLC0415 - the parser takes longer than a check

        status = run(words)
    except KeyboardInterrupt:  # before the parser was there
        status = 130
    sys.exit(status)
