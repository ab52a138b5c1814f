"""Replacing and scaling plugins: exactly one side serves, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock

from cpg_trio import HealthState
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host.supervision import (
    LaunchError,
    ManageError,
    Phase,
    RemovalRefusedError,
    UnknownPluginError,
)
from cpg_trio.plugin import Plugin, PluginConfig
from tests.host.supervision.launching import Launches, provider, spec
from tests.host.supervision.replaced import echo, platform, sick
from tests.plugin.running import eventually
from tests.rpc.echo import Echo


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (sick(HealthState.UNHEALTHY), "not ready within 5 s: unhealthy: it has no disk"),
        (sick(HealthState.DEGRADED), "not ready within 5 s: degraded: it has no disk"),
        (Launches(refuses="no such command"), "no such command"),
        (Launches(dies="exit status 3"), "exit status 3"),
        (Launches(), "it has not come for its identity"),
        (echo("v2", "other"), "caller requires echo, and nobody else provides that"),
        (provider("echo", requires=("missing",)), "not ready within 5 s: waits for missing"),
        (provider("echo", self_id="somebody-else"), 'it calls itself "somebody-else", and not "echo"'),
    ],
    ids=["unhealthy", "degraded", "refuses", "dies", "silent", "other-service", "waits", "other-name"],
)
async def test_a_new_version_that_is_of_no_use_is_taken_back_and_says_why(
    bad: Launches, says: str, virtual_time: MockClock
) -> None:
    old, caller = echo("v1"), provider(requires=("echo",))
    async with platform(spec("echo", old), spec("caller", caller)) as p:
        before = p.serving()
        with pytest.raises((LaunchError, RemovalRefusedError)) as refused:
            await p.host.plugins.replace("echo", spec("echo", bad, start_s=5.0))
        assert says in str(refused.value)
        assert p.serving() == p.registered() == before
        assert not bad.alive
        assert p.host.plugins.specs()["echo"].launcher is old
        assert [each.phase for each in p.host.plugins.replicas("echo")] == [Phase.READY]


async def test_one_on_trial_gets_no_call_before_all_are_ready(virtual_time: MockClock) -> None:
    new = Launches(lambda a: echo("v2").plugin(a) if a.replica == 1 else None)
    async with platform(spec("echo", echo("v1"))) as p:
        before = p.serving()
        async with open_plain_nursery() as nursery:
            replacing = partial(p.host.plugins.replace, "echo", spec("echo", new, replicas=2, start_s=60.0))
            nursery.start_soon(replacing)
            await eventually(lambda: len(p.registered()) == 2)
            await trio.sleep(1.0)
            assert p.serving() == before
            nursery.cancel_scope.cancel()
        await eventually(lambda: not new.alive)
        assert p.serving() == p.registered() == before


@pytest.mark.parametrize("after_s", [0.0, 1.0, 2.1])
async def test_a_cancellation_at_any_moment_leaves_one_side_in_service(
    after_s: float, virtual_time: MockClock
) -> None:
    """The new one starts within 2 s, and then calls move."""
    old, new = echo("v1"), echo("v2")
    new.starts_in_s = 2.0
    async with platform(spec("echo", old)) as p:
        with trio.move_on_after(after_s):
            await p.host.plugins.replace("echo", spec("echo", new))
        await trio.sleep(12.0)
        (runtime_id,) = p.serving()
        assert p.registered() == [runtime_id]
        (replica,) = p.host.plugins.replicas("echo")
        assert (replica.runtime_id, replica.phase) == (runtime_id, Phase.READY)
        assert len(old.alive) + len(new.alive) == 1
        assert p.host.plugins.specs()["echo"].launcher is (new if new.alive else old)


async def test_calls_move_in_one_moment(virtual_time: MockClock) -> None:
    async with platform(spec("echo", echo("v1"))) as p:
        seen, token = [p.serving()], trio.lowlevel.current_trio_token()

        def note() -> None:
            if p.serving() != seen[-1]:
                seen.append(p.serving())

        with p.host.registry.changes.added(lambda _: token.run_sync_soon(note)):
            await p.host.plugins.replace("echo", spec("echo", echo("v2")))
        assert [len(serving) for serving in seen] == [1, 1]


async def test_a_plugin_is_replaced_by_another_number_of_replicas(virtual_time: MockClock) -> None:
    async with platform(spec("echo", echo("v1"), replicas=2)) as p:
        await p.host.plugins.replace("echo", spec("echo", echo("v2"), replicas=3))
        assert len(p.serving()) == len(p.registered()) == 3
        await p.host.plugins.replace("echo")
        assert [each.number for each in p.host.plugins.replicas("echo")] == [1, 2, 3]


async def test_the_replicas_with_the_highest_numbers_go_first_and_their_numbers_come_back(
    virtual_time: MockClock,
) -> None:
    async with platform(spec("echo", echo("v1"), replicas=3)) as p:
        plugins = p.host.plugins
        ids = [each.runtime_id for each in plugins.replicas("echo")]
        await plugins.scale("echo", 1)
        assert [each.runtime_id for each in plugins.replicas("echo")] == ids[:1]
        assert p.registered() == ids[:1]
        await plugins.scale("echo", 2)
        assert [each.number for each in plugins.replicas("echo")] == [1, 2]
        assert plugins.specs()["echo"].replicas == len(p.serving()) == 2


async def test_a_scale_up_that_fails_leaves_the_replicas_as_they_were(virtual_time: MockClock) -> None:
    launcher = echo("v1")
    async with platform(spec("echo", launcher)) as p:
        before = p.serving()
        launcher.dies = "out of memory"
        with pytest.raises(LaunchError, match="out of memory"):
            await p.host.plugins.scale("echo", 3)
        assert p.serving() == p.registered() == before
        assert p.host.plugins.specs()["echo"].replicas == 1


async def test_a_plugin_that_others_require_is_not_removed_nor_scaled_to_nothing_without_force(
    virtual_time: MockClock,
) -> None:
    async with platform(spec("echo", echo("v1")), spec("caller", provider(requires=("echo",)))) as p:
        plugins = p.host.plugins
        for refused in (plugins.remove("echo"), plugins.scale("echo", 0)):
            with pytest.raises(RemovalRefusedError, match="caller requires echo"):
                await refused
        assert len(p.serving()) == 1
        assert plugins.impact("echo").order == ["echo", "caller"]
        await plugins.remove("echo", force=True)
        assert p.registered() == []
        with pytest.raises(UnknownPluginError):
            plugins.impact("echo")


async def test_one_that_somebody_else_has_started_is_another_provider_and_has_an_impact_too(
    virtual_time: MockClock,
) -> None:
    async with platform() as p, open_plain_nursery() as nursery:
        plugins = p.host.plugins
        stranger = Plugin("echo-plugin", version="1.0.0")
        stranger.provide("echo", Echo())
        await nursery.start(partial(_serve, stranger, p.url))
        await plugins.add(spec("caller", provider(requires=("echo",))))
        assert plugins.impact("echo-plugin").order == ["echo-plugin", "caller"]
        assert plugins.impact(p.serving()[0]).leaves_somebody_without
        nursery.cancel_scope.cancel()


async def _serve(plugin: Plugin, url: str, *, task_status: trio.TaskStatus[object]) -> None:
    config = PluginConfig(bind="127.0.0.1:0", host_url=url, hostname="127.0.0.1")
    await plugin.serve(config=config, task_status=task_status)


async def test_what_cannot_be_replaced_says_what_to_do(virtual_time: MockClock) -> None:
    async with platform(spec("echo", echo("v1"))) as p:
        plugins = p.host.plugins
        with pytest.raises(ManageError, match="remove it, and add the other one"):
            await plugins.replace("echo", spec("echo", echo("v2"), self_id="another"))
        with pytest.raises(ManageError, match="new is no other version of echo"):
            await plugins.replace("echo", spec("new", echo("v2")))
        with pytest.raises(ManageError, match="started by somebody else"):
            await plugins.replace("echo", spec("echo", Launches(kind="external")))


async def test_a_plan_is_carried_out_and_what_is_not_in_it_is_not_touched(virtual_time: MockClock) -> None:
    same, gone = spec("same", echo("v1", "same")), spec("gone", echo("v1", "gone"))
    async with platform(same, gone, spec("echo", echo("v1"))) as p:
        plugins = p.host.plugins
        untouched = plugins.replicas("same")[0].runtime_id
        new = [same, spec("echo", echo("v2"), replicas=2), spec("new", echo("v1", "new"))]
        plan = plugins.plan(new)
        assert [(each.kind.value, each.name) for each in plan.changes] == [
            ("add", "new"),
            ("replace", "echo"),
            ("remove", "gone"),
        ]
        await plugins.apply(plan)
        assert dict(plugins.specs()) == {each.name: each for each in new}
        assert plugins.replicas("same")[0].runtime_id == untouched
        assert not plugins.plan(new).changes
        scaled = [same, attrs.evolve(new[1], replicas=1, stop_s=3.0), new[2]]
        await plugins.apply(plugins.plan(scaled))
        assert (len(p.serving()), dict(plugins.specs())) == (1, {each.name: each for each in scaled})


async def test_a_host_that_stops_while_a_plugin_is_replaced_leaves_nothing(virtual_time: MockClock) -> None:
    old, new = echo("v1"), Launches()
    with trio.fail_after(120):
        async with open_plain_nursery() as nursery, platform(spec("echo", old)) as p:
            nursery.start_soon(partial(_refused, p.host.plugins.replace, "echo", spec("echo", new)))
            await trio.sleep(1.0)
            assert (len(old.alive), len(new.alive)) == (1, 1)
    assert not old.alive
    assert not new.alive


async def _refused(operation: Callable[..., Awaitable[None]], *arguments: object) -> None:
    with pytest.raises((LaunchError, ManageError)):
        await operation(*arguments)
