"""The folder of a new project: rendered, generated, and then put in its place as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from jinja2 import Environment, PackageLoader, StrictUndefined

from cpg_trio.codegen.project import Project
from cpg_trio.scaffold.names import Names
from cpg_trio.scaffold.package import Package

_WIDTH = 100  # of a line, which the project tells ruff as well
_FILES: Mapping[str, str] = {
    "pyproject.toml": "pyproject.toml",
    "greeter.proto": "proto/{proto}/v1/{proto}.proto",
    "init.py": "src/{package}/__init__.py",
    "plugin.py": "src/{package}/plugin.py",
    "test_greeter.py": "tests/test_{package}.py",
    "platform.toml": "platform.toml",
    "Dockerfile": "Dockerfile",
    "dockerignore": ".dockerignore",
    "gitignore": ".gitignore",
    "README.md": "README.md",
}
"""The templates, and what each becomes."""


@attrs.frozen
class NewProject:
    """What a new project is made of."""

    names: Names
    logger: bool = True
    """Whether its plugin requires the logger of the example."""


def new_project(project: NewProject, source: Path | None, folder: Path) -> Sequence[Path]:
    """Write a project, and return its files. Nothing is written if that does not succeed.

    `source` is the wheel or the checkout of this package that it depends on, None for a range of versions.
    The folder must be empty, or not exist. Raises: PackageError, GenerationError, OSError.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: name another one with --folder")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: name another one with --folder")
    with _beside(folder) as scratch:
        built = scratch / "built"
        built.mkdir()
        package = Package() if source is None else Package.found(source, built)
        made = scratch / "project"
        for path, text in _rendered(project, package):
            target = made / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        code = Project.from_file(made / "pyproject.toml")
        code.write(code.generate())
        package.copy_into(made)
        files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
        _put(made, folder)
    return files


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """Yield a folder on the same file system, which goes away at the end of the block."""
    place = folder if folder.is_dir() else folder.parent
    with tempfile.TemporaryDirectory(prefix=".cpg-trio-new-", dir=place) as scratch:
        yield Path(scratch)


def _put(made: Path, folder: Path) -> None:
    """Move what was made to where it belongs. A folder that is there stays the one that it is."""
    if not folder.is_dir():
        made.rename(folder)
        return
    moved: list[Path] = []
    try:
        for path in sorted(made.iterdir()):
            moved.append(path.rename(folder / path.name))  # noqa: PERF401 - what was moved is moved back
    except BaseException:
        for path in moved:
            path.rename(made / path.name)
        raise


def _rendered(project: NewProject, package: Package) -> Iterator[tuple[str, str]]:
    """Yield the files of a project, but for the generated ones: the path of each, and its text."""
    environment = Environment(
        loader=PackageLoader("cpg_trio.scaffold"),
        autoescape=False,  # noqa: S701 - they are no pages, and the names in them are checked
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals.update(width=_WIDTH, imports=_imports, fit=_fit)
    names: Mapping[str, Any] = attrs.asdict(project.names)
    for template, path in _FILES.items():
        text = environment.get_template(f"{template}.jinja").render(
            **names, logger=project.logger, cpg_trio=package
        )
        yield path.format(**names), text


def _imports(module: str, *names: str) -> str:
    """Return the import of names, on as many lines as a formatter would have it on."""
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in names), ")"])


def _fit(start: str, *parts: str, end: str) -> str:
    """Return what has parts between brackets, on as many lines as a formatter would have it on."""
    line = f"{start}{', '.join(parts)}{end}"
    if len(line) <= _WIDTH:
        return line
    indent = " " * (len(start) - len(start.lstrip()))
    inner = f"{indent}    {', '.join(parts)}"
    together = len(parts) > 1 and len(inner) <= _WIDTH
    lines = [inner] if together else [f"{indent}    {part}," for part in parts]
    return "\n".join([start, *lines, f"{indent}{end}"])
