"""Sends a request at a constant rate, whether or not answers come, and times each from when it was due.

    python -m benchmarks.steady PORT RATE SECONDS < request

One thread on plain sockets, a process of its own, started by `load.steady`. A closed-loop client waits for an
answer before it asks again, so that a server that halts is asked nothing meanwhile and the halt counts once;
here a request that is due while all connections wait is sent later, and has waited since it was due. Prints
JSON: microseconds. The exit status is 1 for an answer that is not a 200.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import re
import select
import socket
import sys
import time
from collections.abc import Iterator

import attrs

CONNECTIONS = 64
_START_S = 0.05
_OVERTIME_S = 2.0  # after the last was due: who is as late as that does not keep up
_PR_SET_TIMERSLACK = 29
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class AnswerError(Exception):
    """An answer that is not a 200, or none."""


@attrs.define(eq=False)
class Connection:
    """One kept-alive connection, with a request under way or none."""

    socket: socket.socket
    due: float = 0.0
    received: bytes = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, request: bytes, due: float) -> None:
        self.due, self.received = due, b""
        self.socket.sendall(request)

    def complete(self) -> bool:
        """Read what has come; return whether that was all of an answer."""
        data = self.socket.recv(65536)
        if not data:
            raise AnswerError(f"the connection was closed after {self.received[:200]!r}")
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return False
        length = _LENGTH.search(head + b"\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or length is None:
            raise AnswerError(f"answered with {head!r}")
        return len(body) >= int(length[1])


class Schedule:
    """The requests of a run: when each is due, and what became of it."""

    def __init__(self, request: bytes, rate: int, seconds: float, connections: list[Connection]) -> None:
        self._request = request
        self._count = round(rate * seconds)
        self._interval = 1 / rate
        self._begin = time.perf_counter() + _START_S
        self._ended = self._begin
        self._idle = connections
        self._busy: set[Connection] = set()
        self.sent_late: list[float] = []
        self.took: list[float] = []

    def run(self) -> None:
        """Send all, and receive all, unless the server falls far behind. Raises: AnswerError."""
        while len(self.took) < self._count and self._ended < self._due(self._count) + _OVERTIME_S:
            self._send_due()
            ready = select.select(self._busy, [], [], self._until_next())[0]
            self._ended = time.perf_counter()
            for connection in self._completed(ready):
                self.took.append(self._ended - connection.due)
                self._busy.remove(connection)
                self._idle.append(connection)
        if not self.took:
            raise AnswerError("no answer has come")

    @property
    def answered_per_s(self) -> float:
        """The rate at which answers have come; that of the requests, unless the server cannot bear it."""
        return len(self.took) / (self._ended - self._begin)

    def _send_due(self) -> None:
        while self._idle and len(self.sent_late) < self._count:
            due, now = self._due(len(self.sent_late)), time.perf_counter()
            if due > now:
                return
            connection = self._idle.pop()
            connection.send(self._request, due)
            self._busy.add(connection)
            self.sent_late.append(now - due)

    def _due(self, index: int) -> float:
        return self._begin + index * self._interval

    def _until_next(self) -> float:
        if not self._idle or len(self.sent_late) == self._count:
            return _OVERTIME_S
        return max(0.0, self._due(len(self.sent_late)) - time.perf_counter())

    @staticmethod
    def _completed(ready: list[Connection]) -> Iterator[Connection]:
        return (connection for connection in ready if connection.complete())


def run(request: bytes, port: int, rate: int, seconds: float, connections: int = CONNECTIONS) -> Schedule:
    """Send a request at a constant rate to a port of this machine. Raises: AnswerError."""
    opened = [Connection(socket.create_connection(("127.0.0.1", port))) for _ in range(connections)]
    for connection in opened:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    schedule = Schedule(request, rate, seconds, list(opened))
    try:
        schedule.run()
    finally:
        for connection in opened:
            connection.socket.close()
    return schedule


def percentile(values: list[float], percent: float) -> float:
    """Return the smallest value that so many percent of all do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def _main(port: int, rate: int, seconds: float) -> None:
    gc.disable()
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)  # else the kernel wakes it up to 50 µs late
    schedule = run(sys.stdin.buffer.read(), port, rate, seconds)
    figures = {
        "p50_us": 1e6 * percentile(schedule.took, 50),
        "p99_us": 1e6 * percentile(schedule.took, 99),
        "late_p99_us": 1e6 * percentile(schedule.sent_late, 99),
        "rate": schedule.answered_per_s,
    }
    print(json.dumps({name: round(value, 1) for name, value in figures.items()}))


if __name__ == "__main__":
    try:
        _main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    except (AnswerError, OSError) as error:
        sys.exit(f"{error}")
