"""The audit trail: one event for each decision, and no secret in any of them."""

from __future__ import annotations

import json
from io import StringIO

import pytest
import trio
from trio.testing import MockClock

from cpg_trio.host import Action, Audit, AuditEvent, Enrolment, Host, HostConfig, PluginRules, Policy, Rules
from cpg_trio.logs import LogConfig, LogFormat, configure_logging, flush
from tests.host.calls import (
    COOKIE,
    DISCOVER,
    HANDSHAKE,
    REGISTER,
    REPORT,
    UNREGISTER,
    VERSIONS,
    Headers,
    WireCaller,
    running,
    runtime_id,
)
from tests.host.routed import routing

Told = tuple[str, bool, str, str]


def hearing(host: Host) -> list[AuditEvent]:
    events: list[AuditEvent] = []
    host.audit.subscribe(events.append)
    return events


def told(events: list[AuditEvent]) -> list[Told]:
    return [(e.action.value, e.allowed, e.subject, e.target) for e in events]


async def test_what_a_plugin_is_given_and_does_is_told_in_order() -> None:
    async with running() as host:
        events = hearing(host.host)
        me = await host.plugin("p")
        registration = await host.register(me, "t")
        await renew(host, me)
        await host.post(UNREGISTER, {"registrationId": registration}, me)
        await host.host.revoke_identity(runtime_id(me), "it misbehaves")
        name = runtime_id(me)
    assert told(events) == [
        ("handshake", True, name, "p"),
        ("register", True, name, "t"),
        ("renew", True, name, "p"),
        ("unregister", True, name, "t"),
        ("revoke", True, name, ""),
    ]
    assert [e.address for e in events][:1] == ["127.0.0.1"]
    assert events[-1].reason == "it misbehaves"


async def test_why_an_identity_ends_is_told_of_who_takes_leave_and_of_who_is_silent(
    autojump_clock: MockClock,
) -> None:
    async with running() as host:
        events = hearing(host.host)
        leaving, silent = await host.plugin("p"), await host.provider("t")
        registration = await host.register(leaving, "s")
        await host.post(REPORT, {"state": "HEALTH_STATE_UNHEALTHY", "reason": "stopping"}, leaving)
        await host.post(UNREGISTER, {"registrationId": registration}, leaving)
        await trio.sleep(31)
    assert {e.subject: e.reason for e in events if e.action is Action.REVOKE} == {
        runtime_id(leaving): "it has taken its leave",
        runtime_id(silent): "no sign of life for 30 s",
    }


async def renew(host: WireCaller, me: Headers) -> Headers:
    status, answer = await host.post(HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": "p"}, me)
    assert (status, answer["runtimeId"]) == (200, runtime_id(me))
    return {**me, "Authorization": f"Bearer {answer['runtimeToken']}"}


async def test_each_refusal_is_told_with_why() -> None:
    config = HostConfig(
        policy=Policy(Rules(plugins={"p": PluginRules(provides=["mine"], calls=[])})),
        enrolment=Enrolment({"p": "s" * 16}),
    )
    async with running(config) as host:
        events = hearing(host.host)
        body = {**COOKIE, **VERSIONS, "selfId": "p"}
        await host.post(HANDSHAKE, body)
        _, answer = await host.post(HANDSHAKE, body, {"X-Plugin-Enrolment": "s" * 16})
        name, token = answer["runtimeId"], answer["runtimeToken"]
        me = {"X-Plugin-Runtime-ID": name, "Authorization": f"Bearer {token}"}
        await host.post(REGISTER, {"serviceType": "t", "version": "1.0.0", "endpointPath": "/"}, me)
        elsewhere = {"base_url": "http://192.0.2.1"}
        mine = {"serviceType": "mine", "version": "1.0.0", "endpointPath": "/", "metadata": elsewhere}
        await host.post(REGISTER, mine, me)
        await host.post(DISCOVER, {"serviceType": "t"}, me)
        await host.post(REPORT, {"state": 1}, {**me, "Authorization": "Bearer wrong"})
        await host.post(REPORT, {"state": 1})
    denied = [(e.action.value, e.subject, e.target) for e in events if not e.allowed]
    assert denied == [
        ("handshake", "p", ""),
        ("register", name, "t"),
        ("register", name, "http://192.0.2.1"),
        ("discover", name, "t"),
        ("authenticate", name, ""),
        ("authenticate", "", ""),
    ]
    assert all(e.reason for e in events if not e.allowed)


async def test_that_a_plugin_may_call_is_decided_once_and_told_once_until_the_rules_change() -> None:
    rules = Rules()

    class Changing(Policy):
        @property
        def rules(self) -> Rules:
            return rules

    async with routing(config=HostConfig(policy=Changing())) as s:
        events = hearing(s.host)
        for _ in range(3):
            assert (await s.call(s.head())).status == 200
        assert told(events) == [("call", True, s.caller, "echo")]
        rules = Rules(plugins={"caller": PluginRules(calls=[])})
        for _ in range(2):
            assert (await s.call(s.head())).status == 403
    assert told(events)[1:] == [("call", False, s.caller, "echo")] * 2


async def test_a_token_that_is_known_by_its_signature_is_told_of_when_it_is_first_seen() -> None:
    config = HostConfig()
    elsewhere = Host(config)
    async with running(config) as host:
        events = hearing(host.host)
        identity, token = elsewhere.identities.issue("p")
        me = {"X-Plugin-Runtime-ID": identity.runtime_id, "Authorization": f"Bearer {token}"}
        for _ in range(3):
            assert (await host.post(REPORT, {"state": 1}, me))[0] == 200
    assert told(events) == [("authenticate", True, identity.runtime_id, "")]


async def test_an_identity_that_ends_with_its_time_is_told_of() -> None:
    async with running(HostConfig(unrenewed_token_ttl_s=0.0, token_ttl_s=0.0)) as host:
        events = hearing(host.host)
        me = await host.plugin("p")
        await host.plugin("q")
    assert ("expire", True, runtime_id(me), "") in told(events)


def test_an_event_is_one_line_of_json_whatever_a_stranger_sends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cpg_trio.audit")
    nasty = '\n2026/01/01 00:00:00 [AUDIT] {"action": "forged"}\x85\u2028"' + "x" * 10_000
    audit, kept = Audit(), list[AuditEvent]()
    audit.subscribe(kept.append)
    audit.denied(Action.CALL, nasty, nasty, reason=nasty, address=nasty)
    texts = (kept[0].subject, kept[0].target, kept[0].reason, kept[0].address)
    assert {len(text) for text in texts} == {256}
    (record,) = caplog.records
    line = record.getMessage()
    assert line.isprintable()
    assert line.isascii()
    said = json.loads(line.removeprefix("[AUDIT] "))
    assert said["subject"] == nasty[:256]
    assert record.levelname == "WARNING"
    assert set(said) == {"action", "allowed", "subject", "target", "reason", "address"}


def test_in_a_log_of_json_an_event_is_fields_and_in_text_it_is_told_once() -> None:
    lines = []
    for form in LogFormat:
        stream = StringIO()
        configure_logging(stream=stream, config=LogConfig(form))
        Audit().denied(Action.CALL, "api", "storage", reason="no")
        flush()
        lines.append(stream.getvalue())
    text, line = lines
    expected = {"action": "call", "allowed": False, "subject": "api", "target": "storage", "reason": "no"}
    assert json.loads(line).items() >= expected.items()
    assert text.endswith(f" [AUDIT] {json.dumps(expected)}\n")
