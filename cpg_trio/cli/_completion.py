"""The command `completion`: the script that has a shell complete commands, options and names of plugins."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="The shell that reads the script.")], /
) -> int:
    """Print the completion script of a shell."""
    from cpg_trio.cli._app import application  # noqa: PLC0415 - it imports this module

    print(application().generate_completion(shell=shell))
    return 0
