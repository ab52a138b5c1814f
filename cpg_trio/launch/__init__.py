"""How plugins are started: the launchers, and the platform file. It knows both sides, host and plugin.

    describe, run    a Python plugin by its name, and the process that runs it
    modules          where a module is, without importing it
    secrets          secrets by reference
    process          plugins as processes; guardian, _guarded, _reaper, ... are what that is made of
    task             plugins as tasks of the host's own process
    external         plugins that somebody else runs
    places, kinds, tables, platform_file, schema    the platform file: what it may say, what is wrong with it
    specs            from the file to what a host starts
    platform         a host and the plugins of a file
    reloading        restarts plugins whose files change

Each imports only from those above it. A name here is imported when it is used: the process of a plugin is
started with this package, and needs no host.
"""

import importlib

TYPE_CHECKING = False

if TYPE_CHECKING:
    from cpg_trio.launch._ports import free_port, is_taken
    from cpg_trio.launch.describe import NoPluginError
    from cpg_trio.launch.external import ExternalLauncher
    from cpg_trio.launch.places import PlatformFileError
    from cpg_trio.launch.platform import FileSource, Platform
    from cpg_trio.launch.process import ProcessLauncher, ProcessLimits
    from cpg_trio.launch.secrets import SecretReference
    from cpg_trio.launch.task import TaskLauncher

__all__ = [
    "ExternalLauncher",
    "FileSource",
    "NoPluginError",
    "Platform",
    "PlatformFileError",
    "ProcessLauncher",
    "ProcessLimits",
    "SecretReference",
    "TaskLauncher",
    "free_port",
    "is_taken",
]

_MODULES = {
    "ExternalLauncher": "external",
    "FileSource": "platform",
    "NoPluginError": "describe",
    "Platform": "platform",
    "PlatformFileError": "places",
    "ProcessLauncher": "process",
    "ProcessLimits": "process",
    "SecretReference": "secrets",
    "TaskLauncher": "task",
    "free_port": "_ports",
    "is_taken": "_ports",
}

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above

    def __getattr__(name: str) -> object:
        """Return a public name from the module that has it."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
