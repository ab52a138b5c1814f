"""What a client sends, and what sends it: wrk, as fast as the answers come, and `steady` at a constant rate.

Any answer that is not the right one fails the run.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import attrs
import trio

from cpg_trio.http.tls import client_context

from .processes import pinned, which

SCRIPTS = Path(__file__).parent
_MARK = "RESULT "
_ASK_TIMEOUT_S = 30.0


class LoadError(Exception):
    """An answer is wrong or missing, so the figures would mean nothing."""


@attrs.frozen
class Call:
    """A request to a server on this machine."""

    port: int
    path: str
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    method: str = "POST"
    ca_file: Path | None = None
    """The authority of the server's certificate; without it, the call is made without TLS."""

    @property
    def url(self) -> str:
        return f"{'http' if self.ca_file is None else 'https'}://127.0.0.1:{self.port}{self.path}"

    def encoded(self) -> bytes:
        """Return it as HTTP/1.1."""
        headers = {"Host": f"127.0.0.1:{self.port}", **self.headers, "Content-Length": str(len(self.body))}
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
        return "\r\n".join(lines).encode() + self.body


@attrs.frozen
class Load:
    """The results of a run of wrk."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    said: Mapping[str, Any] = attrs.field(factory=dict)
    """What its script has noted besides."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


async def wrk(
    call: Call, connections: int, seconds: int, cores: Iterable[int], script: str = "call.lua"
) -> Load:
    """Repeat a call on some connections at once. Raises: LoadError."""
    headers = [part for name, value in call.headers.items() for part in ("-H", f"{name}: {value}")]
    command = [which("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", *headers]
    with NamedTemporaryFile() as body:  # too long for a command line, it may be
        body.write(call.body)
        body.flush()
        command += ["-s", str(SCRIPTS / script), call.url, "--", call.method, body.name]
        return parse_wrk(await _run(pinned(command, cores)))


def parse_wrk(output: str) -> Load:
    """Parse the output of our scripts for wrk. Raises: LoadError for any failure."""
    line = next((line for line in output.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        raise LoadError(f"wrk has no result:\n{output}")
    result = json.loads(line.removeprefix(_MARK))
    failures = {name: count for name, count in result.pop("errors").items() if count}
    if failures or not result["requests"]:
        raise LoadError(f"{failures or 'no answers'} beside {result['requests']} answers:\n{output}")
    figures = {name: result.pop(name) for name in ("requests", "seconds", "p50_us", "p99_us")}
    return Load(**figures, said=result)


@attrs.frozen
class Steady:
    """The results at a constant rate: microseconds from when each request was due."""

    p50_us: float
    p99_us: float
    late_p99_us: float
    """When 99 of 100 requests had been sent: late for want of a free connection, or as the load itself is."""
    rate: float
    """Answers a second."""


async def steady(call: Call, rate: int, seconds: float, core: int) -> Steady:
    """Make a call `rate` times a second, whether or not answers come. Raises: LoadError."""
    command = [sys.executable, "-m", "benchmarks.steady", str(call.port), str(rate), str(seconds)]
    return Steady(**json.loads(await _run(pinned(command, [core]), call.encoded())))


async def _run(command: list[str], stdin: bytes = b"") -> str:
    done = await trio.run_process(command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False)
    output = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode:
        raise LoadError(f"{subprocess.list2cmdline(command)[:200]} failed:\n{output}")
    return done.stdout.decode()


async def ask(call: Call) -> tuple[int, bytes]:
    """Make a call once; return status and body of the answer."""
    return await trio.to_thread.run_sync(_ask, call)


def _ask(call: Call) -> tuple[int, bytes]:
    connection = _connection(call)
    try:
        connection.request(call.method, call.path, body=call.body, headers=dict(call.headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _connection(call: Call) -> http.client.HTTPConnection:
    if call.ca_file is None:
        return http.client.HTTPConnection("127.0.0.1", call.port, timeout=_ASK_TIMEOUT_S)
    context = client_context(call.ca_file)
    return http.client.HTTPSConnection("127.0.0.1", call.port, timeout=_ASK_TIMEOUT_S, context=context)


async def expect(call: Call, status: int, body: bytes | None = None) -> None:
    """Make a call once. Raises: LoadError for another answer."""
    got = await ask(call)
    if got[0] != status or body not in (None, got[1]):
        raise LoadError(f"{call.method} {call.url} is answered with {got[0]} {got[1][:200]!r}, not {status}")
