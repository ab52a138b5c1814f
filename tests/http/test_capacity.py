"""What a process does that may have few files open: it takes what fits, and blames nobody for the rest."""

from __future__ import annotations

import logging
import re
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import trio

from cpg_trio.asgi import Receive, Scope, Send, send_text
from cpg_trio.http import ServeConfig
from cpg_trio.http.server.capacity import fitted_to_descriptors, most_connections
from cpg_trio.plugin import Plugin
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.descriptors import none_left
from tests.http.apps import served
from tests.plugin.running import echo_plugin, plugged, unused_port
from tests.processes import assert_no_traceback, running

FILES = 100
CROWD = 3 * FILES
CALLS = 50
GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    ("files", "most"), [(100, 36), (1024, 440), (20_000, 9744), (2**20, 524_032), (8, 1)]
)
def test_half_of_what_there_is_beside_a_reserve_is_for_connections_that_come(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, files: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert most_connections() == most
    config = ServeConfig(max_connections=10_000)
    with caplog.at_level(logging.WARNING):
        fits = fitted_to_descriptors(config)
    assert fits.max_connections == min(most, 10_000)
    assert len(caplog.messages) == (most < 9_000)
    assert fitted_to_descriptors(fits) is fits


@asynccontextmanager
async def crowd(port: int) -> AsyncIterator[None]:
    """Open more connections than a host has file descriptors for, and open anew what it closes."""

    async def hold() -> None:
        while True:
            try:
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.receive_some()
            except (OSError, trio.BrokenResourceError):
                pass
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for _ in range(CROWD):
            nursery.start_soon(hold)
        yield
        nursery.cancel_scope.cancel()


async def test_a_host_with_few_descriptors_serves_its_plugins_in_a_crowd_and_blames_none() -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    port = unused_port()
    environment = {"PORT": str(port), "RATE_LIMITS": "handshake=off", "CONFINED_FILES": f"64:{FILES}"}
    async with running("tests.abuse.confinement", "cpg_trio", "host", environment=environment) as host:
        url = await host.url()
        async with plugged(echo_plugin(), url), plugged(caller, url):
            with trio.fail_after(20):
                await echo.wait_available()
            async with crowd(port):
                for number in range(CALLS):
                    assert (await client.echo(EchoRequest(text=str(number)), timeout_s=10)).text == str(
                        number
                    )
                    await trio.sleep(0.02)
                assert host.open_files() <= FILES
            assert (await client.echo(EchoRequest(text="x"), timeout_s=10)).text == "x"
        said = host.output
    assert f"36 connections are taken at once, not 10000, as this process may have {FILES} files open" in said
    assert not re.search(r"has lapsed|is gone", said)
    assert_no_traceback(said)


async def hello(_scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send_text(send, 200, "hello")


async def test_a_server_without_a_descriptor_says_so_once_and_goes_on_with_those_it_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served(hello) as url:
        port = urlsplit(url).port
        assert port is not None
        late = trio.socket.socket()
        async with await trio.open_tcp_stream("127.0.0.1", port) as early:
            with none_left():
                await late.connect(("127.0.0.1", port))  # the kernel keeps it until it is accepted
                await trio.sleep(0.35)
                for _ in range(2):
                    await early.send_all(GET)
                    assert (await early.receive_some()).startswith(b"HTTP/1.1 200")
            await late.send(GET)
            assert (await late.recv(1000)).startswith(b"HTTP/1.1 200")
        late.close()
    told = [record for record in caplog.records if "too many open files" in record.getMessage()]
    assert [record.getMessage() for record in told] == [
        "new connections wait, and those that there are go on: too many open files"
    ]
    assert told[0].exc_info is None
