"""Where a Python module is, which is found without importing it or anything else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from pkgutil import iter_modules

from cpg_trio.launch.places import nearest


def find_module(name: str, directory: Path) -> ModuleSpec:
    """Return the spec of a module, seen from a directory. Raises: ValueError, with what may be meant."""
    path: Sequence[str] = [str(directory), *sys.path]
    found: ModuleSpec | None = None
    parts = name.split(".")
    for index, part in enumerate(parts):
        parent, whole = ".".join(parts[:index]), ".".join(parts[: index + 1])
        found = PathFinder.find_spec(whole, path)
        if found is None:
            where = f"{parent} has no module {part}" if parent else f"there is no module {part}"
            looked = f" in {parent}" if parent else f": neither in {directory} nor installed"
            near = nearest(part, _modules(path if parent else [str(directory)]))
            raise ValueError(f"{where}{looked if not parent else ''}{near}")
        if index < len(parts) - 1 and found.submodule_search_locations is None:
            raise ValueError(f"{whole} is a module without modules in it: there is no {name}")
        path = list(found.submodule_search_locations or ())
    assert found is not None  # noqa: S101 - a name has a part
    return found


def _modules(path: Iterable[str]) -> Iterator[str]:
    return (module.name for module in iter_modules(list(path)) if not module.name.startswith("_"))


def files_of_module(name: str, directory: Path) -> Path:
    """Return where the source of a module is: the directory of its package, or its file if it has none.

    Raises: ValueError if there is no such module.
    """
    found = find_module(name, directory)
    if found.submodule_search_locations:
        return Path(next(iter(found.submodule_search_locations)))
    file = Path(os.fspath(found.origin or directory))
    return file.parent if "." in name else file
