"""Plugins that run as tasks of the host's own process, each behind a barrier.

A run is one task: what the plugin raises ends its run, and nothing else. The host calls it, and it calls the
host, in memory (`PluginConfig.local`). What one process shares is not behind the barrier: a plugin that
blocks the event loop blocks its host, and memory that it takes is the host's.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from traceback import StackSummary
from types import FrameType

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio._on_loop import OnLoop
from cpg_trio.host.supervision import Assignment, Ended, LaunchError
from cpg_trio.http import StartError
from cpg_trio.launch._task_output import TaskOutput
from cpg_trio.launch.describe import Target, plugin_of, why
from cpg_trio.launch.secrets import SecretReference
from cpg_trio.logs import giving_output
from cpg_trio.plugin import PluginConfig

_log = logging.getLogger("cpg_trio.launch")

_SLOW_END_S = 5.0  # after which a task that does not end although it was cancelled is named in the log


@attrs.frozen
class TaskLauncher:
    """Runs a Python plugin as a task: `module:attribute`, or what that would be.

    Its variables are for a function that takes them, and for the configuration of the plugin, as far as that
    makes sense without a process. A `port` is for clients outside, which call what is public, on this machine
    or where `BIND` says; 0 is any free one. The host needs none, unless it shares its directory with others:
    they have to reach the plugin at `HOSTNAME`, and then it is called there.
    """

    target: Target
    environment: Mapping[str, str] = attrs.field(factory=dict)
    secrets: Mapping[str, SecretReference] = attrs.field(factory=dict)
    port: int | None = None

    kind = "task"

    @asynccontextmanager
    async def launch(self, assignment: Assignment, /) -> AsyncIterator[RunningTask]:
        """See `Launcher.launch`."""
        running = RunningTask(self, assignment)
        async with open_plain_nursery() as nursery:
            await nursery.start(running.run)
            try:
                yield running
            finally:
                running.scope.cancel()
                nursery.start_soon(running.tell_while_it_lives)

    def config(self, assignment: Assignment) -> tuple[PluginConfig, Mapping[str, str]]:
        """Return how the plugin runs, and its variables. Raises: LaunchError."""
        secrets = {name: secret.read() for name, secret in self.secrets.items()}
        variables = {**self.environment, **secrets}
        try:
            config = PluginConfig.from_environment(self.port or 0, {**variables, "HOST_URL": "", "PORT": ""})
        except StartError as error:
            raise LaunchError(str(error)) from error
        if self.port is None:
            config = attrs.evolve(config, bind=())
        elif "BIND" not in variables:
            config = attrs.evolve(config, bind=f"127.0.0.1:{self.port}", hostname="127.0.0.1")
        return attrs.evolve(
            config,
            host_url=None,
            socket_dir=None,
            control_bind=None,
            local=assignment.local,
            enrolment_token=assignment.enrolment_token,
            grace_s=assignment.stop_s,
        ), variables


class RunningTask:
    """A run of a plugin as a task."""

    pid: int | None = None
    url = ""

    def __init__(self, launcher: TaskLauncher, assignment: Assignment) -> None:
        self.where = "task"
        self.scope = trio.CancelScope()
        self._launcher = launcher
        self._assignment = assignment
        self._stop = trio.Event()
        self._has_ended = trio.Event()
        self._ended = Ended(failed=False, how="it was ended")
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> Ended:
        """See `Running`."""
        await self._has_ended.wait()
        return self._ended

    def stop(self) -> None:
        """See `Running`."""
        self._stop.set()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Run the plugin: the barrier. Raises nothing of it but what is not its own to raise.

        It has started when the host can call it, or has ended before that. Raises: LaunchError, before that.
        """
        self._task, assignment = trio.lowlevel.current_task(), self._assignment
        output = TaskOutput(assignment.output)
        with (
            closing(output),
            giving_output(assignment.self_id, OnLoop(assignment.logged), output.write),
        ):
            config, variables = self._launcher.config(assignment)
            started = _Started(self, task_status)
            try:
                with self.scope:
                    await self._serve(config, variables, started)
                    self._ended = Ended(failed=False, how="it has stopped")
            except BaseException as error:  # noqa: BLE001 - what is not its own is raised again
                outside, own = _parts(error)
                if isinstance(own, LaunchError | StartError) and not started.is_told:
                    raise LaunchError(str(own)) from own
                if own is not None:
                    self._ended = self._end_of(own)
                if outside is not None:
                    raise outside from None
            finally:
                self._has_ended.set()
            if not started.is_told:
                task_status.started()

    async def _serve(self, config: PluginConfig, variables: Mapping[str, str], started: _Started) -> None:
        self_id = self._assignment.self_id
        async with plugin_of(self._launcher.target, variables) as plugin:
            if plugin.self_id != self_id:
                raise LaunchError(
                    f'the plugin is named {plugin.self_id}, not {self_id}: write id = "{plugin.self_id}"'
                )
            await plugin.serve(self._stop, config=config, task_status=started)

    def _end_of(self, error: BaseException) -> Ended:
        """Return how an error ends the run, and write it to the log once."""
        if isinstance(error, SystemExit):
            return _exit(error)
        if isinstance(error, StartError):  # such as the refusal of the host, which says what to do
            return Ended(failed=True, how=str(error))
        _log.error("the task of %s has failed", self._assignment.plugin, exc_info=error)
        several = error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
        return Ended(failed=True, how="; ".join(map(why, several)))

    async def tell_while_it_lives(self) -> None:
        """Name in the log where the task is, if it does not end although it was cancelled."""
        while not self._has_ended.is_set():
            with trio.move_on_after(_SLOW_END_S, shield=True):  # the block waits for the task in any case
                await self._has_ended.wait()
                return
            _log.warning(
                "the task of %s was cancelled, and does not end; it is at\n%s",
                self._assignment.plugin,
                _place(self._task),
            )


class _Started:
    """Takes where a plugin listens, and tells that its run has started."""

    def __init__(self, running: RunningTask, task_status: trio.TaskStatus[None]) -> None:
        self._running = running
        self._task_status = task_status
        self.is_told = False

    def started(self, bound: tuple[str, ...] = ()) -> None:
        """See `trio.TaskStatus`."""
        self.is_told = True
        self._running.where = ", ".join(("task", *bound))
        self._task_status.started()


def _parts(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Return what of an error is not the plugin's to raise, a cancellation or Ctrl-C, and what is its own."""
    if isinstance(error, BaseExceptionGroup):
        outside, own = error.split((trio.Cancelled, KeyboardInterrupt))
        while isinstance(own, BaseExceptionGroup) and len(own.exceptions) == 1:
            own = own.exceptions[0]
        if isinstance(own, BaseExceptionGroup) and all(isinstance(e, SystemExit) for e in own.exceptions):
            own = own.exceptions[0]
        return outside, own
    is_outside = isinstance(error, trio.Cancelled | KeyboardInterrupt)
    return (error, None) if is_outside else (None, error)


def _exit(error: SystemExit) -> Ended:
    code = error.code
    if code is None or code == 0:
        return Ended(failed=False, how="exit status 0")
    if isinstance(code, int):
        return Ended(failed=True, how=f"exit status {code}")
    return Ended(failed=True, how="exit status 1", detail=why(error).partition(": ")[2])


def _place(task: trio.lowlevel.Task | None) -> str:
    """Return where a task and its child tasks are."""
    if task is None:
        return "its beginning"
    places, left = [], [task]
    while left:
        each = left.pop()
        children = [child for nursery in each.child_nurseries for child in nursery.child_tasks]
        left += children
        if not children:
            own = [at for at in each.iter_await_frames() if not _is_of_trio(at[0])]
            places += StackSummary.extract(iter(own[-1:])).format()
    return "".join(places).rstrip()


def _is_of_trio(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == "trio"
