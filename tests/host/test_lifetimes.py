"""What a plugin has ends with its identity."""

from __future__ import annotations

from cpg_trio.host import HostConfig
from tests.host.calls import (
    running,
)


async def test_a_plugins_identity_ends_with_all_that_it_registered() -> None:
    async with running(HostConfig(unrenewed_token_ttl_s=0.0, token_ttl_s=0.0)) as host:
        stale, _ = host.host.identities.issue("stale")
        host.host.registry.register(stale.runtime_id, "t", "1.0.0", "/", {})
        host.host.identities.issue("next")
        assert not host.host.registry.available("t")
