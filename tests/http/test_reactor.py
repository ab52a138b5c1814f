"""Reactors: which watcher is called for which socket, and that an error of one keeps no other from it."""

from __future__ import annotations

import gc
import select
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from cpg_trio.http import reactor
from cpg_trio.http.channel import SocketChannel
from cpg_trio.http.reactor import EpollReactor, Reactor, TaskReactor, open_reactor
from tests.plugin.running import eventually

REACTORS = [EpollReactor, TaskReactor] if hasattr(select, "epoll") else [TaskReactor]
every_reactor = pytest.mark.parametrize("kind", REACTORS)
needs_epoll = pytest.mark.skipif(EpollReactor not in REACTORS, reason="there is no epoll")
Kind = Callable[[], Reactor]


@asynccontextmanager
async def running(kind: Kind) -> AsyncIterator[Reactor]:
    with kind() as running:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.run)
            yield running
            nursery.cancel_scope.cancel()


@attrs.define
class Watched:
    """A channel, its peer, and what its watcher was called with. With `reads`, the watcher reads all."""

    channel: SocketChannel
    peer: socket.socket
    reads: bool = True
    calls: list[tuple[bool, bool]] = attrs.field(factory=list)
    received: list[bytes | None] = attrs.field(factory=list)

    def on_ready(self, readable: bool, gone: bool) -> None:  # noqa: FBT001 - a watcher's parameters
        self.calls.append((readable, gone))
        if self.reads:
            self.received.append(self.channel.receive_nowait())

    async def take_calls(self) -> list[tuple[bool, bool]]:
        await trio.testing.wait_all_tasks_blocked(0.005)
        taken, self.calls = self.calls, []
        return taken


@contextmanager
def connected(*, reads: bool = True) -> Iterator[Watched]:
    ours, theirs = socket.socketpair()
    watched = Watched(SocketChannel(ours), theirs, reads)
    with theirs:
        yield watched
    watched.channel.close()


@every_reactor
async def test_a_watcher_is_called_once_for_each_arrival_and_for_the_end(kind: Kind) -> None:
    async with running(kind) as reactor:
        with connected() as watched:
            watched.channel.watch(reactor, watched.on_ready)
            assert await watched.take_calls() == []
            for data in (b"one", b"two"):
                watched.peer.send(data)
                assert await watched.take_calls() == [(True, False)]
            watched.peer.close()
            assert (True, True) in await watched.take_calls()
            assert watched.received[:3] == [b"one", b"two", b""]


@every_reactor
async def test_what_came_before_the_reactor_ran_is_reported(kind: Kind) -> None:
    with connected() as watched, kind() as reactor:
        watched.channel.watch(reactor, watched.on_ready)
        watched.peer.send(b"early")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.run)
            assert await watched.take_calls() == [(True, False)]
            nursery.cancel_scope.cancel()
        watched.channel.close()


@every_reactor
async def test_what_nobody_reads_is_reported_once_and_keeps_no_processor_busy(kind: Kind) -> None:
    async with running(kind) as reactor:
        with connected(reads=False) as watched:
            watched.channel.watch(reactor, watched.on_ready)
            watched.peer.send(b"unread")
            assert await watched.take_calls() == [(True, False)]
            assert await watched.take_calls() == []
            assert watched.channel.receive_nowait() == b"unread"
            watched.peer.send(b"more")
            assert await watched.take_calls() == [(True, False)]


@every_reactor
async def test_a_peer_that_leaves_is_noticed_although_nobody_reads(kind: Kind) -> None:
    async with running(kind) as reactor:
        with connected(reads=False) as watched:
            watched.channel.watch(reactor, watched.on_ready)
            watched.peer.close()
            assert await watched.take_calls() == [(True, True)]


@every_reactor
async def test_a_task_may_wait_for_a_socket_that_is_watched(kind: Kind) -> None:
    received: list[bytes] = []

    async with running(kind) as reactor:
        with connected(reads=False) as watched:
            watched.channel.watch(reactor, watched.on_ready)
            async with trio.open_nursery() as nursery:

                async def read_to_the_end() -> None:
                    while data := await watched.channel.receive():
                        received.append(data)

                nursery.start_soon(read_to_the_end)
                for data in (b"one", b"two"):
                    await trio.testing.wait_all_tasks_blocked(0.005)
                    watched.peer.send(data)
                await trio.testing.wait_all_tasks_blocked(0.005)
                watched.peer.close()
    assert received == [b"one", b"two"]


@every_reactor
async def test_a_task_that_waits_for_a_socket_is_woken_when_it_is_closed(kind: Kind) -> None:
    async with running(kind) as reactor:
        with connected() as watched:
            watched.channel.watch(reactor, watched.on_ready)
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await watched.channel.wait_readable()

                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked(0.005)
                watched.channel.close()


@every_reactor
async def test_an_ignored_socket_calls_nobody_and_may_be_watched_again(kind: Kind) -> None:
    async with running(kind) as reactor:
        with connected() as watched:
            watched.channel.watch(reactor, watched.on_ready)
            watched.channel.ignore()
            watched.peer.send(b"x")
            assert await watched.take_calls() == []
            assert watched.channel.receive_nowait() == b"x"
            watched.channel.watch(reactor, watched.on_ready)
            watched.peer.send(b"y")
            assert await watched.take_calls() == [(True, False)]
            watched.channel.ignore(for_good=True)
            watched.peer.send(b"z")
            assert await watched.take_calls() == []
            assert await watched.channel.receive() == b"z"


@every_reactor
async def test_an_error_of_a_watcher_is_logged_and_the_others_are_called(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[int] = []

    def on_ready(index: int, _readable: bool, _gone: bool) -> None:  # noqa: FBT001 - a watcher's parameters
        called.append(index)
        if index == 1:
            raise RuntimeError("a bug")

    async with running(kind) as reactor:
        with connected() as first, connected() as second, connected() as third:
            for index, watched in enumerate((first, second, third)):
                watched.channel.watch(reactor, partial(on_ready, index))
                watched.peer.send(b"x")
            await trio.testing.wait_all_tasks_blocked(0.005)
    assert sorted(called) == [0, 1, 2]
    assert caplog.text.count("RuntimeError: a bug") == 1


@every_reactor
async def test_a_watcher_whose_socket_another_one_has_closed_in_the_same_moment_is_not_called(
    kind: Kind,
) -> None:
    called: list[int] = []

    async with running(kind) as reactor:
        with connected() as first, connected() as second:
            channels = (first.channel, second.channel)

            def close_the_other(index: int, _readable: bool, _gone: bool) -> None:  # noqa: FBT001 - the same
                called.append(index)
                channels[1 - index].close()

            for index, channel in enumerate(channels):
                channel.watch(reactor, partial(close_the_other, index))
            first.peer.send(b"x")
            second.peer.send(b"x")
            await trio.testing.wait_all_tasks_blocked(0.005)
    assert len(called) == 1


@every_reactor
async def test_a_socket_that_is_forgotten_leaves_nothing_behind(kind: Kind) -> None:
    async with running(kind) as reactor:
        tasks = trio.lowlevel.current_statistics().tasks_living
        for _ in range(10):
            with connected() as watched:
                watched.channel.watch(reactor, watched.on_ready)
                await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        gc.collect()
        assert not any(isinstance(each, SocketChannel) for each in gc.get_referrers(reactor))


@needs_epoll
async def test_a_task_that_a_watcher_wakes_has_its_turn_in_the_same_round_of_the_loop() -> None:
    rounds: list[int] = []

    class Rounds(trio.abc.Instrument):
        count = 0

        def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - the signature is Trio's
            self.count += 1

    instrument, asleep = Rounds(), trio.lowlevel.ParkingLot()

    def wake(_readable: bool, _gone: bool) -> None:  # noqa: FBT001 - a watcher's parameters
        rounds.append(instrument.count)
        asleep.unpark_all()

    async with running(EpollReactor) as reactor:
        with connected() as watched:
            trio.lowlevel.add_instrument(instrument)
            watched.channel.watch(reactor, wake)
            watched.peer.send(b"x")
            await asleep.park()
            rounds.append(instrument.count)
            trio.lowlevel.remove_instrument(instrument)
    assert rounds[1] == rounds[0]


class Round:
    """Sockets whose watchers leave something for the end of the round, and something behind it."""

    def __init__(self, reactor: Reactor, sockets: list[Watched]) -> None:
        self.seen: list[str] = []
        self._reactor = reactor
        for number, each in enumerate(sockets):
            each.channel.watch(reactor, partial(self.on_ready, number, each))

    def on_ready(self, number: int, watched: Watched, _readable: bool, _gone: bool) -> None:  # noqa: FBT001
        watched.channel.receive_nowait()
        self.seen.append(f"watcher {number}")
        self._reactor.behind_round(partial(self.seen.append, f"behind {number}"))
        self._reactor.after_round(partial(self.end, number))

    def end(self, number: int) -> None:
        self.seen.append(f"end {number}")
        self._reactor.behind_round(partial(self.seen.append, f"behind end {number}"))


@needs_epoll
async def test_what_is_left_for_the_end_of_a_round_is_done_when_all_watchers_have_been_called() -> None:
    async with running(EpollReactor) as reactor:
        with connected() as one, connected() as two:
            round_ = Round(reactor, [one, two])
            one.peer.send(b"x")
            two.peer.send(b"x")
            await eventually(lambda: len(round_.seen) == 8)
            assert round_.seen == [
                *("watcher 0", "watcher 1"),
                *("end 0", "end 1"),
                *("behind 0", "behind 1", "behind end 0", "behind end 1"),
            ]


@needs_epoll
async def test_no_task_has_its_turn_before_the_end_of_a_round() -> None:
    seen: list[str] = []
    asleep = trio.lowlevel.ParkingLot()

    async def sleeper() -> None:
        await asleep.park()
        seen.append("task")

    async with running(EpollReactor) as reactor, trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)
        with connected() as watched:

            def on_ready(_readable: bool, _gone: bool) -> None:  # noqa: FBT001 - a watcher's parameters
                asleep.unpark_all()
                reactor.behind_round(leave_more)
                reactor.after_round(partial(seen.append, "end"))

            def leave_more() -> None:
                reactor.behind_round(partial(seen.append, "behind"))

            watched.channel.watch(reactor, on_ready)
            watched.peer.send(b"x")
            await eventually(lambda: len(seen) == 3)
    assert seen == ["end", "behind", "task"]


@needs_epoll
async def test_the_first_of_many_sockets_does_not_wait_for_the_last() -> None:
    async with running(EpollReactor) as reactor:
        with ExitStack() as stack:
            sockets = [stack.enter_context(connected()) for _ in range(40)]
            round_ = Round(reactor, sockets)
            for each in sockets:
                each.peer.send(b"x")
            await eventually(lambda: len(round_.seen) == 160)
            assert round_.seen.index("end 0") < round_.seen.index("watcher 16")


@every_reactor
async def test_outside_of_a_round_nothing_is_left_for_later(kind: Kind) -> None:
    seen: list[str] = []
    async with running(kind) as reactor:
        reactor.after_round(partial(seen.append, "at once"))
        reactor.behind_round(partial(seen.append, "behind that"))
        assert seen == ["at once", "behind that"]


@every_reactor
@pytest.mark.parametrize("where", ["after_round", "behind_round"])
async def test_an_error_at_the_end_of_a_round_keeps_no_other_from_its_own(
    where: str, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def fail() -> None:
        raise RuntimeError("a bug")

    async with running(kind) as reactor:
        with connected() as one, connected() as two:

            def on_ready(watched: Watched, _readable: bool, _gone: bool) -> None:  # noqa: FBT001
                data = watched.channel.receive_nowait()
                leave = reactor.after_round if where == "after_round" else reactor.behind_round
                leave(fail if data == b"wrong" else partial(seen.append, "right"))

            one.channel.watch(reactor, partial(on_ready, one))
            two.channel.watch(reactor, partial(on_ready, two))
            one.peer.send(b"wrong")
            two.peer.send(b"right")
            await eventually(lambda: seen and "a bug" in caplog.text)
            two.peer.send(b"right")
            await eventually(lambda: len(seen) == 2)
    assert caplog.text.count("RuntimeError: a bug") == 1


@needs_epoll
async def test_a_watcher_is_called_in_the_context_of_the_reactor_s_task() -> None:
    place: ContextVar[str] = ContextVar("place", default="nowhere")
    seen: list[str] = []
    place.set("here")
    async with running(EpollReactor) as reactor:
        with connected() as watched:
            place.set("elsewhere")
            watched.channel.watch(reactor, lambda *_: seen.append(place.get()))
            watched.peer.send(b"x")
            await eventually(lambda: seen)
    assert seen == ["here"]


def test_the_reactor_is_chosen_by_what_the_platform_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_reactor() as chosen:
        assert type(chosen) is REACTORS[0]
    monkeypatch.setattr(reactor, "_HAS_EPOLL", False)
    with open_reactor() as chosen:
        assert type(chosen) is TaskReactor
