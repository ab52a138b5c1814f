"""What some bytes may cost a host or a plugin that reads them, and what may be left of them afterwards.

The host and the plugin run in a thread of their own, and are sent the bytes as they are. Their cost is read
from the counters of the interpreter (memory) and of the system (time of that thread), so that it does
not matter what else runs on the machine.
"""

from __future__ import annotations

import gc
import json
import logging
import socket
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache, partial
from queue import SimpleQueue

import attrs
import h2.config
import h2.connection
import trio
import trio.testing

from cpg_trio.host import Host, HostConfig, LeaseConfig, Limits, RateLimits
from cpg_trio.host.access.rate_limiting import Kind
from cpg_trio.http import ServeConfig
from cpg_trio.plugin import Plugin, PluginConfig
from tests._wire import HANDSHAKE as UPGRADE, request
from tests.abuse.victims import Forgetful
from tests.host.calls import COOKIE, DISCOVER, HANDSHAKE, REGISTER, REPORT, VERSIONS

ECHO = "/echo.v1.EchoService/Echo"
MESSAGE = 64 * 1024
"""What a message may have here, so that what a small one may unpack to is small."""

# Whatever is read costs this much: connections, tasks, an answer, a message that unpacks to the limit.
BASE_BYTES = 2 * 1024 * 1024
BASE_S = 0.25
# And each byte so much more. An object of Python for each of a few bytes is what a parser makes.
BYTES_PER_BYTE = 150
S_PER_BYTE = 40e-6
KEPT_BYTES = 4 * 1024 * 1024
"""What all that was ever read may leave behind: caches, which are bounded."""

_ENDS_S = 5.0
_CREDENTIALS = b"x-credentials: 1"  # instead of which those of an identity are sent


@attrs.define
class Readers:
    """Those who read, and where."""

    token: trio.lowlevel.TrioToken
    clock: int
    """The time of the processor that their thread has had."""
    host: str = ""
    plugin: str = ""
    credentials: bytes = b""
    provider: bytes = b""
    kept_before: int | None = None
    """What they held when they had read something for the first time."""
    thread: threading.Thread = attrs.field(factory=threading.current_thread)
    ends: trio.Event = attrs.field(factory=trio.Event)

    def end(self) -> None:
        """End them, and their thread."""
        trio.from_thread.run_sync(self.ends.set, trio_token=self.token)
        self.thread.join()

    def check(self, data: bytes) -> None:
        """Have both read some bytes. Raises AssertionError for what costs too much."""
        data = data.replace(_CREDENTIALS, self.credentials).replace(b"{provider}", self.provider)
        with traced():
            if self.kept_before is None:
                for seed in SEEDS:
                    self._read(seed.replace(_CREDENTIALS, self.credentials))
                self.kept_before = self._held()
            before, began = tracemalloc.get_traced_memory()[0], time.clock_gettime(self.clock)
            tracemalloc.reset_peak()
            self._read(data)
            took_s = time.clock_gettime(self.clock) - began
            took = tracemalloc.get_traced_memory()[1] - before
            kept = self._held() - self.kept_before
        assert took <= BASE_BYTES + BYTES_PER_BYTE * len(data), f"{took} bytes for {len(data)}"
        assert took_s <= BASE_S + S_PER_BYTE * len(data), f"{took_s:.3f} s for {len(data)} bytes"
        assert kept <= KEPT_BYTES, f"{kept} bytes are kept"

    def check_answers(self, data: bytes) -> None:
        """Have both answer some bytes. Raises AssertionError if they call that their own fault."""
        data = data.replace(_CREDENTIALS, self.credentials).replace(b"{provider}", self.provider)
        with _failures() as failures:
            answers = self._read(data)
        assert not failures, failures
        assert all(not answer.startswith(b"HTTP/1.1 500") for answer in answers), answers

    def _read(self, data: bytes) -> list[bytes]:
        answers = [_send(url, data) for url in (self.host, self.plugin)]
        # What runs on after its client has left, runs to its end.
        trio.from_thread.run(trio.testing.wait_all_tasks_blocked, trio_token=self.token)
        return answers

    def _held(self) -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]


@contextmanager
def traced() -> Iterator[None]:
    """Count what is allocated. The collector does not look at what was before, so that it is quick."""
    if tracemalloc.is_tracing():
        yield
        return
    gc.collect()
    gc.freeze()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


class _Failures(logging.Handler):
    """Keeps what the log has with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.seen.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


@contextmanager
def _failures() -> Iterator[list[str]]:
    handler = _Failures()
    loggers = [logging.getLogger(name) for name in ("cpg_trio", "connectrpc", "hypercorn")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield handler.seen
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def _send(url: str, data: bytes) -> bytes:
    """Send bytes, and read until the other side has no more to say. Return what it has said."""
    address, _, port = url.removeprefix("http://").rpartition(":")
    answer = b""
    with suppress(ConnectionError), socket.create_connection((address, int(port)), _ENDS_S) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while piece := sock.recv(65536):
            answer += piece
    return answer


@cache
def readers() -> Readers:
    """Run a host and a public plugin in a thread of their own, until `end_readers` or the process's end."""
    started: SimpleQueue[Readers] = SimpleQueue()

    async def run() -> None:
        async with _reading() as those:
            started.put(those)
            await those.ends.wait()

    threading.Thread(target=trio.run, args=(run,), daemon=True).start()
    return started.get()


def end_readers() -> None:
    """End those of `readers`, if there are any."""
    if readers.cache_info().currsize:
        readers().end()
        readers.cache_clear()


@asynccontextmanager
async def _reading() -> AsyncIterator[Readers]:
    ident = threading.get_ident()
    those = Readers(trio.lowlevel.current_trio_token(), time.pthread_getcpuclockid(ident))
    unlimited = RateLimits(**{kind.name.lower(): None for kind in Kind})
    serve = ServeConfig(linger_s=0.01)
    host = Host(
        HostConfig(
            leases=LeaseConfig(lease_s=86400.0),
            limits=Limits(max_message_bytes=MESSAGE),
            rates=unlimited,
            serve=serve,
        )
    )
    plugin = Plugin("public-plugin", version="1.0.0")
    plugin.provide("echo", Forgetful(), public=True, max_message_bytes=MESSAGE)
    async with trio.open_nursery() as nursery:
        (those.host,) = await nursery.start(partial(host.serve, bind="127.0.0.1:0"))
        config = PluginConfig(host_url=those.host, hostname="127.0.0.1", heartbeat_s=60.0, serve=serve)
        (those.plugin,) = await nursery.start(partial(plugin.serve, config=config))
        while (provider := host.registry.status("echo").provider) is None:  # noqa: ASYNC110 - once
            await trio.sleep(0.01)
        caller, token = host.identities.issue("caller")
        proof = f"X-Plugin-Runtime-ID: {caller.runtime_id}\r\nAuthorization: Bearer {token}"
        those.credentials, those.provider = proof.encode(), provider.runtime_id.encode()
        yield those
        nursery.cancel_scope.cancel()


def _json(path: str, message: object, **headers: str) -> bytes:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    fields = {"content-type": "application/json", "x-credentials": "1"}
    return request("POST", path, {**fields, **{n.replace("_", "-"): v for n, v in headers.items()}}, body)


def _http2() -> bytes:
    """Return what a client says that asks once by HTTP/2."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    fields = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", HANDSHAKE)]
    connection.send_headers(1, [*fields, ("content-type", "application/json")])
    connection.send_data(1, b"{}", end_stream=True)
    return connection.data_to_send()


SEEDS = (
    _json(HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": "p", "clientMetadata": {"provides": "a,b"}}),
    _json(HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": "p", "clientMetadata": {"x": "\ud800"}}),
    _json(HANDSHAKE, b'{"x": ' + b"[" * 1000),
    _json(REGISTER, {"serviceType": "t", "version": "1.0.0", "endpointPath": "/", "metadata": {}}),
    _json(DISCOVER, {"serviceType": "echo", "minVersion": "1.0.0"}),
    _json(REPORT, {"state": 2, "reason": "x", "directCalls": [{"serviceType": "t", "series": "1"}]}),
    _json("/connectplugin.v1.CapabilityBroker/RequestCapability", {"capabilityType": "logger"}),
    _json("/services/echo/{provider}/echo.v1.EchoService/Echo", {"text": "x"}),
    _json("/services/echo/nobody/M", b"x", connection="close, x", cookie="a=b"),
    _json(ECHO, {"text": "x", "data": "eA=="}),
    _json(ECHO, b"\n\1x", content_type="application/proto", connect_timeout_ms="1000"),
    _json(ECHO, b"\0\0\0\0\3\n\1x", content_type="application/grpc-web+proto"),
    _json(ECHO, b"\0\0\0\0\3\xff\xff\xff", content_type="application/grpc-web+proto", grpc_timeout="1S"),
    _json("/echo.v1.EchoService/Count", b"\0\0\0\0\2{}", content_type="application/connect+json"),
    request("POST", ECHO, {"content-type": "application/json", "transfer-encoding": "chunked"})
    + b"2\r\n{}\r\n1;a=b\r\n \r\n0\r\nx: y\r\n\r\n",
    request("GET", "/watch", {**UPGRADE, "x-credentials": "1"}) + b"\x81\x82\0\0\0\0{}\x89\x80\0\0\0\0",
    _http2(),
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20,
)
