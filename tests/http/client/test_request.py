"""Requests that can be sent, and those that cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cpg_trio.http import (
    InvalidRequestError,
    Request,
)
from cpg_trio.http.client.request import PreparedRequest

if TYPE_CHECKING:
    pass


@pytest.mark.parametrize(
    "request_",
    [
        Request(b"CONNECT", b"/", []),
        Request(b"GET", b"http://elsewhere/", []),
        Request(b"GET", b"", []),
        Request(b"GET", b"/a b", []),
        Request(b"GET", b"/\r\nx: y", []),
        Request(b"G T", b"/", []),
        Request(b"GET", b"/", [(b"a b", b"secret")]),
        Request(b"GET", b"/ HTTP/1.1\r\nx: y", []),
        Request(b"GET", b"/\xff", []),
        Request(b"GET\r\nX: y", b"/", []),
        Request(b"", b"/", []),
        Request(b"GET", b"/", [(b"", b"secret")]),
        Request(b"GET", b"/", [(b"a: b", b"secret")]),
        Request(b"GET", b"/", [(b"host:a", b"secret")]),
        Request(b"GET", b"/", [(b"a\r\nb", b"secret")]),
        Request(b"GET", b"/", [(b"a", b"secret\r\nb: c")]),
        Request(b"GET", b"/", [(b"a", b"secret\nb: c")]),
        Request(b"GET", b"/", [(b"a", b"secret\r")]),
        Request(b"GET", b"/", [(b"a", b"secret\0")]),
        Request(b"GET", b"/", [(b"a", b"secret\x0b")]),
        Request(b"GET", b"/", [(b"a", b" secret")]),
        Request(b"GET", b"/", [(b"a", b"secret\t")]),
        Request(b"GET", b"/", [(b"host", b"a"), (b"host", b"b")]),
        Request(b"PUT", b"/", [(b"content-length", b"1"), (b"content-length", b"1")], b"x"),
        Request(b"PUT", b"/", [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")], b"x"),
        Request(b"PUT", b"/", [(b"content-length", b"1, 1")], b"x"),
        Request(b"PUT", b"/", [(b"content-length", b"-1")], b""),
        Request(b"PUT", b"/", [(b"content-length", b"9" * 5000)], b""),
        Request(b"PUT", b"/", [(b"content-length", b"2")], b"x"),
        Request(b"PUT", b"/", [], b"x"),
        Request(b"PUT", b"/", [(b"content-length", b"")], b""),
        Request(b"PUT", b"/", [(b"Content-Length", b"1"), (b"content-length", b"1")], b"x"),
        Request(b"PUT", b"/", [(b"transfer-encoding", b"gzip")], b"x"),
        Request(b"PUT", b"/", [(b"transfer-encoding", b"gzip, chunked")], b"x"),
    ],
)
def test_a_request_that_is_no_http_is_the_callers_error_and_its_values_are_not_shown(
    request_: Request,
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        PreparedRequest.of(request_, b"h")
    assert "secret" not in str(caught.value)


def test_the_asterisk_is_a_target() -> None:
    assert PreparedRequest.of(Request(b"OPTIONS", b"*", []), b"h").start.startswith(b"OPTIONS * HTTP/1.1\r\n")


USUAL = [("content-type", "application/proto"), ("authorization", "Bearer a.b"), ("x-request-id", "r")]


@pytest.mark.parametrize("body", [b"", b"hello"])
@pytest.mark.parametrize("headers", [[], USUAL, [*USUAL, *USUAL]])
def test_a_request_of_the_usual_form_is_the_same_whichever_way_it_is_written(
    headers: list[tuple[str, str]], body: bytes
) -> None:
    fields = [(name.encode(), value.encode()) for name, value in headers]
    given = [(b"host", b"h:1"), (b"content-length", b"%d" % len(body)), *fields]
    expected = PreparedRequest.of(Request(b"POST", b"/a?b", given, body), b"elsewhere")
    assert PreparedRequest.plain("POST", "/a?b", "h:1", headers, body) == expected


@pytest.mark.parametrize(
    "headers",
    [
        *([(name, "x")] for name in ("host", "expect", "connection", "content-length", "transfer-encoding")),
        *([(name, "x")] for name in ("", "my-key", "Accept", "accept: a", "accept\r\nb")),
        *([("accept", value)] for value in ("a\r\nb: c", "a\nb", "a\r", "a\0", "\x0b", " a", "a\t")),
        [("accept", "a\r\n\r\nGET / HTTP/1.1")],
    ],
)
def test_what_is_not_of_the_usual_form_is_left_to_be_checked(headers: list[tuple[str, str]]) -> None:
    assert PreparedRequest.plain("POST", "/", "h", headers, b"") is None


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("CONNECT", "/"),
        ("", "/"),
        ("P T", "/"),
        ("GET", ""),
        ("GET", "*"),
        ("GET", "/a b"),
        ("GET", "/\r\nx: y"),
    ],
)
def test_so_is_another_target_or_method(method: str, target: str) -> None:
    assert PreparedRequest.plain(method, target, "h", USUAL, b"") is None


def test_so_is_a_large_body() -> None:
    assert PreparedRequest.plain("POST", "/", "h", USUAL, bytes(16 * 1024 + 1)) is None
