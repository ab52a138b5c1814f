"""A well-behaved plugin keeps its calls while one client takes all that it can get."""

from __future__ import annotations

import pytest

from tests.abuse.hoards import HOARDS
from tests.abuse.siege import siege

FILES = 1024  # as many as a process has in a usual shell
LEAST = 0.9
SAME, ANOTHER = "127.0.0.1", "127.0.0.2"
RECOVERY_S = 20.0


@pytest.mark.parametrize("address", [pytest.param(SAME, id="same"), pytest.param(ANOTHER, id="another")])
@pytest.mark.parametrize("name", sorted(HOARDS))
async def test_a_well_behaved_plugin_keeps_its_calls_under(name: str, address: str) -> None:
    host = ("tests.abuse.victims", "slow-resolver") if "resolve" in name else ("cpg_trio", "host")
    async with siege(files=FILES, host=host) as s:
        answered = await s.attack(name, address)
        assert sum(answered.values()), "nothing was attacked"
        for victim in (s.host, s.plugin):
            victim.check(None)
        for kind, count in s.customer.counts.items():
            assert count.share >= LEAST, f"{kind}: {count}"
        await s.recovers(RECOVERY_S)
