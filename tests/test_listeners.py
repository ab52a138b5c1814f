"""Listeners: one that fails harms nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest

from cpg_trio._listeners import Listeners
from cpg_trio.host import Host
from tests.host.calls import DISCOVER, REGISTER, REPORT, Caller, running, runtime_id


class ListenerError(Exception):
    """A listener's own."""


def failing(_: object) -> None:
    raise ListenerError("it is broken")


def subscribed(host: Host) -> None:
    """Have a listener that fails hear of everything that a host tells of."""
    host.registry.changes.add(failing)
    host.registry.gone.add(failing)
    host.registry.changes.added(failing).__enter__()
    host.identities.watched(failing).__enter__()
    host.audit.subscribe(failing)


async def registers_and_calls(host: Caller) -> None:
    provider, caller = await host.provider("t"), await host.plugin("c")
    assert (await host.post(REPORT, {"state": 1}, provider))[0] == 200
    assert (await host.post(DISCOVER, {"serviceType": "t"}, caller))[0] == 200
    assert (await host.post(DISCOVER, {"serviceType": "t"}, {}))[0] == 400


async def is_revoked(host: Caller) -> None:
    provider, caller = await host.provider("t"), await host.plugin("c")
    await host.host.revoke_identity(runtime_id(provider))
    assert (await host.post(REGISTER, {"serviceType": "t"}, provider))[0] == 401
    assert (await host.post(DISCOVER, {"serviceType": "t"}, caller))[0] == 404


@pytest.mark.parametrize("happens", [registers_and_calls, is_revoked])
async def test_a_listener_that_fails_ends_no_call_and_no_host(
    happens: Callable[[Caller], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as host:
        subscribed(host.host)
        await happens(host)
    assert "a listener of the audit trail failed, and the others go on" in caplog.text
    assert "ListenerError: it is broken" in caplog.text


def test_the_others_hear_all_the_same_and_a_listener_may_leave_meanwhile() -> None:
    heard: list[str] = []
    leaving = ExitStack()
    listeners = Listeners[str]("news")
    listeners.add(failing)
    listeners.add(lambda _: leaving.close())
    leaving.enter_context(listeners.added(heard.append))
    listeners.add(lambda news: heard.append(f"again {news}"))
    for news in ("a", "b"):
        listeners.tell(news)
    assert heard == ["a", "again a", "again b"]


def test_a_listener_that_fails_all_the_time_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    listeners = Listeners[str]("news")
    listeners.add(failing)
    for _ in range(100):
        listeners.tell("x")
    assert len(caplog.records) == 1
