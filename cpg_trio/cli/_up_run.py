"""Runs a platform for the command `up`, and shows what happens to it."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

import attrs
import trio

from cpg_trio._log_formats import current_source
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.cli._output import Output
from cpg_trio.cli._up_lines import UpLines
from cpg_trio.cli._up_printed import printed_lines
from cpg_trio.cli._up_screen import UpScreen
from cpg_trio.cli._up_view import UpView
from cpg_trio.http import BindError, StartError
from cpg_trio.http.client.origin import UNIX
from cpg_trio.launch.places import PlatformFileError
from cpg_trio.launch.platform import Platform
from cpg_trio.launch.platform_file import read_platform
from cpg_trio.launch.reloading import check_installed, reload_on_changes
from cpg_trio.logs import LogConfig, LogFormat, use_handler
from cpg_trio.process import log_from_environment, run
from cpg_trio.settings import Settings
from cpg_trio.variables import misspelt

_log = logging.getLogger("cpg_trio.platform")
_SHOWN_BY_VIEW = "cpg_trio.host.plugins"
_SHOWN_AS_OUTPUT = "cpg_trio.output"


def run_platform(path: Path, *, processes: bool, reload: bool, json: bool, terminal: bool) -> int:
    """Run the platform of a file until a signal; return the exit status."""
    try:
        settings = read_platform(path).settings(os.environ)
        log = _log_of(settings)
        if reload:
            check_installed()
    except (PlatformFileError, StartError) as error:
        print(error, file=sys.stderr)
        return 1
    logging.getLogger(_SHOWN_BY_VIEW).addFilter(
        lambda record: bool(record.exc_info)
    )  # tracebacks are shown nowhere else
    view: UpView = UpLines(sys.stdout, json=json or log.format is LogFormat.JSON)
    if terminal:
        screen = view = UpScreen(Output())
        logging.getLogger(_SHOWN_AS_OUTPUT).propagate = False
        use_handler(_ScreenHandler(screen, logging.NOTSET if log.levels else logging.WARNING))
    return run(_Up(path, settings, view, processes=processes, reload=reload).run, log=log)


def _log_of(settings: Settings) -> LogConfig:
    try:
        return log_from_environment(settings.environment)
    except StartError as error:
        raise StartError(settings.explained(str(error))) from None


class _ScreenHandler(logging.Handler):
    """Shows the log of the host among the lines of its plugins."""

    def __init__(self, screen: UpScreen, level: int) -> None:
        super().__init__(level)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record, unless it is a line of a plugin that is a task: those are shown as its own."""
        source = current_source.get()
        if source is not None and source.output is not None:
            return
        try:
            lines = self.format(record).splitlines()
        except Exception:  # noqa: BLE001 - as every handler does: a record that cannot be formatted
            self.handleError(record)
            return
        for line in lines:
            self._screen.line(line)


@attrs.define
class _Up:
    """One run of the command."""

    path: Path
    settings: Settings
    view: UpView
    processes: bool = attrs.field(kw_only=True)
    reload: bool = attrs.field(kw_only=True)
    terminals: Sequence[int] = attrs.field(factory=lambda: _terminals(), init=False)  # noqa: PLW0108 - it is below

    async def run(self, stop: trio.Event) -> None:
        """Run the platform until `stop` is set. Raises: StartError."""
        try:
            with printed_lines(self.view):
                await self._run(stop)
        finally:
            self.view.end()

    async def _run(self, stop: trio.Event) -> None:
        for sentence in misspelt(os.environ):
            _log.warning("%s", sentence)
        # Trio raises signals again that nobody has taken, and this program ends: no hangup ends it otherwise.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with trio.open_signal_receiver(signal.SIGHUP) as hangups:
            platform = await self._read(stop)
            if platform is not None:
                await self._show(platform, stop, hangups)

    async def _show(self, platform: Platform, stop: trio.Event, hangups: AsyncIterator[int]) -> None:
        async with open_plain_nursery() as nursery:
            await nursery.start(self.view.run)
            nursery.start_soon(self._tell_stop, stop)
            async with open_plain_nursery() as showing:  # which ends before the screen does
                if isinstance(self.view, UpScreen):
                    await showing.start(_show_output, platform, self.view)
                with platform.host.plugins.changes.added(self.view.changed):
                    try:
                        await self._serve(platform, stop, hangups)
                    except BindError as error:
                        name = "ADMIN_SOCKET" if UNIX in str(error) else "PORT"
                        place = self.settings.origin(name)
                        raise StartError(f"{error} ({name} is {place})" if place else str(error)) from None
                showing.cancel_scope.cancel()
            nursery.cancel_scope.cancel()

    async def _read(self, stop: trio.Event) -> Platform | None:
        """Return the platform of the file; None if `stop` is set before. Raises: StartError."""
        platform: Platform | None = None
        async with open_plain_nursery() as nursery:

            async def give_up() -> None:
                await stop.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(give_up)
            try:
                platform = await Platform.from_file(self.path, os.environ, processes=self.processes)
            except PlatformFileError as error:
                raise StartError(str(error)) from None
            nursery.cancel_scope.cancel()
        return platform

    async def _serve(self, platform: Platform, stop: trio.Event, hangups: AsyncIterator[int]) -> None:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._on_hangups, platform, stop, hangups)
            async with open_plain_nursery() as serving:
                urls = await serving.start(platform.serve, stop)
                self.view.listening(urls)
                if self.reload:
                    nursery.start_soon(reload_on_changes, platform)
            nursery.cancel_scope.cancel()

    async def _on_hangups(self, platform: Platform, stop: trio.Event, hangups: AsyncIterator[int]) -> None:
        """Apply the file again at each SIGHUP. One that comes since the terminal is gone is the end."""
        async for _ in hangups:
            if gone := [number for number in self.terminals if not os.isatty(number)]:
                _write_nowhere(gone)
                stop.set()
            else:
                await platform.apply(actor="SIGHUP")

    async def _tell_stop(self, stop: trio.Event) -> None:
        await stop.wait()
        self.view.stopping()


def _terminals() -> Sequence[int]:
    """Return the standard streams that are a terminal, whose end is that of the command; none with nohup."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return ()
    return [number for number in range(3) if os.isatty(number)]


def _write_nowhere(numbers: Iterable[int]) -> None:
    """Have nothing fail that is still written to a terminal which is gone."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in numbers:
        os.dup2(nowhere, number)
    os.close(nowhere)


async def _show_output(
    platform: Platform, screen: UpScreen, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Show the lines that the plugins write, all of those that are there when it is cancelled."""

    def show_some() -> bool:
        lines, missed = reader.next()
        if missed:
            screen.line(f"({missed} lines of plugins are left out: they came too fast)")
        for line in lines:
            screen.output(line.plugin, line.replica, line.text)
        return bool(lines)

    with platform.host.plugins.output.reading() as reader:
        task_status.started()
        try:
            while await reader.wait():
                show_some()
                await trio.lowlevel.checkpoint()
        finally:
            while show_some():
                pass
