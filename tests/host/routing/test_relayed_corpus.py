"""The corpus of attacks, sent to a host that routes: a provider gets what was meant, or nothing.

The fuzzer goes on from there; see `tests.fuzz`.
"""

from __future__ import annotations

import pytest

from cpg_trio.http.server.config import Http1Engine
from tests.fuzz.relaying import relaying
from tests.http import corpus

NOT_ROUTED = {  # their paths are not the router's, or they have no place for a caller's credentials
    *("length in HTTP/1.0", "HTTP/1.0", "HTTP/1.0, kept alive", "OPTIONS for all", "dots", "empty host"),
    *("host with a port", "host of IPv6", "host at the end", "host with an underscore"),
    *("largest head", "largest head of many lines"),
    *(good.name for good in corpus.ACCEPTED if good.name.startswith("absolute target")),
}


@pytest.mark.parametrize("engine", Http1Engine)
async def test_no_attack_reaches_a_provider(engine: Http1Engine) -> None:
    async with relaying(10, engine) as relayed:
        reached = {bad.name for bad in corpus.REFUSED if await relayed.check(bad.data)}
    assert reached == set()


@pytest.mark.parametrize("engine", Http1Engine)
async def test_what_is_good_reaches_a_provider_once_and_as_it_was_meant(engine: Http1Engine) -> None:
    async with relaying(10, engine) as relayed:
        counts = {good.name: await relayed.check(good.data) for good in corpus.ACCEPTED}
    assert counts == {name: int(name not in NOT_ROUTED) for name in counts}
