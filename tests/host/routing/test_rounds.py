"""What happens to a call, its client and its connection while something is to be sent at the end of a round.

The reactor calls what has come, and what is to be sent goes out when all of that has been called. In between
the client may leave, or be closed to make room, and what sends may fail. A call that counts as answered has
been answered all the same, and an error ends one connection and is logged.
"""

from __future__ import annotations

import os
import select
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeAlias

import attrs
import pytest
import trio
import trio.testing

from cpg_trio.call_record import Call
from cpg_trio.http.channel import SocketChannel
from cpg_trio.http.relay import RelayCall
from cpg_trio.http.server.connection import ServerConnection
from cpg_trio.http.server.http1 import Http1Connection
from cpg_trio.http.server.http2 import Http2Connection
from tests._wire import Wire, WireStream, dial, dial_http2, socket_of
from tests.host.routed import Bug, Setting, routing
from tests.http.peers import OK, Peer
from tests.plugin.running import eventually

needs_epoll = pytest.mark.skipif(not hasattr(select, "epoll"), reason="there are no rounds without epoll")
every_protocol = pytest.mark.parametrize("protocol", ["1.1", "2"])
Step: TypeAlias = Callable[[], object]


class Holding:
    """A provider that answers when it is told to."""

    def __init__(self) -> None:
        self._asked: list[trio.SocketStream] = []

    async def __call__(self, peer: Peer) -> None:
        assert isinstance(peer.stream, trio.SocketStream)
        while await peer.receive_head():
            self._asked.append(peer.stream)

    async def is_asked(self, times: int = 1) -> None:
        await eventually(lambda: len(self._asked) >= times)
        await trio.testing.wait_all_tasks_blocked()

    def answer(self) -> None:
        """Answer on the spot, before the host has its turn."""
        os.write(self._asked.pop().socket.fileno(), OK)


@attrs.frozen
class Client:
    """A client, by how it asks and how it reads one answer, whose body it returns."""

    stream: WireStream
    ask: Callable[[], Awaitable[object]]
    body: Callable[[], Awaitable[bytes]]

    def end_its_side(self) -> None:
        socket_of(self.stream).shutdown(trio.socket.SHUT_WR)

    async def rest(self) -> bytes:
        return await Wire(self.stream).rest()


@asynccontextmanager
async def client(s: Setting, protocol: str) -> AsyncIterator[Client]:
    if protocol == "1.1":
        async with dial(s.url) as wire:

            async def body() -> bytes:
                return (await wire.response()).body

            yield Client(wire.stream, partial(wire.send, s.head()), body)
    else:
        async with dial_http2(s.url) as http2:
            fields = [(name.lower(), value) for name, value in s.credentials.items()]
            streams: list[int] = []

            async def ask() -> None:
                streams.append(await http2.request(s.path(), *fields, method="POST"))

            async def body_of_stream() -> bytes:
                return (await http2.response(streams[-1])).body

            yield Client(http2.stream, ask, body_of_stream)


async def warm_up(provider: Holding, client: Client) -> None:
    """Have the connection to the provider kept, so that no task is needed for the next call."""
    await client.ask()
    await provider.is_asked()
    provider.answer()
    assert await client.body() == b"ok"


def in_order(*steps: Step, turned: bool) -> None:
    for step in reversed(steps) if turned else steps:
        step()


def assert_nothing_is_left(s: Setting) -> None:
    assert s.host._pool.statistics().active == s.host.registry.calls.count(s.provider) == 0


@needs_epoll
@every_protocol
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("first", ["answer", "end"])
async def test_a_call_counts_as_answered_if_its_client_gets_the_answer_and_has_ended_its_side(
    protocol: str,
    kept: bool,  # noqa: FBT001
    first: str,
) -> None:
    provider, calls = Holding(), list[Call]()
    async with routing(provider) as s:
        async with client(s, protocol) as it:
            if kept:
                await warm_up(provider, it)
            s.host.calls.ended.add(calls.append)
            await it.ask()
            await provider.is_asked()
            in_order(provider.answer, it.end_its_side, turned=first == "end")
            is_answered = b"ok" in await it.rest()
        await eventually(lambda: calls)
        assert is_answered == (first == "answer" and kept)  # a task had no turn
        assert calls[0].failure == ("" if is_answered else "canceled")
        assert_nothing_is_left(s)


@needs_epoll
@every_protocol
async def test_listeners_hear_of_a_call_when_it_has_been_sent_on_and_of_its_end_when_it_was_answered(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    send = SocketChannel.send_nowait

    def note(channel: SocketChannel, data: bytes | memoryview) -> int:
        seen.append("sent")
        return send(channel, data)

    provider = Holding()
    async with routing(provider) as s, client(s, protocol) as it:
        await warm_up(provider, it)
        s.host.calls.begun.add(lambda _: seen.append("begun"))
        s.host.calls.ended.add(lambda _: seen.append("ended"))
        monkeypatch.setattr(SocketChannel, "send_nowait", note)
        await it.ask()
        await provider.is_asked()
        provider.answer()
        assert await it.body() == b"ok"
    assert seen[:4] == ["sent", "begun", "sent", "ended"]


@every_protocol
async def test_listeners_hear_of_the_beginning_of_a_call_whose_client_leaves_at_once(protocol: str) -> None:
    provider, seen = Holding(), list[tuple[str, Call]]()
    async with routing(provider) as s, client(s, protocol) as it:
        await warm_up(provider, it)
        s.host.calls.begun.add(lambda call: seen.append(("begun", call)))
        s.host.calls.ended.add(lambda call: seen.append(("ended", call)))
        await it.ask()
        it.end_its_side()
        await eventually(lambda: len(seen) == 2)
        assert [what for what, _ in seen] == ["begun", "ended"]
        assert seen[0][1] is seen[1][1]
        assert_nothing_is_left(s)


@needs_epoll
@pytest.mark.parametrize("first", ["answer", "eviction"])
async def test_a_call_counts_as_answered_if_its_client_gets_the_answer_and_has_to_make_room(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, calls = Holding(), list[Call]()
    heard: list[ServerConnection] = []
    hear = Http1Connection._hear

    def note(connection: Http1Connection, readable: bool, gone: bool) -> None:  # noqa: FBT001
        if heard and connection is not heard[0]:
            heard[0].evict()  # as for another stream of the connection that is read
        heard.append(connection)
        hear(connection, readable, gone)

    monkeypatch.setattr(Http1Connection, "_hear", note)
    async with routing(provider) as s, client(s, "1.1") as it, dial(s.url) as other:
        await warm_up(provider, it)
        s.host.calls.ended.add(calls.append)
        await it.ask()
        await provider.is_asked()
        newcomer = partial(os.write, socket_of(other.stream).fileno(), b"GET / HTTP/1.1\r\n\r\n")
        in_order(provider.answer, newcomer, turned=first == "eviction")
        answer = await it.rest()
        await eventually(lambda: calls)
        if first == "answer":
            assert answer.endswith(b"ok")
            assert (calls[0].status, calls[0].failure) == (200, "")
        else:
            assert answer == b"<reset>"
            assert (calls[0].status, calls[0].failure) == (0, "canceled")
        assert_nothing_is_left(s)


@pytest.mark.parametrize(
    ("protocol", "where", "name"),
    [
        ("1.1", Http1Connection, "done"),
        ("1.1", ServerConnection, "lose"),
        ("2", Http2Connection, "flush"),
        ("2", ServerConnection, "lose"),
    ],
)
async def test_an_error_at_the_end_of_a_round_ends_one_connection_and_its_call(
    protocol: str,
    where: type[object],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bug = Bug.put(monkeypatch, where, name)
    async with routing() as s, client(s, "1.1") as resting:
        await resting.ask()
        assert await resting.body() == b"ok"
        async with client(s, protocol) as it:
            await it.ask()
            await it.body()
            bug.is_there = True
            if name == "lose":
                it.end_its_side()
            else:
                await it.ask()
            with trio.fail_after(5), suppress(trio.BrokenResourceError):
                await it.rest()
            bug.is_there = False
        assert "RuntimeError: a bug" in caplog.text
        assert "an error ended a connection" in caplog.text
        await trio.testing.wait_all_tasks_blocked()
        assert_nothing_is_left(s)
        await resting.ask()
        assert await resting.body() == b"ok"


@needs_epoll
async def test_each_of_several_errors_of_one_connection_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    provider, bug = Holding(), Bug.put(monkeypatch, RelayCall, "_respond")
    async with routing(provider) as s, client(s, "2") as it:
        for is_there in (False, True):  # the first two calls open the connections to the provider
            for count in (1, 2):
                await it.ask()
                await provider.is_asked(count)
            bug.is_there = is_there
            provider.answer()
            provider.answer()
            await trio.testing.wait_all_tasks_blocked(0.01)
        await it.rest()
        await trio.testing.wait_all_tasks_blocked()
        assert_nothing_is_left(s)
    assert caplog.text.count("RuntimeError: a bug") == 2
