"""The parsing of base URLs, and the value of `host`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cpg_trio.http import (
    Origin,
)

if TYPE_CHECKING:
    pass


@pytest.mark.parametrize(
    ("url", "origin", "prefix"),
    [
        ("http://localhost", Origin("http", "localhost", 80), b""),
        ("http://localhost/", Origin("http", "localhost", 80), b""),
        ("HTTP://Plugin_1.Example:8080/base//", Origin("http", "plugin_1.example", 8080), b"/base"),
        ("https://10.0.0.1/a/b%20c/", Origin("https", "10.0.0.1", 443), b"/a/b%20c"),
        ("http://[::1]:9000/x", Origin("http", "::1", 9000), b"/x"),
        ("https://[2001:DB8::1]", Origin("https", "2001:db8::1", 443), b""),
    ],
)
def test_a_base_url_is_an_origin_and_a_prefix(url: str, origin: Origin, prefix: bytes) -> None:
    assert Origin.parse(url) == (origin, prefix)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/path",
        "localhost:80",
        "//localhost",
        "ftp://localhost",
        "http://",
        "http:///path",
        "http://:80",
        "http://user:hunter2@localhost",
        "http://localhost?hunter2",
        "http://localhost/#hunter2",
        "http://localhost/?",
        "http://localhost:",
        "http://localhost:0",
        "http://localhost:65536",
        "http://localhost:-1",
        "http://localhost:+1",
        "http://localhost:80:80",
        "http://local host",
        "http://localhost/\r\nx: y",
        "http://local\thost",
        "http://localhost/\x7f",
        "http://b\xfccher.example",
        "http://a\\b",
        "http://a%20b",
        "http://[::1",
        "http://::1",
        "http://[fe80::1%eth0]",
        "http://[localhost]",
        "http://a[::1]",
        "http://[v1.x]",
    ],
)
def test_what_is_no_plain_base_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        Origin.parse(url)
    assert str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("origin", "header"),
    [
        (Origin("http", "a", 80), b"a"),
        (Origin("https", "a", 443), b"a"),
        (Origin("http", "a", 443), b"a:443"),
        (Origin("http", "::1", 80), b"[::1]"),
        (Origin("https", "::1", 8443), b"[::1]:8443"),
    ],
)
def test_the_host_header_leaves_the_default_port_out_and_brackets_ipv6(origin: Origin, header: bytes) -> None:
    assert origin.host_header == header
