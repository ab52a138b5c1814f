"""Grants for direct calls: who gets one, for what, and for how long."""

from __future__ import annotations

import pytest

from cpg_trio import wire
from cpg_trio.assertions import LEEWAY_S, InvalidAssertionError, Purpose, verify
from cpg_trio.host import Action, AuditEvent
from cpg_trio.host.access.identity import Identities
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.routing.direct_grants import GRANT_S, DirectGrants, NotDirectlyError
from tests.host.routing.asking import BROKER, asking

ECHO = "/echo.v1.EchoService/Echo"


async def test_a_grant_opens_the_one_service_of_the_one_provider_for_its_owner() -> None:
    async with asking() as setting:
        mine = await setting.plugin("app")
        status, answer = await setting.post(BROKER, {"capabilityType": "service:echo"}, mine)
        assert status == 200
        grant = answer["grant"]
        provider = setting.host.registry.status("echo").provider
        assert provider is not None
        assert grant["endpointUrl"] == f"{setting.provider_url}/echo.v1.EchoService/"
        assert (grant["providerId"], grant["version"]) == (provider.runtime_id, "1.2.0")
        assert grant["expiresInMs"] == "60000"
        proof = {**mine, "Authorization": f"Bearer {grant['bearerToken']}"}
        url = f"{setting.provider_url}{ECHO}"
        assert (await setting.http.post(url, json={"text": "x"}, headers=proof)).status_code == 200
        theirs = {**proof, "X-Plugin-Runtime-ID": (await setting.plugin("thief"))["X-Plugin-Runtime-ID"]}
        for headers in (theirs, mine, {}):
            response = await setting.http.post(url, json={"text": "x"}, headers=headers)
            assert response.status_code == 401
            assert response.headers[wire.UNDELIVERED_HEADER] == "true"
        shut = f"{setting.provider_url}/connectplugin.v1.PluginControl/Shutdown"
        assert (await setting.http.post(shut, json={}, headers=proof)).status_code == 401


async def test_a_grant_that_is_renewed_is_one_event_in_the_audit_trail() -> None:
    async with asking() as setting:
        events: list[AuditEvent] = []
        setting.host.audit.subscribe(events.append)
        app = await setting.plugin("app")
        for _ in range(3):
            assert (await setting.ask(app))[0] == 200
        assert (await setting.ask(app, minVersion="9.0.0"))[0] == 400
        stranger = await setting.declared("stranger", requires="storage")
        assert (await setting.ask(stranger))[0] == 403
        granted = [event for event in events if event.action == Action.GRANT]
        assert [(event.allowed, event.subject.split("-")[0]) for event in granted] == [
            (True, "app"),
            (False, "stranger"),
        ]


async def test_a_plugin_gets_no_grant_for_what_it_has_not_declared() -> None:
    async with asking() as setting:
        other = await setting.declared("app", requires="storage")
        assert (await setting.ask(other))[0] == 403
        assert (await setting.ask({}))[0] == 400
        assert (await setting.ask(await setting.declared("app", requires="echo")))[0] == 200


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"service_type": "nobody"}, 400, 'no providers for service "nobody"'),
        ({"service_type": "../x"}, 400, "invalid characters"),
        ({"minVersion": "2.0.0"}, 400, "no compatible providers"),
        ({"minVersion": "newest"}, 400, "must be semantic version"),
        ({"providerId": "echo-plugin-0"}, 400, "echo-plugin-0 does not provide echo"),
        ({"providerId": "x" * 300}, 400, "provider_id too long"),
    ],
)
async def test_who_cannot_be_called_directly_is_not_and_it_is_said_why(
    asked: dict[str, str], status: int, said: str
) -> None:
    async with asking() as setting:
        answer = await setting.ask(await setting.plugin("app"), **asked)
        assert answer[0] == status
        assert said in answer[1]


async def test_a_provider_that_cannot_check_who_calls_is_not_called_directly() -> None:
    async with asking() as setting:
        await setting.provider("plain", "http://127.0.0.1:9")
        status, message = await setting.ask(await setting.plugin("app"), "plain")
        assert status == 400
        assert "does not take calls but through the host" in message


def test_nobody_elsewhere_is_sent_to_its_own_loopback() -> None:
    identities, registry = Identities(clock=lambda: 0.0), Registry()
    provider, _ = identities.issue("echo-plugin", address="127.0.0.1")
    metadata = {"base_url": "http://127.0.0.1:8081", wire.DIRECT_KEY: "true"}
    registry.register(provider.runtime_id, "echo", "1.0.0", "/e/", metadata)
    grants = DirectGrants(identities, registry)
    here, _ = identities.issue("app", address="127.0.0.1")
    assert grants.issue(here, "echo").endpoint_url == "http://127.0.0.1:8081/e/"
    there, _ = identities.issue("app", address="192.0.2.7")
    with pytest.raises(NotDirectlyError, match="host's own machine only"):
        grants.issue(there, "echo")


def test_a_caller_is_sent_where_the_host_has_looked() -> None:
    identities, registry = Identities(clock=lambda: 0.0), Registry()
    provider, _ = identities.issue("echo-plugin", address="192.0.2.1")
    metadata = {"base_url": "http://echo.example:8081/base", wire.DIRECT_KEY: "true"}
    registry.register(provider.runtime_id, "echo", "1.0.0", "/e e/", metadata, addresses=("192.0.2.1",))
    caller, _ = identities.issue("app", address="192.0.2.7")
    grant = DirectGrants(identities, registry).issue(caller, "echo", "1.0.0", provider.runtime_id)
    assert grant.endpoint_url == "http://192.0.2.1:8081/base/e%20e/"
    assert "token" not in repr(grant)


def test_a_grant_is_good_for_a_minute() -> None:
    now = 1_800_000_000.0
    identities, registry = Identities(clock=lambda: 0.0), Registry()
    provider, _ = identities.issue("echo-plugin")
    metadata = {"base_url": "http://127.0.0.1:8081", wire.DIRECT_KEY: "true"}
    registry.register(provider.runtime_id, "echo", "1.0.0", "/e/", metadata)
    caller, _ = identities.issue("app")
    token = DirectGrants(identities, registry, lambda: now).issue(caller, "echo").token
    entry = identities.entry(provider.runtime_id)
    assert entry is not None
    assert GRANT_S == 60
    for later in (0, GRANT_S - 1):
        verify(token, [entry.digest], Purpose.DIRECT, provider.runtime_id, now + later)
    with pytest.raises(InvalidAssertionError):
        verify(token, [entry.digest], Purpose.DIRECT, provider.runtime_id, now + GRANT_S + LEEWAY_S)
