"""No message is larger than a service lets it be: however it is called, also packed, unary and in streams."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from cpg_trio.plugin import Plugin
from cpg_trio.rpc import MAX_MESSAGE_BYTES, application
from tests.plugin.running import eventually, hosting, plugged
from tests.rpc.echo import ADDRESS, Echo, in_process

ECHO, SUM = f"{ADDRESS}/echo.v1.EchoService/Echo", f"{ADDRESS}/echo.v1.EchoService/Sum"
# The second is for connectrpc's application to answer, by a header that is not ASCII.
WAYS = pytest.mark.parametrize("way", [{}, {"x-name": "é"}], ids=["the short way", "connectrpc"])
PACKED = pytest.mark.parametrize("packed", [False, True])
LIMIT = 1000


def padded(size: int) -> bytes:
    return b"{" + b" " * (size - 2) + b"}"


async def echo(http: httpx.AsyncClient, body: bytes, packed: bool, way: dict[str, str]) -> int:  # noqa: FBT001
    headers = {"content-type": "application/json"}
    if packed:
        headers["content-encoding"] = "gzip"
        body = gzip.compress(body)
    encoded = [(k.encode(), v.encode()) for k, v in {**headers, **way}.items()]
    return (await http.post(ECHO, content=body, headers=encoded)).status_code


@WAYS
@PACKED
async def test_a_message_may_be_as_large_as_the_limit_says_and_one_byte_more_is_refused(
    packed: bool,  # noqa: FBT001
    way: dict[str, str],
) -> None:
    async with in_process(application([Echo()], max_message_bytes=LIMIT)) as http:
        sizes = (LIMIT, LIMIT + 1, LIMIT)
        assert [await echo(http, padded(size), packed, way) for size in sizes] == [200, 429, 200]


@WAYS
@PACKED
async def test_a_service_takes_four_mebibytes_unless_it_is_told_otherwise(
    packed: bool,  # noqa: FBT001
    way: dict[str, str],
) -> None:
    assert MAX_MESSAGE_BYTES == 4 * 1024 * 1024
    large = padded(MAX_MESSAGE_BYTES + 1)
    async with in_process(application([Echo()])) as http:
        assert await echo(http, large[:-2] + b"}", packed, way) == 200
        assert await echo(http, large, packed, way) == 429
    async with in_process(application([Echo()], max_message_bytes=None)) as http:
        assert await echo(http, large, packed, way) == 200


@PACKED
async def test_each_message_of_a_stream_is_limited_and_not_all_together(packed: bool) -> None:  # noqa: FBT001
    def frame(size: int) -> bytes:
        content = gzip.compress(padded(size)) if packed else padded(size)
        return bytes([packed]) + len(content).to_bytes(4, "big") + content

    async def send(*sizes: int) -> Any:
        headers = {"content-type": "application/connect+json", "connect-content-encoding": "gzip"}
        response = await http.post(SUM, content=b"".join(map(frame, sizes)), headers=headers)
        end = response.content[5 + int.from_bytes(response.content[1:5], "big") :] or response.content
        return json.loads(end[5:]).get("error", {}).get("code")

    async with in_process(application([Echo()], max_message_bytes=LIMIT)) as http:
        assert await send(LIMIT, LIMIT, LIMIT) is None
        assert await send(LIMIT, LIMIT + 1) == "resource_exhausted"


async def test_a_body_without_end_is_refused_when_it_has_passed_the_limit() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 100

    async with in_process(application([Echo()], max_message_bytes=LIMIT)) as http:
        response = await http.post(ECHO, content=endless(), headers={"content-type": "application/json"})
        assert response.status_code == 429
        assert response.json() == {
            "code": "resource_exhausted",
            "message": "message is larger than configured max 1000",
        }


async def test_a_plugin_says_how_large_the_messages_to_a_service_of_its_may_be() -> None:
    plugin = Plugin("narrow", version="1.0.0")
    plugin.provide("echo", Echo(), max_message_bytes=LIMIT, public=True)
    async with hosting() as (host, url), plugged(plugin, url) as plugin_url:
        await eventually(lambda: host.registry.available("echo"))
        async with httpx.AsyncClient() as http:
            for size, expected in ((LIMIT, 200), (LIMIT + 1, 429)):
                answer = await http.post(
                    f"{plugin_url}/echo.v1.EchoService/Echo",
                    content=padded(size),
                    headers={"content-type": "application/json"},
                )
                assert answer.status_code == expected
