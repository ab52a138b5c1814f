"""A platform: a host, and the plugins of a platform file, run together and changed together."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host import Host, from_settings
from cpg_trio.host.supervision import (
    ApplyError,
    GraphError,
    LaunchError,
    ManageError,
    OutdatedPlanError,
    PluginSpec,
)
from cpg_trio.http import StartError
from cpg_trio.launch._ports import is_taken
from cpg_trio.launch._reaper import reaping_orphans
from cpg_trio.launch.places import PlatformFileError
from cpg_trio.launch.platform_file import PlatformFile, read_platform
from cpg_trio.launch.specs import Known, specs_of

_log = logging.getLogger("cpg_trio.platform")


@attrs.define
class FileSource:
    """What a platform file says of its plugins, each time that it is read. It is a `PlatformSource`."""

    path: Path
    processes: bool = False
    """Whether each plugin runs in a process, also those that the file wants as tasks."""
    file: PlatformFile | None = attrs.field(default=None, init=False)
    """What it has said last."""
    _known: Known = attrs.field(factory=dict, init=False, repr=False)

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self.path)

    async def read(self, only: Collection[str] | None = None, *, apart: bool = False) -> Sequence[PluginSpec]:
        """Return the plugins of the file as it is now; with `only`, those alone.

        `apart`: ask them by processes of their own, all of them. Raises: PlatformFileError, a ValueError.
        """
        file = await trio.to_thread.run_sync(read_platform, self.path)
        specs = await specs_of(file, processes=self.processes, apart=apart, only=only, known=self._known)
        if self.file is not None and file.host != self.file.host:
            _log.warning("[host] in %s has changed: that is used after a restart", self.path)
        for text in file.report.all_warnings():
            _log.warning("%s", text)
        self.file = file
        return specs


@attrs.frozen(kw_only=True)
class Platform:
    """A host and its plugins. `await platform.serve(stop)` runs them until `stop` is set."""

    host: Host
    binds: Sequence[str]
    specs: Sequence[PluginSpec]
    source: FileSource | None = None

    @classmethod
    async def from_file(
        cls, path: Path, environment: Mapping[str, str] | None = None, *, processes: bool = False
    ) -> Platform:
        """Return the platform of a file; nothing is started.

        Settings of `environment` come before those of the file. Raises: PlatformFileError with all that is
        wrong in the file; StartError for settings that cannot be used.
        """
        source = FileSource(path, processes)
        specs = await source.read()
        assert source.file is not None  # noqa: S101 - it was just read
        config, binds = from_settings(source.file.settings(environment or {}))
        return cls(host=Host(config), binds=binds, specs=specs, source=source)

    async def serve(
        self,
        stop: trio.Event | None = None,
        *,
        task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run the host and the plugins until `stop` is set; then stop the plugins in order, and the host.

        `started` reports the addresses of the host as URLs; the plugins are being started then.
        Raises: StartError if the host or the plugins cannot be started together. Nothing is left of them.
        """
        stop = trio.Event() if stop is None else stop
        self._check()
        self.host.plugins.source = self.source
        async with reaping_orphans(), open_plain_nursery() as nursery:
            urls = await nursery.start(partial(self.host.serve, stop, bind=self.binds))
            try:
                await self.host.plugins.add(*self.specs, wait=False)
            except (GraphError, LaunchError, ManageError) as error:
                if not stop.is_set():
                    raise StartError(str(error)) from None
            task_status.started(urls)

    async def apply(self, *, actor: str = "") -> None:
        """Read the file again, and do what has changed. What is wrong is logged, and changes nothing."""
        if self.source is None:
            return
        plugins = self.host.plugins
        try:
            plan = plugins.plan(await self.source.read())
            for line in str(plan).splitlines():
                _log.info("%s: %s", self.source.path, line)
            await plugins.apply(plan, actor=actor)
        except (PlatformFileError, GraphError, ManageError, ApplyError, OutdatedPlanError) as error:
            for line in str(error).splitlines():
                _log.error("not applied: %s", line)

    def _check(self) -> None:
        """Check what can be checked before anything is started. Raises: StartError."""
        try:
            self.host.plugins.check(*self.specs)
        except GraphError as error:
            raise StartError(str(error)) from None
        if self.source is None or self.source.file is None:
            return
        file = self.source.file
        for table in file.plugins:
            if table.port and is_taken(table.port):
                file.place(table.name, "port").problem(
                    f"{table.port} is taken: end what listens there, or write another"
                )
        try:
            file.report.check()
        except PlatformFileError as error:
            raise StartError(str(error)) from None
