"""The code of a response: what each protocol says, and the HTTP status where it says nothing."""

from __future__ import annotations

import pytest
from connectrpc.code import Code
from hypothesis import given, strategies as st

from cpg_trio.rpc.response_code import code_of_end, code_of_head

CODES = {"ok", *(code.value for code in Code)}


def code_of(status: int, content_type: str, body: bytes = b"", trailers: str = "", fields: str = "") -> str:
    head = [(b"Content-Type", content_type.encode()), *pairs(fields)]
    return code_of_head(status, head) or code_of_end(status, head, pairs(trailers), body)


def pairs(text: str) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, _, value in (p.partition("=") for p in text.split())]


def envelope(flag: int, content: bytes) -> bytes:
    return bytes([flag]) + len(content).to_bytes(4, "big") + content


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (200, "ok"),
        (204, "ok"),
        (302, "ok"),
        (400, "internal"),
        (401, "unauthenticated"),
        (403, "permission_denied"),
        (404, "unimplemented"),
        (418, "unknown"),
        (429, "unavailable"),
        (502, "unavailable"),
    ],
)
def test_the_status_tells_the_code_of_what_speaks_no_protocol(status: int, code: str) -> None:
    assert code_of(status, "text/plain") == code
    assert code_of(status, "") == code


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"code":"already_exists"}', "already_exists"),
        (b'{"code":"made_up"}', "unknown"),
        (b'{"message":"no code"}', "unavailable"),
        (b'{"code":"internal"', "unavailable"),
        (b'"internal"', "unavailable"),
        (b"", "unavailable"),
        (b'{"code":"internal","message":"' + b"x" * 20_000 + b'"}', "unavailable"),
        (b"\x1f\x8b\x08compressed", "unavailable"),
    ],
)
def test_an_error_of_connect_tells_its_code(body: bytes, code: str) -> None:
    assert code_of(503, "application/json; charset=utf-8", body) == code


def test_a_message_that_has_a_code_is_no_error() -> None:
    assert code_of(200, "application/json", b'{"code":"internal"}') == "ok"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (envelope(2, b"{}"), "ok"),
        (envelope(2, b'{"error":{"code":"data_loss"}}'), "data_loss"),
        (envelope(0, b"\2\2\2\2\2\2") + envelope(2, b'{"error":{"code":"data_loss"}}'), "data_loss"),
        (envelope(2, b'{"error":null}'), "ok"),
        (envelope(2, b'{"error":"text"}'), "ok"),
        (envelope(0, b"abc"), "ok"),
        (b"\2", "ok"),
        (b"", "ok"),
    ],
)
def test_a_stream_of_connect_tells_its_code_at_its_end(body: bytes, code: str) -> None:
    assert code_of(200, "application/connect+proto", body) == code


@pytest.mark.parametrize(
    ("trailers", "code"),
    [
        ("grpc-status=0", "ok"),
        ("Grpc-Status=16", "unauthenticated"),
        ("grpc-status=17", "unknown"),
        ("grpc-status=-1", "unknown"),
        ("grpc-status=9" + "9" * 5000, "unknown"),
        ("other=1", "unknown"),
    ],
)
def test_grpc_tells_its_code_in_trailers_or_in_the_head(trailers: str, code: str) -> None:
    assert code_of(200, "application/grpc+proto", trailers=trailers) == code
    if trailers != "other=1":
        assert code_of(200, "application/grpc+proto", fields=trailers) == code


def test_grpc_web_tells_its_code_in_the_last_envelope() -> None:
    body = envelope(0, b"message") + envelope(0x80, b"grpc-status:5\r\ngrpc-message:no\r\n")
    assert code_of(200, "application/grpc-web+proto", body) == "not_found"
    assert code_of(200, "application/grpc-web+proto", b"cut off") == "unknown"


def test_without_a_protocol_of_streams_an_error_status_counts() -> None:
    assert code_of(503, "application/grpc") == code_of(503, "application/connect+json") == "unavailable"


@given(
    st.integers(100, 599),
    st.sampled_from(["json", "connect+json", "grpc", "grpc-web", ""]),
    st.binary(max_size=60),
)
def test_whatever_a_provider_sends_there_is_a_known_code(status: int, content_type: str, body: bytes) -> None:
    assert code_of(status, f"application/{content_type}", body) in CODES
