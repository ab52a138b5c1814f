"""The command `host`: a host that flags, the environment and a file configure."""

from __future__ import annotations

import os
from dataclasses import make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from cpg_trio.cli._errors import CommandError, UsageError
from cpg_trio.cli._output import JsonFlag
from cpg_trio.variables import HOST, SECRETS, SERVING, TRACING, help_text, meaning_of

if TYPE_CHECKING:
    from cpg_trio.settings import Settings

TABLE = SERVING | HOST
_SHOWN = ("PORT", "BIND", "TLS_CERT", "TLS_KEY", "STATE_PATH", "LOG_FORMAT")
_EXAMPLES = """\
A setting is read from its flag, else from the environment (LEASE_S is
--lease-s), else from the file (lease_s), else it has its default.

Examples:
  cpg-trio host --port 9000 --lease-s 5
  cpg-trio host --config host.toml --log-format json
  cpg-trio host --config host.toml --check"""

app = App(name="host", help_epilogue=_EXAMPLES)


def _field(name: str) -> tuple[str, Any, None]:
    meaning = meaning_of(TABLE[name])
    shown = Parameter(help=f"{meaning[:1].upper()}{meaning[1:]}.", show=name in _SHOWN, metavar="VALUE")
    is_switch = meaning.startswith("true: ")
    return name.lower(), Annotated[bool | None if is_switch else str | None, shown], None


if TYPE_CHECKING:

    class Flags:
        """The flags of all settings but secrets: a text, true, or None."""
else:
    Flags = Parameter(name="*")(
        make_dataclass(
            "Flags",
            [_field(name) for name in TABLE if name not in SECRETS],
            kw_only=True,
            namespace={"__module__": __name__},
        )
    )

_NO_FLAGS = Flags()


@app.default
def host(
    *,
    config: Annotated[Path | None, Parameter(help="File (TOML) of settings.", metavar="FILE")] = None,
    check: Annotated[
        bool, Parameter(help="Print the settings and what is wrong, start nothing: status 0 or 1.")
    ] = False,
    reach: Annotated[bool, Parameter(help="With --check: ask the store of STATE_URL, too.")] = False,
    json: JsonFlag = False,
    help_all: Annotated[bool, Parameter(help="Print all settings with their flags.")] = False,
    flags: Flags = _NO_FLAGS,
) -> int:
    """Run a host until SIGTERM or Ctrl-C."""
    if help_all:
        print(help_text(SERVING, HOST, flags=True), help_text(TRACING), sep="\n\n")
        return 0
    if json and not check:
        raise UsageError("--json is for --check: for a log in JSON it is --log-format json")
    if reach and not check:
        raise UsageError("--reach is for --check: a host asks its store anyway")
    settings = _settings(flags, config)
    if check:
        from cpg_trio.cli._host_check import check_host  # noqa: PLC0415 - help needs no host

        return check_host(settings, json=json, reach=reach)
    return _run(settings)


def _settings(flags: Flags, config: Path | None) -> Settings:
    from cpg_trio.settings import settle  # noqa: PLC0415 - help needs no host

    given = {name.upper(): value for name, value in vars(flags).items() if value is not None}
    texts = {name: value if isinstance(value, str) else str(value).lower() for name, value in given.items()}
    try:
        return settle(TABLE, texts, os.environ, config)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _run(settings: Settings) -> int:
    from functools import partial  # noqa: PLC0415 - help needs none of these

    from cpg_trio.cli._serve_host import serve_host  # noqa: PLC0415
    from cpg_trio.http import StartError  # noqa: PLC0415
    from cpg_trio.process import log_from_environment, run  # noqa: PLC0415

    try:
        log = log_from_environment(settings.environment)
    except StartError as error:
        raise CommandError(settings.explained(str(error))) from None
    return run(partial(serve_host, settings), log=log)
