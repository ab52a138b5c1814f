"""Which plugins provide which services: the policy, for what is asked and for what there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cpg_trio.host import HostConfig, Identity, Keys, LeaseConfig, Policy
from cpg_trio.host.access.audit import Action, AuditEvent
from cpg_trio.host.access.policy import Rules, ServiceRules
from cpg_trio.store import SqliteStore
from tests.host.calls import (
    REGISTER,
    REPORT,
    UNREGISTER,
    running,
    runtime_id,
)
from tests.host.rpcs import introduced


@pytest.mark.parametrize(
    ("metadata", "service_type", "status"),
    [
        ({}, "anything", 200),
        ({"provides": "t,u"}, "t", 200),
        ({"provides": "t,u"}, "u", 200),
        ({"provides": "t,u"}, "v", 403),
        ({"provides": ""}, "t", 403),
        ({"requires": "t"}, "t", 200),
    ],
)
async def test_a_plugin_that_says_what_it_provides_provides_nothing_else(
    metadata: dict[str, str], service_type: str, status: int
) -> None:
    async with running() as host:
        me = await introduced(host, "p", metadata)
        body = {"serviceType": service_type, "version": "1.0.0", "endpointPath": "/"}
        answered, answer = await host.post(REGISTER, body, me)
        assert answered == status
        assert bool(host.host.registry.service_types()) == (status == 200)
        if status == 403:
            assert answer["message"] == f"p may not provide {service_type}"


async def test_nobody_takes_a_service_over_from_another_plugin_while_that_provides_it() -> None:
    body = {"serviceType": "t", "version": "9.9.9", "endpointPath": "/"}
    async with running() as host:
        victim = await host.plugin("victim")
        registration = await host.register(victim, "t")
        attacker = await host.plugin("attacker")
        status, answer = await host.post(REGISTER, body, attacker)
        assert (status, answer["code"]) == (403, "permission_denied")
        assert answer["message"] == "t is provided by victim, and no policy says that attacker may, too"
        assert await host.discover("t", attacker) == runtime_id(victim)
        await host.register(await host.plugin("victim"), "t")  # a replica
        await host.post(UNREGISTER, {"registrationId": registration}, victim)
        assert (await host.post(REGISTER, body, attacker))[0] == 403


async def test_a_plugin_provides_nothing_any_more_that_the_policy_has_come_to_deny(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path, events = tmp_path / "policy", list[AuditEvent]()
    path.write_text('rules = "none"')
    async with running(HostConfig(policy=Policy.from_file(path))) as host:
        host.host.audit.subscribe(events.append)
        mine, other = await host.provider("t"), await host.provider("u")
        path.write_text('[services.t]\nproviders = ["another"]\n')
        await trio.sleep(1)
        assert (await host.post(REPORT, {"state": 1}, other))[0] == 200
        assert host.host.registry.service_types() == ["u"]
    refused = [event for event in events if event.action is Action.REGISTER and not event.allowed]
    assert [(event.subject, event.target) for event in refused] == [(runtime_id(mine), "t")]
    assert autojump_clock.rate == 0


async def test_where_no_plugin_reports_the_next_probe_takes_out_what_the_policy_has_come_to_deny(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "policy"
    path.write_text('rules = "none"')
    leases = LeaseConfig(lease_s=30, heartbeat_s=5)
    async with running(HostConfig(policy=Policy.from_file(path), leases=leases)) as host:
        await host.provider("t")
        path.write_text('[services.t]\nproviders = ["another"]\n')
        await trio.sleep(10)
        assert host.host.registry.service_types() == []


async def test_a_host_that_begins_anew_offers_nothing_that_its_policy_denies(tmp_path: Path) -> None:
    state, keys = tmp_path / "state", Keys(["k" * 32])
    async with running(HostConfig(store=SqliteStore(state), keys=keys)) as host:
        await host.provider("t")
        caller = await host.plugin("c")
    policy = Policy(Rules(services={"t": ServiceRules(providers=["another"])}))
    async with running(HostConfig(store=SqliteStore(state), keys=keys, policy=policy)) as host:
        assert await host.discover("t", caller) == 'no providers for service "t"'


async def test_rules_are_applied_when_a_policy_that_has_failed_works_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Policy):
        works = False

        def may_provide(self, _plugin: Identity, _service_type: str, /) -> bool:
            if not self.works and _plugin.runtime_id in provided:
                raise RuntimeError("it is broken")
            return _plugin.runtime_id not in provided

    policy, provided = Failing(), set[str]()
    async with running(HostConfig(policy=policy)) as host:
        plugin = await host.provider("t")
        provided.add(runtime_id(plugin))
        policy._rules = Rules()
        for _ in range(10):
            assert (await host.post(REPORT, {"state": 1}, plugin))[0] == 200
        assert host.host.registry.service_types() == ["t"]
        assert caplog.text.count("RuntimeError: it is broken") == 1
        policy.works = True
        assert (await host.post(REPORT, {"state": 1}, plugin))[0] == 200
        assert host.host.registry.service_types() == []


async def test_a_victim_that_is_down_is_no_more_displaced_than_one_that_is_up() -> None:
    body = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/"}
    async with running() as host:
        victim = await host.provider("t")
        await host.post(REPORT, {"state": 3}, victim)
        assert (await host.post(REGISTER, body, await host.plugin("attacker")))[0] == 403
