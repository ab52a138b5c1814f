"""A plugin is who its token says, changes only what is its own, and sends the host nowhere else."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from cpg_trio.host import BaseUrls, HostConfig, Identity, Keys, LeaseConfig, Policy
from cpg_trio.host.access.audit import Action, AuditEvent
from cpg_trio.host.access.policy import Rules, ServiceRules
from tests.host.calls import (
    COOKIE,
    DISCOVER,
    HANDSHAKE,
    REGISTER,
    REPORT,
    UNREGISTER,
    VERSIONS,
    WATCH,
    Headers,
    WireCaller,
    running,
    runtime_id,
)
from tests.plugin.running import eventually

CALLS: list[tuple[str, dict[str, Any]]] = [
    (REGISTER, {"serviceType": "forged", "version": "1.0.0", "endpointPath": "/f/"}),
    (UNREGISTER, {"registrationId": "reg-x"}),
    (DISCOVER, {"serviceType": "logger"}),
    (WATCH, {"serviceType": "logger"}),
    (REPORT, {"state": "HEALTH_STATE_UNHEALTHY"}),
]
EVERY_CALL = pytest.mark.parametrize(
    ("path", "body"), CALLS, ids=[path.rpartition("/")[2] for path, _ in CALLS]
)


async def refusal(http: httpx.AsyncClient, path: str, body: dict[str, Any], headers: Headers) -> str:
    """Return the code that a call is refused with."""
    return (await refused(http, path, body, headers))["code"]


async def refused(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], headers: Headers
) -> dict[str, str]:
    """Return the error that a call is refused with."""
    if path != WATCH:
        error: dict[str, str] = (await http.post(path, json=body, headers=headers)).json()
        return error
    content = httpx.Request("POST", "http://x", json=body).content
    stream = {**headers, "content-type": "application/connect+json"}
    response = await http.post(
        path, content=b"\0" + len(content).to_bytes(4, "big") + content, headers=stream
    )
    assert response.content[0] == 2  # the end of the stream, with nothing before it
    return dict(json.loads(response.content[5:])["error"])


@EVERY_CALL
async def test_no_call_works_without_a_token_that_proves_the_caller(path: str, body: dict[str, Any]) -> None:
    async with running() as host:
        await host.provider("logger")
        mine, other = await host.plugin("mine"), await host.plugin("other")
        attempts: list[tuple[Headers, str]] = [
            ({}, "invalid_argument"),
            ({"Authorization": mine["Authorization"]}, "invalid_argument"),
            ({"X-Plugin-Runtime-ID": runtime_id(mine)}, "unauthenticated"),
            ({**mine, "Authorization": "Bearer test-token"}, "unauthenticated"),
            ({**mine, "Authorization": mine["Authorization"][:-1]}, "unauthenticated"),
            ({**mine, "Authorization": mine["Authorization"].replace("Bearer", "bearer")}, "unauthenticated"),
            ({**mine, "Authorization": other["Authorization"]}, "unauthenticated"),
            ({**mine, "X-Plugin-Runtime-ID": "forged-0000"}, "unauthenticated"),
        ]
        for headers, code in attempts:
            assert await refusal(host.http, path, body, headers) == code
        assert host.host.registry.service_types() == ["logger"]
        assert host.host.registry.available("logger")


async def test_nobody_makes_another_plugin_unhealthy_or_unregisters_its_service() -> None:
    async with running() as host:
        victim = await host.plugin("victim")
        registration = await host.register(victim, "logger")
        attacker = await host.plugin("attacker")
        stolen = {**attacker, "X-Plugin-Runtime-ID": runtime_id(victim)}
        assert (await host.post(REPORT, {"state": 3}, stolen))[0] == 401
        assert await host.post(UNREGISTER, {"registrationId": registration}, attacker) == (
            404,
            {"code": "not_found", "message": f"registration not found: {registration}"},
        )
        assert (await host.post(DISCOVER, {"serviceType": "logger"}, attacker))[0] == 200


@pytest.mark.parametrize("state", [4, 77, -1])
async def test_a_health_state_that_there_is_not_is_refused_and_changes_nothing(state: int) -> None:
    async with running() as host:
        provider = await host.provider("logger")
        await host.post(REPORT, {"state": 3}, provider)
        status, answer = await host.post(REPORT, {"state": state}, provider)
        assert (status, answer["code"]) == (400, "invalid_argument")
        assert not host.host.registry.available("logger")


@pytest.mark.parametrize(
    "body",
    [
        {"reason": "x" * 4097},
        {"unavailableDependencies": ["t"] * 101},
        {"unavailableDependencies": ["a/b"]},
    ],
)
async def test_a_health_report_cannot_be_without_bounds(body: dict[str, Any]) -> None:
    async with running() as host:
        status, answer = await host.post(REPORT, body, await host.plugin("p"))
        assert (status, answer["code"]) == (400, "invalid_argument")


@pytest.mark.parametrize(
    "body", [{"serviceType": ""}, {"serviceType": "a/b"}, {"serviceType": "t", "minVersion": "x"}]
)
async def test_a_discovery_that_makes_no_sense_is_an_invalid_argument(body: dict[str, Any]) -> None:
    async with running() as host:
        await host.provider("t")
        status, answer = await host.post(DISCOVER, body, await host.plugin("p"))
        assert (status, answer["code"]) == (400, "invalid_argument")


async def test_a_plugins_identity_ends_with_all_that_it_registered() -> None:
    async with running(HostConfig(unrenewed_token_ttl_s=0.0, token_ttl_s=0.0)) as host:
        stale, _ = host.host.identities.issue("stale")
        host.host.registry.register(stale.runtime_id, "t", "1.0.0", "/", {})
        host.host.identities.issue("next")
        assert not host.host.registry.available("t")


@pytest.mark.parametrize(
    ("base_url", "status"),
    [
        ("http://192.0.2.7:8082", 200),
        ("http://[::ffff:192.0.2.7]:8082", 200),
        ("", 200),
        ("no url", 200),
        ("http://127.0.0.1:8080", 403),
        ("http://localhost:8080", 403),
        ("http://169.254.169.254/latest/meta-data/", 403),
        ("http://192.0.2.8:8082", 403),
        ("http://no-such-name.invalid:1", 503),
        (f"http://{'x' * 70}.invalid:1", 503),
        ("http://a..b:1", 503),
    ],
)
async def test_a_plugin_elsewhere_sends_the_host_to_its_own_address_only(base_url: str, status: int) -> None:
    body = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/", "metadata": {"base_url": base_url}}
    async with running(client=("192.0.2.7", 40000)) as host:
        answer = await host.post(REGISTER, body, await host.plugin("p"))
        assert answer[0] == status
        assert host.host.registry.available("t") == (status == 200)
        if status == 403:
            assert (
                "not at the address that this plugin's handshake came from: 192.0.2.7" in answer[1]["message"]
            )


async def test_a_network_that_needs_it_can_let_plugins_name_any_url() -> None:
    body = {
        "serviceType": "t",
        "version": "1.0.0",
        "endpointPath": "/",
        "metadata": {"base_url": "http://192.0.2.8"},
    }
    async with running(HostConfig(base_urls=BaseUrls.ANY), ("192.0.2.7", 1)) as host:
        assert (await host.post(REGISTER, body, await host.plugin("p")))[0] == 200


async def test_what_was_checked_is_what_is_kept() -> None:
    body = {
        "serviceType": "t",
        "version": "1.0.0",
        "endpointPath": "/",
        "metadata": {"base_url": f"http://{socket.gethostname()}:1"},
    }
    async with running() as host:
        assert (await host.post(REGISTER, body, await host.plugin("p")))[0] == 200
        address = host.host.registry.discover("t")[0].address
        assert address in {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), 1)}


async def test_a_bad_registration_is_refused_before_any_name_is_looked_up() -> None:
    body = {"serviceType": "", "metadata": {"base_url": "http://no-such-name.invalid"}}
    async with running(client=("192.0.2.7", 40000)) as host:
        assert (await host.post(REGISTER, body, await host.plugin("p")))[0] == 400


ENDED = "the identity {} has ended ({}): shake hands again"


@EVERY_CALL
async def test_who_comes_back_with_an_identity_that_has_ended_is_told_so_and_nobody_else_is(
    path: str, body: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with running(HostConfig(unrenewed_token_ttl_s=3600)) as host:
        silent, other = await host.provider("t"), await host.plugin("other")
        lapsed = ENDED.format(runtime_id(silent), "no sign of life for 30 s")
        await trio.sleep(31)
        stolen = {**other, "X-Plugin-Runtime-ID": runtime_id(silent)}
        unknown = {**silent, "X-Plugin-Runtime-ID": "t-plugin-0000000000000000"}
        for headers, message in [(silent, lapsed), (stolen, "invalid token"), (unknown, "invalid token")]:
            error = {"code": "unauthenticated", "message": message}
            assert await refused(host.http, path, body, headers) == error
        await trio.sleep(3600)
        expired = ENDED.format(runtime_id(other), "it has expired")
        assert (await refused(host.http, path, body, other))["message"] == expired


async def test_the_router_says_of_an_identity_that_has_ended_what_other_hosts_say(
    autojump_clock: MockClock,
) -> None:
    async with running() as host:
        silent = await host.provider("t")
        await trio.sleep(31)
        answer = await host.http.get(f"/services/t/{runtime_id(silent)}/M", headers=silent)
        assert (answer.status_code, answer.text) == (401, "invalid token\n")


async def test_a_watch_that_outlives_its_caller_says_why_it_ends(autojump_clock: MockClock) -> None:
    async with running() as host:
        silent = await host.provider("t")
        *_, end = await watch(host.http, silent)
    message = ENDED.format(runtime_id(silent), "no sign of life for 30 s")
    assert end["error"] == {"code": "unauthenticated", "message": message}


async def watch(http: httpx.AsyncClient, headers: Headers) -> list[Any]:
    """Watch to the end; return what came."""
    content = b'{"serviceType": "t"}'
    frame = b"\0" + len(content).to_bytes(4, "big") + content
    response = await http.post(
        WATCH, content=frame, headers={**headers, "content-type": "application/connect+json"}
    )
    data, messages = response.content, []
    while data:
        length = int.from_bytes(data[1:5], "big")
        messages.append(json.loads(data[5 : 5 + length]))
        data = data[5 + length :]
    return messages


async def test_a_watch_ends_when_its_caller_may_not_call_the_service_any_more() -> None:
    class Changing(Policy):
        def may_call(self, _plugin: Identity, _service_type: str, /) -> bool:
            return not host.host.registry.service_types()

    async with running(HostConfig(policy=Changing())) as host, trio.open_nursery() as nursery:
        watcher = await host.plugin("p")
        messages: list[Any] = []

        async def follow() -> None:
            messages.extend(await watch(host.http, watcher))

        nursery.start_soon(follow)
        await eventually(lambda: bool(host.host.watches.watchers("t")))
        await host.provider("t")
    assert messages[0]["state"] == "SERVICE_STATE_UNAVAILABLE"
    assert [message["error"]["code"] for message in messages[1:]] == ["permission_denied"]


async def test_a_watch_ends_with_the_identity_that_opened_it() -> None:
    async with running(HostConfig(unrenewed_token_ttl_s=0.3)) as host:
        with trio.fail_after(10):
            *_, end = await watch(host.http, await host.plugin("p"))
    assert end["error"]["code"] == "unauthenticated"


async def test_a_watch_that_runs_out_of_time_ends_in_good_order() -> None:
    async with running() as host:
        with trio.fail_after(10):
            messages = await watch(host.http, {**await host.plugin("p"), "connect-timeout-ms": "200"})
    assert messages == [{"serviceType": "t", "state": "SERVICE_STATE_UNAVAILABLE"}, {}]


async def test_a_provider_whose_identity_has_expired_is_not_offered() -> None:
    async with running(HostConfig(unrenewed_token_ttl_s=0.2)) as host:
        await host.provider("t")
        await trio.sleep(0.1)
        caller = await host.plugin("p")
        await trio.sleep(0.15)
        assert (await host.post(DISCOVER, {"serviceType": "t"}, caller))[0] in {404, 401}
        assert not host.host.registry.available("t")


async def test_no_token_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with running() as host:
        headers = await host.provider("t")
        await host.post(REPORT, {"state": 3}, {**headers, "Authorization": "Bearer planted-secret"})
    assert "t-plugin" in caplog.text
    assert headers["Authorization"].removeprefix("Bearer ") not in caplog.text
    assert "planted-secret" not in caplog.text


async def test_no_plugin_forges_a_line_of_the_log_by_what_it_says_of_its_health(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with running() as host:
        me = await host.provider("t")
        report = {"state": 2, "reason": "a\r\n[AUDIT] {}\x1b[2K\u2028" + "b" * 4000}
        assert (await host.post(REPORT, report, me))[0] == 200
        assert host.host.registry.health(runtime_id(me)).reason == report["reason"]
    (said,) = [r.getMessage() for r in caplog.records if "reports DEGRADED" in r.getMessage()]
    assert said.isprintable()
    assert "a\\r\\n[AUDIT]" in said
    assert len(said) < 1000


# What a plugin may provide and call


@pytest.mark.parametrize(
    ("metadata", "service_type", "status"),
    [
        ({}, "anything", 200),
        ({"provides": "t,u"}, "t", 200),
        ({"provides": "t,u"}, "u", 200),
        ({"provides": "t,u"}, "v", 403),
        ({"provides": ""}, "t", 403),
        ({"requires": "t"}, "t", 200),
    ],
)
async def test_a_plugin_that_says_what_it_provides_provides_nothing_else(
    metadata: dict[str, str], service_type: str, status: int
) -> None:
    async with running() as host:
        me = await introduced(host, "p", metadata)
        body = {"serviceType": service_type, "version": "1.0.0", "endpointPath": "/"}
        answered, answer = await host.post(REGISTER, body, me)
        assert answered == status
        assert bool(host.host.registry.service_types()) == (status == 200)
        if status == 403:
            assert answer["message"] == f"p may not provide {service_type}"


async def introduced(host: WireCaller, self_id: str, metadata: dict[str, str]) -> Headers:
    body = {**COOKIE, **VERSIONS, "selfId": self_id, "clientMetadata": metadata}
    status, answer = await host.post(HANDSHAKE, body)
    assert status == 200
    return {
        "X-Plugin-Runtime-ID": answer["runtimeId"],
        "Authorization": f"Bearer {answer['runtimeToken']}",
    }


@pytest.mark.parametrize("types", ["a,,b", ",".join(f"t{number}" for number in range(101))])
@pytest.mark.parametrize("key", ["provides", "requires"])
async def test_a_declaration_that_makes_no_sense_gets_no_identity(key: str, types: str) -> None:
    async with running() as host:
        body = {**COOKIE, **VERSIONS, "selfId": "p", "clientMetadata": {key: types}}
        assert (await host.post(HANDSHAKE, body))[0] == 400
        assert len(host.host.identities) == 0


@pytest.mark.parametrize("path", [DISCOVER, WATCH])
async def test_a_plugin_that_says_what_it_requires_is_told_of_nothing_else(path: str) -> None:
    async with running() as host:
        await host.provider("t")
        me = await introduced(host, "p", {"requires": "other"})
        error = await refused(host.http, path, {"serviceType": "t"}, me)
        assert error == {
            "code": "permission_denied",
            "message": f"{runtime_id(me)} may not call t",
        }


async def test_nobody_takes_a_service_over_from_another_plugin_while_that_provides_it() -> None:
    body = {"serviceType": "t", "version": "9.9.9", "endpointPath": "/"}
    async with running() as host:
        victim = await host.plugin("victim")
        registration = await host.register(victim, "t")
        attacker = await host.plugin("attacker")
        status, answer = await host.post(REGISTER, body, attacker)
        assert (status, answer["code"]) == (403, "permission_denied")
        assert answer["message"] == "t is provided by victim, and no policy says that attacker may, too"
        assert await host.discover("t", attacker) == runtime_id(victim)
        await host.register(await host.plugin("victim"), "t")  # a replica
        await host.post(UNREGISTER, {"registrationId": registration}, victim)
        assert (await host.post(REGISTER, body, attacker))[0] == 403


async def test_a_plugin_provides_nothing_any_more_that_the_policy_has_come_to_deny(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path, events = tmp_path / "policy", list[AuditEvent]()
    path.write_text('rules = "none"')
    async with running(HostConfig(policy=Policy.from_file(path))) as host:
        host.host.audit.subscribe(events.append)
        mine, other = await host.provider("t"), await host.provider("u")
        path.write_text('[services.t]\nproviders = ["another"]\n')
        await trio.sleep(1)
        assert (await host.post(REPORT, {"state": 1}, other))[0] == 200
        assert host.host.registry.service_types() == ["u"]
        routed = await host.http.post(f"/services/t/{runtime_id(mine)}/M", headers=other)
        assert routed.status_code == 404
    refused = [event for event in events if event.action is Action.REGISTER and not event.allowed]
    assert [(event.subject, event.target) for event in refused] == [(runtime_id(mine), "t")]
    assert autojump_clock.rate == 0


async def test_where_no_plugin_reports_the_next_probe_takes_out_what_the_policy_has_come_to_deny(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "policy"
    path.write_text('rules = "none"')
    leases = LeaseConfig(lease_s=30, heartbeat_s=5)
    async with running(HostConfig(policy=Policy.from_file(path), leases=leases)) as host:
        await host.provider("t")
        path.write_text('[services.t]\nproviders = ["another"]\n')
        await trio.sleep(10)
        assert host.host.registry.service_types() == []


async def test_a_host_that_begins_anew_offers_nothing_that_its_policy_denies(tmp_path: Path) -> None:
    state, keys = tmp_path / "state", Keys(["k" * 32])
    async with running(HostConfig(state_path=state, keys=keys)) as host:
        await host.provider("t")
        caller = await host.plugin("c")
    policy = Policy(Rules(services={"t": ServiceRules(providers=["another"])}))
    async with running(HostConfig(state_path=state, keys=keys, policy=policy)) as host:
        assert await host.discover("t", caller) == 'no providers for service "t"'


async def test_rules_are_applied_when_a_policy_that_has_failed_works_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Policy):
        works = False

        def may_provide(self, _plugin: Identity, _service_type: str, /) -> bool:
            if not self.works and _plugin.runtime_id in provided:
                raise RuntimeError("it is broken")
            return _plugin.runtime_id not in provided

    policy, provided = Failing(), set[str]()
    async with running(HostConfig(policy=policy)) as host:
        plugin = await host.provider("t")
        provided.add(runtime_id(plugin))
        policy._rules = Rules()
        for _ in range(10):
            assert (await host.post(REPORT, {"state": 1}, plugin))[0] == 200
        assert host.host.registry.service_types() == ["t"]
        assert caplog.text.count("RuntimeError: it is broken") == 1
        policy.works = True
        assert (await host.post(REPORT, {"state": 1}, plugin))[0] == 200
        assert host.host.registry.service_types() == []


async def test_a_policy_of_ones_own_is_asked_for_each_routed_call() -> None:
    class Changing(Policy):
        permits = True

        def may_call(self, _plugin: Identity, _service_type: str, /) -> bool:
            return self.permits

    policy, events = Changing(), list[AuditEvent]()
    async with running(HostConfig(policy=policy)) as host:
        provider, caller = await host.provider("t"), await host.plugin("c")
        host.host.audit.subscribe(events.append)
        path, statuses = f"/services/t/{runtime_id(provider)}/M", list[int]()
        for policy.permits in (True, True, False, True):
            statuses.append((await host.http.post(path, headers=caller)).status_code)
    without_url = 404
    assert statuses == [without_url, without_url, 403, without_url]
    assert [event.allowed for event in events if event.action is Action.CALL] == [True, False, True]


async def test_a_victim_that_is_down_is_no_more_displaced_than_one_that_is_up() -> None:
    body = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/"}
    async with running() as host:
        victim = await host.provider("t")
        await host.post(REPORT, {"state": 3}, victim)
        assert (await host.post(REGISTER, body, await host.plugin("attacker")))[0] == 403


async def test_what_a_registration_says_of_where_a_plugin_is_is_told_to_nobody() -> None:
    async with running() as host:
        await host.provider("t", "http://127.0.0.1:28081")
        me = await host.plugin("p")
        _, found = await host.post(DISCOVER, {"serviceType": "t"}, me)
        assert "28081" not in json.dumps(found)
        async with host.http.stream("POST", WATCH, content=frame_of("t"), headers=streaming(me)) as response:
            first = await anext(response.aiter_bytes())
        assert b"28081" not in first


def frame_of(service_type: str) -> bytes:
    content = json.dumps({"serviceType": service_type}).encode()
    return b"\0" + len(content).to_bytes(4, "big") + content


def streaming(headers: Headers) -> Headers:
    return {**headers, "content-type": "application/connect+json"}


# Renewal


async def renewed(host: WireCaller, me: Headers, self_id: str = "p") -> tuple[str, Headers]:
    status, answer = await host.post(HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": self_id}, me)
    assert status == 200
    name, token = answer["runtimeId"], answer["runtimeToken"]
    return name, {"X-Plugin-Runtime-ID": name, "Authorization": f"Bearer {token}"}


async def test_a_handshake_that_proves_an_identity_gives_another_token_for_it() -> None:
    async with running() as host:
        me = await host.provider("t")
        name, again = await renewed(host, me, "t-plugin")
        assert name == runtime_id(me)
        assert again["Authorization"] != me["Authorization"]
        for headers in (me, again):
            assert (await host.post(REPORT, {"state": 1}, headers))[0] == 200
        assert host.host.registry.available("t")


async def test_a_handshake_that_proves_nothing_or_another_plugin_gives_an_identity_of_its_own() -> None:
    async with running() as host:
        me = await host.plugin("p")
        wrong = {**me, "Authorization": me["Authorization"][:-2]}
        for headers, self_id in ((wrong, "p"), (me, "other"), ({}, "p")):
            name, _ = await renewed(host, headers, self_id)
            assert name != runtime_id(me)
            assert name.startswith(f"{self_id}-")


@pytest.mark.parametrize(("metadata", "ttl_ms"), [({}, "86400000"), ({"renews": "true"}, "900000")])
async def test_who_asks_for_new_tokens_in_time_gets_short_ones(metadata: dict[str, str], ttl_ms: str) -> None:
    async with running() as host:
        body = {**COOKIE, **VERSIONS, "selfId": "p", "clientMetadata": metadata}
        _, answer = await host.post(HANDSHAKE, body)
        assert answer["serverMetadata"]["token_ttl_ms"] == ttl_ms


async def test_a_watch_outlives_the_token_that_it_was_begun_with_if_that_is_renewed(
    autojump_clock: MockClock,
) -> None:
    config = HostConfig(unrenewed_token_ttl_s=60, token_ttl_s=60)
    async with running(config) as host:
        me = await host.plugin("p")
        async with host.http.stream("POST", WATCH, content=frame_of("t"), headers=streaming(me)) as response:
            chunks = response.aiter_bytes()
            await anext(chunks)
            await trio.sleep(40)
            _, me = await renewed(host, me)
            await trio.sleep(40)
            await host.provider("t")
            assert b"AVAILABLE" in await anext(chunks)
            with pytest.raises(StopAsyncIteration):
                while True:
                    last = await anext(chunks)
        assert b"unauthenticated" in last
