"""Processes that are there and say nothing: one that is stopped, one whose event loop is held up."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

from cpg_trio.rpc import Code, ConnectError
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests.chaos.trial import AVAILABLE, DEGRADED, ITSELF, SLACK_S, UNAVAILABLE, Trial, trial

LEASES = 3
"""How long the silence lasts: one lease until it has lapsed, one until it is gone, one more."""


async def test_a_plugin_that_is_stopped_gets_no_calls_and_registers_anew_when_it_goes_on(
    tmp_path: Path,
) -> None:
    async with trial(tmp_path) as t:
        before = t.runtime_id("storage")
        stopped = trio.current_time()
        t.send("storage", signal.SIGSTOP)
        await t.becomes(DEGRADED, t.observer.told, "api")
        assert await t.observer.told("storage") == UNAVAILABLE
        noticed = trio.current_time()
        await trio.sleep_until(stopped + LEASES * t.lease_s)
        goes_on = trio.current_time()
        t.send("storage", signal.SIGCONT)
        await t.all_is_well()
        assert t.runtime_id("storage") != before
        assert await t.observer.routed("storage", before) == 404  # as for one that never was
        _check_calls(t, stopped, noticed, goes_on)


def _check_calls(t: Trial, stopped: float, noticed: float, goes_on: float) -> None:
    """Check that none hung for longer than it takes to be sure of the silence, and none at all after that."""
    calls = [call for call in t.writer.calls if stopped < call.began < goes_on]
    assert max(call.seconds for call in calls) < 2 * t.lease_s + SLACK_S
    late = [call for call in calls if noticed < call.began and call.began + call.seconds < goes_on]
    assert {call.status for call in late} == {503}
    assert max(call.seconds for call in late) < SLACK_S


async def test_a_plugin_that_holds_up_its_event_loop_gets_no_calls_and_is_back_when_it_is_done(
    tmp_path: Path,
) -> None:
    async with trial(tmp_path, modules={"blocker": ("tests.chaos.blocker",)}) as t:
        await t.start("blocker")
        await t.becomes(AVAILABLE, t.observer.told, "blocker")
        await t.becomes(ITSELF, t.offered, "blocker")
        before = t.runtime_id("blocker")
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_call_in_vain, t, before, LEASES * t.lease_s)
            await t.becomes(UNAVAILABLE, t.observer.told, "blocker")
            nursery.start_soon(_call_in_vain, t, before, 0.0)
        assert trio.current_time() - began < 2 * t.lease_s + SLACK_S
        assert await t.observer.known("blocker") is False
        left_s = began + LEASES * t.lease_s - trio.current_time()
        await t.becomes(AVAILABLE, t.observer.told, "blocker", within_s=left_s + t.bound_s)
        await t.becomes(ITSELF, t.offered, "blocker")


async def _call_in_vain(t: Trial, runtime_id: str, seconds: float) -> None:
    """Have the plugin hold up its loop; see the call end as one to nobody."""
    client = await t.observer.echo("blocker", runtime_id)
    with pytest.raises(ConnectError) as caught:
        await client.echo(EchoRequest(text=str(seconds)))
    assert caught.value.code == Code.UNAVAILABLE
