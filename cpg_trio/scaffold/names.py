"""What the name of a new project may be, and what is called by it."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import attrs

from cpg_trio import protos

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_LONGEST = 40  # characters
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_PLUGIN = re.compile(r"[-_]plugin$")
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")
# What the generated modules import, or define themselves.
_CLASSES = frozenset(
    {
        *("AsyncIterator", "Code", "ConnectError", "Context", "FakeLogger", "GreetRequest", "GreetResponse"),
        *("KeepGreetingRequest", "KeepGreetingResponse", "Logger", "MemoryHost", "Plugin", "StartedPlugin"),
    }
)
_BASE = "Service"
"""The end of the name of a generated base class. A service whose own name ends so keeps it."""
_NEEDED = frozenset({"conftest", "cpg_trio", "pytest", "pytest_trio", "tests"})


class NameRefusedError(ValueError):
    """A project cannot have this name. The message says why, and what name it could have."""


@attrs.frozen
class Names:
    """What is called by the name of a project."""

    project: str
    """The folder and the distribution: `my-greeter`."""
    package: str
    """The Python package: `my_greeter`."""
    proto: str
    """The folder of the proto, its file, and its package without the version: `my_greeter`."""
    service: str
    """The service in the proto, and the class that implements it: `MyGreeter`."""
    service_type: str
    """What the plugin provides, as others require it: `my-greeter`."""
    plugin: str
    """The name of the plugin: `my-greeter-plugin`."""

    @classmethod
    def of(cls, name: str) -> Names:
        """Return the names for the name of a project. Raises: NameRefusedError."""
        _check_characters(name)
        project = name.replace("_", "-")
        service_type = _PLUGIN.sub("", project)
        proto = service_type.replace("-", "_")
        names = cls(
            project=project,
            package=project.replace("-", "_"),
            proto=proto,
            service="".join(part.capitalize() for part in proto.split("_")),
            service_type=service_type,
            plugin=f"{service_type}-plugin",
        )
        _check_package(names)
        _check_proto(names)
        return names


def _check_characters(name: str) -> None:
    if len(name) > _LONGEST:
        raise NameRefusedError(
            f"{name[:_LONGEST]!r}… is no name for a project: it may have {_LONGEST} characters"
        )
    if not _NAME.fullmatch(name):
        better = "-".join(filter(None, _WORD.split(name))).lower()
        hint = f"; {better} would be one" if _NAME.fullmatch(better) else ""
        raise NameRefusedError(
            f"{name!r} is no name for a project: it has lower-case letters, digits, and single dashes"
            f" or underscores between them, and begins with a letter{hint}"
        )


def _check_package(names: Names) -> None:
    """Raise NameRefusedError for a package that Python could not import, or that would hide another one."""
    package = names.package
    hint = "" if names.project == names.plugin else f": {names.plugin} would be a name for the project"
    for word in (package, names.proto):
        if keyword.iskeyword(word):
            raise NameRefusedError(
                f"{word!r} is a keyword of Python, and cannot be imported: my-{word} would be a name for the"
                " project"
            )
    if package in sys.stdlib_module_names:
        raise NameRefusedError(f"a package {package!r} would hide that of Python's standard library{hint}")
    if package in _NEEDED:
        raise NameRefusedError(f"a package {package!r} would hide one that the project needs{hint}")
    if place := _place_of(package):
        raise NameRefusedError(f"a package {package!r} would hide the one that is at {place}{hint}")


def _check_proto(names: Names) -> None:
    """Raise NameRefusedError for a proto that another one has the name of."""
    folders = (path for place in protos.__path__ for path in Path(place).iterdir() if path.is_dir())
    own = sorted(path.name for path in folders if path.name != "__pycache__")
    if names.proto in own:
        raise NameRefusedError(
            f"the protos of cpg-trio itself are in packages {', '.join(map(repr, own))}: choose another name"
        )
    if keyword.iskeyword(names.service):
        raise NameRefusedError(
            f"a service {names.service} would be a keyword of Python: my-{names.proto} would be a name"
            " for the project"
        )
    if names.service.endswith(_BASE):
        rest = names.service_type.removesuffix(_BASE.lower()).rstrip("-")
        hint = f"{rest} would be a name for the project" if rest else "choose another name"
        raise NameRefusedError(f"{names.service} would be the class and its generated base class: {hint}")
    if names.service in _CLASSES:
        raise NameRefusedError(
            f"a service {names.service} would hide a class that the plugin uses: choose another name"
        )


def _place_of(package: str) -> str:
    """Return where a package or a module of this name is; empty if there is none.

    A folder without Python code, which `find_spec` takes for a package as well, hides nothing, unless
    packages are installed in it, as in `google`.
    """
    try:
        found = find_spec(package)
    except (ImportError, ValueError):
        return ""
    if found is None:
        return ""
    installed = [each for each in found.submodule_search_locations or () if _INSTALLED & {*Path(each).parts}]
    return found.origin or next(iter(installed), "")
