"""The time of a plugin's host, and plugins whose clock shows another time."""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from cpg_trio.plugin import Plugin
from cpg_trio.plugin._host_time import HostTime
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import echo_plugin, hosting, is_healthy, plugged, until

WRONG = [600.0, -600.0, 86_400.0]


@pytest.fixture(params=WRONG)
def off_s(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Have the clocks of plugins, which run in this process beside their host, show another time."""
    off = float(request.param)
    wrong = SimpleNamespace(time=lambda: time.time() + off)
    monkeypatch.setattr("cpg_trio.plugin._host_time.time", wrong)
    monkeypatch.setattr("cpg_trio.plugin._state.time", wrong)
    return off


async def test_a_plugin_checks_what_its_host_signs_by_the_hosts_clock_and_logs_that_its_own_differs(
    off_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    async with hosting() as (host, url), plugged(echo_plugin(), url), plugged(caller, url, direct_calls=True):
        await until(host, lambda: is_healthy(host, "echo"))
        provider = await echo.wait_available()
        assert (await echo.client(EchoServiceClient).echo(EchoRequest(text="x"))).text == "x"
        assert await host._prober.probe(provider.id)
        with trio.fail_after(10):
            while not re.search("the clock of echo-plugin is", caplog.text):  # noqa: ASYNC110 - no event
                await trio.sleep(0.01)
        assert host.registry.health(provider.id).callable
    (line,) = [m for m in caplog.messages if m.startswith("the clock of echo-plugin is")]
    found = re.search(r"is (\d+) s (ahead of|behind) its host's", line)
    assert found
    assert abs(float(found[1]) - abs(off_s)) < 10
    assert found[2] == ("ahead of" if off_s > 0 else "behind")


def test_what_is_no_date_tells_nothing() -> None:
    too_far = "Thu, 26 Nov 2026 20:00:00 +9999999999999999"
    for date in ("", "now", "Thu, 99 Nov 2026 20:00:00 GMT", too_far):
        host = HostTime()
        host.update(date, 0.0)
        assert not host.known
        assert abs(host.now() - time.time()) < 1


async def test_between_two_answers_the_time_is_measured_by_a_clock_that_nobody_sets(
    autojump_clock: MockClock,
) -> None:
    host = HostTime()
    host.update(formatdate(1_700_000_000, usegmt=True), trio.current_time())
    await trio.sleep(100)
    assert host.now() == pytest.approx(1_700_000_100, abs=1.5)
    host.update(formatdate(1_700_000_500, usegmt=True), trio.current_time())
    assert host.now() == pytest.approx(1_700_000_500, abs=1.5)
