"""What looking a name up costs others."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cpg_trio.http import Resolver
from cpg_trio.http.client.resolver import LookUpError
from tests.names import Names


async def test_a_name_that_is_slow_holds_up_those_alone_who_share_with_it(
    names: Names, autojump_clock: MockClock
) -> None:
    names.known["good.test"] = ["192.0.2.7"]
    resolver = Resolver(threads=8)

    async def look_up(host: str, share: str) -> None:
        with trio.move_on_after(10):
            await resolver.addresses(host, 1, {share: 2})

    async with trio.open_nursery() as nursery:
        for number in range(45):
            nursery.start_soon(look_up, f"slow-{number}.test", "stranger")
        await wait_all_tasks_blocked()
        autojump_clock.autojump_threshold = 60  # threads answer in real time
        assert await resolver.addresses("good.test", 1, {"other": 2}) == ["192.0.2.7"]
        autojump_clock.autojump_threshold = 0
    # All have been given up by their callers, and two threads are held up still.
    with trio.move_on_after(10) as patience:
        await resolver.addresses("good.test", 1, {"stranger": 2})
    assert patience.cancelled_caught
    names.end()
    autojump_clock.autojump_threshold = 60
    assert await resolver.addresses("good.test", 1, {"stranger": 2}) == ["192.0.2.7"]
    assert len([name for name in names.asked if name != "good.test"]) <= 2


async def test_who_stops_waiting_for_a_thread_takes_nothing_with_him(
    names: Names, autojump_clock: MockClock
) -> None:
    resolver = Resolver(threads=1)
    for share in ("first", "second", "third"):
        with trio.move_on_after(1):
            await resolver.addresses("slow.test", 1, {share: 1})
    names.known["good.test"] = ["192.0.2.7"]
    names.end()
    autojump_clock.autojump_threshold = 60
    for share in ("second", "third", "first"):
        assert await resolver.addresses("good.test", 1, {share: 1}) == ["192.0.2.7"]
    assert names.asked == ["slow.test", *["good.test"] * 3]
    assert not resolver._shares


async def test_a_thread_that_cannot_be_started_is_an_error_of_the_look_up(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("trio._threads.start_thread_soon", refuse)
    with pytest.raises(LookUpError, match="temporarily unavailable"):
        await Resolver().addresses("peer.test", 1)
