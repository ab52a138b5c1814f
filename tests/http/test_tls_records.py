"""TLS on a socket, record by record: the other side is Python's own TLS, in memory."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import trustme
from hypothesis import given, settings, strategies as st

from cpg_trio.http import Clients
from cpg_trio.http.channel import SocketChannel
from cpg_trio.http.reactor import Reactor, open_reactor
from cpg_trio.http.tls import TlsChannel
from tests.certificates import LOCAL, Files

SEED = bytes(range(256)) * 400
MOST = 2**14  # bytes that are in one record
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
messages = st.lists(
    st.one_of(st.integers(1, 500), st.sampled_from([MOST - 1, MOST, MOST + 1, 50_000, 90_000])), max_size=5
)


@cache
def contexts(version: ssl.TLSVersion) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return those of our server, and of another's client."""
    with TemporaryDirectory() as folder:
        files = Files.write(Path(folder), trustme.CA(), *LOCAL)
        server, client = files.config()._server_context(), files.client_context(show=False)
    client.maximum_version = version
    return server, client


class Other:
    """The client at the other end of a socket."""

    def __init__(
        self, context: ssl.SSLContext, sock: socket.socket, session: ssl.SSLSession | None = None
    ) -> None:
        self.sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost", session=session)

    async def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.sock.send(self._out.read())
                await trio.lowlevel.wait_readable(self.sock)
                self._in.write(self.sock.recv(2**16))
        self.sock.send(self._out.read())

    def sealed(self, data: bytes) -> bytes:
        """Return data as records."""
        self._tls.write(data)
        return self._out.read()

    def end(self) -> bytes:
        """Return a record that says that nothing follows."""
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self._out.read()

    def opened(self) -> bytes:
        """Return the data in the records that have come. Raises: ssl.SSLError for an alert among them."""
        with suppress(BlockingIOError):
            while records := self.sock.recv(2**20):
                self._in.write(records)
        parts = []
        with suppress(ssl.SSLWantReadError):
            while data := self._tls.read(2**16):
                parts.append(data)
        return b"".join(parts)


class Ends:
    """A server's channel, and the client that it serves."""

    is_watched = False

    def __init__(self, version: ssl.TLSVersion) -> None:
        server, client = contexts(version)
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.settimeout(0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        self.channel, self.other = TlsChannel(SocketChannel(ours), server), Other(client, theirs)

    def watch(self, reactor: Reactor) -> None:
        self.is_watched = True
        self.channel.watch(reactor, lambda _readable, _gone: None)

    async def shake_hands(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.other.shake_hands)
            await self.channel.shake_hands()

    def close(self) -> None:
        self.channel.close(reset=True)
        self.other.sock.close()

    def receive(self) -> bytes | None:
        """Receive as a task does, or as a watcher does if the channel has one."""
        data = (
            self.channel.receive_shared_nowait(much=True)
            if self.is_watched
            else self.channel.receive_nowait()
        )
        return None if data is None else bytes(data)

    def received(self) -> bytes:
        """Return what can be received now, until there is nothing or the end has come."""
        parts = []
        while data := self.receive():
            parts.append(data)
        return b"".join(parts)


@asynccontextmanager
async def connected(
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, *, by: str = "task"
) -> AsyncIterator[Ends]:
    ends = Ends(version)
    try:
        await ends.shake_hands()
        with open_reactor() as reactor:
            if by == "watcher":
                ends.watch(reactor)
            yield ends
    finally:
        ends.close()


def said(sizes: Sequence[int]) -> list[bytes]:
    return [SEED[index : index + size] for index, size in enumerate(sizes)]


def cut(stream: bytes, places: Sequence[float]) -> list[bytes]:
    """Return a stream in pieces, cut at these parts of its length."""
    at = sorted({0, len(stream), *(int(place * len(stream)) for place in places)})
    return [stream[begin:end] for begin, end in pairwise(at)]


cuts = st.lists(st.floats(0, 1), max_size=8)
every_way = pytest.mark.parametrize("by", ["task", "watcher"])


# Receiving


@every_way
@pytest.mark.parametrize("version", VERSIONS)
@given(sizes=messages, places=cuts)
@settings(max_examples=25)
async def test_however_the_records_are_cut_into_pieces_their_bytes_are_received(
    by: str, version: ssl.TLSVersion, sizes: list[int], places: list[float]
) -> None:
    async with connected(version, by=by) as ends:
        data = said(sizes)
        stream = b"".join(map(ends.other.sealed, data))
        received = b""
        for piece in cut(stream, places):
            ends.other.sock.sendall(piece)
            received += ends.received()
            assert not ends.channel.may_have_more
        assert received == b"".join(data)
        assert not ends.channel.is_readable()


@given(sizes=messages, places=cuts)
@settings(max_examples=20)
async def test_to_look_whether_something_has_come_takes_nothing_away(
    sizes: list[int], places: list[float]
) -> None:
    async with connected() as ends:
        data = said(sizes)
        received = b""
        for piece in cut(b"".join(map(ends.other.sealed, data)), places):
            ends.other.sock.sendall(piece)
            while ends.channel.is_readable():
                received += ends.channel.receive_nowait() or b""
            assert ends.channel.receive_nowait() is None
        assert received == b"".join(data)


@every_way
@pytest.mark.parametrize("version", VERSIONS)
@given(sizes=messages, place=st.floats(0, 1, exclude_max=True))
@settings(max_examples=25)
async def test_a_connection_that_is_cut_is_broken_wherever_that_is(
    by: str, version: ssl.TLSVersion, sizes: list[int], place: float
) -> None:
    async with connected(version, by=by) as ends:
        data = said(sizes)
        stream = b"".join(map(ends.other.sealed, data)) + ends.other.end()
        ends.other.sock.sendall(stream[: int(place * len(stream))])
        ends.other.sock.shutdown(socket.SHUT_WR)
        received = b""
        with pytest.raises(trio.BrokenResourceError, match="cut"):
            while part := ends.receive():
                received += part
        assert b"".join(data).startswith(received)


@every_way
@given(sizes=messages)
@settings(max_examples=10)
async def test_behind_all_bytes_is_the_end_that_was_said_again_and_again(by: str, sizes: list[int]) -> None:
    async with connected(by=by) as ends:
        data = said(sizes)
        ends.other.sock.sendall(b"".join(map(ends.other.sealed, data)) + ends.other.end())
        assert ends.received() == b"".join(data)
        assert [ends.receive() for _ in range(3)] == [b""] * 3
        assert ends.channel.may_have_more


@every_way
@given(sizes=messages.filter(bool), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=40)
async def test_of_what_was_changed_on_its_way_nothing_is_received(
    by: str, sizes: list[int], place: float, bit: int
) -> None:
    async with connected(by=by) as ends:
        data = said(sizes)
        stream = bytearray().join(map(ends.other.sealed, data))
        stream[int(place * len(stream))] ^= 1 << bit
        ends.other.sock.sendall(stream + ends.other.end())
        ends.other.sock.shutdown(socket.SHUT_WR)
        received = b""
        with pytest.raises(trio.BrokenResourceError):
            while part := ends.receive():
                received += part
        assert b"".join(data).startswith(received)
        assert len(received) < sum(sizes)


@given(rubbish=st.binary(min_size=5, max_size=100).filter(lambda some: some[:2] != b"\x17\x03"))
@settings(max_examples=20)
async def test_what_is_no_record_breaks_the_connection_and_the_other_side_hears_why(rubbish: bytes) -> None:
    async with connected() as ends:
        ends.other.sock.sendall(ends.other.sealed(b"good") + rubbish)
        ends.other.sock.shutdown(socket.SHUT_WR)
        assert ends.channel.receive_nowait() == b"good"
        with pytest.raises(trio.BrokenResourceError):
            while ends.channel.receive_nowait() is None:
                pass
        with pytest.raises(ssl.SSLError, match="ALERT"):
            ends.other.opened()


# Sending


@pytest.mark.parametrize("version", VERSIONS)
@given(sizes=st.lists(st.sampled_from([1, 300, MOST, MOST + 1, 4 * MOST, 4 * MOST + 1, 90_000]), max_size=5))
@settings(max_examples=20)
async def test_writes_small_and_large_arrive_as_they_were(version: ssl.TLSVersion, sizes: list[int]) -> None:
    async with connected(version) as ends:
        ends.channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        opened = b""
        for message in said(sizes):
            sent = 0
            while sent < len(message):
                sent += ends.channel.send_nowait(message[sent:])
                opened += ends.other.opened()
        assert opened == b"".join(said(sizes))


async def test_nothing_to_send_is_nothing_on_the_wire() -> None:
    async with connected() as ends:
        ends.other.opened()
        assert ends.channel.send_nowait(b"") == 0
        assert ends.other.opened() == b""


async def test_a_small_write_is_one_record_in_one_piece() -> None:
    async with connected() as ends:
        ends.other.opened()
        ends.channel.send_nowait(b"x" * 300)
        records = ends.other.sock.recv(2**16)
        assert 5 + int.from_bytes(records[3:5]) == len(records)


# Sessions


async def session_of(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession | None, bool]:
    """Connect, and end in good order. Return the client's session, and whether it was resumed."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(0)
        channel, other = TlsChannel(SocketChannel(ours), server), Other(client, theirs, session)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other.shake_hands)
                await channel.shake_hands()
        finally:
            channel.close()
        return other._tls.session, bool(other._tls.session_reused)


async def test_a_session_is_not_resumed_with_a_certificate_that_has_expired_since(
    certificates: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = certificates.config(Clients.REQUIRED).server_contexts()(), certificates.client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    session, resumed = await session_of(server, client)
    assert not resumed
    session, resumed = await session_of(server, client, session)
    assert resumed  # the day that it is not, nothing has to be checked
    later = time.time() + 3 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.RaisesGroup(pytest.RaisesExc(trio.BrokenResourceError, match="expired")):
        await session_of(server, client, session)


async def test_no_session_outlives_the_files_that_it_was_verified_by(certificates: Files) -> None:
    config, client = certificates.config(), certificates.client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    session, _ = await session_of(config._server_context(), client)
    _, resumed = await session_of(config._server_context(), client, session)
    assert not resumed


async def test_with_tls_1_3_no_session_is_resumed(certificates: Files) -> None:
    server, client = certificates.config().server_contexts()(), certificates.client_context()
    session, _ = await session_of(server, client)
    _, resumed = await session_of(server, client, session)
    assert not resumed


# What TLS says of its own accord


@pytest.fixture
async def client(
    certificates: Files, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[TlsChannel, trio.Process]]:
    """OpenSSL's client, which takes commands, and the channel of the server that it is connected to."""
    version, context = request.param, certificates.config().server_contexts()()
    with socket.create_server(("127.0.0.1", 0)) as listener, trio.fail_after(10):
        at = f"127.0.0.1:{listener.getsockname()[1]}"
        command = ["openssl", "s_client", "-connect", at, version, "-CAfile", str(certificates.ca)]
        async with trio.open_nursery() as nursery:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = await nursery.start(partial(trio.run_process, command, check=False, **pipes))
            listener.settimeout(0)
            await trio.lowlevel.wait_readable(listener)
            channel = TlsChannel(SocketChannel(listener.accept()[0]), context)
            await channel.shake_hands()
            yield channel, process
            channel.close()
            nursery.cancel_scope.cancel()


needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="OpenSSL's client is not installed"
)


@needs_openssl
@pytest.mark.parametrize("client", ["-tls1_3"], indirect=True)
async def test_new_keys_are_taken_and_answered_while_bytes_go_on(
    client: tuple[TlsChannel, trio.Process],
) -> None:
    channel, process = client
    assert process.stdin
    for number in range(3):
        await process.stdin.send_all(b"K\n")  # the client changes its keys, and asks for new ones of ours
        await channel.wait_readable()
        assert channel.receive_nowait() is None
        await process.stdin.send_all(b"line %d\n" % number)
        assert await channel.receive() == b"line %d\n" % number
        await channel.send_all(b"answer")


@needs_openssl
@pytest.mark.parametrize("client", ["-tls1_2"], indirect=True)
async def test_a_client_that_wants_another_handshake_gets_none(
    client: tuple[TlsChannel, trio.Process],
) -> None:
    channel, process = client
    assert process.stdin
    await process.stdin.send_all(b"before\n")
    assert await channel.receive() == b"before\n"
    await process.stdin.send_all(b"R\n")
    with pytest.raises(trio.BrokenResourceError):
        assert await channel.receive() == b""
        raise trio.BrokenResourceError  # it has left in good order
