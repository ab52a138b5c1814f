"""The router's numbers: each call is in them once, whichever way it came and however it ended."""

from __future__ import annotations

import trio

from cpg_trio.calls import Call, CallKind, Calls
from cpg_trio.host import HostConfig
from cpg_trio.host.routing.statistics import RouterCounter
from tests.host.routed import Recorder, routing
from tests.http.peers import OK, Peer


async def silent(peer: Peer) -> None:
    await peer.receive_head()


def test_durations_are_counted_by_powers_of_two() -> None:
    calls = Calls()
    counter = RouterCounter(calls)
    for seconds in (0.0, 1e-6, 3e-6, 1023e-6, 1024e-6, 1e9):
        call = Call(CallKind.ROUTED)
        call.duration_s = seconds
        calls.begun.tell(call)
        calls.ended.tell(call)
    durations = counter.statistics().durations
    assert {i: n for i, n in enumerate(durations) if n} == {0: 1, 1: 1, 2: 1, 10: 1, 11: 1, 40: 1}


async def test_a_call_is_counted_once_by_how_it_ended() -> None:
    async with routing(Recorder(OK)) as s:
        await s.call(s.head())
        await s.call(s.head(path="/services/echo/nobody/M"))
        numbers = s.host.statistics().router
        assert (numbers.calls, numbers.in_flight, numbers.failed, numbers.refused) == (1, 0, 0, 1)
        assert sum(numbers.durations) == 1


async def test_a_failure_is_counted_as_one() -> None:
    async with routing(silent) as s:
        assert (await s.call(s.head())).status == 502
        numbers = s.host.statistics().router
        assert (numbers.calls, numbers.failed) == (1, 1)


async def test_a_call_is_in_flight_until_it_ends() -> None:
    asked, release = trio.Event(), trio.Event()

    async def held(peer: Peer) -> None:
        await peer.receive_head()
        asked.set()
        await release.wait()
        await peer.send(OK)

    async with routing(held, config=HostConfig()) as s, trio.open_nursery() as nursery:
        nursery.start_soon(s.call, s.head())
        await asked.wait()
        assert s.host.statistics().router.in_flight == 1
        assert s.host.statistics().connections.active == 1
        release.set()
