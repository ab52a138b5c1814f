"""What one client can take and keep, or ask for, so that nothing is left for others."""

from __future__ import annotations

import trio

from tests._wire import request
from tests.abuse.hostile import (
    ECHO,
    HANDSHAKE,
    JSON,
    REGISTER,
    REPORT,
    Attacks,
    Hostile,
    Identity,
    big_metadata,
    greeting,
    head,
    post,
    registration,
)

CONNECTIONS = 1200  # more than a host of the tests has descriptors for
CALLS = 1000
ANEW_S = 1.0  # after which one that was shown the door comes back

HOARDS = Attacks()


@HOARDS(at_once=CONNECTIONS, pause_s=ANEW_S)
async def idle_connections(a: Hostile) -> None:
    async with a.line(a.host_url) as wire:
        a.counts["held"] += 1
        await a.take(wire)
    await trio.sleep(1)


@HOARDS(at_once=CONNECTIONS, pause_s=ANEW_S)
async def connections_after_a_call(a: Hostile) -> None:
    async with a.line(a.host_url) as wire:
        await a.ask(wire, request("GET", "/healthz"))
        a.counts["held"] += 1
        await a.take(wire)
    await trio.sleep(1)


@HOARDS(at_once=CONNECTIONS, pause_s=ANEW_S)
async def silent_bodies(a: Hostile) -> None:
    async with a.line(a.host_url) as wire:
        await wire.send(head("POST", HANDSHAKE, {**JSON, "transfer-encoding": "chunked"}))
        a.counts["held"] += 1
        await a.take(wire)
    await trio.sleep(1)


@HOARDS(at_once=CONNECTIONS, pause_s=ANEW_S)
async def dripping_bodies(a: Hostile) -> None:
    async with a.line(a.host_url) as wire, trio.open_nursery() as nursery:
        nursery.start_soon(a.take, wire)
        await wire.send(head("POST", HANDSHAKE, {**JSON, "content-length": "200000"}))
        a.counts["held"] += 1
        while True:
            await wire.send(b" ")
            await trio.sleep(5)


@HOARDS(at_once=CONNECTIONS, pause_s=ANEW_S)
async def dripping_heads(a: Hostile) -> None:
    async with a.line(a.host_url) as wire, trio.open_nursery() as nursery:
        nursery.start_soon(a.take, wire)
        await wire.send(b"GET /healthz HTTP/1.1\r\nhost: h\r\nx: ")
        a.counts["held"] += 1
        while True:
            await wire.send(b"y")
            await trio.sleep(1)


@HOARDS(at_once=100, pause_s=ANEW_S)
async def open_http2_streams(a: Hostile) -> None:
    async with a.http2(a.host_url) as http2:
        for _ in range(95):
            await http2.request(HANDSHAKE, *JSON.items(), body=b"", method="POST")
            a.counts["streams"] += 1
            await trio.sleep(0.05)  # it is about what is kept open, not about what opening it costs
        while True:
            await http2.read()


@HOARDS(at_once=CALLS, pause_s=ANEW_S)
async def open_calls(a: Hostile) -> None:
    identity = await a.identity()
    async with a.line(a.host_url) as wire:
        await wire.send(post(a.routed, {"text": "hang"}, identity))
        a.counts["held"] += 1
        await a.answer(wire)


@HOARDS(at_once=CALLS, pause_s=ANEW_S)
async def open_routed_bodies(a: Hostile) -> None:
    identity = await a.identity()
    async with a.line(a.host_url) as wire:
        await wire.send(head("POST", a.routed, {**JSON, **identity, "transfer-encoding": "chunked"}))
        a.counts["held"] += 1
        await a.take(wire)


@HOARDS(at_once=200)
async def open_public_calls(a: Hostile) -> None:
    async with a.line(a.plugin_url) as wire:
        await wire.send(post(ECHO, {"text": "hang"}))
        a.counts["held"] += 1
        await a.answer(wire)


@HOARDS(at_once=16)
async def empty_handshakes(a: Hostile) -> None:
    await a.asks(a.host_url, (post(HANDSHAKE, greeting("")) for _ in range(100)))


@HOARDS(at_once=16)
async def failed_authentications(a: Hostile) -> None:
    proof = {"x-plugin-runtime-id": "nobody", "authorization": "Bearer a.b.c"}
    await a.asks(
        a.host_url, (post(path, {}, proof) for path in (a.routed, REPORT, REGISTER) for _ in range(30))
    )


@HOARDS(at_once=16)
async def registrations_to_the_limits(a: Hostile) -> None:
    identity = await a.shake_hands()
    if identity is None:
        await trio.sleep(0.2)
        return
    async with a.line(a.host_url) as wire:
        for number in range(100):
            metadata = big_metadata(a.text, 2_000)
            message = registration(f"t{number}-{a.text(20)}", "http://127.0.0.1:1", metadata)
            await a.ask(wire, post(REGISTER, message, identity))


@HOARDS(at_once=45)
async def names_that_resolve_slowly(a: Hostile) -> None:
    identity = await a.identity()
    name = f"x{a.text(20)}.slow.test"
    await a.asks(a.host_url, post(REGISTER, registration(f"t{a.text(20)}", f"http://{name}:1"), identity))
    await trio.sleep(0.2)


@HOARDS(at_once=1)
async def many_subscriptions(a: Hostile) -> None:
    """Register much, follow all of it on as many watches as there may be, and change it all the time."""
    identity = await a.identity()
    types = [f"t{number}-{a.text(20)}" for number in range(100)]
    for service_type in types:
        await a.asks(
            a.host_url, post(REGISTER, registration(service_type, f"http://{a.address}:1"), identity)
        )
    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(_follow_all, a, identity, types)
        while True:
            for state in ("HEALTH_STATE_DEGRADED", "HEALTH_STATE_HEALTHY"):
                await a.asks(a.host_url, post(REPORT, {"state": state, "reason": a.text(4000)}, identity))
                await trio.sleep(0.05)


async def _follow_all(a: Hostile, identity: Identity, types: list[str]) -> None:
    async with a.websocket(identity) as ws, trio.open_nursery() as nursery:
        nursery.start_soon(a.take, ws.wire)
        await a.follow(ws, *types)
        for _ in range(9):
            await a.follow(ws, *(f"u{a.text(20)}" for _ in range(100)))
        await trio.sleep_forever()


@HOARDS(at_once=200)
async def answers_that_are_not_read(a: Hostile) -> None:
    identity = await a.identity()
    message = {"data": "A" * 2_000_000}
    async with a.line(a.host_url, receive_buffer=4096) as wire:
        await wire.send(post(a.routed, message, identity))
        a.counts["held"] += 1
        await trio.sleep_forever()
