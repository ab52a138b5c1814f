"""A call that names no provider goes to one that the router chooses."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from cpg_trio import HealthState
from cpg_trio.assertions import Purpose, verify
from cpg_trio.call_record import Call
from cpg_trio.host import Health, HostConfig, Identity, PluginRules, Policy, Rules, Selection
from cpg_trio.host.directory import Registration
from tests._wire import dial
from tests.host.routed import Recorder, Setting, hosting, routing, text
from tests.http.peers import OK, Peer, serving, url_of
from tests.plugin.running import unused_port

ANY = "/services/echo/-/M"


@attrs.frozen
class Two:
    """A host with two providers of `echo`."""

    s: Setting
    first: Recorder
    second: Recorder
    identities: tuple[Identity, Identity]
    registrations: tuple[Registration, Registration]

    def seen(self) -> tuple[int, int]:
        return len(self.first.seen), len(self.second.seen)

    async def call(self, times: int = 1, path: str = ANY, *headers: str) -> list[int]:
        async with dial(self.s.url) as wire:
            answers = []
            for _ in range(times):
                await wire.send(self.s.head("POST", path, *headers))
                answers.append((await wire.response()).status)
        return answers


@asynccontextmanager
async def two(config: HostConfig | None = None) -> AsyncIterator[Two]:
    first, second = Recorder(), Recorder()
    async with serving(second) as origin, routing(first, config=config) as s:
        registry = s.host.registry
        other, _ = s.host.identities.issue("other-echo")
        there = registry.register(
            other.runtime_id, "echo", "1.0.0", "/echo.v1.Echo/", {"base_url": url_of(origin)}
        )
        there.load.joined_at = -1e9  # so that both are alike
        here = registry.provider("echo", s.provider)
        entry = s.host.identities.entry(s.provider)
        assert here
        assert entry
        yield Two(s, first, second, (entry.identity, other), (here, there))


async def test_calls_go_to_all_providers_with_their_statement_record_and_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "cpg_trio.router")
    async with two(HostConfig(selection={"echo": Selection.ROUND_ROBIN})) as t:
        ended: list[Call] = []
        t.s.host.calls.ended.add(ended.append)
        assert await t.call(6) == [200] * 6
        assert t.seen() == (3, 3)
        ids = [identity.runtime_id for identity in t.identities]
        assert Counter(call.provider for call in ended) == dict(zip(ids, t.seen(), strict=True))
        for recorder, identity in zip((t.first, t.second), t.identities, strict=True):
            assert recorder.line == b"POST /echo.v1.Echo/M HTTP/1.1"
            told = dict(recorder.headers)
            assert told[b"x-plugin-caller-id"].decode() == t.s.caller
            entry = t.s.host.identities.entry(identity.runtime_id)
            assert entry
            shown = told[b"x-plugin-caller"].decode()
            said = verify(shown, [entry.digest], Purpose.CALLER, identity.runtime_id, time.time())
            assert said.path == "/echo.v1.Echo/M"
            assert f"[ROUTER] {t.s.caller} → {identity.runtime_id} /M 200" in caplog.text
        assert all(registration.load.in_flight == 0 for registration in t.registrations)


async def test_the_strategy_of_the_service_type_decides() -> None:
    async with two(HostConfig(selection={"echo": Selection.ROUND_ROBIN})) as t:
        await t.call(6)
        assert t.seen() == (3, 3)
    async with two(HostConfig(selection={"echo": Selection.FIRST})) as t:
        await t.call(6)
        assert t.seen() == (6, 0)


async def test_a_degraded_provider_is_called_only_while_no_other_is_there() -> None:
    async with two() as t:
        first, second = (identity.runtime_id for identity in t.identities)
        t.s.host.registry.report_health(first, Health(HealthState.DEGRADED))
        await t.call(10)
        assert t.seen() == (0, 10)
        t.s.host.registry.report_health(second, Health(HealthState.UNHEALTHY))
        await t.call(10)
        assert t.seen() == (10, 10)
        t.s.host.registry.report_health(first, Health(HealthState.UNHEALTHY))
        refused = await t.s.call(t.s.head(path=ANY))
        assert text(refused) == (503, "service unavailable (no provider is healthy)\n")
        assert refused.header(b"x-plugin-undelivered") == b"true"


async def test_a_provider_that_leaves_or_registers_anew_is_followed_at_once() -> None:
    async with two() as t:
        await t.call(20)
        gone = t.registrations[0]
        t.s.host.registry.unregister(gone.runtime_id, gone.id)
        before = t.seen()
        await t.call(10)
        assert t.seen() == (before[0], before[1] + 10)
        t.s.host.registry.register(gone.runtime_id, "echo", "1.0.0", "/moved/", gone.metadata)
        with trio.fail_after(30):
            while not any(head.startswith(b"POST /moved/M ") for head in t.first.seen):
                await t.call(10)


async def test_a_service_that_nobody_provides_is_not_found() -> None:
    async with two() as t:
        assert text(await t.s.call(t.s.head(path="/services/none/-/M"))) == (
            404,
            "provider not found: no none\n",
        )
        assert text(await t.s.call(t.s.head(path="/services/-/-/-"))) == (404, "provider not found: -\n")
        bad = t.s.head(path="/services/-/-/-").replace(t.s.token.encode(), b"bad")
        assert text(await t.s.call(bad)) == (401, "invalid token\n")


async def test_the_policy_decides_as_for_a_named_provider() -> None:
    policy = Policy(Rules(plugins={"caller": PluginRules(calls=["something-else"])}))
    async with two(HostConfig(policy=policy)) as t:
        assert await t.call() == [403]
        assert t.seen() == (0, 0)


async def test_a_call_goes_to_another_provider_if_nobody_has_received_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = HostConfig(selection={"echo": Selection.ROUND_ROBIN})
    async with two(config) as t:
        ended: list[Call] = []
        t.s.host.calls.ended.add(ended.append)
        away, _ = t.s.host.identities.issue("away")
        base_url = f"http://127.0.0.1:{unused_port()}"
        gone = t.s.host.registry.register(away.runtime_id, "echo", "1.0.0", "/", {"base_url": base_url})
        assert await t.call(3, "/services/echo/-/M?q=1", "X-Tenant: blue") == [200] * 3
        assert t.seen() in {(2, 1), (1, 2)}
        assert gone.id not in t.s.host.registry.callable_ids  # suspected
        assert f"→ {away.runtime_id} /M FAILED" in caplog.text
        assert "; the call goes to" in caplog.text
        assert Counter(call.provider for call in ended) == Counter(
            {identity.runtime_id: seen for identity, seen in zip(t.identities, t.seen(), strict=True)}
        )
        for recorder, identity in zip((t.first, t.second), t.identities, strict=True):
            entry = t.s.host.identities.entry(identity.runtime_id)
            assert entry
            for head in recorder.seen:
                assert head.startswith(b"POST /echo.v1.Echo/M?q=1 HTTP/1.1\r\n")
                assert head.count(b"x-plugin-caller:") == head.count(b"x-plugin-caller-id:") == 1
                assert b"blue" in head
                shown = head.partition(b"x-plugin-caller: ")[2].partition(b"\r\n")[0].decode()
                verify(shown, [entry.digest], Purpose.CALLER, identity.runtime_id, time.time())
        assert all(registration.load.in_flight == 0 for registration in (*t.registrations, gone))
        assert not t.s.host.registry.calls.has_called(t.s.caller)


async def test_a_call_that_no_provider_has_received_fails_with_the_mark() -> None:
    async with hosting() as (host, url):
        caller, token = host.identities.issue("caller")
        for name in ("a", "b"):
            base_url = f"http://127.0.0.1:{unused_port()}"
            host.registry.register(name, "echo", "1.0.0", "/", {"base_url": base_url})
        s = Setting(host, url, caller.runtime_id, token, "a")
        refused = await s.call(s.head(path=ANY))
        assert text(refused) == (502, "failed to proxy request\n")
        assert refused.header(b"x-plugin-undelivered") == b"true"
        assert not host.registry.callable_ids
        refused = await s.call(s.head(path=ANY))
        assert refused.status == 503


async def test_a_provider_that_cannot_be_reached_or_fails_gets_few_calls() -> None:
    async with two() as t:
        t.first.answer = OK.replace(b"200 OK", b"500 No")
        answers = Counter(await t.call(60))
        assert 1 <= answers[500] <= 5
        assert answers[200] >= 55


async def test_a_slow_provider_gets_few_calls_by_its_name_as_well_where_the_strategy_is_least_loaded() -> (
    None
):
    async def slow(peer: Peer) -> None:
        while await peer.receive_head():
            await trio.sleep(0.03)
            await peer.send(OK)

    config = HostConfig(selection={"echo": Selection.LEAST_LOADED})
    async with serving(slow) as origin, two(config) as t:
        t.s.host.registry.unregister(t.s.provider, t.registrations[0].id)
        late, _ = t.s.host.identities.issue("slow-echo")
        there = t.s.host.registry.register(
            late.runtime_id, "echo", "1.0.0", "/", {"base_url": url_of(origin)}
        )
        there.load.joined_at = -1e9
        offered: Counter[str] = Counter()
        for _ in range(60):
            provider, _ = t.s.host.registry.discover("echo")
            offered[provider.runtime_id] += 1
            await t.call(1, f"{provider.endpoint_url}/M")
        assert offered[late.runtime_id] < 15
