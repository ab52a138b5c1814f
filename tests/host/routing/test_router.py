"""The router lets a call through for its caller, in a fixed order of checks."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from cpg_trio.host import (
    HostConfig,
    Identity,
    PluginRules,
    Policy,
    Rate,
    RateLimits,
    Rules,
)
from tests._wire import dial
from tests.host.routed import Recorder, hosting, routing, text
from tests.http.peers import Peer


async def test_a_caller_must_name_and_prove_itself() -> None:
    async with routing() as s:
        start = f"POST {s.path()} HTTP/1.1\r\nHost: localhost\r\n".encode()
        me, token = f"x-plugin-runtime-id: {s.caller}\r\n".encode(), s.token.encode()
        bearer = b"authorization: Bearer %s\r\n"
        other, _ = s.host.identities.issue("other")
        refusals = [
            (start + bearer % token, "X-Plugin-Runtime-ID header required\n"),
            (start + me, "Authorization: Bearer <token> required\n"),
            (start + me + b"authorization: Basic x\r\n", "Authorization: Bearer <token> required\n"),
            (
                start + me + b"authorization: bearer %s\r\n" % token,
                "Authorization: Bearer <token> required\n",
            ),
            (start + me + bearer % b"bad", "invalid token\n"),
            (start + me + bearer % token[:-1], "invalid token\n"),
            (
                start + f"x-plugin-runtime-id: {other.runtime_id}\r\n".encode() + bearer % token,
                "invalid token\n",
            ),
        ]
        for request, body in refusals:
            assert text(await s.call(request + b"\r\n")) == (401, body)


async def test_the_token_is_checked_before_the_provider() -> None:
    async with routing() as s:
        bad = s.head(path="/services/echo/zzzz/M").replace(s.token.encode(), b"bad")
        assert text(await s.call(bad)) == (401, "invalid token\n")


async def test_an_expired_token_is_invalid() -> None:
    async with routing(config=HostConfig(unrenewed_token_ttl_s=0.0, token_ttl_s=0.0)) as s:
        assert text(await s.call(s.head())) == (401, "invalid token\n")


async def test_a_policy_says_who_may_call_what() -> None:
    policy = Policy(Rules(plugins={"caller": PluginRules(calls=["something-else"])}))
    recorder = Recorder()
    async with routing(recorder, config=HostConfig(policy=policy)) as s:
        assert text(await s.call(s.head())) == (403, f"permission denied: {s.caller} may not call echo\n")
        other, token = s.host.identities.issue("other")
        allowed = (
            s.head()
            .replace(s.caller.encode(), other.runtime_id.encode())
            .replace(s.token.encode(), token.encode())
        )
        assert (await s.call(allowed)).status == 200
    assert len(recorder.seen) == 1


async def test_a_policy_that_fails_lets_nothing_pass_and_is_no_line_of_the_log_for_each_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Policy):
        def may_call(self, _plugin: Identity, _service_type: str, /) -> bool:
            raise RuntimeError("the policy is broken")

    recorder = Recorder()
    async with routing(recorder, config=HostConfig(policy=Broken())) as s, dial(s.url) as wire:
        for _ in range(20):
            await wire.send(s.head())
            refused = await wire.response()
            assert text(refused) == (500, "failed to find out whether the call is permitted\n")
            assert refused.header(b"x-plugin-undelivered") == b"true"
    assert recorder.seen == []
    assert caplog.text.count("RuntimeError: the policy is broken") == 1


async def test_head_is_refused_without_a_body() -> None:
    async with routing(Recorder(b"garbage\r\n\r\n")) as s, dial(s.url) as wire:
        for head, status in (
            (s.head("HEAD").replace(s.token.encode(), b"bad"), 401),
            (s.head("HEAD", "/services/echo/nobody-0/M"), 404),
            (s.head("HEAD"), 502),
        ):
            await wire.send(head)
            response = await wire.response(head_only=True)
            assert (response.status, int(response.header(b"content-length") or 0) > 0) == (status, True)
        await wire.send(s.head("GET", "/services/echo"))
        assert (await wire.response()).status == 400  # which is where the next answer begins


async def test_a_target_in_absolute_form_is_routed_and_goes_on_as_a_path() -> None:
    recorder = Recorder()
    async with routing(recorder) as s:
        absolute = s.head("GET", f"http://somewhere.example:1{s.path('M?a=b')}")
        assert (await s.call(absolute)).status == 200
        refused = s.head("GET", "http://h/services/echo")
        assert (await s.call(refused)).status == 400
    assert recorder.line == b"GET /echo.v1.Echo/M?a=b HTTP/1.1"
    assert not [value for _, value in recorder.headers if b"somewhere" in value]


async def test_a_target_in_absolute_form_reaches_the_hosts_own_services() -> None:
    async with hosting() as (_, url), dial(url) as wire:
        await wire.send(b"GET http://h.example/healthz HTTP/1.1\r\nHost: other\r\n\r\n")
        assert (await wire.response()).status == 200


async def test_a_tunnel_is_not_made() -> None:
    async with routing() as s:
        assert (await s.call(s.head("CONNECT"))).status == 400


async def test_a_call_of_a_caller_whose_identity_has_ended_ends_at_both_sides() -> None:
    begun, left = trio.Event(), trio.Event()

    async def stream(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await peer.receive_to_end()
        left.set()

    async with routing(stream) as s, dial(s.url) as wire:
        await wire.send(s.head())
        assert (await wire.head()).status == 200
        await s.host.revoke_identity(s.caller)
        assert b"0\r\n\r\n" not in await wire.rest()
        await left.wait()

    async def wait(peer: Peer) -> None:
        await peer.receive_head()
        begun.set()
        await peer.receive_to_end()

    async with routing(wait) as s, dial(s.url) as wire:
        await wire.send(s.head())
        await begun.wait()
        await s.host.revoke_identity(s.caller)
        assert text(await wire.response()) == (401, "invalid token\n")
        assert s.host.registry.available("echo")


async def test_malformed_paths_count_as_failed_authentications() -> None:
    config = HostConfig(rates=RateLimits(failed_authentication=Rate(0.001, 2)))
    async with routing(config=config) as s:
        statuses = [(await s.call(s.head(path="/services/echo"))).status for _ in range(3)]
        assert statuses == [400, 400, 429]
        assert (await s.call(s.head())).status == 200
