"""The command `host`: a host that the environment configures."""

from __future__ import annotations

from cyclopts import App

from cpg_trio.variables import HOST, SERVING, help_text

app = App(name="host", help_epilogue=help_text(SERVING, HOST))


@app.default
def host() -> int:
    """Run a host until SIGTERM or Ctrl-C."""
    from cpg_trio.host_command import host as serve  # noqa: PLC0415 - `host --help` needs no host
    from cpg_trio.process import run  # noqa: PLC0415

    return run(serve)
