"""Which header fields are forwarded, in requests, responses and trailers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from cpg_trio.call_context import FIELDS as CONTEXT
from cpg_trio.host import (
    HostConfig,
)
from cpg_trio.host.routing.headers import (
    RequestFields,
    RequestHeaderRules,
    forwarded_in_request,
    forwarded_in_response,
)
from cpg_trio.metadata import is_claim, is_metadata
from tests._wire import dial_http2
from tests.host.routed import Recorder, routing
from tests.metadata import METADATA, NEVER, spelled

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRAILING = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\ngrpc-status: 0\r\n\r\n"


async def test_of_a_strict_list_what_is_listed_passes_and_is_no_credential_hop_or_claim_of_origin() -> None:
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
    assert forwarded_in_request(fields, RequestHeaderRules()) == RequestFields([], [], b"p-1", b"a", [])


@pytest.mark.parametrize("name", [b"X_Request_Id", b"Trace.Parent", b"TraceParent-"])
def test_no_name_but_its_own_is_that_of_the_context(name: bytes) -> None:
    found = forwarded_in_request([(name, b"x")], RequestHeaderRules([]))
    assert found._replace(unlisted=[]) == RequestFields([], [], b"", b"", [])


@pytest.mark.parametrize("protocol", ["h1", "h2"])
async def test_metadata_of_any_name_arrives_in_its_order_and_bytes_unchanged_and_nothing_else_does(
    protocol: str,
) -> None:
    recorder = Recorder()
    sent = _mixed(METADATA, NEVER)
    async with routing(recorder) as s:
        if protocol == "h1":
            head = s.head().removesuffix(b"\r\n")
            await s.call(head + b"".join(b"%b: %b\r\n" % field for field in sent) + b"\r\n")
        else:
            sent = [(name.lower(), value) for name, value in sent]
            async with dial_http2(s.url) as wire:
                proof = [(name.lower(), value) for name, value in s.credentials.items()]
                stream = await wire.request(s.path(), *proof, *cast("Any", sent), method="POST")
                assert (await wire.response(stream)).status == 200
    own = {b"host", b"content-length", b"x-request-id", b"x-plugin-caller", b"x-plugin-caller-id"}
    arrived = [field for field in recorder.headers if field[0] not in own]
    assert arrived == [(name.lower(), value) for name, value in sent if value.startswith(b"kept")]
    assert [value for name, value in recorder.headers if name == b"x-plugin-caller-id"] == [s.caller.encode()]


@pytest.mark.parametrize("protocol", ["h1", "h2"])
async def test_metadata_of_an_answer_and_of_its_trailers_arrives_and_nothing_else_does(protocol: str) -> None:
    fields = _mixed(METADATA, NEVER)
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    as_trailers = b"".join(b"Trailer-%b: %b\r\n" % field for field in fields)
    start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"
    answer = b"%b%b%b\r\n2\r\nhi\r\n0\r\n%b\r\n" % (start, lines, as_trailers, lines)
    async with routing(Recorder(answer)) as s:
        if protocol == "h1":
            response = await s.call(s.head("POST", None, "TE: trailers"))
        else:
            async with dial_http2(s.url) as wire:
                proof = [(name.lower(), value) for name, value in s.credentials.items()]
                stream = await wire.request(s.path(), *proof, ("te", "trailers"), method="POST")
                response = await wire.response(stream)
    kept = [(name.lower(), value) for name, value in fields if value.startswith(b"kept")]
    own = {b"transfer-encoding", b"connection", b"date", b"x-request-id", b":status"}
    arrived = [field for field in response.headers if field[0] not in own]
    assert arrived == [*kept, *((b"trailer-" + name, value) for name, value in kept)]
    assert [(name.lower(), value) for name, value in response.trailers] == kept


def _mixed(passing: Iterable[str], never: Iterable[str]) -> list[tuple[bytes, bytes]]:
    """Return fields of both, each twice, with values of any bytes."""
    fields = [(name, b"kept \xe9 %d" % n) for n in range(2) for name in passing]
    fields += [(spelling, b"lost") for name in never for spelling in spelled(name)[:: 1 + (len(name) % 2)]]
    return [
        (name.encode(), value) for name, value in sorted(fields, key=lambda field: (field[0][::-1], field[1]))
    ]


NAMES = st.one_of(
    st.sampled_from(METADATA).map(str.encode),
    st.sampled_from(NEVER).flatmap(lambda name: st.sampled_from(spelled(name))).map(str.encode),
    st.from_regex(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True),
)
FIELDS = st.lists(st.tuples(NAMES, st.binary(max_size=20)), max_size=20)


@given(FIELDS)
def test_what_passes_is_the_same_and_in_the_same_order_and_no_claim(
    fields: list[tuple[bytes, bytes]],
) -> None:
    for passed in (
        forwarded_in_request(fields, RequestHeaderRules()).forwarded,
        forwarded_in_response(fields),
    ):
        rest = iter(fields)
        assert all(any(field is other for other in rest) for field in passed)
        assert not [name for name, _ in passed if is_claim(name)]
    named = any(name.lower() == b"connection" for name, _ in fields)
    apart = {b"connection", *CONTEXT}
    all_of_them = [field for field in fields if is_metadata(field[0]) and field[0].lower() not in apart]
    if not named:
        assert forwarded_in_request(fields, RequestHeaderRules()).forwarded == all_of_them


async def test_what_a_strict_list_drops_is_named_once_and_only_for_callers_that_are_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = HostConfig(pass_headers=["x-tenant"])
    caplog.set_level(logging.WARNING, "cpg_trio.router")
    async with routing(config=config) as s:
        stranger = s.head("POST", None, "X-Stranger: 1").replace(s.token.encode(), b"wrong")
        assert (await s.call(stranger)).status == 401
        for n in range(3):
            await s.call(
                s.head("POST", None, "X-Tenant: a", "X-Other: secret", f"X-{n}: secret", "Via: 1.1 me")
            )
    said = [record.getMessage() for record in caplog.records if "is not passed on" in record.getMessage()]
    names = [message.split()[1] for message in said]
    assert sorted(names) == ["x-0", "x-1", "x-2", "x-other"]
    assert all(s.caller in message and "secret" not in message for message in said)


async def test_how_many_names_a_strict_list_logs_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "cpg_trio.router")
    async with routing(config=HostConfig(pass_headers=["accept"])) as s:
        for begin in (0, 80):
            await s.call(s.head("POST", None, *(f"X-{'n' * 90}{begin + n}: 1" for n in range(3))))
            await s.call(s.head("POST", None, *(f"X-{begin + n}: 1" for n in range(80))))
    said = [record.getMessage() for record in caplog.records if "is not passed on" in record.getMessage()]
    assert len(said) == 100
    assert max(map(len, said)) < 300
    assert said[-1].endswith("no more headers are named")


def test_an_operator_may_vouch_for_a_claim_by_its_full_name_only() -> None:
    fields = [(b"X-Client-IP", b"1"), (b"x_client_ip", b"2"), (b"true-client-ip", b"3")]
    rules = RequestHeaderRules(["x-client-ip", "true-*"])
    assert forwarded_in_request(fields, rules).forwarded == fields[:1]


def test_the_context_that_a_connection_field_names_is_dropped() -> None:
    fields = [(b"traceparent", b"1"), (b"Connection", b"TraceParent"), (b"baggage", b"a=1")]
    assert forwarded_in_request(fields, RequestHeaderRules()).context == [(b"baggage", b"a=1")]
