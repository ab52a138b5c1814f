"""`HandshakeService`: a plugin gets an identity, and more tokens for the one that it has."""

from __future__ import annotations

import pytest

from tests.host.calls import (
    COOKIE,
    HANDSHAKE,
    REPORT,
    VERSIONS,
    running,
    runtime_id,
)
from tests.host.rpcs import renewed


@pytest.mark.parametrize("types", ["a,,b", ",".join(f"t{number}" for number in range(101))])
@pytest.mark.parametrize("key", ["provides", "requires"])
async def test_a_declaration_that_makes_no_sense_gets_no_identity(key: str, types: str) -> None:
    async with running() as host:
        body = {**COOKIE, **VERSIONS, "selfId": "p", "clientMetadata": {key: types}}
        assert (await host.post(HANDSHAKE, body))[0] == 400
        assert len(host.host.identities) == 0


async def test_a_handshake_that_proves_an_identity_gives_another_token_for_it() -> None:
    async with running() as host:
        me = await host.provider("t")
        name, again = await renewed(host, me, "t-plugin")
        assert name == runtime_id(me)
        assert again["Authorization"] != me["Authorization"]
        for headers in (me, again):
            assert (await host.post(REPORT, {"state": 1}, headers))[0] == 200
        assert host.host.registry.available("t")


async def test_a_handshake_that_proves_nothing_or_another_plugin_gives_an_identity_of_its_own() -> None:
    async with running() as host:
        me = await host.plugin("p")
        wrong = {**me, "Authorization": me["Authorization"][:-2]}
        for headers, self_id in ((wrong, "p"), (me, "other"), ({}, "p")):
            name, _ = await renewed(host, headers, self_id)
            assert name != runtime_id(me)
            assert name.startswith(f"{self_id}-")


@pytest.mark.parametrize(("metadata", "ttl_ms"), [({}, "86400000"), ({"renews": "true"}, "900000")])
async def test_who_asks_for_new_tokens_in_time_gets_short_ones(metadata: dict[str, str], ttl_ms: str) -> None:
    async with running() as host:
        body = {**COOKIE, **VERSIONS, "selfId": "p", "clientMetadata": metadata}
        _, answer = await host.post(HANDSHAKE, body)
        assert answer["serverMetadata"]["token_ttl_ms"] == ttl_ms
