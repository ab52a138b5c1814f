"""A host and a plugin of little memory stand a little of everything that tests/abuse has, at once."""

from __future__ import annotations

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
