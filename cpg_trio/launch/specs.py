"""From the tables of a platform file to what a host starts: launchers, and what Python plugins declare."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import trio

from cpg_trio.host.supervision import (
    Enrol,
    Launcher,
    LaunchError,
    PluginSpec,
    Ready,
    Restart,
    RestartPolicy,
)
from cpg_trio.launch.describe import Description, NoPluginError, describe, described_apart
from cpg_trio.launch.external import ExternalLauncher
from cpg_trio.launch.modules import find_module
from cpg_trio.launch.places import Place
from cpg_trio.launch.platform_file import PlatformFile
from cpg_trio.launch.process import ProcessLauncher, ProcessLimits, passed_on
from cpg_trio.launch.secrets import SecretReference
from cpg_trio.launch.tables import EXTERNAL, PROCESS, TASK, LimitsTable, PluginTable, SecretTable
from cpg_trio.launch.task import TaskLauncher

Means: TypeAlias = tuple[str, str, frozenset[tuple[str, str]], frozenset[tuple[str, SecretTable]]]
"""What a Python plugin is made of: its launcher, its target, its variables, and where its secrets are."""
Known: TypeAlias = dict[Means, Description]

_OTHERS_READ = 0o007


async def specs_of(
    file: PlatformFile,
    *,
    processes: bool = False,
    apart: bool = False,
    only: Collection[str] | None = None,
    known: Known | None = None,
) -> tuple[PluginSpec, ...]:
    """Return what a host is to start. Raises: PlatformFileError with all that is wrong.

    `processes`: each plugin runs in a process. `apart`: this process imports nothing of a plugin, also not
    of those that are to be tasks in it. `only`: the names of those that are wanted.
    `known`: what plugins have said of themselves before, which is brought up to date.
    """
    builders = [
        _Builder(table, file.place(table.name), file.directory, processes, {} if known is None else known)
        for table in file.plugins
        if only is None or table.name in only
    ]
    if not apart and any(each.kind == TASK for each in builders):
        _make_importable(file.directory)
    async with trio.open_nursery() as nursery:
        for each in builders:
            nursery.start_soon(each.describe, apart)
    specs = [each.spec() for each in builders]
    file.report.check()
    return tuple(spec for spec in specs if spec is not None)


@attrs.define
class _Builder:
    """Makes the spec of one plugin, and notes what is wrong with its table."""

    table: PluginTable
    at: Place
    directory: Path
    processes: bool
    known: Known
    declared: Description = attrs.field(factory=Description)

    @property
    def kind(self) -> str:
        return PROCESS if self.processes and self.table.kind == TASK else self.table.kind

    async def describe(self, apart: bool) -> None:  # noqa: FBT001 - it is started with its arguments in their order
        """Learn what a Python plugin says of itself, unless the file says it."""
        table = self.table
        if table.plugin is None or not self._has_module(table.plugin):
            return
        try:
            self.declared = await self._ask(table.plugin, apart=apart)
        except NoPluginError as error:
            self.at.at("plugin").problem(str(error))
        if self.declared.failure:
            what = "write `id`, `provides` and `requires` here, which then need not be asked for"
            self.at.at("plugin").warning(f"{self.declared.failure}; {what}")

    async def _ask(self, target: str, *, apart: bool) -> Description:
        """Ask a plugin what it is. Raises: NoPluginError."""
        table, before = self.table, self.known.get(self._means())
        environment = {**passed_on(os.environ), **self._environment, **self._read_secrets()}
        if self.kind == TASK and not apart:
            # It is as before: a module is not loaded twice, and to enter its block may disturb one that runs.
            declared = before or await describe(target, environment)
        elif table.id is None or table.provides is None or table.requires is None or apart:
            declared = await described_apart(target, self.directory, environment)
        else:
            return Description()
        if declared.failure and before is not None:
            return before
        if not declared.failure:
            self.known[self._means()] = declared
        return declared

    def _means(self) -> Means:
        """Return what the plugin is made of."""
        table = self.table
        secrets = frozenset((table.secrets or {}).items())
        return self.kind, table.plugin or "", frozenset(self._environment.items()), secrets

    def _has_module(self, target: str) -> bool:
        try:
            find_module(target.partition(":")[0], self.directory)
        except ValueError as error:
            self.at.at("plugin").problem(str(error))
            return False
        return True

    def spec(self) -> PluginSpec | None:
        """Return the spec; None if something is wrong, which is noted."""
        known = len(self.at.report.problems)
        launcher = self._launcher()
        self._check_id()
        self._check_watched()
        if launcher is None or len(self.at.report.problems) != known:
            return None
        table, declared = self.table, self.declared
        given = _given(
            replicas=table.replicas,
            start_s=table.start,
            stop_s=table.stop,
            ready=table.ready and Ready(table.ready),
            enrol=Enrol.NAME if self.kind == EXTERNAL else table.enrol and Enrol(table.enrol),
        )
        return PluginSpec(
            name=table.name,
            launcher=launcher,
            self_id=table.id or declared.self_id or table.name,
            provides=_first(table.provides, declared.provides),
            requires=_first(table.requires, declared.requires),
            uses=_first(table.uses, declared.uses) or (),
            after=table.after or (),
            restart=self._restart(),
            source=table.source,
            **given,
        )

    def _check_id(self) -> None:
        told, declared = self.table.id, self.declared.self_id
        if told and declared and told != declared:
            self.at.at("id").problem(f"the plugin calls itself {declared}: write that, or leave it out")

    def _check_watched(self) -> None:
        for path in self.table.watch or ():
            if not (self.directory / path).exists():
                self.at.at("watch").problem(f"there is no file or directory {self.directory / path}")

    def _restart(self) -> RestartPolicy:
        table = self.table.restart
        if table is None:
            return RestartPolicy()
        given = _given(
            when=table.when and Restart(table.when),
            first_s=table.first,
            most_s=table.most,
            reset_s=table.reset,
            loop_after=table.loop_after,
        )
        return RestartPolicy(**given)

    def _launcher(self) -> Launcher | None:
        table = self.table
        if self.kind == EXTERNAL:
            return ExternalLauncher(table.url or "")
        if self.kind == TASK:
            return TaskLauncher(
                table.plugin or "",
                environment=self._environment,
                secrets=self._secrets,
                port=table.port,
            )
        directory = self.directory / (table.directory or "")
        if not directory.is_dir():
            self.at.at("directory").problem(f"there is no directory {directory}")
            return None
        return ProcessLauncher(
            self._command(directory),
            directory=directory,
            environment=self._environment,
            secrets=self._secrets,
            user=self._user(),
            limits=_limits(table.limits),
            port=table.port or (0 if table.plugin else None),
            waits_for_host=bool(table.waits_for_host),
        )

    def _command(self, directory: Path) -> tuple[str, ...]:
        """Return a command line whose program there is."""
        table = self.table
        if table.plugin is not None:
            return (sys.executable, "-m", "cpg_trio.launch.run", table.plugin)
        program, *arguments = table.command or ("",)
        path = (table.environment or {}).get("PATH", os.environ.get("PATH"))
        found = shutil.which(str(directory / program) if "/" in program else program, path=path)
        if found is None:
            self.at.at("command").problem(_why_no_program(program, directory))
        return (found or program, *arguments)

    @cached_property
    def _environment(self) -> Mapping[str, str]:
        table = self.table
        files = {name: self._file(name, path) for name, path in (table.files or {}).items()}
        environment = {**(table.environment or {}), **files}
        if table.plugin is not None and self.kind == PROCESS:
            path = (str(self.directory), environment.get("PYTHONPATH", os.environ.get("PYTHONPATH", "")))
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        return environment

    def _file(self, name: str, path: Path) -> str:
        file = self.directory / path
        if not file.exists():
            self.at.at("files", name).problem(f"there is no file {file}")
        return str(file)

    @cached_property
    def _secrets(self) -> Mapping[str, SecretReference]:
        found = {}
        for name, table in (self.table.secrets or {}).items():
            at = self.at.at("secrets", name)
            file = self.directory / table.file if table.file else None
            found[name] = SecretReference(file, table.environment or "")
            try:
                found[name].read()
            except LaunchError as error:
                at.problem(str(error))
            else:
                if file is not None and file.stat().st_mode & _OTHERS_READ:
                    at.warning(f"everybody may read {file}: take that away (chmod o= …)")
        return found

    def _read_secrets(self) -> Mapping[str, str]:
        """Return the secrets, for a plugin that is asked what it is; none if one is not there."""
        try:
            return {name: secret.read() for name, secret in self._secrets.items()}
        except LaunchError:
            return {}

    def _user(self) -> str:
        user = self.table.user or ""
        try:
            if user and pwd.getpwnam(user).pw_uid != os.geteuid() and os.geteuid():
                self.at.at("user").problem(f"the host is not root, and cannot start a process as {user}")
        except KeyError:
            self.at.at("user").problem(f"there is no user {user!r:.100}")
        return user


def _make_importable(directory: Path) -> None:
    """Have modules in a directory found before those that are installed, as in a process that runs there."""
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _given(**values: object) -> dict[str, Any]:
    """Return what the file says; the rest has its default."""
    return {name: value for name, value in values.items() if value is not None}


def _limits(table: LimitsTable | None) -> ProcessLimits:
    if table is None:
        return ProcessLimits()
    cpu_s = None if table.cpu is None else max(1, round(table.cpu))
    return ProcessLimits(memory_bytes=table.memory, processes=table.processes, files=table.files, cpu_s=cpu_s)


def _first(told: tuple[str, ...] | None, declared: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return declared if told is None else told


def _why_no_program(program: str, directory: Path) -> str:
    file = directory / program
    if "/" not in program:
        near = f"; ./{program} is there: is that meant?" if file.is_file() else ""
        return f"there is no program {program!r:.200} in PATH{near}"
    if not file.exists():
        return f"there is no program {file}"
    return f"{file} is a directory" if file.is_dir() else f"{file} is not executable (chmod +x …)"
