"""Plugins and their states: what is kept of them is right, and bounded."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from cpg_trio import HealthState
from cpg_trio.host import Health, HostConfig, LeaseConfig
from cpg_trio.host.admin import plugins
from cpg_trio.host.admin.kept import Kept
from cpg_trio.host.directory import LEFT
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.states import State
from cpg_trio.store import SqliteStore
from tests.host.admin.operating import HEALTHY, LEASE_S, Operator, operating

UNHEALTHY = Health(HealthState.UNHEALTHY, "the disk is full")


def states(operator: Operator, plugin: str) -> list[str]:
    """Return the states that a plugin has been in, in their order."""
    return [State.of(change.state).word for change in operator.get(plugin).history]


async def leave(operator: Operator, runtime_id: str) -> None:
    """Stop a plugin as the SDK does: it reports that it is unhealthy, and unregisters all."""
    operator.report(runtime_id, Health(HealthState.UNHEALTHY, "stopping"))
    for registration in operator.host.registry.registrations(runtime_id):
        operator.host.registry.unregister(runtime_id, registration.id)


def test_each_state_has_the_number_of_the_message() -> None:
    for state in State:
        assert state.number == pb.PluginState.Value(f"PLUGIN_STATE_{state.name}")
        assert State.of(state.number) is state
    for attribute in ("word", "sign", "ascii_sign", "colour"):
        assert len({getattr(state, attribute) for state in State}) == len(State)


async def test_the_states_of_a_plugin_are_told_in_their_order(autojump_clock: trio.abc.Clock) -> None:
    async with operating() as operator:
        storage = operator.plugin("storage")
        operator.report(storage, UNHEALTHY)
        operator.report(storage, HEALTHY)
        await operator.wait(1.1)
        operator.report(storage, HEALTHY)
        await leave(operator, storage)
        assert states(operator, storage)[-2:] == ["unhealthy", "draining"]
        await operator.wait(2.2)
        assert states(operator, storage) == [
            *("starting", "healthy", "unhealthy", "healthy", "lapsed", "healthy", "unhealthy", "draining"),
            "gone",
        ]
        assert operator.get(storage).plugin.reason == LEFT
        assert operator.status().state == pb.PLUGIN_STATE_HEALTHY  # it wanted to


async def test_a_plugin_that_lapses_while_it_is_drained_is_lapsed(autojump_clock: trio.abc.Clock) -> None:
    async with operating() as operator:
        storage = operator.plugin("storage")
        operator.host.registry.drain(storage, "drained by ada")
        await operator.wait(1.1)
        assert operator.get(storage).plugin.state == pb.PLUGIN_STATE_LAPSED
        operator.report(storage, HEALTHY)
        assert operator.get(storage).plugin.state == pb.PLUGIN_STATE_DRAINING


async def test_a_plugin_that_has_only_an_identity_is_starting_and_then_forgotten() -> None:
    async with operating() as operator:
        identity, _ = operator.host.identities.issue("api-plugin")
        assert operator.get("api-plugin").plugin.state == pb.PLUGIN_STATE_STARTING
        operator.host.identities.forget(identity.runtime_id)
        assert not operator.host.admin.view.plugins(pb.ListPluginsRequest(include_gone=True)).plugins


async def test_a_caller_that_provides_nothing_has_a_state_by_its_reports() -> None:
    async with operating() as operator:
        identity, _ = operator.host.identities.issue("client-plugin", requires=("storage",))
        operator.report(identity.runtime_id, Health(HealthState.DEGRADED, "", ("storage",)))
        assert operator.get("client-plugin").plugin.state == pb.PLUGIN_STATE_DEGRADED
        operator.report(identity.runtime_id, HEALTHY)
        assert states(operator, "client-plugin") == ["starting", "degraded", "healthy"]


async def test_an_identity_that_expires_is_told_as_such() -> None:
    async with operating(HostConfig(unrenewed_token_ttl_s=0.0, token_ttl_s=0.0)) as operator:
        operator.plugin("storage")
        operator.host.identities.issue("next")
        assert operator.get("storage-plugin").plugin.reason == "it has expired"
        assert operator.texts(pb.EVENT_KIND_EXPIRED) == ["it has expired"]


async def test_what_the_state_file_has_put_back_has_lapsed(tmp_path: Path) -> None:
    config = HostConfig(
        store=SqliteStore(tmp_path / "state"), leases=LeaseConfig(lease_s=LEASE_S, probe_timeout_s=0.01)
    )
    async with operating(config) as operator:
        storage = operator.plugin("storage")
    async with operating(config) as operator:
        plugin = operator.get(storage).plugin
        assert (plugin.state, plugin.reason) == (pb.PLUGIN_STATE_LAPSED, "not heard of since the host began")
        assert not plugin.HasField("identity_since")
        assert [provided.service_type for provided in plugin.provides] == ["storage"]


async def test_an_identity_from_before_that_provides_nothing_is_shown_once_it_is_heard_of(
    tmp_path: Path,
) -> None:
    config = HostConfig(store=SqliteStore(tmp_path / "state"))
    async with operating(config) as operator:
        identity, _ = operator.host.identities.issue("client-plugin")
        operator.report(identity.runtime_id, HEALTHY)
        operator.host.identities.issue("former-plugin")
    async with operating(config) as operator:
        assert operator.host.identities.entry(identity.runtime_id) is not None
        assert not operator.status().plugins
        operator.report(identity.runtime_id, HEALTHY)
        plugin = operator.get("client-plugin").plugin
        assert plugin.state == pb.PLUGIN_STATE_HEALTHY
        assert [(count.state, count.count) for count in operator.status().plugins] == [
            (pb.PLUGIN_STATE_HEALTHY, 1)
        ]


async def test_the_history_of_a_plugin_is_bounded() -> None:
    async with operating() as operator:
        storage = operator.plugin("storage")
        for i in range(1000):
            operator.report(storage, Health(HealthState.DEGRADED, f"{i} behind" + "x" * 4000))
        history = operator.get(storage).history
        assert len(history) == 32
        assert history[-1].reason.startswith("999 behind")
        assert max(len(change.reason) for change in history) < 300
        assert len(operator.get(storage).plugin.reason) > 4000  # the one of now is told whole


async def test_all_histories_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kept, "within", lambda _: Kept(history_bytes=8000))
    async with operating() as operator:
        ids = [operator.plugin(f"s{i}") for i in range(10)]
        for _ in range(5):
            for runtime_id in ids:
                operator.report(runtime_id, UNHEALTHY)
                operator.report(runtime_id, HEALTHY)
        assert sum(len(operator.get(runtime_id).history) for runtime_id in ids) <= 30
        assert all(states(operator, runtime_id)[-1] == "healthy" for runtime_id in ids)
        for runtime_id in ids:
            await operator.host.revoke_identity(runtime_id)
        assert all(states(operator, runtime_id)[-1] == "gone" for runtime_id in ids)


async def test_plugins_that_are_gone_are_kept_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with operating() as operator:
        storage = operator.plugin("storage")
        await operator.host.revoke_identity(storage)
        assert states(operator, storage)[-1] == "gone"
        monkeypatch.setattr(plugins, "_GONE_S", -1.0)  # it is over
        assert not operator.host.admin.view.plugins(pb.ListPluginsRequest(include_gone=True)).plugins


async def test_those_that_one_address_loses_do_not_push_out_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kept, "within", lambda _: Kept(gone=10))
    async with operating() as operator:

        async def lose(name: str, address: str) -> None:
            identity, _ = operator.host.identities.issue(name, address=address)
            operator.host.registry.register(identity.runtime_id, name, "1.0.0", "/", {})
            await operator.host.revoke_identity(identity.runtime_id)

        await lose("storage", "10.0.0.2")
        for i in range(50):
            await lose(f"flood{i}", "10.0.0.66")
        answer = operator.host.admin.view.plugins(pb.ListPluginsRequest(include_gone=True))
        names = [plugin.name for plugin in answer.plugins]
        assert len(names) == 10
        assert "storage" in names
