"""Which header fields are forwarded, in requests, responses and trailers."""

from __future__ import annotations

import pytest

from cpg_trio.host import (
    HostConfig,
)
from cpg_trio.host.routing.headers import (
    RequestFields,
    RequestHeaderRules,
    forwarded_in_request,
    forwarded_in_response,
)
from tests.host.routed import Recorder, routing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRAILING = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\ngrpc-status: 0\r\n\r\n"


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
                f"Traceparent: {PARENT}",
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
            (b"traceparent", PARENT.encode()),
            (b"accept-encoding", b"gzip"),
            (b"connect-timeout-ms", b"500"),
            (b"content-length", b"7"),
            (b"x-plugin-caller-id", caller.encode()),
        ]
    )


async def test_the_answer_comes_back_as_it_was_but_for_hops_and_cookies() -> None:
    answer = (
        b"HTTP/1.1 299 Odd\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nConnection: X-Gone\r\n"
        b"X-Gone: 1\r\nServer: raw\r\nSet-Cookie: k=v\r\nX-Prov: a\r\nX-Prov: b\r\nContent-Encoding: gzip\r\n"
        b"Date: Mon, 23 Nov 2026 04:37:58 GMT\r\n\r\n\x1f\x8b"
    )
    async with routing(Recorder(answer)) as s:
        response = await s.call(s.head())
    assert (response.status, response.body) == (299, b"\x1f\x8b")
    assert sorted(h for h in response.headers if h[0] not in {b"connection", b"x-request-id"}) == [
        (b"content-encoding", b"gzip"),
        (b"content-length", b"2"),
        (b"date", b"Mon, 23 Nov 2026 04:37:58 GMT"),
        (b"server", b"raw"),
        (b"x-prov", b"a"),
        (b"x-prov", b"b"),
    ]


async def test_only_the_host_says_whether_a_call_was_delivered_and_whose_failure_it_is() -> None:
    marks = b"X-Plugin-Undelivered: true\r\nX-Plugin-Fault: caller\r\nx_plugin_fault: caller\r\n"
    forged = b"HTTP/1.1 503 x\r\n%bcontent-length: 0\r\n\r\n" % marks
    async with routing(Recorder(forged)) as s:
        delivered = await s.call(s.head())
        refused = await s.call(s.head(path="/services/echo/nobody-0/M"))
    assert (delivered.status, delivered.header(b"x-plugin-undelivered")) == (503, None)
    assert not any(b"fault" in name for name, _ in delivered.headers)
    assert (refused.status, refused.header(b"x-plugin-undelivered")) == (404, b"true")
    assert refused.header(b"x-plugin-fault") == b"host"


async def test_trailers_that_no_answer_may_have_are_not_passed_back() -> None:
    answer = TRAILING.replace(b"grpc-", b"X-Plugin-Undelivered: true\r\nConnection: close\r\ngrpc-")
    async with routing(Recorder(answer)) as s:
        response = await s.call(s.head("POST", None, "TE: trailers"))
    assert response.trailers == [(b"grpc-status", b"0")]


@pytest.mark.parametrize("named", [b"content-length", b"close, Content-Length", b"keep-alive"])
def test_a_connection_field_drops_no_length(named: bytes) -> None:
    fields = [(b"connection", named), (b"content-length", b"2")]
    assert forwarded_in_request(fields, RequestHeaderRules())[0] == fields[1:]
    assert forwarded_in_response(fields) == fields[1:]


@pytest.mark.parametrize(
    "name", [b"X-Plugin-Runtime-ID", b"X_Plugin_Undelivered", b"x-PLUGIN_anything", b"Transfer_Encoding"]
)
def test_a_name_that_some_server_reads_as_a_dropped_one_is_dropped(name: bytes) -> None:
    assert forwarded_in_response([(name, b"x")]) == []


def test_the_credentials_of_a_request_are_the_first_of_their_fields() -> None:
    fields = [(b"Authorization", b"a"), (b"x-plugin-runtime-id", b"p-1"), (b"authorization", b"b")]
    assert forwarded_in_request(fields, RequestHeaderRules()) == RequestFields([], [], b"p-1", b"a")


@pytest.mark.parametrize("name", [b"X_Request_Id", b"trace_parent", b"TraceParent-"])
def test_no_name_but_its_own_is_that_of_the_context(name: bytes) -> None:
    assert forwarded_in_request([(name, b"x")], RequestHeaderRules()) == RequestFields([], [], b"", b"")


def test_the_context_that_a_connection_field_names_is_dropped() -> None:
    fields = [(b"traceparent", b"1"), (b"Connection", b"TraceParent"), (b"baggage", b"a=1")]
    assert forwarded_in_request(fields, RequestHeaderRules()).context == [(b"baggage", b"a=1")]
