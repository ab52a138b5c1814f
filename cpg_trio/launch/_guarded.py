"""The host's side of a guardian: starts it, reads its reports and what the plugin writes, and ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

import attrs
import trio

from cpg_trio._listeners import Listeners
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host.supervision import Ended, LaunchError
from cpg_trio.launch import _reaper, guardian
from cpg_trio.launch._output_lines import OutputLines
from cpg_trio.launch._strays import end_strays

_PROGRAM = Path(guardian.__file__)
_READ_BYTES = 64 * 1024
_READ_BYTES_PER_S = 64 * 1024 * 1024  # above it the pipe makes the plugin wait
_MUCH_BYTES = 16 * 1024  # at once: it may be a flood
_QUIET_S = 1.0  # after which it is told how many lines of a flood were left out
_DRAIN_S = 0.3  # that its last output has, if somebody else holds the pipe as well
_END_S = 10.0  # that a guardian has to end all of a run
_BY_OTHERS = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM})
_LIBRARIES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # which the interpreter itself may need


@attrs.frozen
class NotStartedError(Exception):
    """The plugin could not be started: what failed, and the number of the error."""

    stage: str
    errno: int


@asynccontextmanager
async def guarded(
    order: guardian.Order,
    *,
    run_id: str,
    token: str,
    owner: int | None,
    output: Callable[[str], None],
    label: str,
) -> AsyncIterator[GuardedProcess]:
    """Run a plugin within the block; all of it has ended when the block is left.

    `run_id` is what the order's environment has as `_strays.RUN_ID`. The token is readable for `owner`, the
    id of another user; empty: none. `label` is for `ps`.
    Raises: NotStartedError, and LaunchError if there can be no guardian.
    """
    async with open_plain_nursery() as nursery:
        process = await _start_guardian(run_id, token, owner, output, label)
        try:
            with _reaper.own(process.guardian_pid):
                nursery.start_soon(process.watch)
                try:
                    await process.start(order)
                    yield process
                finally:
                    await process.end()
        finally:
            process.close()


async def _start_guardian(
    run_id: str, token: str, owner: int | None, output: Callable[[str], None], label: str
) -> GuardedProcess:
    with ExitStack() as on_failure, ExitStack() as inherited:
        try:
            control, theirs = socket.socketpair()
            on_failure.callback(control.close)
            inherited.callback(theirs.close)
            control.setblocking(False)  # noqa: FBT003 - of the library
            reads, writes = os.pipe()
            inherited.callback(os.close, writes)
            stream = trio.lowlevel.FdStream(reads)
            on_failure.callback(stream.close)
            token_fd = _token_file(token, owner, inherited) if token else -1
            started = await trio.lowlevel.open_process(
                _command(theirs.fileno(), token_fd, label),
                stdin=subprocess.DEVNULL,
                stdout=writes,
                stderr=writes,
                pass_fds=[fd for fd in (theirs.fileno(), token_fd) if fd >= 0],
                env={name: os.environ[name] for name in _LIBRARIES if name in os.environ},
                cwd="/",
                start_new_session=True,  # the signals of the host's terminal are the host's
            )
        except OSError as error:
            raise LaunchError(f"its guardian cannot be started: {(error.strerror or '').lower()}") from error
        on_failure.pop_all()
    taken = Listeners[str]("the output of a plugin")  # so that a taker that fails does no harm here
    taken.add(output)
    return GuardedProcess(started, control, stream, OutputLines(taken.tell, trio.current_time), run_id)


def _command(control: int, token: int, label: str) -> list[str]:
    numbers = map(str, (control, token, os.getpid()))
    return [sys.executable, "-I", "-S", str(_PROGRAM), *numbers, label]


def _token_file(token: str, owner: int | None, until: ExitStack) -> int:
    """Return a descriptor of a file in memory that has the token, and has no name; `until` closes it.

    On Linux it can be read again and again by `/dev/fd/N`; elsewhere only once.
    """
    fd = _unnamed_file()
    until.callback(os.close, fd)
    os.fchmod(fd, 0o400)
    if owner is not None:
        os.fchown(fd, owner, -1)
    os.write(fd, token.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _unnamed_file() -> int:
    """Return a file in memory; an unlinked one where there is no such thing, or it is not permitted."""
    with suppress(AttributeError, OSError):
        return os.memfd_create("enrolment-token")
    with TemporaryFile() as unlinked:
        return os.dup(unlinked.fileno())


class GuardedProcess:
    """A plugin that runs under a guardian."""

    def __init__(
        self,
        process: trio.Process,
        control: socket.socket,
        output: trio.lowlevel.FdStream,
        lines: OutputLines,
        run_id: str,
    ) -> None:
        self.pid = 0
        """Of the plugin."""
        self.guardian_pid = process.pid
        self._guardian = process
        self._control = control
        self._output = output
        self._lines = lines
        self._run_id = run_id
        self._answered = trio.Event()
        self._failure: NotStartedError | None = None
        self._stopping = False
        self._end: tuple[str, int] | None = None
        self._over = trio.Event()

    async def start(self, order: guardian.Order) -> None:
        """Have the guardian start the plugin. Raises: NotStartedError, LaunchError."""
        with suppress(OSError):  # the guardian has ended, which its silence tells as well
            await self._send(order.encode())
        await self._answered.wait()
        if self._failure is not None:
            raise self._failure
        if not self.pid:
            await self._over.wait()
            why = self._lines.explanation() or "it was killed"
            raise LaunchError(f"its guardian has ended before it started the plugin: {why}")

    async def _send(self, data: bytes) -> None:
        while data:
            await trio.lowlevel.wait_writable(self._control)
            with suppress(BlockingIOError):
                data = data[self._control.send(data) :]

    async def watch(self) -> None:
        """Read what the guardian reports and the plugin writes, until all of it has ended."""
        # Cancelled by nobody: `end` is called in any case, and has this end.
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_output, done := trio.Event())
                await self._read_reports()
                await self._guardian.wait()
                if self._end is None and self._failure is None:
                    await trio.to_thread.run_sync(end_strays, self._run_id)
                with trio.move_on_after(_DRAIN_S):
                    await done.wait()
                nursery.cancel_scope.cancel()
            self._lines.end()
            self._over.set()

    async def wait(self) -> Ended:
        """Wait until all of it has ended; return how the plugin did."""
        await self._over.wait()
        if self._end is None:
            return Ended(failed=True, how="its guardian was killed")
        how, number = self._end
        if how == "exited":
            detail = self._lines.explanation() if number else ""
            return Ended(failed=number != 0, how=f"exit status {number}", detail=detail)
        asked = self._stopping and number == signal.SIGTERM
        detail = "" if number in _BY_OTHERS else self._lines.explanation()
        return Ended(failed=not asked, how=f"killed by {_name(number)}", detail=detail)

    def stop(self) -> None:
        """Have the plugin and its process group get SIGTERM."""
        if not self._stopping:
            self._stopping = True
            with suppress(OSError):  # it has ended
                self._control.send(b"stop\n")

    async def end(self) -> None:
        """End all of it by force, and wait until it has ended."""
        with trio.CancelScope(shield=True):
            with suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
            self._guardian.send_signal(signal.SIGCONT)  # somebody may have stopped it
            with trio.move_on_after(_END_S):
                await self._over.wait()
            if not self._over.is_set():
                self._guardian.kill()
                await self._over.wait()

    def close(self) -> None:
        """Close what stands for it in this process."""
        trio.lowlevel.notify_closing(self._control)
        self._control.close()
        self._output.close()

    async def _read_reports(self) -> None:
        try:
            rest = b""
            while data := await self._receive():
                *reports, rest = (rest + data).split(b"\n")
                for report in reports:
                    self._note(report.decode().split())
        finally:
            self._answered.set()

    async def _receive(self) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._control)
            try:
                return self._control.recv(4096)
            except BlockingIOError:
                continue
            except OSError:  # reset: it has ended with something unread
                return b""

    def _note(self, report: list[str]) -> None:
        match report:
            case ["pid", number]:
                self.pid = int(number)
                self._answered.set()
            case ["error", stage, number]:
                self._failure = NotStartedError(stage, int(number))
                self._answered.set()
            case ["ended", how, number]:
                self._end = how, int(number)

    async def _read_output(self, done: trio.Event) -> None:
        while True:
            with trio.move_on_after(_QUIET_S if self._lines.left_out else float("inf")) as quiet:
                data = await self._output.receive_some(_READ_BYTES)
                if not data:
                    break
                self._lines.feed(data)
                if len(data) >= _MUCH_BYTES:
                    await trio.sleep(len(data) / _READ_BYTES_PER_S)
            if quiet.cancelled_caught:
                self._lines.note_left_out()
        done.set()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
