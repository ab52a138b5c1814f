"""Grants of capabilities where hosts share a directory: good at all of them, and ended at all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cpg_trio.host import Capability
from cpg_trio.rpc import ConnectError
from tests.host.capabilities.brokering import BROKER, bearer
from tests.host.cluster.hosts import Hosts, Member, hosts, id_of, settled
from tests.plugin.running import eventually
from tests.rpc.echo import Echo

ECHO = "/echo.v1.EchoService/Echo"


@asynccontextmanager
async def offering() -> AsyncIterator[tuple[Hosts, Echo]]:
    """Run hosts that offer `echo`."""
    echo = Echo()
    async with hosts(capabilities=[Capability.of("echo", "1.0.0", echo)]) as cluster:
        yield cluster, echo


async def granted(member: Member, plugin: dict[str, str]) -> Any:
    status, answer = await member.calls.post(BROKER, {"capabilityType": "echo"}, plugin)
    assert status == 200, answer
    return answer["grant"]


async def use(member: Member, grant: Any, text: str = "hi") -> int:
    path = "/" + str(grant["endpointUrl"]).split("/", 3)[3] + ECHO
    return (await member.calls.http.post(path, headers=bearer(grant), json={"text": text})).status_code


async def test_a_grant_is_good_at_every_host_and_ends_with_its_owner(autojump_clock: MockClock) -> None:
    async with offering() as (group, _):
        a, b = await group.start(), await group.start()
        plugin = await a.calls.plugin("app")
        grant = await granted(a, plugin)
        assert [await use(member, grant) for member in (a, b)] == [200, 200]  # b may not know the plugin yet
        await settled()
        await b.host.revoke_identity(id_of(plugin))
        await settled()
        assert [await use(member, grant) for member in (a, b)] == [401, 401]


@pytest.mark.parametrize("revoker", [0, 1, 2])
async def test_a_grant_that_is_revoked_at_one_host_ends_at_each_with_its_calls(
    revoker: int, autojump_clock: MockClock
) -> None:
    async with offering() as (group, echo):
        members = [await group.start() for _ in range(3)]
        plugin = await members[0].calls.plugin("app")
        grant, statuses = await granted(members[0], plugin), list[int]()
        other = await granted(members[0], plugin)

        async def hang(member: Member) -> None:
            statuses.append(await use(member, grant, "hang"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang, members[0])
            nursery.start_soon(hang, members[1])
            await eventually(lambda: len(echo.contexts) == 2)
            await members[revoker].host.admin.actions.revoke_grant(grant["grantId"], actor="me")
        assert statuses == [499, 499]
        assert [await use(member, grant) for member in members] == [401] * 3
        assert [await use(member, other) for member in members] == [200] * 3
        late = await group.start()
        assert await use(late, grant) == 401


async def test_a_host_that_was_cut_off_learns_what_is_revoked(
    autojump_clock: MockClock,
) -> None:
    async with offering() as (group, _):
        a, b = await group.start(), await group.start()
        plugin = await a.calls.plugin("app")
        grant = await granted(a, plugin)
        await settled()
        b.store.cut = True
        await a.host.admin.actions.revoke_grant(grant["grantId"], actor="me")
        with pytest.raises(ConnectError, match="the others do not know it yet"):
            await b.host.admin.actions.revoke_grant((await granted(b, plugin))["grantId"], actor="me")
        await settled()
        assert (await use(a, grant), await use(b, grant)) == (401, 200)
        b.store.cut = False
        await trio.sleep(10)
        assert await use(b, grant) == 401
