"""A host with a provider behind it, which keep what came of the bytes that a caller sent.

What a provider reads is read by h11 here. Whatever the caller's bytes were, it has to be a message that h11
reads in them as well, with the same method, target, fields and body, and no message that is not there.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial

import attrs
import h11
import trio

from cpg_trio.host import Host, HostConfig, LeaseConfig
from cpg_trio.http import ServeConfig
from cpg_trio.http.server.config import Http1Engine
from tests.http.peers import Peer, serving
from tests.http.reading import Headers, Reading, as_others_want_it, pieces, read_request_by_h11

ENDPOINT = b"/echo.v1.Echo/"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
_PATH = re.compile(rb"(?<=[A-Z]) /")
GOODBYE = b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
_ROUNDS = 5  # of the loop, in which what has been sent is read, and passed on
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_OF_THE_HOST = frozenset({b"host", b"te", b"x-plugin-caller", b"x-plugin-caller-id", b"x-request-id"})


@attrs.define
class Relayed:
    """A host that routes to a provider, and what the provider has got of the current call."""

    address: tuple[str, int]
    path: bytes
    credentials: bytes
    bound_s: float
    """For what the host rightly waits for: the rest of a request."""
    received: list[Reading] = attrs.field(factory=list)
    unreadable: list[str] = attrs.field(factory=list)

    async def check(self, data: bytes, cuts: Iterable[int] = ()) -> int:
        """Send a caller's bytes, cut at some places; assert that the provider got nothing else.

        Return how many requests it got.
        """
        self.received, self.unreadable = [], []
        sent = self._routed(data) + GOODBYE
        stream = await trio.open_tcp_stream(*self.address)
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(_send, stream, pieces(sent, [len(sent) - len(GOODBYE) - cut for cut in cuts]))
            with trio.move_on_after(self.bound_s), suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
            nursery.cancel_scope.cancel()
        assert not self.unreadable, self.unreadable
        meant = iter(self._meant(sent))
        for reading in self.received:
            assert any(self._alike(reading, other) for other in meant)
        return len(self.received)

    def _routed(self, data: bytes) -> bytes:
        """Have the first request go to the provider in its caller's name, and whatever follows nowhere."""
        data = _PATH.sub(b" " + self.path + b"M", data, count=1)
        return data.replace(b"Host: h\r\n", b"Host: h\r\n" + self.credentials, 1)

    def _meant(self, data: bytes) -> list[Reading]:
        """Return what h11 reads in a caller's bytes."""
        readings: list[Reading] = []
        while data and (reading := read_request_by_h11(as_others_want_it(data))) and reading.complete:
            readings.append(reading)
            data = reading.rest
        return readings

    def _alike(self, received: Reading, meant: Reading) -> bool:
        assert received.subject is not None
        assert meant.subject is not None
        method, target = received.subject
        return (method, target.replace(ENDPOINT, self.path, 1), received.body) == (
            *meant.subject,
            meant.body,
        ) and _fields(received.headers) <= _fields(meant.headers)

    async def provide(self, peer: Peer) -> None:
        """Answer each request that h11 reads. What it cannot read is noted: that must not come."""
        connection = h11.Connection(h11.SERVER)
        try:
            while (request := await _received(connection, peer)) is not None:
                self.received.append(request)
                await peer.send(ANSWER)
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
        except h11.ProtocolError as error:
            self.unreadable.append(str(error))


def _fields(headers: Headers) -> set[tuple[bytes, bytes]]:
    fields = {(name.lower(), value) for name, value in headers}
    return {field for field in fields if field[0] not in _FRAMING | _OF_THE_HOST}


async def _send(stream: trio.SocketStream, parts: Iterable[bytes]) -> None:
    with suppress(trio.BrokenResourceError):
        for part in parts:
            await stream.send_all(part)
            for _ in range(_ROUNDS):
                await trio.lowlevel.checkpoint()


async def _received(connection: h11.Connection, peer: Peer) -> Reading | None:
    """Read one request; None at the end of the connection, also in the middle of one."""
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            fields = head.headers.raw_items()
            subject = (head.method, head.target)
            return Reading(
                subject, head.http_version, fields, body, [], complete=True, keep_alive=True, rest=b""
            )
        elif data := await peer.stream.receive_some():
            connection.receive_data(bytes(data))
        else:
            return None


@asynccontextmanager
async def relaying(bound_s: float, engine: Http1Engine = Http1Engine.OWN) -> AsyncIterator[Relayed]:
    """Run a host, and a provider, for as long as the block lasts."""
    serve = ServeConfig(allowed_hosts=["*"], http1_engine=engine)
    host = Host(HostConfig(leases=LeaseConfig(lease_s=86400.0), serve=serve))
    caller, token = host.identities.issue("caller")
    provider, _ = host.identities.issue("echo-plugin")
    proof = f"X-Plugin-Runtime-ID: {caller.runtime_id}\r\nAuthorization: Bearer {token}\r\n"
    relayed = Relayed(("", 0), f"/services/echo/{provider.runtime_id}/".encode(), proof.encode(), bound_s)
    async with serving(relayed.provide) as origin, trio.open_nursery() as nursery:
        (url,) = await nursery.start(partial(host.serve, bind="127.0.0.1:0"))
        address, _, port = url.removeprefix("http://").rpartition(":")
        relayed.address = (address, int(port))
        metadata = {"base_url": f"http://{origin.host}:{origin.port}"}
        host.registry.register(provider.runtime_id, "echo", "1.0.0", ENDPOINT.decode(), metadata)
        yield relayed
        nursery.cancel_scope.cancel()
