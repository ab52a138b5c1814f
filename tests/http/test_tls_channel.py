from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from cpg_trio.http import Clients, ConnectFailedError, ConnectionBrokenError, Pool, TlsConfig
from cpg_trio.http.channel import RECEIVE_BYTES, SocketChannel
from cpg_trio.http.tls import TlsChannel
from tests.certificates import LOCAL, WORKLOAD, Files, issue
from tests.http.peers import Peer, get, serving

MANY = bytes(range(256)) * 16 * 1024


class Pair:
    """Both ends of a connection, and what is under them."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext, host: str = "localhost") -> None:
        ours, theirs = socket.socketpair()
        self.sockets = ours, theirs
        self.server = TlsChannel(SocketChannel(ours), server)
        self.client = TlsChannel(SocketChannel(theirs), client, server_hostname=host)

    async def shake_hands(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.server.shake_hands)
            nursery.start_soon(self.client.shake_hands)

    async def shake_hands_in_vain(self) -> tuple[str, str]:
        """Return why the server, and the client, gave up; empty for one that did not."""
        reasons = ["", ""]

        async def shake_hands(index: int, channel: TlsChannel) -> None:
            try:
                await channel.shake_hands()
            except trio.BrokenResourceError as error:
                reasons[index] = str(error.__cause__ or error)
                channel.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake_hands, 0, self.server)
            nursery.start_soon(shake_hands, 1, self.client)
        return reasons[0], reasons[1]

    def close(self) -> None:
        self.server.close()
        self.client.close()


@asynccontextmanager
async def pair(server: ssl.SSLContext, client: ssl.SSLContext) -> AsyncIterator[Pair]:
    ends = Pair(server, client)
    try:
        await ends.shake_hands()
        yield ends
    finally:
        ends.close()


@pytest.fixture
async def ends(certificates: Files) -> AsyncIterator[Pair]:
    """A connection whose server is another's, and sends tickets."""
    with trio.fail_after(10):
        async with pair(certificates.server_context(), certificates.client_context()) as ends:
            yield ends


async def read_all(channel: TlsChannel, length: int) -> bytes:
    received = bytearray()
    while len(received) < length and (data := await channel.receive()):
        received += data
    return bytes(received)


# Bytes


async def test_bytes_go_both_ways_at_once_and_arrive_as_they_were(ends: Pair) -> None:
    for sock in ends.sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    async with trio.open_nursery() as nursery:
        for sender, receiver in ((ends.server, ends.client), (ends.client, ends.server)):

            async def transfer(sender: TlsChannel = sender, receiver: TlsChannel = receiver) -> None:
                async with trio.open_nursery() as both:
                    both.start_soon(sender.send_all, MANY)
                    assert await read_all(receiver, len(MANY)) == MANY

            nursery.start_soon(transfer)


async def test_what_counts_as_sent_is_with_the_kernel(ends: Pair) -> None:
    sent = ends.client.send_nowait(MANY)
    assert 0 < sent < len(MANY)
    assert ends.client.send_nowait(MANY[sent:]) == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.client.send_all, MANY[sent:])
        assert await read_all(ends.server, len(MANY)) == MANY


@pytest.mark.parametrize("size", [1, 16 * 1024, 16 * 1024 + 1, 3 * RECEIVE_BYTES])
async def test_nobody_is_told_twice_so_all_that_has_come_is_read_or_known(ends: Pair, size: int) -> None:
    for _ in range(3):
        assert ends.client.send_nowait(bytes(size)) == size
        await ends.server.wait_readable()
        received = 0
        while received == 0 or ends.server.may_have_more:
            received += len(ends.server.receive_nowait() or b"")
        assert received == size
        assert not ends.server.is_readable()


async def test_half_a_record_is_nothing_yet(ends: Pair) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server, client = ends.server, ends.client
        client.send_nowait(b"hello")
        record = ends.sockets[0].recv(100)
        server._raw = SocketChannel(ours)
        theirs.send(record[:20])
        assert not server.is_readable()
        assert server.receive_nowait() is None
        theirs.send(record[20:])
        assert server.is_readable()
        assert await server.receive() == b"hello"
    ends.sockets[0].close()


async def test_a_sender_that_is_always_ahead_lets_others_run(ends: Pair) -> None:
    ends.client.send_nowait(bytes(2 * RECEIVE_BYTES))
    await ends.server.wait_readable()
    await ends.server.receive()
    with trio.testing.assert_checkpoints():
        await ends.server.receive()


# What is TLS's own


async def test_tickets_are_no_news(ends: Pair) -> None:
    assert ends.client._raw.is_readable()
    assert not ends.client.is_readable()
    assert not ends.client._raw.is_readable()
    ends.server.send_nowait(b"bytes")
    assert ends.client.is_readable()
    assert ends.client.is_readable()
    assert await ends.client.receive() == b"bytes"
    assert not ends.client.is_readable()


# The end


async def test_an_end_that_was_said_is_an_end(ends: Pair) -> None:
    ends.client.send_nowait(b"last words")
    ends.client.shut_down(sending_only=True)
    assert await ends.server.receive() == b"last words"
    assert await ends.server.receive() == b""
    assert ends.server.is_readable()
    ends.server.send_nowait(b"answer")
    assert await ends.client.receive() == b"answer"
    ends.server.close()
    assert await ends.client.receive() == b""


@pytest.mark.parametrize("how", ["shut down", "reset"])
async def test_an_end_that_was_not_said_is_none(ends: Pair, how: str) -> None:
    ends.client.send_nowait(b"first words")
    if how == "reset":
        ends.client.close(reset=True)
    else:
        ends.client.shut_down()
    assert await ends.server.receive() == b"first words"
    with pytest.raises(trio.BrokenResourceError):
        await ends.server.receive()
    assert ends.server.is_readable()


async def test_a_body_that_ends_with_its_connection_is_whole_only_if_that_was_said(
    certificates: Files,
) -> None:
    cut = False

    async def until_close(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        if cut:
            assert isinstance(peer.stream, trio.SSLStream)
            await peer.stream.transport_stream.aclose()

    async with (
        serving(until_close, ssl_context=certificates.server_context()) as origin,
        Pool(ssl_context=certificates.client_context) as pool,
    ):
        assert (await pool.fetch(origin, get())).body == b"hello"
        cut = True
        with pytest.raises(ConnectionBrokenError):
            await pool.fetch(origin, get())


async def test_what_is_not_a_record_breaks_the_connection_behind_those_that_are(ends: Pair) -> None:
    ends.client.send_nowait(b"good")
    ends.sockets[1].send(b"GET / HTTP/1.1\r\n\r\n")
    assert await ends.server.receive() == b"good"
    with pytest.raises(trio.BrokenResourceError, match="TLS broke"):
        await ends.server.receive()


async def test_closing_wakes_whoever_waits_and_is_done_once(ends: Pair) -> None:
    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await ends.server.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        ends.server.close()
        ends.server.close()
    with pytest.raises(trio.ClosedResourceError):
        await ends.server.send_all(b"x")


# The handshake


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01\x00\x05hello"])
async def test_what_is_no_handshake_is_a_broken_channel(certificates: Files, said: bytes) -> None:
    ends = Pair(certificates.server_context(), certificates.client_context())
    ends.sockets[1].send(said)
    ends.sockets[1].shutdown(socket.SHUT_WR)
    with pytest.raises(trio.BrokenResourceError):
        await ends.server.shake_hands()
    ends.close()


async def test_a_request_that_comes_with_the_end_of_the_handshake_is_not_overlooked(
    certificates: Files,
) -> None:
    ends = Pair(certificates.server_context(), certificates.client_context())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.server.shake_hands)
        nursery.start_soon(ends.client.shake_hands)
        with suppress(trio.BrokenResourceError):
            while not ends.client._tls.version():
                await trio.lowlevel.checkpoint()
    ends.client.send_nowait(b"at once")
    assert await ends.server.receive() == b"at once"
    ends.close()


async def test_whoever_says_nothing_is_a_failure_to_connect_in_time(certificates: Files) -> None:
    async def silent(peer: Peer) -> None:
        assert isinstance(peer.stream, trio.SSLStream)
        async for _ in peer.stream.transport_stream:
            pass

    async with (
        serving(silent, ssl_context=certificates.server_context()) as origin,
        Pool(ssl_context=certificates.client_context, connect_timeout_s=0.05) as pool,
    ):
        with pytest.raises(ConnectFailedError, match="no connection within the time allowed"):
            await pool.fetch(origin, get())


# Who is there


@pytest.mark.parametrize(
    ("names", "days", "why"),
    [
        (LOCAL, 0, "certificate has expired"),
        (["elsewhere.test"], 1, "Hostname mismatch"),
        ([WORKLOAD], 1, "Hostname mismatch|not valid for"),
    ],
)
async def test_a_server_that_is_not_who_it_should_be_is_refused(
    tmp_path: Path, names: list[str], days: int, why: str
) -> None:
    files = Files.write(tmp_path, trustme.CA(), *names, days=days)
    _, client = await Pair(files.server_context(), files.client_context(show=False)).shake_hands_in_vain()
    assert any(each in client for each in why.split("|"))


@pytest.mark.parametrize("names", [["elsewhere.test"], ["*"], ["*.test"], [WORKLOAD], []])
async def test_our_own_clients_go_by_the_names_of_a_certificate_and_not_by_its_title(
    tmp_path: Path, names: list[str]
) -> None:
    files = Files.write(tmp_path, ca := trustme.CA(), *names)
    if not names:
        titled = ca.issue_cert(common_name="localhost")
        files.cert.write_bytes(titled.cert_chain_pems[0].bytes())
        files.key.write_bytes(titled.private_key_pem.bytes())
    clients = TlsConfig(ca_file=files.ca).client_contexts()
    _, client = await Pair(files.server_context(), clients()).shake_hands_in_vain()
    assert "CERTIFICATE_VERIFY_FAILED" in client


async def test_a_server_that_another_authority_vouches_for_is_refused(
    tmp_path: Path, certificates: Files
) -> None:
    other = Files.write(tmp_path, trustme.CA(), *LOCAL)
    ends = Pair(other.server_context(), certificates.client_context(show=False))
    _, client = await ends.shake_hands_in_vain()
    assert "CERTIFICATE_VERIFY_FAILED" in client


@pytest.mark.parametrize("clients", [Clients.OPTIONAL, Clients.REQUIRED])
@pytest.mark.parametrize("wrong", ["expired", "of another authority"])
async def test_a_client_that_shows_a_wrong_certificate_is_refused(
    tmp_path: Path, clients: Clients, wrong: str
) -> None:
    ca = trustme.CA()
    own = Files.write(tmp_path, ca, *LOCAL)
    shown = tmp_path / "shown.pem"
    shown.write_bytes(b"".join(issue(trustme.CA() if "other" in wrong else ca, WORKLOAD, days="of" in wrong)))
    client = own.client_context(show=False)
    client.load_cert_chain(shown)
    ends = Pair(own.config(clients).server_contexts()(), client)
    server, _ = await ends.shake_hands_in_vain()
    assert "CERTIFICATE_VERIFY_FAILED" in server
    ends.close()


async def test_a_client_without_a_certificate_is_refused_where_one_is_required_and_hears_why(
    certificates: Files,
) -> None:
    server = certificates.config(Clients.REQUIRED).server_contexts()()
    ends = Pair(server, certificates.client_context(show=False))
    refused, _ = await ends.shake_hands_in_vain()
    assert "did not return a certificate" in refused
    with pytest.raises(trio.BrokenResourceError, match="TLSV13_ALERT_CERTIFICATE_REQUIRED"):
        await ends.client.receive()
    ends.close()


NOBODY = ("",)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([WORKLOAD], (WORKLOAD,)),
        (["a.test", WORKLOAD, "127.0.0.1", "b.test"], ("a.test", WORKLOAD, "b.test")),
        (["127.0.0.1"], NOBODY),
        ([], NOBODY),
        ([b"\x30\x04\x82\x02a\x00"], NOBODY),
        ([b"\x30\x04\x82\x02\xff\xfe"], NOBODY),
        ([b"\x30\x04\x86\x02\r\n"], NOBODY),
    ],
)
async def test_a_clients_names_are_the_uris_and_dns_names_of_its_certificate(
    tmp_path: Path, names: list[str | bytes], found: tuple[str, ...]
) -> None:
    ca = trustme.CA()
    own, shown = Files.write(tmp_path, ca, *LOCAL), tmp_path / "shown.pem"
    shown.write_bytes(b"".join(issue(ca, *names)))
    client = own.client_context(show=False)
    client.load_cert_chain(shown)
    async with pair(own.config().server_contexts()(), client) as ends:
        assert ends.server.peer_names == found
        assert len(ends.server.tls["client_cert_chain"]) == 1
        assert set(LOCAL) & set(ends.client.peer_names)


async def test_whoever_shows_no_certificate_has_no_names(certificates: Files) -> None:
    server = certificates.config().server_contexts()()
    async with pair(server, certificates.client_context(show=False)) as ends:
        assert ends.server.peer_names == ()
        assert ends.server.tls["client_cert_chain"] == []


async def test_nobody_resumes_a_session(certificates: Files) -> None:
    server = certificates.config().server_contexts()()
    async with pair(server, certificates.client_context()) as ends:
        assert not ends.client._raw.is_readable()


def test_a_name_that_is_none_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ValueError):
        TlsChannel(SocketChannel(ours), ssl.create_default_context(), server_hostname="a" * 64)


async def test_a_name_that_no_certificate_can_have_is_a_failure_to_connect(certificates: Files) -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_head()

    async with (
        serving(answer, ssl_context=certificates.server_context()) as origin,
        Pool(ssl_context=certificates.client_context) as pool,
    ):
        named = partial(type(origin), "https", port=origin.port, addresses=("127.0.0.1",))
        with pytest.raises(ConnectFailedError, match=r"https://\.a:\d+ at 127\.0\.0\.1: "):
            await pool.fetch(named(host=".a"), get())
