"""The router: who may pass, what is passed on, and that nothing waits for the whole of anything.

There are two ways through it, and a caller is not to notice which one it has: all of this holds on both.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import ServiceRegistryClient
from cpg_trio.host import (
    Health,
    Host,
    HostConfig,
    Identity,
    LeaseConfig,
    PluginRules,
    Policy,
    Rules,
)
from cpg_trio.host.routing.call_log import go_duration
from cpg_trio.http import ServeConfig
from cpg_trio.rpc import ClientConfig
from tests._wire import dial, dial_http2, trusted
from tests.host.routed import USUAL, Recorder, Setting, hosting, lane, routing, silent_address, text
from tests.http.peers import OK, Peer, serving, url_of
from tests.plugin.running import eventually
from tests.test_paths import TRAVERSALS

__all__ = ["lane"]  # a fixture

UNHEALTHY = Health(3)  # type: ignore[arg-type]
DEGRADED = Health(2)  # type: ignore[arg-type]

pytestmark = pytest.mark.usefixtures("lane")

# Refusals


@pytest.mark.parametrize(
    "path", ["/services/", "/services/echo", "/services/echo/id", "/services//id/M", "/services/echo//M"]
)
async def test_a_path_without_type_provider_and_method_is_400(path: str) -> None:
    async with routing() as s:
        assert text(await s.call(s.head(path=path))) == (
            400,
            "invalid service path format, expected /services/{type}/{provider-id}/{method}\n",
        )


async def test_a_path_that_some_reader_takes_out_of_its_service_is_400() -> None:
    recorder = Recorder()
    async with routing(recorder) as s:
        paths = [s.path(method) for method in TRAVERSALS]
        for path in [*paths, f"/services/..%2fecho/{s.provider}/M", "/services/echo/../M"]:
            assert (await s.call(s.head(path=path))).status == 400, path
    assert recorder.seen == []


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


async def test_an_unknown_provider_is_404() -> None:
    async with routing() as s:
        assert text(await s.call(s.head(path="/services/echo/echo-zzzz/M"))) == (
            404,
            "provider not found: echo-zzzz\n",
        )


async def test_a_provider_of_another_type_is_404() -> None:
    async with routing() as s:
        assert text(await s.call(s.head(path=f"/services/whatever/{s.provider}/M"))) == (
            404,
            f"provider not found: {s.provider}\n",
        )


async def test_an_unhealthy_provider_is_503_and_a_degraded_one_is_called() -> None:
    async with routing() as s:
        s.host.registry.report_health(s.provider, UNHEALTHY)
        assert text(await s.call(s.head())) == (503, "service unavailable (provider unhealthy)\n")
        s.host.registry.report_health(s.provider, DEGRADED)
        assert (await s.call(s.head())).status == 200


async def test_a_provider_without_a_base_url_is_404() -> None:
    async with routing() as s:
        s.host.registry.register(s.provider, "echo", "1.0.0", "/", {})
        assert text(await s.call(s.head())) == (404, f"provider endpoint not registered: {s.provider}\n")


@pytest.mark.parametrize("base_url", ["no url", "ftp://h/", "http://", "http://h:99999", "http://u:p@h"])
async def test_a_base_url_that_is_none_is_500(base_url: str) -> None:
    async with routing() as s:
        s.host.registry.register(s.provider, "echo", "1.0.0", "/", {"base_url": base_url})
        assert text(await s.call(s.head())) == (500, "failed to create proxy request\n")


async def test_a_provider_that_is_not_there_is_502() -> None:
    async with routing() as s:
        with trio.socket.socket() as unused:
            await unused.bind(("127.0.0.1", 0))  # bound and not listening: refused
            base_url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            s.host.registry.register(s.provider, "echo", "1.0.0", "/", {"base_url": base_url})
            assert text(await s.call(s.head())) == (502, "failed to proxy request\n")


REFUSED = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n%b\r\n{}"


async def test_a_provider_that_says_that_the_call_is_not_for_it_is_not_there() -> None:
    recorder = Recorder(REFUSED % b"X-Plugin-Undelivered: true\r\n")
    async with routing(recorder) as s:
        refused = await s.call(s.head())
        assert text(refused) == (502, "failed to proxy request\n")
        assert refused.header(b"x-plugin-undelivered") == b"true"
        await eventually(lambda: not s.host.registry.available("echo"))


async def test_a_provider_that_refuses_by_itself_has_answered() -> None:
    async with routing(Recorder(REFUSED % b"")) as s:
        refused = await s.call(s.head())
    assert (refused.status, refused.body) == (401, b"{}")
    assert refused.header(b"x-plugin-undelivered") is None


@pytest.mark.parametrize(
    "answer",
    [b"garbage\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"],
)
async def test_a_provider_that_does_not_speak_http_is_502(answer: bytes) -> None:
    async def handler(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(answer)

    async with routing(handler) as s:
        assert text(await s.call(s.head())) == (502, "failed to proxy request\n")


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


# What is passed on


@pytest.mark.parametrize(
    ("endpoint_path", "base_path", "asked", "target"),
    [
        ("/echo.v1.Echo/", "", "M", "/echo.v1.Echo/M"),
        ("/echo.v1.Echo/", "", "M?a=1&b=%20x%2F", "/echo.v1.Echo/M?a=1&b=%20x%2F"),
        ("/echo.v1.Echo/", "", "", "/echo.v1.Echo/"),
        ("/echo.v1.Echo/", "", "a/b/c", "/echo.v1.Echo/a/b/c"),
        ("/echo.v1.Echo/", "", "a/b/", "/echo.v1.Echo/a/b/"),
        ("/echo.v1.Echo/", "", "...;a/.b/c..d/..e", "/echo.v1.Echo/...;a/.b/c..d/..e"),
        ("/echo.v1.Echo/", "/base/", "M", "/base/echo.v1.Echo/M"),
        ("/echo.v1.Echo", "", "M", "/echo.v1.Echo/M"),
        ("/", "", "M", "/M"),
        # what a generated client asks for
        ("/echo.v1.Echo/", "", "echo.v1.Echo/M", "/echo.v1.Echo/M"),
        ("/", "", "echo.v1.Echo/M", "/echo.v1.Echo/M"),
        # nothing is decoded on the way
        ("/p/", "", "http:%2F%2Fa.example%2Fb", "/p/http:%2F%2Fa.example%2Fb"),
        ("/p/", "", "a%2Fb%20c%3Fd", "/p/a%2Fb%20c%3Fd"),
        ("/p/", "", "%23x%25zz%C3%A9", "/p/%23x%25zz%C3%A9"),
        ("/p/", "", 'a"b<c>|~', '/p/a"b<c>|~'),
        ("/p/", "", "M?x='\"<>|{}%zz?&", "/p/M?x='\"<>|{}%zz?&"),
        ("/p q#?/", "", "M", "/p%20q%23%3F/M"),
    ],
)
async def test_path_and_query_reach_the_provider_byte_for_byte(
    endpoint_path: str, base_path: str, asked: str, target: str
) -> None:
    recorder = Recorder()
    async with routing(recorder, endpoint_path=endpoint_path, base_path=base_path) as s:
        assert (await s.call(s.head(path=s.path(asked)))).status == 200
    assert recorder.line == f"POST {target} HTTP/1.1".encode()


async def test_headers_are_passed_on_if_they_are_known_and_not_credentials_hops_or_claims_of_origin() -> None:
    recorder = Recorder(body_end=b'{"x":1}')
    async with routing(recorder, config=HostConfig(pass_headers=["X-A", "x-app-*"])) as s:
        await s.call(
            s.head(
                "POST",
                None,
                "Content-Type: application/json",
                "User-Agent: py/1",
                "X-A: 1",
                "X-A: 2",
                "X-Application: 0",
                "X-App-Tenant: 3",
                "X-Request-ID: 4",
                "Traceparent: 00-5",
                "Accept-Encoding: gzip",
                "Connect-Timeout-Ms: 500",
                "Connection: keep-alive, X-Hop",
                "X-Hop: 1",
                "Keep-Alive: 5",
                "Upgrade: foo",
                "Proxy-Authorization: z",
                "Cookie: a=b",
                "Forwarded: for=9.9.9.9",
                "X-Forwarded-For: 9.9.9.9",
                "X-Real-IP: 9.9.9.9",
                "X-Plugin-Caller: somebody-else",
                "X-Plugin-Caller-ID: somebody-else",
                "X_Plugin_Caller_Id: somebody-else",
                "TE: notrailersx",
                "Content-Length: 7",
            )
            + b'{"x":1}'
        )
        caller = s.caller
    host = next(value for name, value in recorder.headers if name == b"host")
    assert host.startswith(b"127.0.0.1:")
    assert [value for name, value in recorder.headers if name == b"x-plugin-caller"] != [b"somebody-else"]
    assert sorted(h for h in recorder.headers if h[0] not in {b"host", b"x-plugin-caller"}) == sorted(
        [
            (b"content-type", b"application/json"),
            (b"user-agent", b"py/1"),
            (b"x-a", b"1"),
            (b"x-a", b"2"),
            (b"x-app-tenant", b"3"),
            (b"x-request-id", b"4"),
            (b"traceparent", b"00-5"),
            (b"accept-encoding", b"gzip"),
            (b"connect-timeout-ms", b"500"),
            (b"content-length", b"7"),
            (b"x-plugin-caller-id", caller.encode()),
        ]
    )


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY"])
async def test_any_method_passes(method: str) -> None:
    recorder = Recorder()
    async with routing(recorder) as s:
        assert (await s.call(s.head(method))).body == b"ok"
    assert recorder.line == f"{method} /echo.v1.Echo/M HTTP/1.1".encode()


async def test_a_tunnel_is_not_made() -> None:
    async with routing() as s:
        assert (await s.call(s.head("CONNECT"))).status == 400


async def test_head_is_answered_without_a_body() -> None:
    async with routing(Recorder(b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n")) as s:
        response = await s.call(s.head("HEAD"))
    assert (response.status, response.header(b"content-length")) == (200, b"17")


async def test_a_body_without_a_length_passes_in_chunks() -> None:
    recorder = Recorder(body_end=b"0\r\n\r\n")
    async with routing(recorder) as s:
        await s.call(s.head("POST", None, "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n")
    assert recorder.seen[0].endswith(b"5\r\nhello\r\n0\r\n\r\n")
    assert (b"transfer-encoding", b"chunked") in recorder.headers


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
@pytest.mark.parametrize(("method", "said"), [("POST", b"0"), ("GET", None)])
async def test_no_body_is_no_body_in_either_version(method: str, said: bytes | None, version: bytes) -> None:
    recorder = Recorder()
    async with routing(recorder) as s:
        assert (await s.call(s.head(method).replace(b"HTTP/1.1", version))).status == 200
    headers = dict(recorder.headers)
    assert (headers.get(b"content-length"), b"transfer-encoding" in headers) == (said, False)


async def test_an_expectation_is_met_by_the_host_and_not_passed_on() -> None:
    recorder = Recorder(body_end=b"body")
    async with routing(recorder) as s, dial(s.url) as wire:
        await wire.send(s.head("POST", None, "Expect: 100-continue", "Content-Length: 4"))
        assert (await wire.head()).status == 100
        await wire.send(b"body")
        assert (await wire.response()).status == 200
    assert b"expect" not in dict(recorder.headers)


async def test_the_answer_comes_back_as_it_was_but_for_hops_and_cookies() -> None:
    answer = (
        b"HTTP/1.1 299 Odd\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nConnection: X-Gone\r\n"
        b"X-Gone: 1\r\nServer: raw\r\nSet-Cookie: k=v\r\nX-Prov: a\r\nX-Prov: b\r\nContent-Encoding: gzip\r\n"
        b"Date: Mon, 23 Nov 2026 04:37:58 GMT\r\n\r\n\x1f\x8b"
    )
    async with routing(Recorder(answer)) as s:
        response = await s.call(s.head())
    assert (response.status, response.body) == (299, b"\x1f\x8b")
    assert sorted(h for h in response.headers if h[0] != b"connection") == [
        (b"content-encoding", b"gzip"),
        (b"content-length", b"2"),
        (b"date", b"Mon, 23 Nov 2026 04:37:58 GMT"),
        (b"server", b"raw"),
        (b"x-prov", b"a"),
        (b"x-prov", b"b"),
    ]


async def test_an_answer_without_content_has_no_length() -> None:
    async with routing(Recorder(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n")) as s:
        response = await s.call(s.head())
    assert (response.status, response.header(b"content-length")) == (204, None)


async def test_an_answer_is_dated_once() -> None:
    date = b"Mon, 23 Nov 2026 04:37:58 GMT"
    async with routing(Recorder()) as s:
        undated = await s.call(s.head())
    async with routing(Recorder(OK.replace(b"\r\n", b"\r\nDATE: %b\r\n" % date, 1))) as s:
        dated = await s.call(s.head())
    assert [len(value) for name, value in undated.headers if name == b"date"] == [len(date)]
    assert [value for name, value in dated.headers if name == b"date"] == [date]


NO_BODY = b"HTTP/1.1 204 No Content\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nok"


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (OK, 200, b"ok"),
        (CHUNKED, 200, b"ok"),
        (UNTIL_CLOSE, 200, b"ok"),
        (UNTIL_CLOSE.replace(b"1.1", b"1.0"), 200, b"ok"),
        (OK.replace(b"1.1", b"1.0"), 200, b"ok"),
        (OK.replace(b" OK", b""), 200, b"ok"),
        (OK.replace(b"200", b"999"), 999, b"ok"),
        (OK + b"more than was said", 200, b"ok"),
        (NO_BODY, 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n", 304, b""),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", 502, b"failed to proxy request\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 502, b"failed to proxy request\n"),
        (OK.replace(b"OK", b"OK\r\nx: " + b"y" * 2**16), 502, b"failed to proxy request\n"),
    ],
    ids=[
        *("length", "chunked", "until close", "1.0 until close", "1.0 with a length", "no reason", "999"),
        *("more than was said", "204", "304", "interim", "101", "interim alone", "head too large"),
    ],
)
async def test_whatever_version_and_framing_the_answer_is_the_same(
    method: str, version: str, answer: bytes, status: int, body: bytes
) -> None:
    async def provide(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == "HEAD" else answer)

    async with routing(provide) as s, dial(s.url) as wire:
        await wire.send(s.head(method).replace(b"HTTP/1.1", b"HTTP/%b" % version.encode()))
        response = await wire.response(head_only=method == "HEAD")
        if method == "HEAD" and b" 103 " in answer:
            status = 502  # in the table's answer, the final one is behind the first empty line
        assert (response.status, response.body) == (status, b"" if method == "HEAD" else body)
        assert (response.header(b"connection") == b"close") == (version == "1.0")
        if version == "1.0":
            assert response.header(b"transfer-encoding") is None
            assert await wire.rest() == b""
        else:  # the next answer begins where this one ended
            await wire.send(s.head("GET", "/services/echo"))
            assert (await wire.response()).status == 400


@pytest.mark.parametrize("answer", [CHUNKED[:-5], UNTIL_CLOSE.replace(b"OK", b"OK\r\ncontent-length: 3")])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_half_an_answer_is_not_taken_for_the_whole(answer: bytes, version: bytes) -> None:
    async def provide(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(answer)

    async with routing(provide) as s, dial(s.url) as wire:
        await wire.send(s.head().replace(b"HTTP/1.1", b"HTTP/%b" % version))
        head = await wire.head()
        rest = await wire.rest()
    if version == b"1.1" or head.header(b"content-length"):
        assert rest in {b"2\r\nok\r\n", b"ok"}  # short of what was said, and nothing is lost
    else:
        assert rest.endswith(b"<reset>")


async def test_a_body_that_is_none_is_400_and_ends_the_connection() -> None:
    async with routing(hang) as s, dial(s.url) as wire:
        await wire.send(s.head("POST", None, "Transfer-Encoding: chunked") + b"2\r\nok\r\n")
        while not s.host.registry.calls_in_flight(s.provider):
            await trio.testing.wait_all_tasks_blocked(0.001)
        await wire.send(b"no size\r\n")
        response = await wire.response()  # our own lane says what is wrong, Hypercorn does not
        assert (response.status, response.header(b"connection")) == (400, b"close")
        assert await wire.rest() == b""
        await trio.testing.wait_all_tasks_blocked()
        assert s.host.registry.calls_in_flight(s.provider) == 0


async def test_the_address_that_was_checked_is_the_one_that_is_called() -> None:
    recorder = Recorder()
    async with routing(recorder) as s:
        current = s.host.registry.provider("echo", s.provider)
        assert current
        base_url = current.base_url.replace("127.0.0.1", "rebound.invalid")
        s.host.registry.register(
            s.provider, "echo", "1.0.0", "/", {"base_url": base_url}, address="127.0.0.1"
        )
        assert (await s.call(s.head())).status == 200
    assert dict(recorder.headers)[b"host"].startswith(b"rebound.invalid:")


async def test_only_the_host_says_whether_a_call_was_delivered() -> None:
    forged = b"HTTP/1.1 503 x\r\nX-Plugin-Undelivered: true\r\ncontent-length: 0\r\n\r\n"
    async with routing(Recorder(forged)) as s:
        delivered = await s.call(s.head())
        refused = await s.call(s.head(path="/services/echo/nobody-0/M"))
    assert (delivered.status, delivered.header(b"x-plugin-undelivered")) == (503, None)
    assert (refused.status, refused.header(b"x-plugin-undelivered")) == (404, b"true")


async def test_a_redirect_is_the_callers_to_follow() -> None:
    recorder = Recorder(b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n")
    async with routing(recorder) as s:
        response = await s.call(s.head("GET"))
    assert (response.status, response.header(b"location")) == (302, b"/elsewhere")
    assert len(recorder.seen) == 1


async def test_a_providers_error_is_passed_on() -> None:
    error = b'{"code":"internal","message":"x"}'
    answer = b"HTTP/1.1 500 x\r\ncontent-type: application/json\r\ncontent-length: 33\r\n\r\n" + error
    async with routing(Recorder(answer)) as s:
        response = await s.call(s.head())
    assert (response.status, response.body) == (500, error)


TRAILING = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\ngrpc-status: 0\r\n\r\n"


async def test_trailers_reach_a_caller_who_asked_for_them() -> None:
    recorder = Recorder(TRAILING)
    async with routing(recorder) as s:
        asked = await s.call(s.head("POST", None, "TE: trailers"))
        silent = await s.call(s.head())
    assert (b"te", b"trailers") in recorder.headers
    assert (asked.body, asked.trailers) == (b"hi", [(b"grpc-status", b"0")])
    assert (silent.body, silent.trailers) == (b"hi", [])


async def test_trailers_reach_a_caller_on_http2() -> None:
    async with routing(Recorder(TRAILING)) as s, dial_http2(s.url) as wire:
        stream = await wire.request(
            s.path(),
            *[(name.lower(), value) for name, value in s.credentials.items()],
            ("te", "trailers"),
            method="POST",
        )
        response = await wire.response(stream)
    assert (response.status, response.body, response.trailers) == (200, b"hi", [(b"grpc-status", b"0")])


async def test_trailers_that_no_answer_may_have_are_not_passed_back() -> None:
    answer = TRAILING.replace(b"grpc-", b"X-Plugin-Undelivered: true\r\nConnection: close\r\ngrpc-")
    async with routing(Recorder(answer)) as s:
        response = await s.call(s.head("POST", None, "TE: trailers"))
    assert response.trailers == [(b"grpc-status", b"0")]


async def test_several_services_of_a_plugin_are_not_mixed_up() -> None:
    recorder = Recorder()
    async with routing(recorder) as s:
        base_url = s.host.registry.provider("echo", s.provider)
        assert base_url
        for service_type in ("p", "q"):
            s.host.registry.register(
                s.provider, service_type, "1.0.0", f"/{service_type}/", base_url.metadata
            )
        for index in range(40):
            service_type = "pq"[index % 2]
            await s.call(s.head(path=f"/services/{service_type}/{s.provider}/M"))
    assert [seen.split(b" ")[1].decode() for seen in recorder.seen] == ["/p/M", "/q/M"] * 20


# Streaming


async def test_an_answer_is_passed_on_as_it_comes() -> None:
    go_on = trio.Semaphore(0)

    async def drip(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for index in range(40):
            await peer.send(b"4\r\nm%03d\r\n" % index)
            await go_on.acquire()  # the next message comes only after the caller has had this one
        await peer.send(b"0\r\n\r\n")

    async with routing(drip) as s, dial(s.url) as wire:
        await wire.send(s.head())
        assert (await wire.head()).status == 200
        for index in range(40):
            assert await wire.until(b"\r\n") == b"4\r\n"
            assert await wire.until(b"\r\n") == b"m%03d\r\n" % index
            go_on.release()
        assert await wire.until(b"0\r\n\r\n") == b"0\r\n\r\n"


async def test_a_request_is_passed_on_as_it_comes() -> None:
    arrived = trio.Semaphore(0)

    async def listen(peer: Peer) -> None:
        await peer.receive_head()
        for index in range(40):
            assert await peer.receive_until(b"\r\nm%03d\r\n" % index)
            arrived.release()
        await peer.receive_until(b"0\r\n\r\n")
        await peer.send(OK)

    async with routing(listen) as s, dial(s.url) as wire:
        await wire.send(s.head("POST", None, "Transfer-Encoding: chunked"))
        for index in range(40):
            await wire.send(b"4\r\nm%03d\r\n" % index)
            await arrived.acquire()  # the provider has it before the next is sent
        await wire.send(b"0\r\n\r\n")
        assert (await wire.response()).status == 200


async def test_both_ways_stream_at_once() -> None:
    async def converse(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(5):
            await peer.receive_until(b"ping\r\n")
            await peer.send(b"4\r\npong\r\n")
        await peer.receive_until(b"0\r\n\r\n")
        await peer.send(b"0\r\n\r\n")

    async with routing(converse) as s, dial(s.url) as wire:
        await wire.send(s.head("POST", None, "Transfer-Encoding: chunked"))
        assert (await wire.head()).status == 200
        for _ in range(5):
            await wire.send(b"4\r\nping\r\n")
            assert await wire.until(b"pong\r\n") == b"4\r\npong\r\n"
        await wire.send(b"0\r\n\r\n")
        assert await wire.until(b"0\r\n\r\n") == b"0\r\n\r\n"


async def test_an_answer_before_the_end_of_the_request_reaches_the_caller() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")

    async with routing(refuse) as s, dial(s.url) as wire:
        await wire.send(s.head("POST", None, "Content-Length: 1000000") + b"x" * 1000)
        response = await wire.response()
    assert (response.status, response.body) == (413, b"big")


async def test_a_provider_that_breaks_off_breaks_the_answer_off() -> None:
    async def stumble(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")

    async with routing(stumble) as s, dial(s.url) as wire:
        await wire.send(s.head())
        assert (await wire.head()).status == 200
        rest = await wire.rest()
    assert rest == b"5\r\nhello\r\n"  # what came before is not lost


@pytest.mark.parametrize(
    "request_",
    [
        ("POST",),
        ("GET",),
        ("POST", None, "Content-Length: 0"),
        ("POST", None, "Content-Length: 4"),
        ("POST", None, "Transfer-Encoding: chunked"),
    ],
)
async def test_a_caller_that_leaves_ends_the_call_at_the_provider(request_: tuple[Any, ...]) -> None:
    started, left = trio.Event(), trio.Event()

    async def hang(peer: Peer) -> None:
        await peer.receive_head()
        started.set()
        await peer.receive_to_end()
        left.set()

    async with routing(hang) as s:
        async with dial(s.url) as wire:
            await wire.send(s.head(*request_))
            await started.wait()
            assert s.host.registry.calls_in_flight(s.provider) == 1
        await left.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert s.host.registry.calls_in_flight(s.provider) == 0


async def test_a_caller_that_leaves_in_mid_request_ends_the_call_at_the_provider() -> None:
    left = trio.Event()

    async def hang(peer: Peer) -> None:
        await peer.receive_until(b"first")
        await peer.receive_to_end()
        left.set()

    async with routing(hang) as s:
        async with dial(s.url) as wire:
            await wire.send(s.head("POST", None, "Content-Length: 100") + b"first")
            await trio.testing.wait_all_tasks_blocked(0.05)
        await left.wait()


# Providers that go away

SHORT = HostConfig(leases=LeaseConfig(heartbeat_s=0.05, lease_s=0.2, probe_timeout_s=0.05))


async def hang(peer: Peer) -> None:
    await peer.receive_to_end()


async def test_a_call_to_a_provider_that_is_gone_fails_at_once_instead_of_hanging() -> None:
    async with routing(hang, config=SHORT) as s:
        assert text(await s.call(s.head())) == (503, "service unavailable (provider unhealthy)\n")
        assert s.host.registry.service_types() == []


async def test_a_call_to_a_provider_that_is_gone_fails_while_it_is_being_connected_to() -> None:
    async with routing(config=SHORT) as s, silent_address() as base_url:
        s.host.registry.register(s.provider, "echo", "1.0.0", "/", {"base_url": base_url})
        s.host._pool._connect_timeout_s = 60
        assert text(await s.call(s.head())) == (503, "service unavailable (provider unhealthy)\n")


async def test_an_answer_of_a_provider_that_is_gone_is_broken_off() -> None:
    async def begin(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await peer.receive_to_end()

    async with routing(begin, config=SHORT) as s, dial(s.url) as wire:
        await wire.send(s.head())
        assert (await wire.head()).status == 200
        assert b"0\r\n\r\n" not in await wire.rest()


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


async def test_a_provider_that_refuses_a_connection_is_not_offered_to_the_next_caller() -> None:
    async with routing() as s:
        with trio.socket.socket() as unused:
            await unused.bind(("127.0.0.1", 0))
            base_url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            s.host.registry.register(s.provider, "echo", "1.0.0", "/", {"base_url": base_url})
            assert (await s.call(s.head())).status == 502
            assert not s.host.registry.available("echo")


# The log


async def test_each_call_is_logged_at_its_start_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cpg_trio.router")
    async with routing() as s:
        await s.call(s.head(path=s.path("echo.v1.Echo/Say?secret=1")))
    start, end = (r.getMessage() for r in caplog.records if r.name == "cpg_trio.router")
    assert start == f"[ROUTER] {s.caller} → {s.provider} /Say (service: echo)"
    assert re.fullmatch(rf"\[ROUTER\] {s.caller} → {s.provider} /Say 200 \(duration: [0-9.]+(µs|ms|s)\)", end)


async def test_a_failed_call_is_logged_without_its_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cpg_trio.router")
    async with routing(Recorder(b"garbage\r\n\r\n")) as s:
        await s.call(s.head(path=s.path("M?secret=1")))
    end = [r.getMessage() for r in caplog.records if r.name == "cpg_trio.router"][-1]
    assert re.fullmatch(rf"\[ROUTER\] {s.caller} → {s.provider} /M FAILED: .+ \(duration: .+\)", end)
    assert "secret" not in caplog.text


async def test_refusals_of_strangers_are_logged_and_cannot_forge_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "cpg_trio.router")
    async with routing() as s:
        no_id = s.head().replace(b"X-Plugin-Runtime-ID", b"X-Other")
        for request in (
            s.head(path="/services/echo"),
            no_id,
            s.head().replace(b"Authorization: Bearer", b"Authorization: Basic"),
            s.head().replace(s.token.encode(), b"bad"),
            s.head().replace(s.caller.encode(), b"\x85\x9bforged"),
        ):
            await s.call(request)
    assert [r.getMessage() for r in caplog.records if r.name == "cpg_trio.router"] == [
        "[ROUTER] Invalid path: /services/echo (parts: 1)",
        f"[ROUTER] Missing X-Plugin-Runtime-ID header for {s.path()}",
        f"[ROUTER] Missing/invalid Authorization header for {s.path()} (caller: {s.caller})",
        f"[ROUTER] Invalid token for caller: {s.caller}",
        r"[ROUTER] Invalid token for caller: \x85\x9bforged",
    ]
    assert s.token not in caplog.text
    assert all(record.getMessage().isprintable() for record in caplog.records)


@pytest.mark.parametrize("lane", ["http1"], indirect=True)  # once: it is the same function
@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0004295, "429.5µs"),
        (0.000001, "1µs"),
        (0.0012, "1.2ms"),
        (0.25, "250ms"),
        (2.0, "2s"),
        (61.234, "61.23s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, written: str) -> None:
    assert go_duration(seconds) == written


async def watch(url: str, credentials: dict[str, str], ended: trio.Event) -> None:
    """Watch a service type until the host ends the watch, which it does in good order."""
    async with httpx.AsyncClient(verify=trusted()) as http:
        registry = ServiceRegistryClient(url, http, ClientConfig(headers=credentials))
        async with registry.watch_service(pb.WatchServiceRequest(service_type="echo")) as events:
            async for _ in events:
                pass
    ended.set()


async def test_a_watch_ends_with_its_connection_and_not_with_the_next_event() -> None:
    async with hosting() as (host, url):
        caller, token = host.identities.issue("caller")
        proof = {"X-Plugin-Runtime-ID": caller.runtime_id, "Authorization": f"Bearer {token}"}
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, url, proof, trio.Event())
                while not host.watches.watchers("echo"):
                    await trio.testing.wait_all_tasks_blocked(0.01)
                scope.cancel()
        while host.watches.watchers("echo"):
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_host_that_stops_ends_its_watches_and_finishes_its_calls() -> None:
    release, ended = trio.Event(), trio.Event()

    async def slow(peer: Peer) -> None:
        await peer.receive_head()
        await release.wait()
        await peer.send(OK)

    with trio.fail_after(20):
        async with serving(slow) as origin, trio.open_nursery() as nursery:
            host, stop = Host(HostConfig(serve=ServeConfig(**USUAL))), trio.Event()
            (url,) = await nursery.start(partial(host.serve, stop, bind="127.0.0.1:0"))
            caller, token = host.identities.issue("caller")
            host.registry.register("p-1", "echo", "1.0.0", "/", {"base_url": url_of(origin)})
            async with dial(url) as wire:
                s = Setting(host, url, caller.runtime_id, token, "p-1")
                nursery.start_soon(watch, url, s.credentials, ended)
                await wire.send(s.head())
                while not host.registry.calls_in_flight("p-1"):
                    await trio.testing.wait_all_tasks_blocked(0.01)
                while not host.watches.watchers("echo"):
                    await trio.testing.wait_all_tasks_blocked(0.01)
                stop.set()
                await ended.wait()
                release.set()
                assert (await wire.response()).body == b"ok"


async def test_a_last_request_that_came_while_another_was_in_hand_is_answered() -> None:
    release = [trio.Event(), trio.Event()]

    async def in_turn(peer: Peer) -> None:
        for event in release:
            await peer.receive_head()
            await event.wait()
            await peer.send(OK)

    async with routing(in_turn) as s, dial(s.url) as wire:
        await wire.send(s.head("GET"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        await wire.send(s.head("GET", None, "Connection: close"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        release[0].set()
        assert (await wire.response()).status == 200
        await trio.testing.wait_all_tasks_blocked(0.05)
        release[1].set()
        response = await wire.response()
        assert (response.status, response.header(b"connection")) == (200, b"close")
        assert await wire.rest() == b""
