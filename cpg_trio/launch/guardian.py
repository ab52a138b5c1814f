"""The guardian of one process that a host has started: a program of its own, which needs Python alone.

The host runs it as `python -I -S guardian.py CONTROL TOKEN HOST LABEL`: the descriptor of a socket to the
host, that of the plugin's enrolment token (-1 without one), the host's process id, and the plugin's name for
`ps`. The rest comes through the socket, as other users can read a command line:

    host      8 digits, the length of the order; the order (`encode`); later `stop`
    guardian  `pid N`, or `error STAGE ERRNO`; when all has ended, `ended HOW NUMBER`

It starts the plugin in a session of its own, and ends all that the plugin has started when the plugin has
ended, when the host says so, or when the host is gone: the socket closes, or its process ends.

Why not from the host itself. A signal on the death of the parent (`PR_SET_PDEATHSIG`) follows the *thread*
that started a child, and does not hold for grandchildren. A host that is killed ends nothing. The guardian
has one thread, and is a subreaper: whoever loses its parent below it becomes its own child.

No process is signalled whose id could have been reused. The guardian signals only children of its own, which
it has not reaped, and the groups that they lead: the id of neither can be given to another process. Those
that are deeper become its children once their parents are gone, so it goes on until there are none.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence

TOKEN_FD = 3  # of the plugin
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LENGTH = 8  # digits
_ROUND_MS = 20  # until it looks again at what does not end
_NOBODY = 127  # exit status of a child that could not become the plugin

Prctl = Callable[[int, int, int, int, int], int]


class Order:
    """What to start."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Sequence[str],
        directory: str,
        user: str = "",
        limits: Sequence[str] = (),
        stop_s: float = 10.0,
    ) -> None:
        self.command = command
        self.environment = environment
        """As in `NAME=value`."""
        self.directory = directory
        self.user = user
        """`UID:GID:GID,GID,...`, the last ones being all groups; empty for the guardian's own."""
        self.limits = limits
        """As in `files:7:1024:1024`: a name for errors, its number in `resource`, soft and hard limit."""
        self.stop_s = stop_s
        """Seconds that the rest has to end after `stop`."""

    def encode(self) -> bytes:
        """Return it as the guardian reads it. The kernel's strings end at a NUL, so none has one."""
        head = [str(self.stop_s), self.directory, self.user, ",".join(self.limits), str(len(self.command))]
        order = os.fsencode("\0".join([*head, *self.command, *self.environment]))
        return b"%0*d" % (_LENGTH, len(order)) + order

    @classmethod
    def decode(cls, order: bytes) -> Order:
        """Return what `encode` has been given."""
        stop_s, directory, user, limits, length, *rest = os.fsdecode(order).split("\0")
        command, environment = rest[: int(length)], rest[int(length) :]
        return cls(command, environment, directory, user, [*filter(None, limits.split(","))], float(stop_s))


class Guardian:
    """Starts one plugin, and ends all of it."""

    def __init__(self, control: int, token: int, host: int) -> None:
        self._control = control
        self._token = token
        self._prctl = _find_prctl()
        self._leader = 0  # until it is reaped
        self._end: tuple[int, int] | None = None
        self._stop_s = 0.0
        self._stop_at: float | None = None
        self._asked: set[int] = set()  # of those that have left the group
        self._forced = False
        self._poll = select.poll()
        self._wakes, wake = os.pipe()
        for each in (self._wakes, wake):
            os.set_blocking(each, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _note)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whatever the host has blocked
        for each in (self._wakes, control):
            self._poll.register(each, select.POLLIN)
        self._host = _watch_host(host)
        if self._host >= 0:
            self._poll.register(self._host, select.POLLIN)
        if self._prctl is not None:
            self._prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def run(self) -> None:
        """Start the plugin, guard it until it has to end, and end all of it."""
        order = self._read_order()
        if order is None:
            return
        self._stop_s = order.stop_s
        if not self._start(order):
            return
        while not self._is_over():
            self._wait(self._left_ms())
        self._end_all()
        how, number = self._end or (os.CLD_KILLED, signal.SIGKILL)
        self._tell(f"ended {'exited' if how == os.CLD_EXITED else 'killed'} {number}")

    def _read_order(self) -> Order | None:
        head = self._read(_LENGTH)
        order = self._read(int(head)) if head else b""
        return Order.decode(order) if order else None

    def _read(self, size: int) -> bytes:
        """Return so many bytes of the host; nothing if it is gone before."""
        data = b""
        while len(data) < size:
            part = os.read(self._control, size - len(data))
            if not part:
                return b""
            data += part
        return data

    def _tell(self, report: str) -> None:
        try:
            os.write(self._control, report.encode() + b"\n")
        except OSError:
            pass  # the host is gone

    def _start(self, order: Order) -> bool:
        """Start the plugin, and tell the host its process id, or why it cannot be started."""
        reads, writes = os.pipe()
        self._leader = os.fork()
        if not self._leader:
            _become(order, self._token, writes, self._prctl)
        os.close(writes)
        if self._token >= 0:
            os.close(self._token)
        # Read to its end, which is there once the program runs. What the child writes is shorter than a page.
        failure = os.read(reads, 4096)
        os.close(reads)
        if failure:
            os.waitpid(self._leader, 0)
            self._tell("error " + failure.decode())
            return False
        self._tell(f"pid {self._leader}")
        return True

    def _is_over(self) -> bool:
        """Whether all of it has to end now."""
        if self._forced or (self._stop_at is not None and time.monotonic() >= self._stop_at):
            return True
        if self._end is None:
            return False
        if self._stop_at is None:  # by itself: what it leaves behind has nobody who would stop it
            return True
        others = self._others()
        for pid in others:
            if pid not in self._asked:  # not in the group that was asked
                self._asked.add(pid)
                _signal(pid, signal.SIGTERM)
        return not others

    def _left_ms(self) -> int | None:
        if self._stop_at is None:
            return None
        return max(0, round((self._stop_at - time.monotonic()) * 1000)) + 1

    def _wait(self, timeout_ms: int | None) -> None:
        """Wait for what happens, and note it."""
        ready = [fd for fd, _ in self._poll.poll(timeout_ms)]
        if self._wakes in ready and signal.SIGTERM in os.read(self._wakes, 4096):
            self._stop()
        if self._control in ready:
            self._obey()
        if self._host in ready:
            self._force()
        self._reap()

    def _obey(self) -> None:
        try:
            said = os.read(self._control, 4096)
        except OSError:
            said = b""
        if not said:
            self._force()
        elif b"stop" in said:
            self._stop()

    def _force(self) -> None:
        self._forced = True
        for fd in (self._control, self._host):  # which would be ready for ever
            if fd >= 0:
                try:
                    self._poll.unregister(fd)
                except KeyError:
                    pass

    def _stop(self) -> None:
        """Ask the plugin and its group to stop. What is stopped by a signal has to go on to do that."""
        if self._stop_at is None and self._leader:
            self._stop_at = time.monotonic() + self._stop_s
            _signal(-self._leader, signal.SIGTERM)
            _signal(-self._leader, signal.SIGCONT)

    def _reap(self) -> None:
        """Note the end of the plugin without reaping it: its id is that of its group. Reap all others."""
        for pid in self._children():
            keep = os.WNOWAIT if pid == self._leader else 0
            try:
                end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | keep)
            except ChildProcessError:
                continue
            if end is not None:
                self._asked.discard(pid)
                if pid == self._leader:
                    self._end = end.si_code, end.si_status

    def _end_all(self) -> None:
        """Kill all children until there are none, or none that the system would tell."""
        while self._leader or (self._has_children() and _children() is not None):
            if self._leader:
                _signal(-self._leader, signal.SIGKILL)
            others = self._others()
            for pid in others:
                _end(pid)
            if not others and self._end is not None and self._leader:
                os.waitpid(self._leader, 0)
                self._leader = 0
                continue
            self._wait(_ROUND_MS)

    def _others(self) -> list[int]:
        return [pid for pid in self._children() if pid != self._leader]

    def _children(self) -> Iterable[int]:
        found = _children()
        return [self._leader] * bool(self._leader) if found is None else found

    @staticmethod
    def _has_children() -> bool:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True


def _note(_: int, __: object) -> None:
    """Have a signal wake the loop, which reads its number."""


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended; or it has become another user's, which only root could end


def _end(child: int) -> None:
    """Kill a child that is not reaped, and the group that it leads."""
    _signal(child, signal.SIGKILL)
    try:
        leads = os.getpgid(child) == child
    except ProcessLookupError:
        return
    if leads:
        _signal(-child, signal.SIGKILL)


def _children() -> list[int] | None:
    """Return the children of this process; None where the system does not tell them."""
    pid = os.getpid()
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb", buffering=0) as listed:
            return [*map(int, listed.read().split())]
    except OSError:
        return _children_by_stat(pid)


def _children_by_stat(parent: int) -> list[int] | None:
    """Do the same on a kernel that does not list children, by a look at every process."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return None
    found = []
    for name in filter(str.isdigit, names):
        try:
            with open(f"/proc/{name}/stat", "rb", buffering=0) as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(name))
    return found


def _find_prctl() -> Prctl | None:
    """Return Linux's `prctl`; None on other systems."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    return prctl


def _watch_host(host: int) -> int:
    """Return a descriptor that is ready when the host's process has ended; -1 where there is no such thing.

    The socket tells that as well, unless another program has got the host's end of it by a fork.
    """
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        watched = os.pidfd_open(host)
    except OSError as error:
        if error.errno == errno.ESRCH:
            sys.exit(_NOBODY)
        return -1
    if os.getppid() != host:  # it has ended before, and its id may be another's
        sys.exit(_NOBODY)
    return watched


def _become(order: Order, token: int, failures: int, prctl: Prctl | None) -> None:
    """Become the plugin, or say what prevents it, and end."""
    stage = "session"
    parent = os.getppid()
    try:
        os.setsid()
        _reset_signals()
        stage = "descriptors"  # while nothing is limited, and the own ones can be listed
        failures = _pass_descriptors(token, failures)
        for limit in order.limits:
            stage, number, soft, hard = limit.split(":")
            _limit(int(number), int(soft), int(hard))
        stage = "user"
        if order.user:
            _change_user(order.user)
        stage = "directory"
        os.chdir(order.directory)
        stage = "session"
        if prctl is not None:  # as a change of the user undoes it
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(_NOBODY)
        stage = "command"
        _execute(order)
    except OSError as error:
        os.write(failures, b"%s %d" % (stage.encode(), error.errno or 0))
    except BaseException:  # noqa: BLE001 - it must not go on as a second guardian
        os.write(failures, b"%s %d" % (stage.encode(), errno.EINVAL))
    finally:
        os._exit(_NOBODY)


def _execute(order: Order) -> None:
    """Run the program. Imports nothing, as `os.execvpe` does: the new user may not read Python's library."""
    environment = dict(each.split("=", 1) for each in order.environment)
    program, failure = order.command[0], errno.ENOENT
    folders = [""] if os.sep in program else environment.get("PATH", os.defpath).split(os.pathsep)
    for folder in folders:
        try:
            os.execve(os.path.join(folder, program), [*order.command], environment)  # noqa: S606
        except OSError as error:  # as the shell does: what may not be run is told, if nothing else is found
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error.errno or failure
    raise OSError(failure, os.strerror(failure))


def _reset_signals() -> None:
    """Have all signals do what they do by default: a program inherits which ones are ignored or blocked."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _limit(number: int, soft: int, hard: int) -> None:
    import resource

    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError as error:  # above the hard limit
        raise OSError(errno.EPERM, str(error)) from error


def _change_user(user: str) -> None:
    uid, gid, groups = user.split(":")
    os.setgroups([*map(int, groups.split(","))])
    os.setgid(int(gid))
    os.setuid(int(uid))  # of root this sets all of them: there is no way back


def _pass_descriptors(token: int, failures: int) -> int:
    """Have the plugin inherit 0, 1, 2 and its token, and nothing else; return where to write failures."""
    import fcntl

    failures = fcntl.fcntl(failures, fcntl.F_DUPFD_CLOEXEC, TOKEN_FD + 1)
    if token >= 0:
        os.dup2(token, TOKEN_FD, inheritable=True)
    for fd in _open_descriptors():
        if fd > TOKEN_FD or (fd == TOKEN_FD and token < 0):
            try:
                os.set_inheritable(fd, False)
            except OSError:
                pass  # that of the listing itself
    return failures


def _open_descriptors() -> Iterable[int]:
    try:
        return [*map(int, os.listdir("/dev/fd"))]
    except OSError:
        return range(256)


if __name__ == "__main__":
    Guardian(*map(int, sys.argv[1:4])).run()
    os._exit(0)
