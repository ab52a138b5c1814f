"""A host and a plugin of little memory stand a little of everything that tests/abuse has, at once."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from tests.abuse.hostile import Attack, Hostile, besiege
from tests.abuse.siege import MEBIBYTE, siege

MEMORY = 192 * MEBIBYTE
SECONDS = 3.0


async def test_a_small_host_and_a_small_plugin_serve_on_under_a_little_of_everything() -> None:
    async with siege(memory_bytes=MEMORY) as s:
        answered = await s.attack("everything", "127.0.0.2", seconds=SECONDS)
        assert answered["200"]
        assert "500" not in answered
        for victim in (s.host, s.plugin):
            victim.check(MEMORY)
        await s.recovers(SECONDS)


async def test_an_attack_ends_in_order_though_connections_break_at_its_end(autojump_clock: MockClock) -> None:
    async def breaks(_hostile: Hostile) -> None:
        async def broken() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise trio.BrokenResourceError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(broken)
            nursery.start_soon(trio.sleep_forever)

    hostile = Hostile("", "", "")
    await besiege(hostile, [Attack(breaks, at_once=1, pause_s=0)], 2)
    assert not hostile.counts["steps"]
