"""The router's numbers: each call is in them once, whichever way it came and however it ended."""

from __future__ import annotations

from collections import Counter

import trio

from cpg_trio.call_record import Call, CallKind, Calls
from cpg_trio.host import HostConfig
from cpg_trio.host.routing import SharedRoom
from cpg_trio.statistics import OTHER, CallTable
from tests.host.routed import Recorder, routing
from tests.http.peers import OK, Peer


async def silent(peer: Peer) -> None:
    await peer.receive_head()


def test_the_plugins_of_one_address_do_not_take_all_room_for_series() -> None:
    calls, counted = Calls(), CallKind.ROUTED
    share_of = {"stranger": "10.0.0.1", "neighbour": "10.0.0.2"}
    table = CallTable(calls, share_of=lambda caller: share_of[caller], room=lambda: SharedRoom(100))

    def end_calls(caller: str, methods: int) -> None:
        for number in range(methods):
            call = Call(counted, caller, "b-1", f"s{number}", "M")
            call.succeed(200, "ok")
            calls.end(call)

    end_calls("stranger", 1000)
    end_calls("neighbour", 10)
    callers = Counter(
        caller for caller, _ in {(labels.caller, labels.service) for labels, _ in table.parts()}
    )
    assert callers == {"stranger": 75, OTHER: 1, "neighbour": 10}
    assert table.window().total.calls == 1010


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
