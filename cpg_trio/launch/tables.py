"""The tables of a platform file. The reader, the JSON schema and the reference are all made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from cpg_trio.host.supervision import Enrol, Ready, Restart
from cpg_trio.launch.kinds import (
    NAME,
    PATH,
    SERVICE,
    SIZE_KIND,
    TARGET,
    TIME_KIND,
    TIME_OR_NONE,
    URL,
    VARIABLE,
    WORD,
    Choice,
    Count,
    ListOf,
    Scalar,
    Switch,
    Table,
    Variables,
    key,
    names,
)

TASK, PROCESS, EXTERNAL = "task", "process", "external"
_MOST_PORT = 2**16 - 1
_SERVICES = ListOf(SERVICE, '["storage"]')
_PLUGINS = ListOf(NAME, '["logger"]')


@attrs.frozen(kw_only=True)
class SecretTable:
    """Where a secret is: one of the two."""

    file: Path | None = key(PATH, "file that has it; it may be replaced while the platform runs")
    environment: str | None = key(VARIABLE, "variable of the host's environment that has it")


@attrs.frozen(kw_only=True)
class RestartTable:
    """When a plugin that has ended is started again."""

    when: str | None = key(Choice(names(Restart)), "always, on-failure or never (default: always)")
    first: float | None = key(
        TIME_KIND,
        "wait before the first restart; it doubles with each further one, and half of it is random"
        " (default: 0.5s)",
    )
    most: float | None = key(TIME_KIND, "longest wait (default: 60s)")
    reset: float | None = key(
        TIME_KIND, "time after which a plugin that has been ready counts as sound again (default: 60s)"
    )
    loop_after: int | None = key(Count(1), "failures in a row that are called a crash loop (default: 5)")


@attrs.frozen(kw_only=True)
class LimitsTable:
    """What a process may use."""

    memory: int | None = key(
        SIZE_KIND, "memory of each process for its data, as in '512MiB' (default: as the host)"
    )
    processes: int | None = key(Count(1), "processes and threads of its user (default: as the host)")
    files: int | None = key(Count(1), "open files of each process (default: as the host)")
    cpu: float | None = key(TIME_KIND, "time of the CPU of each process (default: as the host)")


@attrs.frozen(kw_only=True)
class PluginTable:
    """A plugin: `[plugins.NAME]`."""

    name: str
    source: str
    """Where it is written, as in `platform.toml:12`."""
    plugin: str | None = key(
        TARGET,
        "a Python plugin, `module:attribute`: a Plugin, a function that returns one, or one that is an async"
        " context manager of one",
        TASK,
        PROCESS,
    )
    command: tuple[str, ...] | None = key(
        ListOf(WORD, '["./thumbs", "--fast"]', least=1, unique=False),
        "a program in any language, and its arguments",
        PROCESS,
    )
    launcher: str | None = key(
        Choice((TASK, PROCESS, EXTERNAL)),
        "task: in the process of the host; process: in one of its own; external: somebody else runs it"
        " (default: task for a plugin, process for a command)",
    )
    url: str | None = key(
        URL, "where it waits for a managing host to call (default: it comes by itself)", EXTERNAL
    )
    id: str | None = key(
        NAME, "the name that it tells the host (default: that of the plugin, or that of the table)"
    )
    provides: tuple[str, ...] | None = key(
        _SERVICES, "service types that it provides (default: what the plugin declares)"
    )
    requires: tuple[str, ...] | None = key(
        _SERVICES, "service types that it cannot do without (default: what the plugin declares)"
    )
    uses: tuple[str, ...] | None = key(
        _SERVICES, "service types that it does without if it has to (default: what the plugin declares)"
    )
    after: tuple[str, ...] | None = key(
        _PLUGINS, "plugins that have to be ready before it is started (default: those that it requires)"
    )
    replicas: int | None = key(Count(0, 1000), "how many of it run (default: 1)", TASK, PROCESS)
    restart: RestartTable | None = key(
        Table(RestartTable, '{ when = "on-failure" }'), "when it is started again", TASK, PROCESS
    )
    ready: str | None = key(
        Choice(names(Ready)),
        "what it has to be before those start that wait for it: healthy, or running for a program that is no"
        " plugin (default: healthy)",
        PROCESS,
    )
    enrol: str | None = key(
        Choice(names(Enrol)),
        "how the host knows it: token, or name for a plugin of an SDK that shows no token (default: token)",
        PROCESS,
    )
    start: float | None = key(
        TIME_KIND, "time from its start until it has to be ready (default: 30s)", TASK, PROCESS
    )
    stop: float | None = key(
        TIME_OR_NONE,
        "time that its calls have to finish, and then that it has to end after SIGTERM (default: 10s)",
        TASK,
        PROCESS,
    )
    environment: Mapping[str, str] | None = key(
        Variables(Scalar(), '{ STORAGE_PATH = "urls.sqlite3" }'),
        "variables of its environment, besides the usual ones of the host (default: none)",
        TASK,
        PROCESS,
    )
    files: Mapping[str, Path] | None = key(
        Variables(PATH, '{ RULES_FILE = "rules.toml" }'),
        "variables that are given the whole path of a file (default: none)",
        TASK,
        PROCESS,
    )
    secrets: Mapping[str, SecretTable] | None = key(
        Variables(
            Table(SecretTable, '{ file = "secrets/url" }'), '{ DATABASE_URL = { file = "secrets/url" } }'
        ),
        "variables that are given a secret, each by reference (default: none)",
        TASK,
        PROCESS,
    )
    directory: Path | None = key(PATH, "where it runs (default: the directory of the file)", PROCESS)
    user: str | None = key(
        WORD, "user as whom it runs; for that the host has to be root (default: that of the host)", PROCESS
    )
    limits: LimitsTable | None = key(Table(LimitsTable, '{ memory = "512MiB" }'), "what it may use", PROCESS)
    port: int | None = key(
        Count(0, _MOST_PORT),
        "port that it listens on; 0 is one that it finds itself (default: a free one; of a task none, which"
        " is called in memory)",
        TASK,
        PROCESS,
    )
    waits_for_host: bool | None = key(
        Switch(),
        "true: it is given no HOST_URL, and waits on its port for the host to call, as plugins of the Go"
        " implementation do (default: false)",
        PROCESS,
    )
    watch: tuple[Path, ...] | None = key(
        ListOf(PATH, '["src"]'),
        "files and directories whose changes restart it with `up --reload` (default: the directory of the"
        " module, or the files of the command)",
        TASK,
        PROCESS,
    )

    @property
    def kind(self) -> str:
        """Its launcher."""
        return self.launcher or (TASK if self.plugin else PROCESS if self.command else EXTERNAL)
