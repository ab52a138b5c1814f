"""What is given in the place of something else is refused where it is given, with what is wanted there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from cpg_trio import CallPolicy, HealthState, Plugin, PluginConfig, Retry
from cpg_trio.testing import MemoryHost, open_host
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.rpc.echo import Echo

EACH: Any = EchoServiceClient
"""Something that fits in no other place."""


def plugin() -> Plugin:
    return Plugin("own", version="1.0.0")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda: plugin().client(EACH, cast("Any", "echo")), "client.. takes the type of a service first"),
        (lambda: plugin().client("echo", EACH, config=EACH), "config is a ClientConfig"),
        (lambda: plugin().client("echo", EACH, policy=EACH), "policy is a CallPolicy"),
        (lambda: plugin().set_health(HealthState.DEGRADED, EACH), "reason is a text"),
        (lambda: trio.run(lambda: plugin().serve(EACH)), "a trio.Event that stops it"),
        (lambda: trio.run(lambda: plugin().serve(config=EACH)), "takes a PluginConfig as config"),
        (lambda: PluginConfig(host_url=EACH), "host_url is a text"),
        (lambda: CallPolicy(retry=3), "retry is a Retry, and not 3"),  # type: ignore[arg-type]
    ],
)
def test_another_kind_of_thing_is_a_type_error(given: Callable[[], object], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        given()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda: CallPolicy(timeout_s=-1), "timeout_s is a number of seconds above 0, or None, and not -1"),
        (lambda: CallPolicy(balance="fastest"), "^balance is one of least-loaded, .*, and not 'fastest'$"),
        (lambda: Retry(attempts=0), "'attempts' must be >= 1: 0"),
    ],
)
def test_a_policy_that_makes_no_sense_is_a_value_error(given: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        given()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda host: host.fake(Echo(), "echo"), "fake.. takes the type of a service first"),
        (lambda host: host.start(Plugin), "takes a Plugin, and not the class Plugin"),
        (lambda host: host.start(plugin(), until="healthy"), "until is a HealthState, and not 'healthy'"),
        (lambda host: host.client(EACH, "echo"), "client.. takes the type of a service first"),
    ],
)
async def test_so_it_is_in_tests(
    given: Callable[[MemoryHost], Any], told: str, autojump_clock: MockClock
) -> None:
    async with open_host() as host:
        with pytest.raises(TypeError, match=told):
            await given(host)
