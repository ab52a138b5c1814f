"""The command `generate`: Python code for the protos of a project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cpg_trio._reload import reason
from cpg_trio.cli._errors import CommandError

_PYPROJECT = Path("pyproject.toml")


def generate(
    pyproject: Annotated[
        Path, Parameter(help="The file whose table [tool.cpg-trio] says what to do.", metavar="FILE")
    ] = _PYPROJECT,
    /,
    *,
    check: Annotated[bool, Parameter(help="Write nothing; status 1 if something would change.")] = False,
    print_include: Annotated[
        bool, Parameter(help="Print the folder of cpg-trio's own protos, as an include for protoc and buf.")
    ] = False,
) -> int:
    """Generate code."""
    from cpg_trio.codegen import GenerationError, bundled  # noqa: PLC0415 - help needs neither
    from cpg_trio.codegen.project import Project  # noqa: PLC0415

    if print_include:
        print(bundled.folder())
        return 0
    try:
        project = Project.from_file(pyproject)
        texts = project.generate()
        changed = project.changes(texts) if check else project.write(texts)
    except GenerationError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"cannot write {error.filename}: {reason(error)}") from None
    for path in changed:
        print(f"{'would change' if check else 'wrote' if path.exists() else 'deleted'}  {path}")
    if not changed:
        print(f"{project.output}: {len(texts)} files, all as the protos have it")
    return int(check and bool(changed))
