"""The command `up`: a platform of one file, on a laptop or as a container."""

from __future__ import annotations

import json as json_documents
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cpg_trio.cli._errors import UsageError


def up(
    file: Annotated[
        Path, Parameter(help="The platform file (default: platform.toml).", name="file", show=True)
    ] = Path("platform.toml"),
    /,
    *,
    check: Annotated[
        bool, Parameter(help="Print the settings, the plugins and their order, start nothing: status 0 or 1.")
    ] = False,
    processes: Annotated[bool, Parameter(help="Run each plugin in a process of its own.")] = False,
    reload: Annotated[
        bool, Parameter(help="Restart a plugin when its files change; each runs in a process.")
    ] = False,
    schema: Annotated[bool, Parameter(help="Print the JSON schema of platform files, for editors.")] = False,
    json: Annotated[bool, Parameter(help="JSON, for programs: one document for each change.")] = False,
) -> int:
    """Run a host and the plugins of a platform file until SIGTERM or Ctrl-C."""
    if schema:
        from cpg_trio.launch.schema import schema as schema_of  # noqa: PLC0415 - help needs none of it

        print(json_documents.dumps(schema_of(), indent=2))
        return 0
    if check and reload:
        raise UsageError("--check starts nothing, and so --reload has nothing to do")
    if check:
        from cpg_trio.cli._up_check import check_platform  # noqa: PLC0415 - help needs none of it

        return check_platform(file, processes=processes, json=json)
    from cpg_trio.cli._up_run import run_platform  # noqa: PLC0415 - help needs none of it

    return run_platform(
        file,
        processes=processes or reload,
        reload=reload,
        json=json,
        terminal=sys.stdout.isatty() and not json,
    )
