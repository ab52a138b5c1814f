"""A plugin in a process is replaced under load again and again: no call fails, and nothing is left."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cpg_trio.host.supervision import LaunchError, PluginSpec
from cpg_trio.launch import ProcessLauncher
from tests.host.cluster.serving import serving_hosts
from tests.host.supervision.launching import UNLIMITED
from tests.host.supervision.load import Load, load
from tests.host.supervision.replaced import Platform, platform

_TIMES = 100
_ROOT = Path(__file__).parents[2]
_COMMAND = (sys.executable, "-m", "cpg_trio.launch.run", "tests.chaos.replaceable:plugin")


def _spec(name: str, *, crashes: str = "", start_s: float = 30.0) -> PluginSpec:
    environment = {"NAME": name, "CRASHES": crashes, "PYTHONPATH": str(_ROOT)}
    launcher = ProcessLauncher(_COMMAND, directory=_ROOT, environment=environment, port=0)
    return PluginSpec(name="echo", launcher=launcher, provides=("echo",), start_s=start_s)


@asynccontextmanager
async def _under_load() -> AsyncIterator[tuple[Platform, Load]]:
    async with platform(_spec("v0")) as p, load(p.host, p.url) as made:
        yield p, made


async def test_no_call_fails_while_a_process_is_replaced_a_hundred_times() -> None:
    with trio.fail_after(20 * _TIMES):
        async with _under_load() as (p, made):
            for version in range(1, _TIMES + 1):
                await p.host.plugins.replace("echo", _spec(f"v{version}"))
                assert len(p.registered()) == 1
                await made.all_have_called()
                assert set(made.answers.values()) == {f"v{version}", ""}
                assert not made.failed


@pytest.mark.parametrize("step", ["started", "listening", "registered", "degraded"])
async def test_a_process_that_crashes_as_it_starts_is_taken_back_and_no_call_fails(step: str) -> None:
    with trio.fail_after(120):
        async with _under_load() as (p, made):
            before = p.serving()
            for _ in range(3):
                with pytest.raises(LaunchError, match="exit status 3"):
                    await p.host.plugins.replace("echo", _spec("v1", crashes=step))
                assert p.serving() == p.registered() == before
            await made.all_have_called()
            assert not made.failed


async def test_no_call_through_another_host_fails_while_a_plugin_is_replaced() -> None:
    with trio.fail_after(20 * _TIMES):
        async with serving_hosts(rates=UNLIMITED) as (one, other):
            await one.host.plugins.add(_spec("v0"))
            async with load(other.host, other.url) as made:
                for version in range(1, _TIMES // 10 + 1):
                    await one.host.plugins.replace("echo", _spec(f"v{version}"))
                    await made.all_have_called(2)
                    assert set(made.answers.values()) == {f"v{version}", ""}
                    assert not made.failed
