"""A plugin calls any host of a directory: the host that owns it answers, as if it had been called."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, cast

import attrs
import grpc
import httpx
import pytest
import trio

from cpg_trio import HealthState
from cpg_trio.assertions import Assertion, Purpose, sign
from cpg_trio.host import AuditEvent, Keys, Peer, Rate, RateLimits
from cpg_trio.host.cluster import barrier
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.store import Commit, MemoryStore
from cpg_trio.wire import token_digest
from tests.host.calls import COOKIE, HANDSHAKE, REGISTER, REPORT, UNREGISTER, VERSIONS, Headers, runtime_id
from tests.host.cluster.late import Late
from tests.host.cluster.serving import Served, serving_hosts, until
from tests.host.rpcs import renewed
from tests.http.peers import Peer as RawPeer, serving as peers, url_of
from tests.plugin.running import unused_port

SERVICE = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/t/"}
HEALTHY = {"state": "HEALTH_STATE_HEALTHY"}
FORWARDED = "X-Plugin-Forwarded"


async def test_a_plugin_registers_reports_and_leaves_at_any_host_and_its_owner_stays() -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.plugin("p")
        status, answer = await b.calls.post(REGISTER, SERVICE, me)  # its document may not be there yet
        assert status == 200
        await until(lambda: b.is_callable(me))
        assert a.owns(me)
        assert not b.owns(me)
        unhealthy = {"state": "HEALTH_STATE_UNHEALTHY", "reason": "ill"}
        response = await b.send(REPORT, unhealthy, me)
        assert response.status_code == 200
        assert response.headers["x-plugin-host-id"] == a.host.registry.id == b.host.registry.id
        assert a.host.registry.health(runtime_id(me)).reason == "ill"
        await until(lambda: b.host.registry.health(runtime_id(me)).reason == "ill")
        assert (await b.calls.post(UNREGISTER, {"registrationId": answer["registrationId"]}, me))[0] == 200
        assert not a.host.registry.provides("t")
        await until(lambda: not b.host.registry.provides("t"))
        assert a.owns(me)


async def test_a_host_that_does_not_know_a_plugin_yet_finds_out_who_owns_it_before_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(barrier, "_MOST_S", 30.0)  # however busy the machine is
    store = MemoryStore()
    late = Late(store)
    async with serving_hosts(store, late) as (a, b):
        late.hold()
        me = await a.calls.plugin("p")
        answers: list[int] = []
        async with trio.open_nursery() as nursery:

            async def register() -> None:
                answers.append((await b.calls.post(REGISTER, SERVICE, me))[0])

            nursery.start_soon(register)
            await trio.sleep(0.2)
            assert not answers
            late.let_go.set()
        assert answers == [200]
        assert a.owns(me)
        assert a.host._liveness.lease(runtime_id(me)) is not None
        assert b.host._liveness.lease(runtime_id(me)) is None


async def test_each_heartbeat_keeps_the_lease_whichever_host_it_reaches() -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.provider("t")
        lease = a.host._liveness._leases[runtime_id(me)]
        before = lease.last_sign
        assert (await b.calls.post(REPORT, HEALTHY, me))[0] == 200
        assert lease.last_sign > before
        assert not b.host._liveness._leases


async def test_a_token_is_renewed_at_any_host_and_good_at_each() -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.plugin("p")
        name, again = await renewed(b.calls, me)
        assert name == runtime_id(me)
        for host in (a, b):
            assert (await host.calls.post(REPORT, HEALTHY, again))[0] == 200
        assert a.owns(me)
        assert not b.owns(me)


async def test_a_handshake_that_another_host_answers_tells_of_the_host_that_was_called() -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.plugin("p")
        body = {**COOKIE, **VERSIONS, "selfId": "p"}
        own, forwarded = [(await host.calls.post(HANDSHAKE, body, me))[1] for host in (a, b)]
        for answer, host in ((own, a), (forwarded, b)):
            assert all(each["endpoint"].startswith(host.url) for each in answer["hostCapabilities"])
        assert own["serverMetadata"] == forwarded["serverMetadata"]


async def test_the_owner_sees_the_plugin_and_not_the_host_in_between() -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.plugin("p")
        body = {**COOKIE, **VERSIONS, "selfId": "p"}
        assert (await b.send(HANDSHAKE, body, me, "127.0.0.7")).status_code == 200
        entry = a.host.identities.entry(runtime_id(me))
        assert entry is not None
        assert entry.identity.address == "127.0.0.7"


async def test_the_owner_asks_for_the_certificate_that_the_plugin_has_shown_to_the_other_host() -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.plugin("p")
        for names, status in ((("p",), 200), ((), 200), (("other",), 401)):
            stated = b.stated(a, REPORT, runtime_id(me), time.time(), Peer("192.0.2.7", names))
            assert (await a.send(REPORT, HEALTHY, {**me, **stated})).status_code == status


async def test_a_plugin_that_speaks_grpc_may_call_any_host() -> None:
    def report(host: Served, state: int) -> None:
        with grpc.insecure_channel(host.url.removeprefix("http://")) as channel:
            channel.unary_unary(
                REPORT,
                request_serializer=pb.ReportHealthRequest.SerializeToString,
                response_deserializer=pb.ReportHealthResponse.FromString,
            )(
                pb.ReportHealthRequest(state=state),  # type: ignore[arg-type] # it may be one that there is not
                metadata=tuple((name.lower(), value) for name, value in me.items()),
                timeout=10,
            )

    async with serving_hosts() as (a, b):
        me = await a.calls.provider("t")
        await trio.to_thread.run_sync(report, b, pb.HEALTH_STATE_DEGRADED)
        assert a.host.registry.health(runtime_id(me)).state is HealthState.DEGRADED
        with pytest.raises(grpc.RpcError) as caught:
            await trio.to_thread.run_sync(report, b, 77)
        error = cast("grpc.Call", caught.value)
        assert (error.code(), error.details()) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "unknown health state: 77",
        )


async def test_a_host_is_called_by_the_name_in_its_peer_url() -> None:
    store = MemoryStore()
    for named, status in ((True, 200), (False, 503)):
        port = unused_port()
        url = f"http://a.hosts.example:{port}"
        peer = {"peer_url": url} if named else {}
        async with (
            serving_hosts(store, bind=f"127.0.0.1:{port}", **peer) as (a,),
            serving_hosts(store) as (b,),
        ):
            me = await a.calls.plugin("p")
            await until(lambda host=b, plugin=me: host.knows(plugin))
            member = b.host.owners.members[a.id]
            b.host.owners.members[a.id] = attrs.evolve(member, url=url, address="127.0.0.1")
            assert (await b.send(REPORT, HEALTHY, me)).status_code == status


async def test_a_refusal_comes_back_as_the_owner_has_made_it() -> None:
    async with serving_hosts() as (a, b):
        await a.calls.register(await a.calls.plugin("first"), "t")
        me = await a.calls.plugin("second")
        await until(lambda: b.host.identities.entry(runtime_id(me)) is not None)
        for path, body in (
            (REGISTER, SERVICE),
            (REGISTER, {**SERVICE, "serviceType": "/"}),
            (UNREGISTER, {"registrationId": "reg-x"}),
            (REPORT, {"state": 77}),
        ):
            own, forwarded = [await host.send(path, body, me) for host in (a, b)]
            assert own.status_code == forwarded.status_code >= 400
            assert own.json() == forwarded.json()
            for name in ("retry-after", "x-plugin-host-id", "x-plugin-fault", "x-plugin-undelivered"):
                assert own.headers.get(name) == forwarded.headers.get(name)
        assert (await b.send(REGISTER, SERVICE, me)).headers["retry-after"] == "1"


async def test_an_identity_that_has_ended_has_ended_at_each_host_within_a_second() -> None:
    async with serving_hosts() as (a, b):
        for revoking in (a, b):
            me = await a.calls.provider("t")
            assert (await b.calls.post(REPORT, HEALTHY, me))[0] == 200
            await revoking.host.revoke_identity(runtime_id(me), "bad")
            await until(lambda: not (a.host.registry.provides("t") or b.host.registry.provides("t")), 1)
            for host in (a, b):
                assert (await host.calls.post(REPORT, HEALTHY, me))[0] == 401


async def test_calls_are_counted_at_the_host_that_is_called() -> None:
    async with serving_hosts(rates=RateLimits(unregister=Rate(0.001, 1))) as (a, b):
        me = await a.calls.plugin("p")
        body = {"registrationId": "reg-x"}
        assert (await b.send(UNREGISTER, body, me)).status_code == 404
        refused = await b.send(UNREGISTER, body, me)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 1
        assert (await a.send(UNREGISTER, body, me)).status_code == 404
        assert (await a.send(UNREGISTER, body, me)).status_code == 429


# Attackers


def denied(host: Served) -> list[AuditEvent]:
    events: list[AuditEvent] = []
    host.host.audit.subscribe(lambda event: None if event.allowed else events.append(event))
    return events


async def refused(host: Served, path: str, body: dict[str, Any], headers: dict[str, str]) -> str:
    """Return why a call is refused to somebody who passes himself off as a host."""
    response = await host.send(path, body, headers)
    assert response.status_code == 403, response.text
    assert response.json()["code"] == "permission_denied"
    return str(response.json()["message"])


async def test_what_a_plugin_signs_or_makes_up_is_no_statement_of_a_host() -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.plugin("p")
        token = me["Authorization"].removeprefix("Bearer ")
        claim = Assertion(b.id, "", a.id, REPORT, time.time() + 10)
        events = denied(a)
        forged = [
            "",
            "true",
            b.id,
            token,
            *(sign(token_digest(token), purpose, claim) for purpose in Purpose),
            b.stated(a, REPORT, runtime_id(me), time.time())[FORWARDED][:-1] + "x",
        ]
        for each in forged:
            assert "no host with this key" in await refused(a, REPORT, HEALTHY, {**me, FORWARDED: each})
            assert "no host" in await refused(b, REPORT, HEALTHY, {**me, FORWARDED: each})
        assert len(events) == len(forged)
        assert events[0].subject == runtime_id(me)
        assert events[0].address == "127.0.0.1"


async def test_who_passes_for_a_host_is_counted_as_one_who_proves_nothing() -> None:
    rates = RateLimits(failed_authentication=Rate(0.001, 2))
    async with serving_hosts(rates=rates) as (a, _):
        me = await a.calls.plugin("p")
        answers = [await a.send(REPORT, HEALTHY, {**me, FORWARDED: "x"}) for _ in range(4)]
        assert [each.status_code for each in answers] == [403, 403, 429, 429]
        assert (await a.send(REPORT, HEALTHY, me)).status_code == 200


async def test_a_statement_that_is_seen_is_of_no_use_for_another_call() -> None:
    store = MemoryStore()
    async with serving_hosts(store, store, store) as (a, b, c):
        me, other = await a.calls.plugin("p"), await a.calls.plugin("other")
        seen = b.stated(a, REPORT, runtime_id(me), time.time(), Peer("192.0.2.9"))
        assert (await a.send(REPORT, HEALTHY, {**me, **seen})).status_code == 200
        handshake = {**COOKIE, **VERSIONS, "selfId": "p"}
        attempts: list[tuple[Served, str, dict[str, Any], Headers]] = [
            (a, REGISTER, SERVICE, {**me, **seen}),  # another method
            (a, HANDSHAKE, handshake, {**me, **seen}),
            (a, REPORT, HEALTHY, {**other, **seen}),  # another plugin
            (c, REPORT, HEALTHY, {**me, **seen}),  # another host
            (b, REPORT, HEALTHY, {**me, **seen}),
        ]
        for host, path, body, headers in attempts:
            assert "for another" in await refused(host, path, body, headers)
        for late_s, why in ((-3600, "has expired"), (3600, "from now")):
            old = b.stated(a, REPORT, runtime_id(me), time.time() + late_s)
            assert why in await refused(a, REPORT, HEALTHY, {**me, **old})
        without_proof = {**me, **seen, "Authorization": other["Authorization"]}
        assert (await a.send(REPORT, HEALTHY, without_proof)).status_code == 401


async def test_a_host_that_shares_its_directory_with_nobody_takes_no_statement() -> None:
    async with serving_hosts() as (a, _), serving_hosts(None) as (alone,):
        me = await alone.calls.plugin("p")
        for host in (a, alone):
            seen = host.stated(alone, REPORT, runtime_id(me), time.time())
            assert "with nobody" in await refused(alone, REPORT, HEALTHY, {**me, **seen})


# Owners that are gone, or not the owners any more


async def answer_of(host: Served, path: str, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    """Return an answer that says that nobody has seen the call."""
    response = await host.send(path, body, headers)
    assert response.status_code == 503
    assert response.json()["code"] == "unavailable"
    assert response.headers["x-plugin-undelivered"] == "true"
    assert response.headers["x-plugin-fault"] == "host"
    return response


async def test_a_forwarded_call_is_forwarded_to_nobody() -> None:
    store = MemoryStore()
    async with serving_hosts(store, store, store) as (a, b, c):
        me = await a.calls.provider("t")
        await until(lambda: b.is_callable(me))
        response = await answer_of(
            b, REPORT, HEALTHY, {**me, **c.stated(b, REPORT, runtime_id(me), time.time())}
        )
        assert response.headers["x-plugin-forwarded"] == "not-owner"
        assert "does not own" in response.json()["message"]


async def test_a_host_that_is_told_that_another_does_not_own_a_plugin_any_more_looks_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(barrier, "_MOST_S", 30.0)  # however busy the machine is
    store = MemoryStore()
    late = Late(store)
    async with serving_hosts(store, late, store) as (a, b, c):
        me = await a.calls.provider("t")
        while takes_over_first(b, c, me):
            me = await a.calls.provider("t")
        await until(lambda: b.is_callable(me) and c.is_callable(me))
        late.hold()
        await store.commit(Commit(deletes=[f"hosts/{a.id}"]))
        await until(lambda: c.owns(me))
        assert b.host.owners.owner(runtime_id(me)) == a.id
        async with trio.open_nursery() as nursery:

            async def report() -> None:
                assert (await b.calls.post(REPORT, HEALTHY, me))[0] == 200

            nursery.start_soon(report)
            await trio.sleep(0.1)
            late.let_go.set()
        assert b.host.owners.owner(runtime_id(me)) == c.id


def takes_over_first(b: Served, c: Served, plugin: dict[str, str]) -> bool:
    """Whether the host `b` is the first to take over a plugin."""
    members = b.host.owners.members
    return members[b.id].rank(runtime_id(plugin)) < members[c.id].rank(runtime_id(plugin))


async def test_an_owner_that_cannot_be_reached_makes_a_call_one_that_nobody_has_seen() -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.provider("t")
        await until(lambda: b.is_callable(me))
        gone = attrs.evolve(b.host.owners.members[a.id], url=f"http://127.0.0.1:{unused_port()}")
        b.host.owners.members[a.id] = gone
        assert "cannot be reached" in (await answer_of(b, REPORT, HEALTHY, me)).json()["message"]
        b.host.owners.members[a.id] = attrs.evolve(gone, url="")
        assert "does not say where" in (await answer_of(b, REPORT, HEALTHY, me)).json()["message"]


async def test_a_host_that_has_come_up_where_an_owner_was_is_not_taken_for_one_with_another_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.provider("t")
        await until(lambda: b.is_callable(me))
        b.host.owners.members[a.id] = attrs.evolve(b.host.owners.members[a.id], id="its-former-run")
        assert "does not any more" in (await answer_of(b, REPORT, HEALTHY, me)).json()["message"]
    assert "does not accept" not in caplog.text


async def test_an_owner_that_breaks_off_leaves_open_whether_it_has_seen_the_call() -> None:
    async def breaking_off(peer: RawPeer) -> None:
        await peer.receive_head()

    async def another_server(peer: RawPeer) -> None:
        while await peer.receive_head():
            await peer.send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

    async with serving_hosts() as (a, b):
        me = await a.calls.provider("t")
        await until(lambda: b.is_callable(me))
        for handler in (breaking_off, another_server):
            async with peers(handler) as origin:
                moved = attrs.evolve(b.host.owners.members[a.id], url=url_of(origin))
                b.host.owners.members[a.id] = moved
                response = await b.send(REPORT, HEALTHY, me)
                assert (response.status_code, response.json()["code"]) == (503, "unavailable")
                assert "x-plugin-undelivered" not in response.headers


async def test_an_owner_that_is_silent_costs_a_plugin_no_more_than_half_of_its_time() -> None:
    async def silent(peer: RawPeer) -> None:
        await peer.receive_head()
        await trio.sleep_forever()

    async with peers(silent) as origin, serving_hosts() as (a, b):
        me = await a.calls.provider("t")
        await until(lambda: b.is_callable(me))
        b.host.owners.members[a.id] = attrs.evolve(b.host.owners.members[a.id], url=url_of(origin))
        for path, body, timeout_ms in (
            (REPORT, HEALTHY, 30_000),
            (REPORT, HEALTHY, 600),
            (REGISTER, SERVICE, 600),
        ):
            began = trio.current_time()
            response = await b.send(path, body, {**me, "connect-timeout-ms": str(timeout_ms)})
            assert (response.status_code, response.json()["code"]) == (503, "unavailable")
            assert trio.current_time() - began < 2


async def test_hosts_with_different_keys_say_so_and_blame_no_plugin(caplog: pytest.LogCaptureFixture) -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.provider("t")
        await until(lambda: b.is_callable(me))
        b.host._hosts._keys = Keys(["x" * 32])
        response = await answer_of(b, REPORT, HEALTHY, me)
        assert "x-plugin-forwarded" not in response.headers
    assert "does not accept what this host signs; they need the same keys" in caplog.text


async def test_a_plugin_of_a_host_that_has_stopped_is_adopted_by_the_host_that_it_calls() -> None:
    store = MemoryStore()
    async with serving_hosts(store, store, store) as (a, b, c):
        me = await a.calls.provider("t")
        await until(lambda: b.is_callable(me) and c.is_callable(me))
        a.stop.set()
        await until(lambda: a.id not in b.host.owners.members)
        assert (await b.calls.post(REPORT, HEALTHY, me))[0] == 200
        assert (await c.calls.post(REPORT, HEALTHY, me))[0] == 200
        assert b.owns(me) is not c.owns(me)


async def test_a_host_that_is_cut_off_sends_its_plugins_elsewhere_and_no_other_host_says_so_for_it() -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.provider("t")
        await until(lambda: b.is_callable(me))
        a.host.standing.cut_off("the store does not answer")
        response = await a.send(REPORT, HEALTHY, me)
        assert (response.status_code, response.headers["x-plugin-elsewhere"]) == (200, "true")
        response = await b.send(REPORT, HEALTHY, me)
        assert response.status_code == 200
        assert "x-plugin-elsewhere" not in response.headers


async def test_a_host_that_leaves_sends_its_plugins_to_those_that_stay() -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.provider("t")
        await until(lambda: b.is_callable(me))
        a.stop.set()
        await until(lambda: a.host.standing.why_not_ready)
        with suppress(httpx.TransportError):  # it may have stopped by now
            assert (await a.send(REPORT, HEALTHY, me)).headers["x-plugin-elsewhere"] == "true"
        await until(lambda: b.owns(me))
        assert (await b.send(REPORT, HEALTHY, me)).status_code == 200


async def test_a_host_that_is_cut_off_registers_nothing_and_is_quick_to_say_so() -> None:
    async with serving_hosts() as (a, _):
        me = await a.calls.plugin("p")
        a.host.standing.cut_off("the store does not answer")
        with trio.fail_after(1):
            assert (await a.calls.post(REGISTER, SERVICE, me))[0] == 503
            assert (await a.calls.post(HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": "q"}))[0] == 503
        assert not a.host.registry.provides("t")
