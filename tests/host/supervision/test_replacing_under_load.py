"""No call fails while plugins are replaced, scaled and restarted: in real time, on real sockets."""

from __future__ import annotations

import pytest
import trio

from cpg_trio import HealthState
from cpg_trio.host.supervision import LaunchError, RemovalRefusedError
from tests.host.supervision.launching import Launches, spec
from tests.host.supervision.load import load
from tests.host.supervision.replaced import echo, platform, sick


async def test_no_call_fails_while_a_plugin_is_replaced_and_scaled_and_restarted() -> None:
    with trio.fail_after(60):
        async with (
            platform(spec("echo", echo("v1"), stop_s=5.0)) as p,
            load(p.host, p.url) as made,
        ):
            await p.host.plugins.replace("echo", spec("echo", echo("v2"), stop_s=5.0))
            assert len(p.registered()) == 1
            await made.all_have_called(3)
            assert set(made.answers.values()) == {"v2", ""}
            await p.host.plugins.scale("echo", 2)
            assert len(p.serving()) == 2
            await p.host.plugins.restart("echo")
            await p.host.plugins.scale("echo", 1)
            await made.all_have_called(2)
            assert len(p.registered()) == 1
            assert not made.failed


async def test_new_versions_that_are_of_no_use_are_taken_back_and_no_call_fails() -> None:
    bad = [sick(HealthState.DEGRADED), echo("v2", "other"), Launches(dies="exit status 3")]
    with trio.fail_after(60):
        async with platform(spec("echo", echo("v1"))) as p, load(p.host, p.url) as made:
            before = p.serving()
            for launcher in bad:
                with pytest.raises((LaunchError, RemovalRefusedError)):
                    await p.host.plugins.replace("echo", spec("echo", launcher, start_s=0.4))
                assert p.serving() == p.registered() == before
            await made.all_have_called(2)
            assert set(made.answers.values()) == {"v1", ""}
            assert not made.failed
