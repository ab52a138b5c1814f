"""Python plugins by name, `module:attribute`: which plugin that is, and what it says of itself.

The attribute is a `Plugin`, a function that returns one, or a function that returns an async context manager
of one. A function that takes an argument is given the environment of the plugin: a mapping of variables.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import trio

from cpg_trio._lines import one_line
from cpg_trio.http import StartError
from cpg_trio.launch.modules import find_module
from cpg_trio.launch.places import nearest
from cpg_trio.plugin import Plugin

Target: TypeAlias = str | Plugin | Callable[..., Plugin | AbstractAsyncContextManager[Plugin]]
"""`module:attribute`, or a `Plugin`, or a function as the module says."""

_MOST_OF_REASON = 500  # characters
_DESCRIBE_S = 30.0


class NoPluginError(StartError):
    """There is no plugin of that name. The message says in one line why, and what may be meant."""


@attrs.frozen
class Description:
    """What a plugin says of itself. None: it has not been asked."""

    self_id: str | None = None
    provides: tuple[str, ...] | None = None
    requires: tuple[str, ...] | None = None
    uses: tuple[str, ...] = ()
    failure: str = ""
    """Why it could not be asked: its context manager has failed, which it may not do the next time."""

    @classmethod
    def of(cls, plugin: Plugin) -> Description:
        """Return what a plugin declares."""
        return cls(plugin.self_id, plugin.provides, plugin.requires, plugin.uses)

    def as_json(self) -> str:
        """Return it as a JSON document."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Description:
        """Return what `as_json` has written. Raises: ValueError for something else."""
        try:
            found = json.loads(text).items()
            fields: Mapping[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found}
            return cls(**fields)
        except (TypeError, AttributeError) as error:
            raise ValueError(str(error)) from None


@asynccontextmanager
async def plugin_of(target: Target, environment: Mapping[str, str]) -> AsyncIterator[Plugin]:
    """Yield the plugin that `module:attribute` names, or what that would be.

    Raises: NoPluginError if there is none, in one line. What the plugin's own context manager raises passes.
    """
    found = _called(target, environment)
    if isinstance(found, Plugin):
        yield found
        return
    if isinstance(found, AbstractAsyncContextManager):
        async with found as plugin:
            yield _checked(named(target), plugin)
        return
    if inspect.iscoroutine(found):
        found.close()
    _checked(named(target), found)


def named(target: Target) -> str:
    """Return what an error calls a plugin."""
    if isinstance(target, Plugin):
        return target.self_id
    return target if isinstance(target, str) else getattr(target, "__qualname__", repr(target))


async def describe(target: str, environment: Mapping[str, str]) -> Description:
    """Return what the plugin of `module:attribute` says of itself; its module is imported here.

    Raises: NoPluginError.
    """
    try:
        with trio.move_on_after(_DESCRIBE_S):
            async with plugin_of(target, environment) as plugin:
                return Description.of(plugin)
    except NoPluginError:
        raise
    except Exception as error:  # noqa: BLE001 - the author's code may raise anything
        return Description(failure=f"{target} failed: {why(error)}")
    return Description(failure=f"{target} has not come after {_DESCRIBE_S:g} s")


async def described_apart(target: str, directory: Path, environment: Mapping[str, str]) -> Description:
    """Return the same by a process of its own, which runs in a directory. Raises: NoPluginError."""
    command = [sys.executable, "-m", "cpg_trio.launch.run", "--describe", target]
    with trio.move_on_after(_DESCRIBE_S):
        done = await trio.run_process(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        *_, last = ["it has said nothing", *done.stderr.decode(errors="replace").split("\n")[:-1]]
        if done.returncode:
            raise NoPluginError(one_line(last, _MOST_OF_REASON))
        return Description.from_json(done.stdout.decode())
    raise NoPluginError(f"importing {target} has not ended after {_DESCRIBE_S:g} s")


def _called(target: Target, environment: Mapping[str, str]) -> object:
    """Return the plugin of a target, or what its function returns. Raises: NoPluginError."""
    found = _attribute(target) if isinstance(target, str) else target
    if isinstance(found, Plugin) or not callable(found):
        return found
    try:
        wanted = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return found
    takes = [each for each in wanted if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}]
    try:
        return found(environment) if takes else found()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the author's code may raise anything
        raise NoPluginError(f"{named(target)} failed: {why(error)}") from None


def _attribute(target: str) -> object:
    name, _, path = target.partition(":")
    try:
        found: object = import_module(name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the author's code may raise anything
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise NoPluginError(_why_no_module(name)) from None
        raise NoPluginError(f"importing {name} failed: {why(error)}") from None
    for part in path.split("."):
        if not hasattr(found, part):
            known = (each for each in dir(found) if not each.startswith("_"))
            raise NoPluginError(f"{name} has no {path}{nearest(part, known)}")
        found = getattr(found, part)
    return found


def _why_no_module(name: str) -> str:
    try:
        find_module(name, Path.cwd())
    except ValueError as error:
        return str(error)
    return f"there is no module {name}"


def _checked(target: str, found: object) -> Plugin:
    if not isinstance(found, Plugin):
        what = found.__name__ if isinstance(found, type) else type(found).__name__
        raise NoPluginError(
            f"{target} is no plugin, and no function that returns one or an async context manager of one:"
            f" it is {'the class' if isinstance(found, type) else 'of the class'} {what}"
        )
    return found


def why(error: BaseException) -> str:
    """Return what an error says, and where in the author's code it comes from: one line."""
    told = traceback.TracebackException(type(error), error, None)
    told.__notes__ = None  # they come behind what the error says
    said = one_line("".join(told.format_exception_only()).strip().split("\n")[-1], _MOST_OF_REASON)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
    ]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{said} ({error.filename}:{error.lineno})"
    return f"{said} ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 1 else said
