"""A routed call that ends at any of its steps, from any side, leaves nothing but its two lines in the log.

Over a connection to the provider that is new, so that a task makes the call, and over one that was kept, so
that it is begun without one.
"""

from __future__ import annotations

import os
import select
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import product

import attrs
import pytest
import trio
import trio.lowlevel
import trio.testing

from cpg_trio.call_record import Call
from cpg_trio.host import Host, HostConfig
from cpg_trio.host.routing.router import Router
from cpg_trio.http import ClientExchange, ServeConfig
from cpg_trio.http.channel import SocketChannel
from cpg_trio.http.relay import RelayCall
from cpg_trio.http.server.http1 import Http1Connection, Http1Exchange
from tests._wire import Wire, dial, reset_at_close, socket_of
from tests.host.routed import USUAL, Bug, Recorder, Setting, routing, silent_address, transport
from tests.http.peers import OK, Peer, serving, url_of

__all__ = ["transport"]  # fixtures

BIG = 2**24  # bytes, more than all buffers on the way
ENOUGH = b"x" * 2**16
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CONFIG = HostConfig(serve=ServeConfig(grace_s=0, linger_s=0.02))

Script = Callable[[Peer], Awaitable[None]]


async def nothing(_peer: Peer) -> None:
    pass


async def half_a_head(peer: Peer) -> None:
    await peer.send(HEAD[:20])


async def half_a_body(peer: Peer) -> None:
    await peer.send(HEAD + b"5\r\nhello\r\n5\r\nhe")


async def too_much(peer: Peer) -> None:
    await peer.send(HEAD)
    while True:
        await peer.send(b"%x\r\n%b\r\n" % (len(ENOUGH), ENOUGH))


@attrs.frozen
class Step:
    """How far a call is, by what its provider does, and what its caller sends and reads."""

    script: Script | None
    """None: it reads no more than the head."""
    responding: bool = False
    body: bytes = b""


STEPS = {
    "connecting": Step(nothing),
    "sending": Step(None, body=ENOUGH * (BIG // len(ENOUGH))),
    "waiting": Step(nothing),
    "in the head": Step(half_a_head),
    "in the body": Step(half_a_body, responding=True),
    "caller does not read": Step(too_much, responding=True),
}
ENDINGS = ["caller closes", "caller resets", "provider breaks off", "provider is gone", "host stops"]
WAYS = ["at once", "in the task"]
CASES = [
    (step, ending, way)
    for step, ending, way in product(STEPS, ENDINGS, WAYS)
    if step != "connecting" or (way != "at once" and ending != "provider breaks off")
]


class Provider:
    """Answers what is asked for `Again`, and with the first other request does as it is told."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self.begun = trio.Event()
        self.reads = trio.Event()
        self.break_off = trio.Event()
        self.ended = trio.Event()

    async def __call__(self, peer: Peer) -> None:
        while head := await peer.receive_head():
            if b"/Again " not in head:
                await self._provide(peer)
                return
            await peer.send(OK)

    async def _provide(self, peer: Peer) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._broken_off, nursery.cancel_scope)
            self.begun.set()
            with suppress(trio.BrokenResourceError):
                await (self.reads.wait() if self._step.script is None else self._step.script(peer))
                await peer.receive_to_end()
            nursery.cancel_scope.cancel()
        self.ended.set()

    async def _broken_off(self, scope: trio.CancelScope) -> None:
        await self.break_off.wait()
        scope.cancel()


def tasks() -> Counter[str]:
    """Return the tasks that live, by name, but for those that supervise plugins."""
    root = trio.lowlevel.current_root_task()
    assert root
    found, rest = Counter[str](), [root]
    while rest:
        task = rest.pop()
        found[task.name] += ".leases." not in task.name
        rest += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return +found


@attrs.frozen
class Trial:
    """A call that is at a step, and all who have to do with it."""

    host: Host
    caller: Setting
    again: Setting
    """The same caller, and another provider at the same address."""
    provider: Provider
    wire: Wire
    before: Counter[str]
    """Tasks."""
    stop: Callable[[], Awaitable[None]]

    async def end(self, ending: str) -> None:
        """End the call."""
        if ending.startswith("caller"):
            if ending == "caller resets":
                reset_at_close(self.wire.stream)
            socket_of(self.wire.stream).close()
        elif ending == "provider breaks off":
            self.provider.break_off.set()
        elif ending == "provider is gone":
            self.host._lifetimes.end(self.caller.provider, "it is gone")
        else:
            await self.stop()
        self.provider.reads.set()

    async def assert_told(self, ending: str, *, responding: bool) -> None:
        """Assert that the caller, who is still there, can tell what became of its call."""
        if ending == "host stops" or responding:
            assert not (await self.wire.rest()).endswith(b"0\r\n\r\n")
        else:
            told = (await self.wire.response()).status
            assert told == {"provider breaks off": 502, "provider is gone": 503}[ending]
        socket_of(self.wire.stream).close()

    async def assert_nothing_is_left(self) -> None:
        while (
            self.host._pool.statistics().active
            or self.host.registry.calls.count(self.caller.provider)
            or tasks() - self.before
        ):
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert self.host._pool.statistics().idle == 0  # what was in the middle of a call is not kept

    async def assert_the_host_lives(self) -> None:
        assert (await self.again.call(self.again.head(path=self.again.path("Again")))).body == b"ok"


class Hosting:
    """A host that serves until it is told to stop."""

    def __init__(self) -> None:
        self.host = Host(attrs.evolve(CONFIG, serve=attrs.evolve(CONFIG.serve, **USUAL)))
        self._stop = trio.Event()
        self._stopped = trio.Event()

    async def serve(self, *, task_status: trio.TaskStatus[tuple[str, ...]]) -> None:
        await self.host.serve(self._stop, bind="127.0.0.1:0", task_status=task_status)
        self._stopped.set()

    async def stop(self) -> None:
        self._stop.set()
        await self._stopped.wait()


@asynccontextmanager
async def trial(step: str, *, kept: bool) -> AsyncIterator[Trial]:
    provider, hosting = Provider(STEPS[step]), Hosting()
    host = hosting.host
    with trio.fail_after(5):
        async with serving(provider) as origin, silent_address() as silent, trio.open_nursery() as nursery:
            (url,) = await nursery.start(hosting.serve)
            base_url = url_of(origin)
            caller, token = host.identities.issue("caller")
            first, other = (host.identities.issue(name)[0].runtime_id for name in ("first", "other"))
            for plugin, at in ((first, silent if step == "connecting" else base_url), (other, base_url)):
                host.registry.register(plugin, "echo", "1.0.0", "/", {"base_url": at})
            before = tasks()
            setting = Setting(host, url, caller.runtime_id, token, first)
            again = attrs.evolve(setting, provider=other)
            if kept:
                await again.call(again.head(path=again.path("Again")))
            async with trio.open_nursery() as calling, dial(url) as wire:
                calling.start_soon(_call, setting, wire, STEPS[step].body)
                await trio.testing.wait_all_tasks_blocked(0.005)
                assert host.registry.calls.count(first) == 1
                assert provider.begun.is_set() == (step != "connecting")
                yield Trial(host, setting, again, provider, wire, before, hosting.stop)
            await hosting.stop()


async def _call(setting: Setting, wire: Wire, body: bytes) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await wire.send(setting.head("POST", None, f"Content-Length: {len(body)}") + body)


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize(("step", "ending", "way"), CASES)
async def test_a_call_leaves_nothing_behind(
    step: str,
    ending: str,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with trial(step, kept=way == "at once") as it:
        await it.end(ending)
        if not ending.startswith("caller"):
            await it.assert_told(ending, responding=STEPS[step].responding)
        if step != "connecting":
            await it.provider.ended.wait()
        if ending != "host stops":
            await it.assert_nothing_is_left()
            await it.assert_the_host_lives()
    assert it.host._pool.statistics().active == it.host.registry.calls.count(it.caller.provider) == 0
    start, end = (r.getMessage() for r in caplog.records if " /M " in r.getMessage())
    assert "(service: echo)" in start
    assert " FAILED: " in end
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


# What is special to connections that are kept


@pytest.mark.usefixtures("transport")
async def test_a_kept_connection_that_was_closed_while_idle_is_not_used() -> None:
    closed = trio.Event()

    async def answer_one(peer: Peer) -> None:
        if await peer.receive_head():
            await peer.send(OK)
        await peer.stream.aclose()
        closed.set()

    async with routing(answer_one) as s, dial(s.url) as wire:
        for _ in range(3):
            await wire.send(s.head("POST"))
            assert (await wire.response()).body == b"ok"
            await closed.wait()
        assert s.host._pool.statistics().reused == 0


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize(("method", "status", "calls"), [("GET", 200, 3), ("POST", 502, 2)])
async def test_what_a_kept_connection_loses_is_sent_again_if_that_does_no_harm(
    method: str, status: int, calls: int
) -> None:
    heads: list[bytes] = []

    async def answer_one_and_lose_one(peer: Peer) -> None:
        heads.append(await peer.receive_head())
        await peer.send(OK)
        heads.append(await peer.receive_head())

    async with routing(answer_one_and_lose_one) as s, dial(s.url) as wire:
        for expected in (200, status):
            await wire.send(s.head(method))
            assert (await wire.response()).status == expected
        assert len([head for head in heads if head]) == calls


@pytest.mark.usefixtures("transport")
async def test_calls_that_are_pipelined_are_answered_in_order_and_one_at_a_time() -> None:
    recorder = Recorder()
    async with routing(recorder) as s, dial(s.url) as wire:
        heads = [s.head("GET", s.path(f"M{index}")) for index in range(20)]
        heads[10:10] = [
            s.head("GET", "/services/echo/nobody-0/M"),
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ]
        await wire.send(b"".join(heads))
        statuses = [(await wire.response()).status for _ in heads]
        assert statuses == [200] * 10 + [404, 200] + [200] * 10
        assert s.host._pool.statistics().opened == 1
    assert [seen.split(b" ")[1] for seen in recorder.seen] == [b"/echo.v1.Echo/M%d" % i for i in range(20)]


@pytest.mark.usefixtures("transport")
async def test_answers_that_come_in_the_same_moment_as_their_callers_leave_harm_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "cpg_trio.router")
    asked, answer = trio.Semaphore(0), trio.Event()

    async def answer_together(peer: Peer) -> None:
        while head := await peer.receive_head():
            if b"/M " in head:
                asked.release()
                await answer.wait()
            await peer.send(OK)

    async with routing(answer_together) as s:
        async with dial(s.url) as one, dial(s.url) as two, dial(s.url) as three:
            for path in (s.path("Warm"), s.path("M")):
                for wire in (one, two, three):
                    await wire.send(s.head("GET", path))
                for wire in (one, two, three) if path == s.path("Warm") else ():
                    await wire.response()
            for _ in range(3):
                await asked.acquire()
            for wire in (one, two):
                await wire.send(s.head("GET", s.path("Next")))  # pipelined behind the call that they leave
            await trio.testing.wait_all_tasks_blocked(0.002)
            socket_of(one.stream).close()
            socket_of(two.stream).close()
            answer.set()
            assert (await three.response()).body == b"ok"
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert s.host._pool.statistics().active == s.host.registry.calls.count(s.provider) == 0
        assert (await s.call(s.head())).body == b"ok"
    lines = [record.getMessage() for record in caplog.records]
    assert not [line for line in lines if "/Next" in line]
    assert len([line for line in lines if "(service:" in line]) * 2 == len(lines)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("ending", ["caller resets", "provider breaks off", "it reads on"])
async def test_a_call_that_was_begun_on_the_spot_and_does_not_fit_goes_on_in_the_task(ending: str) -> None:
    body = b"x" * 50_000
    read_on, scope = trio.Event(), trio.CancelScope()

    async def read_late(stream: trio.SocketStream) -> None:
        peer = Peer(stream)
        with scope, suppress(trio.BrokenResourceError):
            await peer.receive_head()
            await peer.send(OK)
            await peer.receive_head()
            await read_on.wait()
            while len(peer.received) < len(body) and (data := await stream.receive_some()):
                peer.received += data
            await peer.send(OK)

    with trio.socket.socket() as narrow:
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await narrow.bind(("127.0.0.1", 0))
        narrow.listen()
        async with routing() as s, trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, read_late, [trio.SocketListener(narrow)])
            base_url = "http://127.0.0.1:{1}".format(*narrow.getsockname())
            s.host.registry.register(s.provider, "echo", "1.0.0", "/", {"base_url": base_url})
            async with dial(s.url) as wire:
                await wire.send(s.head())
                assert (await wire.response()).status == 200
                (per_origin,) = s.host._pool._origins.values()
                channel = per_origin.idle[0].channel
                assert isinstance(channel, SocketChannel)
                channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                await wire.send(s.head("POST", None, f"Content-Length: {len(body)}") + body)
                await trio.testing.wait_all_tasks_blocked(0.005)
                assert s.host.registry.calls.count(s.provider) == 1
                if ending == "it reads on":
                    read_on.set()
                    assert (await wire.response()).body == b"ok"
                elif ending == "provider breaks off":
                    scope.cancel()
                    assert (await wire.response()).status == 502
                else:
                    reset_at_close(wire.stream)
            await trio.testing.wait_all_tasks_blocked(0.005)
            statistics = s.host._pool.statistics()
            assert (statistics.active, statistics.idle) == (0, int(ending == "it reads on"))
            assert s.host.registry.calls.count(s.provider) == 0
            nursery.cancel_scope.cancel()


# Errors of our own


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (RelayCall, "_prepared"),
        (Call, "succeed"),
        (ClientExchange, "start"),
        (ClientExchange, "read_nowait"),
        (ClientExchange, "_feed"),
        (Http1Connection, "_take"),
        (Http1Exchange, "finish_nowait"),
        (Router, "admit"),
    ],
)
@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("kept", [True, False])
async def test_an_error_at_any_step_ends_one_connection_and_its_call(
    where: type[object],
    name: str,
    kept: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bug = Bug.put(monkeypatch, where, name)
    async with routing() as s, dial(s.url) as resting:
        await resting.send(s.head("GET", "/services/echo"))
        await resting.response()
        async with dial(s.url) as wire:
            if kept:
                await s.call(s.head())
            bug.is_there = True
            await wire.send(s.head())
            if not kept and name in {"read_nowait", "finish_nowait"}:
                assert (await wire.response()).status == 200  # there is no such step
            else:
                assert await wire.rest() in {b"", b"<reset>"}
                assert caplog.text.count("RuntimeError: a bug") == 1
            bug.is_there = False
        await trio.testing.wait_all_tasks_blocked()
        assert s.host._pool.statistics().active == s.host.registry.calls.count(s.provider) == 0
        await resting.send(s.head())
        assert (await resting.response()).body == b"ok"


async def test_a_client_that_sends_no_more_is_let_go_when_it_has_been_refused() -> None:
    async with routing() as s, dial(s.url) as wire:
        sock = socket_of(wire.stream)
        # Before the host has its turn: it hears of the request and of the end at once.
        os.write(sock.fileno(), s.head("GET", "/services/echo/nobody/M"))
        sock.shutdown(trio.socket.SHUT_WR)
        assert (await wire.response()).status == 404
        with trio.fail_after(5):
            assert await wire.rest() == b""


async def test_a_call_whose_connection_ends_before_its_task_has_a_turn_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "cpg_trio.router")
    start = RelayCall.start

    def and_abort(call: RelayCall) -> None:
        start(call)  # there is no idle connection to the provider, so this hands the call to a task
        call._caller.connection.abort()

    monkeypatch.setattr(RelayCall, "start", and_abort)
    async with routing(Recorder()) as s, dial(s.url) as wire:
        await wire.send(s.head())
        assert await wire.rest() == b"<reset>"
        await trio.testing.wait_all_tasks_blocked()
        assert s.host.registry.calls.count(s.provider) == 0
    lines = [record.getMessage() for record in caplog.records]
    assert ["FAILED: canceled" in line for line in lines] == [False, True]


@pytest.mark.parametrize("ending", ["caller", "provider"])
async def test_a_call_that_ends_before_its_request_is_sent_does_not_reach_the_provider(
    ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = RelayCall.start
    ends = False

    def and_end(call: RelayCall) -> None:
        start(call)  # the request goes out at the end of the round
        if ends and ending == "caller":
            call._caller.connection.abort()
        elif ends:
            call.cancel()

    monkeypatch.setattr(RelayCall, "start", and_end)
    provider = Recorder()
    async with routing(provider) as s, dial(s.url) as wire:
        await s.call(s.head())
        before = len(provider.seen)
        ends = True
        await wire.send(s.head())
        if ending == "caller":
            assert await wire.rest() == b"<reset>"
        else:
            assert (await wire.response()).status == 503
        ends = False
        await s.call(s.head())
        assert len(provider.seen) == before + 1
        assert s.host.registry.calls.count(s.provider) == s.host._pool.statistics().active == 0


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="there are no rounds without epoll")
async def test_requests_that_come_at_once_go_on_when_all_of_them_have_been_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    begin, send = RelayCall.start, RelayCall._send

    def note_begin(call: RelayCall) -> None:
        seen.append("read")
        begin(call)

    def note_send(call: RelayCall) -> None:
        seen.append("sent")
        send(call)

    monkeypatch.setattr(RelayCall, "start", note_begin)
    monkeypatch.setattr(RelayCall, "_send", note_send)
    async with routing() as s, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(s.url)) for _ in range(3)]
        for wire in wires:
            await wire.send(s.head())
            await wire.response()
        seen.clear()
        for wire in wires:  # before the host has its turn
            os.write(socket_of(wire.stream).fileno(), s.head())
        for wire in wires:
            assert (await wire.response()).body == b"ok"
    assert seen == ["read"] * 3 + ["sent"] * 3
