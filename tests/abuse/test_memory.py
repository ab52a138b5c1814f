"""A host and a public plugin of 192 MiB each outlive the worst requests, and serve on."""

from __future__ import annotations

import pytest

from tests.abuse.floods import FLOODS
from tests.abuse.siege import MEBIBYTE, SECONDS, siege

MEMORY = 192 * MEBIBYTE
RECOVERY_S = 20.0  # until what the attack has left open is over


@pytest.mark.parametrize("name", sorted(FLOODS))
async def test_a_small_host_and_a_small_plugin_outlive_and_serve_on_under(name: str) -> None:
    async with siege(memory_bytes=MEMORY) as s:
        answered = await s.attack(name, "127.0.0.2")
        assert sum(answered.values()), "nothing was attacked"
        for victim in (s.host, s.plugin):
            victim.check(MEMORY)
        await s.recovers(RECOVERY_S)
        for kind, count in s.customer.counts.items():
            assert count.share >= 0.9 or SECONDS < 1, f"{kind}: {count}"
