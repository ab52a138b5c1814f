"""The command `new`: the project of a plugin."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated

from cyclopts import Parameter

from cpg_trio._reload import reason
from cpg_trio.cli._errors import CommandError, UsageError

_LOGGER, _NOTHING = "logger", "none"


def new(
    name: Annotated[str, Parameter(help="Name of the project, as in greeter or my-greeter.")],
    /,
    *,
    folder: Annotated[
        Path | None, Parameter(help="Where to write it: a folder that is empty, or is made (default: NAME).")
    ] = None,
    from_: Annotated[
        Path | None,
        Parameter(
            name="--from",
            help="Wheel or checkout of cpg-trio that the project depends on; it goes into the project"
            " (default: a range of versions, from an index).",
        ),
    ] = None,
    requires: Annotated[
        Sequence[str],
        Parameter(help="Service types that the plugin requires: logger, or none (default: logger)."),
    ] = (_LOGGER,),
) -> int:
    """Write the project of a plugin: proto, generated code, plugin, tests, platform file, Dockerfile."""
    if unknown := sorted({*requires} - {_LOGGER, _NOTHING}):
        raise UsageError(
            f"--requires: the proto of {unknown[0]!r} is not known here, only that of logger; put it below"
            " proto/ of the new project, and declare plugin.client(...) in its plugin.py"
        )
    from cpg_trio.codegen import GenerationError  # noqa: PLC0415 - help needs none of these
    from cpg_trio.scaffold import NameRefusedError, Names, NewProject, PackageError, new_project  # noqa: PLC0415

    try:
        names = Names.of(name)
        target = Path(names.project) if folder is None else folder
        project = NewProject(names, logger=_LOGGER in requires)
        files = new_project(project, from_, target)
    except NameRefusedError as error:
        raise UsageError(str(error)) from None
    except (GenerationError, PackageError, FileExistsError) as error:
        raise CommandError(f"nothing was written: {error}") from None
    except OSError as error:
        raise CommandError(f"nothing was written: {target} cannot be made: {reason(error)}") from None
    for path in files:
        print(f"wrote  {target / path}")
    service = f"{names.service_type} ({names.proto}.v1.{names.service})"
    activate = f"  . {quote(f'{sys.prefix}/bin/activate')}\n" if _is_inactive(os.environ) else ""
    print(f"""
package {names.package}, plugin {names.plugin}, service {service}

{activate}  cd {quote(str(target))}
  pip install -e '.[dev]' && pytest
  cpg-trio up --reload
  cpg-trio call {names.service_type} Greet '{{"name": "Ada"}}'    # in another terminal""")
    return 0


def _is_inactive(environment: Mapping[str, str]) -> bool:
    """Whether this runs in a virtual environment that the shell does not use for its own commands."""
    return sys.prefix != sys.base_prefix and environment.get("VIRTUAL_ENV") != sys.prefix
