"""A plugin that its host finds too busy waits as long as the host asks for, and never gives up."""

from __future__ import annotations

import json

import pytest
import trio

from cpg_trio.asgi import Receive, Scope, Send, no_websocket, refuse_websocket, send_response
from cpg_trio.host import Host, HostConfig, Rate, RateLimits
from cpg_trio.plugin._backoff import retry_after_s
from tests.host.calls import HANDSHAKE, REGISTER, WATCH
from tests.plugin.running import echo_plugin, eventually, hosting, is_healthy, meddled, plugged, until

RETRY_AFTER = (b"retry-after", b"1")
ASKED_S = 1.0


class Busy:
    """A host that answers the first call to a path with the word to come back in a second."""

    def __init__(self, path: str, *, websockets: bool = True) -> None:
        self.path = path
        self.websockets = websockets
        self.asked_at: list[float] = []
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> bool:
        self.paths.append(scope["path"])
        if not self.websockets and scope["type"] == "websocket":
            await no_websocket(scope, receive, send)
            return True
        if scope["path"] != self.path:
            return False
        self.asked_at.append(trio.current_time())
        if len(self.asked_at) > 1:
            return False
        if scope["type"] == "websocket":
            await receive()
            await refuse_websocket(send, 429, "too often", [RETRY_AFTER])
        elif self.path == WATCH:
            end = json.dumps({"error": {"code": "resource_exhausted"}}).encode()
            frame = b"\2" + len(end).to_bytes(4, "big") + end
            await send_response(
                send, 200, frame, [(b"content-type", b"application/connect+proto"), RETRY_AFTER]
            )
        else:
            error = json.dumps({"code": "resource_exhausted", "message": "too often"}).encode()
            await send_response(send, 429, error, [(b"content-type", b"application/json"), RETRY_AFTER])
        return True

    @property
    def waited_s(self) -> float:
        return self.asked_at[1] - self.asked_at[0]


@pytest.mark.parametrize("path", [HANDSHAKE, REGISTER])
async def test_who_is_asked_to_wait_before_it_is_registered_does(path: str) -> None:
    busy = Busy(path)
    async with meddled(busy) as (host, url), plugged(echo_plugin(), url):
        await until(host, lambda: is_healthy(host, "echo"))
    assert busy.waited_s >= ASKED_S


@pytest.mark.parametrize("way", ["websocket", "stream"])
async def test_who_is_asked_to_wait_with_its_watch_does_and_keeps_to_that_way(way: str) -> None:
    busy = Busy("/watch" if way == "websocket" else WATCH, websockets=way == "websocket")
    plugin = echo_plugin()
    plugin.require("other", required=False)
    async with meddled(busy) as (host, url), plugged(plugin, url):
        await eventually(lambda: len(host.watches))
        assert (WATCH in busy.paths) is (way == "stream")
    assert busy.waited_s >= ASKED_S


async def test_many_that_come_at_once_are_all_registered_in_the_end() -> None:
    host = Host(HostConfig(rates=RateLimits(handshake=Rate(2, 2), register=Rate(2, 1), watch=Rate(2, 1))))
    async with hosting(host=host) as (_, url), trio.open_nursery() as nursery:
        stop = trio.Event()

        async def run(number: int) -> None:
            async with plugged(echo_plugin(service_type=f"echo-{number}"), url):
                await stop.wait()

        for number in range(4):
            nursery.start_soon(run, number)
        await eventually(lambda: len(host.registry.service_types()) == 4)
        stop.set()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("3", 3.0),
        ("0", 0.0),
        ("", 0.0),
        ("-1", 0.0),
        ("1.5", 0.0),
        ("²", 0.0),
        ("86400", 3600.0),
        ("9" * 5000, 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_what_a_host_asks_for_is_whole_seconds_and_an_hour_at_most(said: str, seconds: float) -> None:
    assert retry_after_s({"retry-after": said}) == seconds
    assert retry_after_s({}) == 0
