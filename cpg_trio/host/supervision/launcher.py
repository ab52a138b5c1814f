"""How a plugin is started: the interface of launchers, which anybody may write."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import attrs

from cpg_trio.errors import CpgTrioError
from cpg_trio.rpc import LocalHost

EXTERNAL = "external"
"""The kind of launchers that start nothing: somebody else does, and the host only waits and watches."""


class LaunchError(CpgTrioError):
    """A plugin cannot be started at all: the reason, and what to do, in one line."""


def _do_nothing(_: str) -> None:
    """Keep nothing."""


@attrs.frozen(kw_only=True)
class Assignment:
    """What a host gives to one run of one replica."""

    plugin: str
    """The name of the plugin on its platform."""
    replica: int
    """From 1."""
    self_id: str
    """The name that the plugin has for its host."""
    host_url: str
    """The URL of the host for plugins of this machine; empty if the plugin is to wait for the host's call."""
    enrolment_token: str = attrs.field(repr=False)
    """The secret by which the host knows this run, and no other. It is never put on a command line."""
    output: Callable[[str], None] = attrs.field(repr=False)
    """Takes each line that the plugin writes, without its end: it is kept, and written to the host's log."""
    logged: Callable[[str], object] = attrs.field(default=_do_nothing, repr=False)
    """Takes each line that is in the host's log already, to keep it, too."""
    local: LocalHost = attrs.field(repr=False)
    """The host, for a plugin in its process."""
    stop_s: float
    """Seconds that it may take to stop."""
    socket_dir: Path | None = None
    """The directory in which host and plugins have Unix sockets, if the host has one."""


@attrs.frozen
class Ended:
    """How a run has ended by itself."""

    failed: bool
    how: str
    """In words, as in `exit status 3` or `killed by SIGSEGV`."""
    detail: str = ""
    """What it has said last, if that explains the end: one line."""


class Running(Protocol):
    """A run of a plugin that has been started."""

    @property
    def where(self) -> str:
        """Where it runs, in words, as in `pid 4711`."""
        ...

    @property
    def pid(self) -> int | None:
        """The id of its process, if it has one of its own."""
        ...

    @property
    def url(self) -> str:
        """The URL at which it waits for a managing host; empty for a plugin that comes by itself."""
        ...

    async def wait(self) -> Ended:
        """Wait until it has ended by itself, or after `stop`. May be called by several, also afterwards."""
        ...

    def stop(self) -> None:
        """Ask it to stop, as SIGTERM does. Returns at once; asked twice is no error."""
        ...


class Launcher(Protocol):
    """Starts plugins of one kind. Launchers that are equal start the same: those are not replaced."""

    @property
    def kind(self) -> str:
        """A word for the kind, as in `process`."""
        ...

    def launch(self, assignment: Assignment, /) -> AbstractAsyncContextManager[Running]:
        """Return a block in which a run lives.

        When the block is left, all of the run has ended, by force if need be: its children, its descriptors,
        its tasks.

        Raises, when entered: LaunchError if it cannot be started. Nothing is left of it then.
        """
        ...
