"""Plugins that are processes of their own, in any language, started by the host.

Each runs under a guardian, which ends all that it has started when it ends, when the host says so, or when
the host itself is gone (`guardian`).
"""

from __future__ import annotations

import errno
import os
import pwd
import resource
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from secrets import token_hex

import attrs
import trio

from cpg_trio.host.supervision import Assignment, Ended, LaunchError
from cpg_trio.launch._guarded import GuardedProcess, NotStartedError, guarded
from cpg_trio.launch._ports import free_port, is_taken
from cpg_trio.launch._strays import RUN_ID
from cpg_trio.launch.guardian import TOKEN_FD, Order
from cpg_trio.launch.secrets import SecretReference

PASSED_ON = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV"),
        *("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONUTF8"),
        *("LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    }
)
"""The variables of the host's environment that a plugin gets, besides those that begin with `LC_`."""

_LINUX = sys.platform == "linux"


@attrs.frozen(kw_only=True)
class ProcessLimits:
    """What a process may use; None is as the host. The kernel holds it to them (setrlimit)."""

    memory_bytes: int | None = None
    """Data of each process: its heap, and what it maps for itself alone."""
    processes: int | None = None
    """Processes and threads of its user, whoever has started them. Not for root."""
    files: int | None = None
    """Open descriptors of each process."""
    cpu_s: int | None = None
    """Seconds of CPU of each process; then it gets SIGXCPU."""

    def encode(self) -> list[str]:
        """Return them as `guardian.Order` takes them."""
        memory = resource.RLIMIT_DATA if _LINUX else resource.RLIMIT_AS
        limits = (
            ("memory", memory, self.memory_bytes, 0),
            ("processes", resource.RLIMIT_NPROC, self.processes, 0),
            ("files", resource.RLIMIT_NOFILE, self.files, 0),
            ("cpu", resource.RLIMIT_CPU, self.cpu_s, 1),  # SIGKILL a second after SIGXCPU
        )
        return [
            f"{name}:{number}:{most}:{most + more}" for name, number, most, more in limits if most is not None
        ]


@attrs.frozen
class _User:
    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: Mapping[str, str]

    def encode(self) -> str:
        return f"{self.uid}:{self.gid}:{','.join(map(str, self.groups))}"


def _words(command: Iterable[str]) -> tuple[str, ...]:
    return tuple(command)


@attrs.frozen
class ProcessLauncher:
    """Starts a command as a process with a guardian.

    Its environment is what the host gives it (`HOST_URL`, `PORT`, `HOSTNAME`, `SOCKET_DIR`,
    `ENROLMENT_TOKEN_FILE`), what `PASSED_ON` names of the host's own, and what is given here. The token comes
    in a file without a name, which the process inherits.
    """

    command: tuple[str, ...] = attrs.field(converter=_words)
    """The program and its arguments. It is looked up in PATH, or from `directory` if it has a slash."""
    directory: Path = attrs.field(default=Path(), kw_only=True)
    environment: Mapping[str, str] = attrs.field(factory=dict, kw_only=True)
    """Variables, before those of the host."""
    secrets: Mapping[str, SecretReference] = attrs.field(factory=dict, kw_only=True)
    """Variables whose values are read at each launch."""
    user: str = attrs.field(default="", kw_only=True)
    """The name or the number of the user as whom it runs; empty is that of the host. Others only for root."""
    limits: ProcessLimits = attrs.field(factory=ProcessLimits, kw_only=True)
    port: int | None = attrs.field(default=None, kw_only=True)
    """The `PORT` that it gets. None: a free one; 0: it finds one itself."""
    waits_for_host: bool = attrs.field(default=False, kw_only=True)
    """Whether it gets no `HOST_URL`, and waits on its port for the host's call."""
    kind: str = attrs.field(default="process", init=False)

    @asynccontextmanager
    async def launch(self, assignment: Assignment, /) -> AsyncIterator[RunningProcess]:
        """Run the command within the block. Raises, when entered: LaunchError."""
        if not hasattr(os, "waitid"):
            raise LaunchError(
                "no processes on this system: its Python has no os.waitid, as on macOS before 3.13"
            )
        run_id = token_hex(16)
        with ExitStack() as ports:
            port = self._take_port(ports)
            user = await trio.to_thread.run_sync(self._find_user)
            environment = await trio.to_thread.run_sync(self._environment, assignment, port, user)
            order = Order(
                command=_checked(self.command, "the command"),
                environment=_checked([*environment, f"{RUN_ID}={run_id}"], "the environment"),
                directory=str(self.directory.absolute()),
                user=user.encode() if user else "",
                limits=self._limits(user),
                stop_s=assignment.stop_s,
            )
            try:
                async with guarded(
                    order,
                    run_id=run_id,
                    token=assignment.enrolment_token,
                    owner=user.uid if user else None,
                    output=assignment.output,
                    label=f"{assignment.plugin}/{assignment.replica}",
                ) as process:
                    yield RunningProcess(process, f"http://127.0.0.1:{port}" * self.waits_for_host)
            except NotStartedError as error:
                raise LaunchError(self._sentence(error)) from None

    def _take_port(self, until: ExitStack) -> int:
        if self.port is None:
            return until.enter_context(free_port())
        if self.port and is_taken(self.port):
            raise LaunchError(f"port {self.port} is taken: end what listens there, or give another one")
        if not self.port and self.waits_for_host:
            raise LaunchError(
                "port = 0 has the plugin choose its port, and the host cannot know where to call it"
            )
        return self.port

    def _find_user(self) -> _User | None:
        """Return the user as whom it runs; None if that is the host's own. Raises: LaunchError."""
        if not self.user:
            return None
        try:
            entry = pwd.getpwuid(int(self.user)) if self.user.isdecimal() else pwd.getpwnam(self.user)
        except (KeyError, OverflowError):
            raise LaunchError(f"user {self.user!r} does not exist on this machine") from None
        if entry.pw_uid == os.geteuid():
            return None
        if os.geteuid() != 0:
            raise LaunchError(f"only root can start a process as another user, here {self.user!r}")
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
        own = {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
        return _User(entry.pw_uid, entry.pw_gid, tuple(groups), own)

    def _environment(self, assignment: Assignment, port: int, user: _User | None) -> list[str]:
        """Return its environment, as in `NAME=value`. Raises: LaunchError."""
        variables = {
            **passed_on(os.environ),
            **(user.environment if user else {}),
            "PYTHONUNBUFFERED": "1",  # or its lines would come late, and some not at all
            "HOSTNAME": "127.0.0.1",
            "PORT": str(port),
            **self._sockets(assignment, user),
            **self.environment,
            **{name: secret.read() for name, secret in self.secrets.items()},
        }
        if not self.waits_for_host:
            variables["HOST_URL"] = assignment.host_url
        if assignment.enrolment_token:
            variables["ENROLMENT_TOKEN_FILE"] = f"/dev/fd/{TOKEN_FD}"
        return [f"{name}={value}" for name, value in variables.items()]

    @staticmethod
    def _sockets(assignment: Assignment, user: _User | None) -> dict[str, str]:
        """Return where it has its Unix socket. Another user may not write there, unless the table says so."""
        if assignment.socket_dir is None or user is not None:
            return {}
        return {"SOCKET_DIR": str(assignment.socket_dir.absolute())}

    def _limits(self, user: _User | None) -> list[str]:
        if self.limits.processes is not None and os.geteuid() == 0 and user is None:
            raise LaunchError("a limit of processes does not hold for root: name a user")
        return self.limits.encode()

    def _sentence(self, failed: NotStartedError) -> str:
        """Return why it could not be started, and what to do."""
        why = os.strerror(failed.errno).lower()
        match failed.stage:
            case "command":
                return self._sentence_of_command(failed.errno, why)
            case "directory":
                return f"its directory {self.directory.absolute()} cannot be entered: {why}"
            case "user":
                return f"it cannot become user {self.user!r}: {why}"
            case "session" | "descriptors":
                return f"its process cannot be prepared: {why}"
            case limit:
                return f"its limit of {limit} cannot be set: {why}; the host's own may be lower"

    def _sentence_of_command(self, number: int, why: str) -> str:
        there = os.sep in self.command[0] and (self.directory / self.command[0]).exists()
        match number:
            case errno.ENOENT if there:
                why = "cannot be run: the interpreter that its first line names does not exist"
            case errno.ENOENT if os.sep in self.command[0]:
                why = f"does not exist in {self.directory.absolute()}"
            case errno.ENOENT:
                why = "does not exist in PATH: install it, or write where it is"
            case errno.EACCES:
                why = (
                    f"may not be executed by {f'user {self.user!r}' if self.user else 'the user of the host'}"
                )
            case errno.ENOEXEC:
                why = "is no program: a script needs a first line such as #!/bin/sh"
            case errno.EAGAIN:
                why = "cannot be started: its user has as many processes as it may have"
            case _:
                why = f"cannot be started: {why}"
        return f"command {self.command[0]!r} {why}"


@attrs.frozen(eq=False)
class RunningProcess:
    """A plugin that runs as a process."""

    _process: GuardedProcess
    url: str
    """Where it waits for the host; empty if it comes by itself."""

    @property
    def pid(self) -> int:
        """The id of the plugin's own process."""
        return self._process.pid

    @property
    def where(self) -> str:
        """Its process id, in words."""
        return f"pid {self.pid}"

    async def wait(self) -> Ended:
        """Wait until it has ended, and all that it has started."""
        return await self._process.wait()

    def stop(self) -> None:
        """Have it and its process group get SIGTERM. What is left after the time to stop gets SIGKILL."""
        self._process.stop()


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a plugin gets of the environment of the host."""
    return {name: value for name, value in environment.items() if name in PASSED_ON or name.startswith("LC_")}


def _checked(texts: Sequence[str], what: str) -> Sequence[str]:
    """Return texts that the kernel takes as they are. Raises: LaunchError."""
    if not texts or not texts[0] or any("\0" in text for text in texts):
        raise LaunchError(f"{what} is empty, or has a NUL character in it")
    return texts
