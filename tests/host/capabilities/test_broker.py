"""The capability broker: who may use what the host offers, for how long, and what does not get past it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing

from cpg_trio import wire
from cpg_trio.asgi import Receive, Scope, Send, send_text
from cpg_trio.host import Capability, HostConfig, Keys, Limits, Rate, RateLimits
from cpg_trio.host.access.audit import Action, Audit
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.access.policy import PluginRules, Policy, Rules
from cpg_trio.host.capabilities.grants import Grants
from cpg_trio.metadata import is_claim
from cpg_trio.protos.capability.logger.v1 import logger_pb2
from cpg_trio.protos.capability.logger.v1.logger_trio import LoggerClient
from cpg_trio.rpc import ClientConfig, Code, ConnectError
from tests._gen.echo.v1 import echo_pb2
from tests._wire import dial as dial_wire, dial_http2, request
from tests.host.calls import COOKIE, HANDSHAKE, VERSIONS, runtime_id
from tests.host.capabilities.brokering import BROKER, LOGGER, Brokering, bearer, brokering
from tests.metadata import CLAIMS, spelled
from tests.rpc.echo import Echo

ECHO = "/echo.v1.EchoService/Echo"


async def refusal(setting: Brokering, path: str, headers: dict[str, str]) -> tuple[int, str]:
    response = await setting.http.post(path, headers=headers, json={"text": "hi"})
    assert response.headers["content-type"].startswith("text/plain")
    return response.status_code, response.text


def path_of(grant: Any, rest: str = ECHO) -> str:
    return str(grant["endpointUrl"]).split("/", 3)[3].join(["/", rest])


# What a grant is


async def test_a_grant_opens_a_capability_at_the_url_that_it_names() -> None:
    async with brokering() as setting:
        grant = await setting.granted(await setting.plugin("app"), minVersion="1.0.0", reason="to echo")
        assert (await setting.client(grant).echo(echo_pb2.EchoRequest(text="hi"))).text == "hi"
        numbers = [m.number async for m in await _count(setting, grant, 3)]
    assert numbers == [0, 1, 2]


async def _count(setting: Brokering, grant: Any, to: int) -> Any:
    async def stream() -> Any:
        async with setting.client(grant).count(echo_pb2.CountRequest(to=to)) as numbers:
            async for number in numbers:
                yield number

    return stream()


async def test_a_grant_is_as_the_protocol_says() -> None:
    async with brokering() as setting:
        grant = await setting.granted(await setting.plugin("app"), "logger")
    assert len(grant["grantId"]) == 24
    assert grant["grantId"].endswith("==")
    assert len(grant["bearerToken"]) < 1000
    assert grant["endpointUrl"] == f"{setting.url}/capabilities/logger/{grant['grantId']}"
    assert (grant["capabilityType"], grant["version"]) == ("logger", "1.0.0")
    assert 0 < int(grant["expiresInMs"]) <= 600_000


async def test_the_broker_answers_where_the_handshake_announces_it_and_at_its_own_path() -> None:
    async with brokering() as setting:
        status, answer = await setting.post(HANDSHAKE, {**COOKIE, **VERSIONS})
        assert status == 200
        announced = {c["type"]: c for c in answer["hostCapabilities"]}
        assert announced["logger"] == {
            "type": "logger",
            "version": "1.0.0",
            "endpoint": f"{setting.url}/broker",
        }
        headers = await setting.plugin("app")
        for path in (BROKER, f"/broker{BROKER}"):
            status, answer = await setting.post(path, {"capabilityType": "logger"}, headers)
            assert (status, answer["grant"]["capabilityType"]) == (200, "logger")


async def test_a_public_url_stands_in_place_of_the_one_that_was_called() -> None:
    async with brokering(public_url="https://host.example/platform/") as setting:
        grant = await setting.granted(await setting.plugin("app"))
    assert grant["endpointUrl"].startswith("https://host.example/platform/capabilities/echo/")


def test_a_host_has_one_capability_of_each_type() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None: ...

    with pytest.raises(ValueError, match="one capability of each type"):
        HostConfig(capabilities=[Capability("kv", "1.0.0", app), Capability("kv", "2.0.0", app)])
    with pytest.raises(wire.InvalidError):
        Capability("../kv", "1.0.0", app)


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({"capabilityType": "secrets"}, 404, 'capability "secrets" not available'),
        ({"capabilityType": ""}, 404, 'capability "" not available'),
        ({"capabilityType": "x" * 200}, 400, "capability_type too long (max: 136 bytes)"),
        ({"capabilityType": "echo", "reason": "x" * 4097}, 400, "reason too long (max: 4096 bytes)"),
        ({"capabilityType": "echo", "minVersion": "latest"}, 400, None),
        (
            {"capabilityType": "echo", "minVersion": "99.0.0"},
            404,
            'capability "echo" not available: this host has version 1.2.0, older than 99.0.0',
        ),
    ],
)
async def test_what_cannot_be_granted_is_refused_with_the_reason(
    asked: dict[str, str], status: int, message: str | None
) -> None:
    async with brokering() as setting:
        answered, answer = await setting.ask(await setting.plugin("app"), **asked)
        assert answered == status
        assert message is None or answer["message"] == message
        assert len(setting.host._grants) == 0


# Attacks


async def test_nobody_gets_a_grant_without_proving_who_it_is() -> None:
    async with brokering() as setting:
        mine, theirs = await setting.plugin("app"), await setting.plugin("other")
        for headers in (
            {},
            {"X-Plugin-Runtime-ID": runtime_id(mine)},
            {**mine, "Authorization": "Bearer guess"},
            {**mine, "Authorization": theirs["Authorization"]},
        ):
            for path in (BROKER, f"/broker{BROKER}"):
                status, _ = await setting.post(path, {"capabilityType": "echo"}, headers)
                assert status in (400, 401)
        assert len(setting.host._grants) == 0


async def test_a_grant_for_one_capability_opens_no_other() -> None:
    async with brokering() as setting:
        grant = await setting.granted(await setting.plugin("app"), "logger")
        path = f"/capabilities/echo/{grant['grantId']}{ECHO}"
        assert await refusal(setting, path, bearer(grant)) == (401, "invalid grant ID\n")
        assert setting.echo.contexts == []


async def test_a_grant_is_worth_nothing_under_another_plugins_name() -> None:
    async with brokering() as setting:
        mine, theirs = await setting.plugin("app"), await setting.plugin("thief")
        grant = await setting.granted(mine)
        stolen = {**bearer(grant), "X-Plugin-Runtime-ID": runtime_id(theirs)}
        assert await refusal(setting, path_of(grant), stolen) == (401, "invalid token\n")
        own = {**bearer(grant), "X-Plugin-Runtime-ID": runtime_id(mine)}
        assert (await setting.http.post(path_of(grant), headers=own, json={"text": "hi"})).status_code == 200


async def test_the_token_of_one_grant_does_not_open_another() -> None:
    async with brokering() as setting:
        plugin = await setting.plugin("app")
        first, second = await setting.granted(plugin), await setting.granted(plugin)
        answer = await refusal(setting, path_of(first), bearer(second))
        assert answer == (401, "invalid token\n")


@pytest.mark.parametrize(
    ("path", "authorization", "answer"),
    [
        ("/capabilities/", "Bearer x", (400, "invalid capability path\n")),
        ("/capabilities/echo", "Bearer x", (400, "invalid capability path\n")),
        ("/capabilities/echo/id", "Bearer x", (400, "invalid capability path\n")),
        ("/capabilities//id/M", "Bearer x", (400, "invalid capability path\n")),
        ("/capabilities/echo/id/M", "", (401, "missing or invalid authorization header\n")),
        ("/capabilities/echo/id/M", "Basic x", (401, "missing or invalid authorization header\n")),
        ("/capabilities/echo/id/M", "Bearer x", (401, "invalid grant ID\n")),
        ("/capabilities/echo/id/../../../M", "Bearer x", (400, "invalid capability path\n")),
        ("/capabilities/echo/id/%2e%2E/M", "Bearer x", (400, "invalid capability path\n")),
        ("/capabilities/echo/id/a%2f..%2f../M", "Bearer x", (400, "invalid capability path\n")),
    ],
)
async def test_what_opens_nothing_is_refused_in_the_protocols_words(
    path: str, authorization: str, answer: tuple[int, str]
) -> None:
    async with brokering() as setting, dial_wire(setting.url) as plain:
        headers = {"authorization": authorization} if authorization else {}
        await plain.send(request("POST", path, headers))
        response = await plain.response()
        assert (response.status, response.body.decode()) == answer
        assert response.header(b"x-content-type-options") == b"nosniff"
        (event,) = setting.audited(Action.USE, allowed=False)
        assert event.reason == answer[1].strip()


async def test_a_plugin_that_may_not_use_a_capability_gets_no_grant() -> None:
    policy = Policy(Rules(plugins={"app": PluginRules(capabilities=["logger"])}))
    async with brokering(policy=policy) as setting:
        plugin = await setting.plugin("app")
        status, answer = await setting.ask(plugin, capabilityType="echo")
        assert (status, answer["code"]) == (403, "permission_denied")
        await setting.granted(plugin, "logger")
        await setting.granted(await setting.plugin("other"), "echo")
        (event,) = setting.audited(Action.GRANT, allowed=False)
        assert (event.subject, event.target) == (runtime_id(plugin), "echo")


async def test_a_plugin_that_hoards_grants_ends_its_own_and_nobody_elses() -> None:
    async with brokering(rates=RateLimits(capability_request=None)) as setting:
        greedy, other = await setting.plugin("greedy"), await setting.plugin("other")
        theirs = await setting.granted(other)
        first = await setting.granted(greedy)
        for _ in range(40):
            last = await setting.granted(greedy)
        assert len(setting.host._grants) == 33
        assert await refusal(setting, path_of(first), bearer(first)) == (401, "invalid grant ID\n")
        for grant in (last, theirs):
            await setting.client(grant).echo(echo_pb2.EchoRequest(text="hi"))


async def test_what_proves_a_caller_stays_with_the_host() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(scope)
        fields = [(name.encode(), b"1") for name in (*CLAIMS, "set-cookie", "x-kept")]
        await send_text(send, 200, "ok", fields)

    config = HostConfig(capabilities=[Capability("raw", "1.0.0", app)])
    async with brokering(config) as setting:
        mine = await setting.plugin("app")
        grant = await setting.granted(mine, "raw")
        sent = {
            **{spelling: "x" for name in CLAIMS[3:] for spelling in spelled(name)},
            **bearer(grant),
            "X-Plugin-Runtime-ID": runtime_id(mine),
            "X-Plugin-Caller-ID": "someone-else",
            "X_Plugin_Caller_ID": "someone-else",
            "Cookie": "a=b",
            "X-Kept": "yes",
        }
        answer = await setting.http.post(path_of(grant, "/a/b%20c?d=e"), headers=sent)
    assert answer.headers["x-kept"] == "1"
    assert not [name for name in answer.headers if is_claim(name.encode())]
    (scope,) = seen
    names = {name.lower() for name, _ in scope["headers"]}
    assert b"x-kept" in names
    assert not [name for name in names if is_claim(name)]
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a/b c", b"/a/b%20c", b"d=e")
    assert (scope["state"]["caller"].id, scope["state"]["caller"].name) == (runtime_id(mine), "app")


async def test_a_plugin_that_asks_or_calls_too_often_is_told_when_to_come_back() -> None:
    rates = RateLimits(capability_request=Rate(0.01, 1), capability_call=Rate(0.01, 1))
    async with brokering(rates=rates) as setting:
        plugin = await setting.plugin("app")
        grant = await setting.granted(plugin)
        status, answer = await setting.ask(plugin, capabilityType="echo")
        assert (status, answer["code"]) == (429, "resource_exhausted")
        await setting.client(grant).echo(echo_pb2.EchoRequest(text="hi"))
        response = await setting.http.post(path_of(grant), headers=bearer(grant), json={"text": "hi"})
        assert (response.status_code, response.text) == (429, "Rate limit exceeded\n")
        assert int(response.headers["retry-after"]) >= 1
        await setting.client(await setting.granted(await setting.plugin("other"))).echo(
            echo_pb2.EchoRequest()
        )


async def test_who_guesses_grants_fills_no_audit_trail() -> None:
    async with brokering(rates=RateLimits(failed_authentication=Rate(0.01, 2))) as setting:
        guess = {"Authorization": "Bearer guess"}
        answers = [await refusal(setting, "/capabilities/echo/id/M", guess) for _ in range(4)]
        assert answers[:2] == [(401, "invalid grant ID\n")] * 2
        assert answers[2:] == [(429, "Rate limit exceeded\n")] * 2
        assert len(setting.audited(Action.USE, allowed=False)) == 2


# How a grant ends


async def test_a_grant_that_has_expired_opens_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with brokering(grant_ttl_s=10) as setting:
        plugin = await setting.plugin("app")
        grant = await setting.granted(plugin)
        await trio.sleep(11)
        assert await refusal(setting, path_of(grant), bearer(grant)) == (401, "grant expired\n")


async def test_what_has_expired_is_forgotten_in_time(autojump_clock: trio.testing.MockClock) -> None:
    identities = Identities()
    owner, _ = identities.issue("app")
    capability = Capability.of("echo", "1.0.0", Echo())
    grants = Grants(Keys(), identities, Audit(), {"echo": capability}, ttl_s=10)
    for _ in range(3):
        grants.issue(owner, capability)
        await trio.sleep(30)
    grants.issue(owner, capability)
    assert len(grants) == 3
    assert len(grants._by_owner[owner.runtime_id]) == 3
    assert "digest" not in repr(grants.issue(owner, capability)[0])


async def test_all_plugins_together_have_no_more_grants_than_the_limit_says() -> None:
    async with brokering(limits=Limits(max_grants=4)) as setting:
        plugins = [await setting.plugin("app") for _ in range(4)]
        grants = [await setting.granted(plugin) for plugin in plugins[:3]]
        status, refused = await setting.ask(plugins[3], capabilityType="echo")
        message = "too many grants of one address (max: 3)"
        assert (status, refused) == (429, {"code": "resource_exhausted", "message": message})
        await setting.client(grants[0]).echo(echo_pb2.EchoRequest(text="hi"))
        setting.host.revoke_grant(grants[0]["grantId"])
        await setting.granted(plugins[3])


async def test_a_stream_ends_when_its_grant_expires(autojump_clock: trio.testing.MockClock) -> None:
    async with brokering(grant_ttl_s=10) as setting:
        grant = await setting.granted(await setting.plugin("app"))
        with pytest.raises(ConnectError):
            async for _ in await _count(setting, grant, 99):
                pass
        assert setting.echo.cancelled.is_set()


@pytest.mark.parametrize("how", ["grant", "plugin", "identity"])
async def test_what_is_revoked_ends_at_once_with_the_calls_in_flight(how: str) -> None:
    async with brokering() as setting:
        plugin, other = await setting.plugin("app"), await setting.plugin("other")
        grant, theirs = await setting.granted(plugin), await setting.granted(other)
        with pytest.raises(ConnectError):
            async for message in await _count(setting, grant, 99):
                if message.number == 98:
                    await revoke(setting, how, runtime_id(plugin), grant["grantId"])
        assert setting.echo.cancelled.is_set()
        assert await refusal(setting, path_of(grant), bearer(grant)) == (401, "invalid grant ID\n")
        await setting.client(theirs).echo(echo_pb2.EchoRequest(text="hi"))
        assert runtime_id(plugin) in {event.subject for event in setting.audited(Action.REVOKE)}


async def revoke(setting: Brokering, how: str, plugin: str, grant_id: str) -> None:
    match how:
        case "grant":
            assert setting.host.revoke_grant(grant_id)
            assert not setting.host.revoke_grant(grant_id)
        case "plugin":
            assert setting.host.revoke_grants(plugin) == 1
        case _:
            await setting.host.revoke_identity(plugin)


async def test_a_grant_is_worth_nothing_once_the_policy_says_otherwise() -> None:
    class Changing(Policy):
        permits = True

        def may_use(self, _plugin: Identity, _capability_type: str, /) -> bool:
            return self.permits

    policy = Changing()
    async with brokering(policy=policy) as setting:
        plugin = await setting.plugin("app")
        grant = await setting.granted(plugin)
        await setting.client(grant).echo(echo_pb2.EchoRequest(text="hi"))
        policy.permits = False
        denied = f"{runtime_id(plugin)} may not use echo"
        refused = await refusal(setting, path_of(grant), bearer(grant))
        assert refused == (403, f"permission denied: {denied}\n")
        (event,) = setting.audited(Action.USE, allowed=False)
        assert (event.target, event.reason) == ("echo", denied)


async def test_a_grant_does_not_outlive_the_identity_of_its_owner(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with brokering(unrenewed_token_ttl_s=5, grant_ttl_s=600) as setting:
        grant = await setting.granted(await setting.plugin("app"))
        assert int(grant["expiresInMs"]) <= 5000
        await trio.sleep(6)
        assert (await refusal(setting, path_of(grant), bearer(grant)))[0] == 401


# Calls do not wait for each other


async def test_a_call_in_flight_holds_nobody_up() -> None:
    async with brokering() as setting:
        plugin = await setting.plugin("app")
        grant = await setting.granted(plugin)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hang, setting, grant)
            while not setting.echo.contexts:  # noqa: ASYNC110 - there is no event to wait for
                await trio.sleep(0.01)
            with trio.fail_after(10):
                another = await setting.granted(plugin)
                await setting.client(another).echo(echo_pb2.EchoRequest(text="hi"))
                await setting.client(grant).echo(echo_pb2.EchoRequest(text="hi"))
            nursery.cancel_scope.cancel()


async def _hang(setting: Brokering, grant: Any) -> None:
    await setting.client(grant).echo(echo_pb2.EchoRequest(text="hang"))


async def test_a_capability_may_call_the_host_that_it_belongs_to() -> None:
    answers: list[int] = []
    async with brokering() as setting:
        plugin = await setting.plugin("app")

        async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
            inner = await setting.granted(plugin)
            response = await setting.http.post(path_of(inner), headers=bearer(inner), json={"text": "hi"})
            answers.append(response.status_code)
            await send_text(send, 200, "ok")

        async with brokering(HostConfig(capabilities=[Capability("nested", "1.0.0", app)])) as outer:
            grant = await outer.granted(await outer.plugin("app"), "nested")
            with trio.fail_after(10):
                await outer.http.post(path_of(grant), headers=bearer(grant))
    assert answers == [200]


async def test_capabilities_are_called_over_http2_as_well() -> None:
    async with brokering() as setting:
        grant = await setting.granted(await setting.plugin("app"))
        async with dial_http2(setting.url) as http2:
            stream = await http2.request(
                path_of(grant),
                ("authorization", f"Bearer {grant['bearerToken']}"),
                ("content-type", "application/json"),
                body=b'{"text": "hi"}',
                method="POST",
            )
            response = await http2.response(stream)
    assert (response.status, response.body) == (200, b'{"text":"hi"}')


# The audit trail


async def test_a_grant_is_two_events_however_often_it_is_used() -> None:
    async with brokering() as setting:
        plugin = await setting.plugin("app")
        grant = await setting.granted(plugin, reason="to echo")
        for _ in range(3):
            await setting.client(grant).echo(echo_pb2.EchoRequest(text="hi"))
        (granted,), (used,) = setting.audited(Action.GRANT), setting.audited(Action.USE)
        assert (granted.subject, granted.target, granted.reason) == (runtime_id(plugin), "echo", "to echo")
        assert (used.subject, used.target) == (runtime_id(plugin), "echo")
        said = repr(setting.events)
    assert grant["bearerToken"] not in said
    assert grant["grantId"] not in said


# The logger


async def test_the_logger_writes_one_line_with_the_name_of_who_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with brokering() as setting:
        plugin = await setting.plugin("app")
        grant = await setting.granted(plugin, "logger")
        logger = LoggerClient(grant["endpointUrl"], setting.http, ClientConfig(headers=bearer(grant)))
        forged = "all well\n2026/01/01 00:00:00 [AUDIT] forged\x1b[2J"
        with caplog.at_level(logging.DEBUG, "cpg_trio.capability.logger"):
            await logger.log(
                logger_pb2.LogRequest(level="WARN", message=forged, fields={"b": "2", "a\n": "1"})
            )
            await logger.log(logger_pb2.LogRequest(level="loud", message="x" * 10_000))
            many = {f"name-{n:03}": "v" * 1000 for n in range(100)}
            await logger.log(logger_pb2.LogRequest(level="debug", fields=many))
    first, second, third = (r for r in caplog.records if r.name == "cpg_trio.capability.logger")
    who = runtime_id(plugin)
    assert first.getMessage() == (
        rf"[PLUGIN] {who}: all well\n2026/01/01 00:00:00 [AUDIT] forged\x1b[2J {{a\n=1, b=2}}"
    )
    assert [r.levelno for r in (first, second, third)] == [logging.WARNING, logging.INFO, logging.DEBUG]
    assert len(second.getMessage()) < 8300
    assert third.getMessage().endswith("and 68 more}")
    assert len(third.getMessage()) < 32 * 300


async def test_nobody_writes_to_the_hosts_log_without_a_grant(caplog: pytest.LogCaptureFixture) -> None:
    async with brokering() as setting:
        plugin = await setting.plugin("app")
        response = await setting.http.post(LOGGER, headers=plugin, json={"message": "hi"})
        assert response.status_code == 404
    assert not [r for r in caplog.records if r.name == "cpg_trio.capability.logger"]


async def test_unknown_to_all_who_have_no_grant_is_what_the_code_says() -> None:
    async with brokering() as setting:
        grant = await setting.granted(await setting.plugin("app"))
        wrong = ClientConfig(headers={"Authorization": "Bearer guess"})
        client = type(setting.client(grant))(grant["endpointUrl"], setting.http, wrong)
        with pytest.raises(ConnectError) as caught:
            await client.echo(echo_pb2.EchoRequest(text="hi"))
        assert caught.value.code == Code.UNAUTHENTICATED
