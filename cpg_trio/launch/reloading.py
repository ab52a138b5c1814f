"""Restarts plugins when their files change, for those who write them.

Each runs in a process of its own: a module, and even more a generated one, cannot be loaded anew into a
process that has it. A plugin whose new code cannot be imported goes on as it is.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import trio

from cpg_trio.host.supervision import LaunchError, ManageError, Phase
from cpg_trio.http import StartError
from cpg_trio.launch.modules import files_of_module
from cpg_trio.launch.places import PlatformFileError
from cpg_trio.launch.platform import FileSource, Platform
from cpg_trio.launch.platform_file import PlatformFile
from cpg_trio.launch.tables import EXTERNAL, PluginTable

_log = logging.getLogger("cpg_trio.platform")

_GATHER_MS = 200  # from the first change until it is told, as editors write several files


def watched_paths(file: PlatformFile) -> Mapping[str, frozenset[Path]]:
    """Return the files and directories whose changes restart a plugin, by its name."""
    return {
        table.name: frozenset(_paths_of(table, file.directory))
        for table in file.plugins
        if table.kind != EXTERNAL
    }


def _paths_of(table: PluginTable, directory: Path) -> Iterable[Path]:
    if table.watch is not None:
        yield from ((directory / path).resolve() for path in table.watch)
    elif table.plugin is not None:
        yield files_of_module(table.plugin.partition(":")[0], directory).resolve()
    else:
        runs_in = directory / (table.directory or "")
        yield from (path.resolve() for word in table.command or () if (path := runs_in / word).is_file())


def check_installed() -> None:
    """Check that files can be watched. Raises: StartError if the package for that is not installed."""
    if find_spec("watchfiles") is None:
        raise StartError("--reload needs the package watchfiles: pip install 'cpg-trio[dev]'")


async def reload_on_changes(platform: Platform) -> None:
    """Restart plugins whose files change, and apply the platform file when it does, until it is cancelled."""
    source = platform.source
    if source is None or source.file is None:
        return
    while True:
        paths = watched_paths(source.file)
        own = source.path.resolve()
        every = {own, *(path for each in paths.values() for path in each)}
        async with _watching(every) as changes:
            _log.info("watching for changes of %s", ", ".join(sorted(paths)) or "the platform file")
            async for changed in changes:
                if own in changed:
                    await platform.apply(actor="reload")
                    break  # others may have to be watched
                for name in [name for name, of in paths.items() if any(_is_in(path, of) for path in changed)]:
                    await _restart(platform, source, name)


def _is_in(path: Path, watched: Iterable[Path]) -> bool:
    return any(path == each or each in path.parents for each in watched)


async def _restart(platform: Platform, source: FileSource, name: str) -> None:
    """Replace a plugin by one with its new code; it stays as it is if that cannot be imported."""
    plugins = platform.host.plugins
    if name not in plugins.specs():
        return
    try:
        [spec] = await source.read({name}, apart=True)
        _log.info("%s: its files have changed", name)
        if _is_ready(platform, name) and not _has_port(source, name):
            await plugins.replace(name, spec, actor="reload")
        else:
            await plugins.restart(name, actor="reload")
    except PlatformFileError as error:
        _log.error("%s goes on as it is until its files change again: %s", name, error)
        plugins.note_outdated(name, str(error))
    except (LaunchError, ManageError) as error:
        _log.error("%s: %s", name, error)
        if name in plugins.specs() and _is_ready(platform, name):
            plugins.note_outdated(name, str(error))


def _is_ready(platform: Platform, name: str) -> bool:
    return all(replica.phase is Phase.READY for replica in platform.host.plugins.replicas(name))


def _has_port(source: FileSource, name: str) -> bool:
    tables = source.file.plugins if source.file else ()
    return any(table.port for table in tables if table.name == name)


@asynccontextmanager
async def _watching(paths: Iterable[Path]) -> AsyncIterator[trio.MemoryReceiveChannel[set[Path]]]:
    """Yield a channel of the files that change, of some files and of all in some directories."""
    from watchfiles import Change, DefaultFilter, awatch  # noqa: PLC0415 - an extra, see check_installed

    wanted, usual, left = frozenset(paths), DefaultFilter(), trio.Event()
    send, receive = trio.open_memory_channel[set[Path]](0)

    def is_wanted(change: Change, path: str) -> bool:
        return usual(change, path) and _is_in(Path(path), wanted)

    async def watch(directory: Path) -> None:
        found = awatch(
            directory,
            watch_filter=is_wanted,
            debounce=_GATHER_MS,
            recursive=directory in wanted,
            stop_event=left,
        )
        async with aclosing(found):
            async for changes in found:
                await send.send({Path(path) for _, path in changes})

    async with trio.open_nursery() as nursery:
        # A file is watched by its directory: an editor puts another file in its place.
        for directory in {path if path.is_dir() else path.parent for path in wanted}:
            nursery.start_soon(watch, directory)
        try:
            yield receive
        finally:
            left.set()  # a thread waits for changes, and hears of nothing else
            nursery.cancel_scope.cancel()
