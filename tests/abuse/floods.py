"""The worst requests: what would be kept of each, or held for each, if nothing bounded it.

A step of an attack is done by many tasks at once, again and again. Most are made without credentials. Those
that need an identity get one from the host, as anybody does; where one address gets too few, they come from
many, all of which are this machine's.
"""

from __future__ import annotations

import json

import trio
from wsproto.events import Message, Ping

from tests._wire import Http2Wire, Wire, request
from tests.abuse.hostile import (
    CAPABILITY,
    DISCOVER,
    ECHO,
    HANDSHAKE,
    JSON,
    PROTO,
    REGISTER,
    REPORT,
    UNREGISTER,
    Attacks,
    Hostile,
    Identity,
    big_metadata,
    bomb,
    greeting,
    head,
    post,
    registration,
)

HEAD = 60_000  # bytes of a head that is just not too large
MESSAGE = 3_900_000  # bytes of a message that a plugin just takes
HOST_MESSAGE = 250_000  # and the host
ON_A_LINE = 50  # requests on a connection before the next one

FLOODS = Attacks()


def _both(a: Hostile) -> str:
    return a.chance.choice((a.host_url, a.plugin_url))


# What is in heads, and answered at once.


@FLOODS(at_once=8)
async def names_in_connection(a: Hostile) -> None:
    def names() -> dict[str, str]:
        return {"connection": a.text(HEAD).replace("7", ",")}

    await a.asks(_both(a), (head("GET", "/services/echo/x/y", names()) for _ in range(ON_A_LINE)))


@FLOODS(at_once=8)
async def long_paths(a: Hostile) -> None:
    kinds = ("/services/echo/{}/", "/services/{}/", "/", "/capabilities/{}/", "/connectplugin.v1.")
    paths = (a.chance.choice(kinds).replace("{}", a.text(64)) + a.text(HEAD) for _ in range(ON_A_LINE))
    await a.asks(_both(a), (post(path, {}) for path in paths))


@FLOODS(at_once=8)
async def names_of_headers(a: Hostile) -> None:
    requests = (
        head("GET", "/services/echo/x/y", {f"x{a.text(60)}": "1" for _ in range(800)})
        for _ in range(ON_A_LINE)
    )
    await a.asks(_both(a), requests)


@FLOODS(at_once=8)
async def long_values(a: Hostile) -> None:
    names = (
        "x-plugin-runtime-id",
        "authorization",
        "x-plugin-caller",
        "x-plugin-caller-id",
        "content-type",
        "user-agent",
        "accept",
        "grpc-timeout",
        "connect-timeout-ms",
        "connect-protocol-version",
        "te",
        "cookie",
        "content-encoding",
        "accept-encoding",
        "connect-accept-encoding",
        "x-plugin-enrolment",
        "origin",
        "traceparent",
        "x-auth-token",
    )

    def values() -> dict[str, str]:
        return {a.chance.choice(names): a.chance.choice(("", "Bearer ")) + a.text(HEAD)}

    await a.asks(_both(a), (post(ECHO, {}, values()) for _ in range(ON_A_LINE)))


@FLOODS(at_once=8)
async def forged_statements(a: Hostile) -> None:
    def proofs() -> dict[str, str]:
        return {
            "x-plugin-caller-id": a.text(64),
            "x-plugin-caller": ".".join((a.text(20_000), a.text(64), a.text(20_000))),
            "x-plugin-runtime-id": a.text(64),
            "authorization": "Bearer " + ".".join((a.text(64), a.text(64), a.text(64))),
        }

    await a.asks(_both(a), (post(ECHO, {}, proofs()) for _ in range(ON_A_LINE)))


@FLOODS(at_once=8)
async def authorities(a: Hostile) -> None:
    requests = (f"GET /healthz HTTP/1.1\r\nhost: {a.text(HEAD)}\r\n\r\n".encode() for _ in range(ON_A_LINE))
    await a.asks(_both(a), requests)


# What is in bodies.


@FLOODS(at_once=4)
async def large_nonsense(a: Hostile) -> None:
    junk = b"\xff" * MESSAGE
    frame = b"\0" + len(junk).to_bytes(4, "big") + junk
    for kind in ("application/grpc-web+proto", "application/grpc-web+json", "application/grpc-web"):
        await a.asks(a.plugin_url, post(ECHO, frame, {"content-type": kind}))
    await a.asks(a.plugin_url, post(ECHO, junk, PROTO))


@FLOODS(at_once=4)
async def surrogates(a: Hostile) -> None:
    key = a.text(64)
    for body in (
        b'{"clientMetadata": "' + b"\\ud800" * 40_000 + b'"}',
        b'{"clientMetadata": {"' + key.encode() + b'": "\\ud800"}}',
        b'{"selfId": "\\udfff", "clientMetadata": {"' + b"\\ud800" * 10 + b'": "x"}}',
        b'{"\\ud800' + key.encode() + b'": 1}',
    ):
        await a.asks(a.host_url, (post(HANDSHAKE, body) for _ in range(10)))
        await a.asks(a.plugin_url, (post(ECHO, body.replace(b"clientMetadata", b"text")) for _ in range(10)))


@FLOODS(at_once=4)
async def nesting(a: Hostile) -> None:
    for size, url, path in ((100_000, a.host_url, HANDSHAKE), (1_900_000, a.plugin_url, ECHO)):
        for opening in (b"[", b'{"a":'):
            await a.asks(url, post(path, b'{"x": ' + opening * (size // len(opening)) + b"1"))


@FLOODS(at_once=4)
async def bombs(a: Hostile) -> None:
    packed = bomb(60_000_000)
    for headers in ({"content-encoding": "gzip"}, {"content-encoding": "gzip", **PROTO}):
        await a.asks(a.host_url, post(HANDSHAKE, packed, headers))
        await a.asks(a.plugin_url, post(ECHO, packed, headers))
    fits = bomb(MESSAGE)
    await a.asks(a.plugin_url, post(ECHO, fits, {"content-encoding": "gzip", **PROTO}))
    frame = b"\1" + len(fits).to_bytes(4, "big") + fits
    grpc_web = {"content-type": "application/grpc-web+proto", "grpc-encoding": "gzip"}
    await a.asks(a.plugin_url, post(ECHO, frame, grpc_web))


@FLOODS(at_once=16)
async def bodies_of_small_chunks(a: Hostile) -> None:
    url = _both(a)
    path = ECHO if url == a.plugin_url else HANDSHAKE
    async with a.line(url) as wire, trio.open_nursery() as nursery:
        await wire.send(head("POST", path, {**JSON, "transfer-encoding": "chunked"}))
        nursery.start_soon(a.take, wire)
        for _ in range(500):
            await wire.send(b"1\r\n{\r\n" * 1000)
        nursery.cancel_scope.cancel()


@FLOODS(at_once=16)
async def extensions_and_trailers(a: Hostile) -> None:
    async with a.line(_both(a)) as wire, trio.open_nursery() as nursery:
        chunked = {**JSON, "transfer-encoding": "chunked", "expect": "100-continue"}
        await wire.send(head("POST", a.chance.choice((ECHO, HANDSHAKE)), chunked))
        nursery.start_soon(a.take, wire)
        for _ in range(50):
            await wire.send(f"1;x={a.text(HEAD)}\r\n \r\n".encode())
            a.counts["chunks"] += 1
        await wire.send(b"0\r\n")
        for _ in range(50):
            await wire.send(f"x{a.text(60)}: {a.text(4000)}\r\n".encode())
        nursery.cancel_scope.cancel()


@FLOODS(at_once=300)
async def unfinished_heads(a: Hostile) -> None:
    async with a.line(_both(a), a.another_address()) as wire:
        await wire.send(b"GET /x HTTP/1.1\r\nhost: h\r\nx: " + b"y" * HEAD)
        a.counts["sent"] += 1
        await a.take(wire)


@FLOODS(at_once=200)
async def unfinished_bodies(a: Hostile) -> None:
    async with a.line(a.plugin_url, a.another_address()) as wire, trio.open_nursery() as nursery:
        nursery.start_soon(a.take, wire)
        await wire.send(head("POST", ECHO, {**PROTO, "content-length": str(MESSAGE)}) + b"\0" * (MESSAGE - 1))
        a.counts["sent"] += 1
        await trio.sleep_forever()


@FLOODS(at_once=800)
async def unfinished_bodies_to_the_host(a: Hostile) -> None:
    async with a.line(a.host_url, a.another_address()) as wire, trio.open_nursery() as nursery:
        nursery.start_soon(a.take, wire)
        fields = {**PROTO, "content-length": str(HOST_MESSAGE)}
        await wire.send(head("POST", HANDSHAKE, fields) + b"\0" * (HOST_MESSAGE - 1))
        a.counts["sent"] += 1
        await trio.sleep_forever()


@FLOODS(at_once=300)
async def answers_that_nobody_reads(a: Hostile) -> None:
    async with a.line(a.plugin_url, a.another_address(), receive_buffer=4096) as wire:
        body = b"\x12" + bytes(
            (0x80 | MESSAGE & 0x7F, 0x80 | MESSAGE >> 7 & 0x7F, 0x80 | MESSAGE >> 14 & 0x7F)
        )
        await wire.send(post(ECHO, body + bytes((MESSAGE >> 21,)) + b"\0" * MESSAGE, PROTO))
        a.counts["sent"] += 1
        await trio.sleep(40)


@FLOODS(at_once=100)
async def pipelines_that_nobody_reads(a: Hostile) -> None:
    async with a.line(_both(a), a.another_address(), receive_buffer=4096) as wire:
        with trio.move_on_after(10):
            while True:
                await wire.send(request("GET", "/healthz") * 500)
                a.counts["requests"] += 500


# HTTP/2 and WebSocket.


@FLOODS(at_once=50)
async def open_streams(a: Hostile) -> None:
    url = _both(a)
    path = ECHO if url == a.plugin_url else HANDSHAKE
    async with a.http2(url, a.another_address()) as http2:
        with trio.move_on_after(30):
            for _ in range(90):
                fields = (*PROTO.items(), ("x-padding", a.text(4000)))
                stream = await http2.request(path, *fields, body=b"", method="POST")
                http2.h2.send_data(stream, b"\0" * 500)
                await http2.flush()
                a.counts["streams"] += 1
            while True:
                await http2.read()


@FLOODS(at_once=8)
async def streams_that_are_reset(a: Hostile) -> None:
    async with a.http2(_both(a)) as http2:
        with trio.move_on_after(5):
            while True:
                stream = await http2.request(ECHO, *PROTO.items(), body=b"", method="POST")
                http2.h2.reset_stream(stream)
                await http2.flush()
                a.counts["streams"] += 1


@FLOODS(at_once=30)
async def pings_whose_answers_nobody_reads(a: Hostile) -> None:
    async with a.line(_both(a), a.another_address(), receive_buffer=4096) as wire:
        http2 = Http2Wire(wire.stream)
        http2.h2.initiate_connection()
        await http2.flush()
        ping = b"\0\0\x08\x06\0\0\0\0\0" + b"p" * 8
        settings = b"\0\0\0\x04\0\0\0\0\0"
        with trio.move_on_after(10):
            while True:
                await wire.send(a.chance.choice((ping, settings)) * 5000)
                a.counts["frames"] += 5000


@FLOODS(at_once=8)
async def heads_of_http2(a: Hostile) -> None:
    async with a.http2(_both(a)) as http2:
        for _ in range(200):
            fields = ((f"x{a.text(30)}", a.text(3000)) for _ in range(15))
            with trio.fail_after(5):
                await http2.response(await http2.request(f"/{a.text(2000)}", *fields))
            a.counts["heads"] += 1


@FLOODS(at_once=8)
async def frames_of_websockets(a: Hostile) -> None:
    identity = await a.identity()
    async with a.websocket(identity) as ws, trio.open_nursery() as nursery:
        nursery.start_soon(a.take, ws.wire)
        kind = a.chance.randrange(4)
        for _ in range(2000):
            if kind == 0:
                await ws.send(Ping(payload=b"p" * 125))
            elif kind == 1:
                await ws.send(Message(data="{" * 1000, message_finished=False))
            elif kind == 2:
                await ws.send(Message(data=json.dumps({"unsubscribe": [a.text(1000)] * 100})))
            else:
                many = [{"serviceType": f"t{a.text(100)}", "minVersion": a.text(1000)} for _ in range(100)]
                await ws.send(Message(data=json.dumps({"subscribe": many})))
        nursery.cancel_scope.cancel()


# What needs an identity, which anybody gets.


async def _someone(a: Hostile) -> tuple[str, Identity]:
    """Return an address that was not used before, and an identity that was given to it."""
    address = a.another_address()
    identity = await a.shake_hands(address)
    if identity is None:
        raise ConnectionRefusedError("no identity")
    return address, identity


@FLOODS(at_once=8)
async def handshakes(a: Hostile) -> None:
    address = a.another_address()
    async with a.line(a.host_url, address) as wire:
        for _ in range(25):
            metadata = {
                **big_metadata(a.text, 200_000),
                "provides": _types(a, 100),
                "requires": _types(a, 100),
            }
            await a.ask(wire, post(HANDSHAKE, greeting(f"p{a.text(120)}", metadata)))


def _types(a: Hostile, number: int) -> str:
    return ",".join(f"t{a.text(38)}" for _ in range(number))


@FLOODS(at_once=8)
async def renewals(a: Hostile) -> None:
    _, identity = await _someone(a)
    for _ in range(2000):
        renewed = await a.shake_hands(a.another_address(), identity, renews="true")
        identity = renewed or identity


@FLOODS(at_once=8)
async def registrations(a: Hostile) -> None:
    address, identity = await _someone(a)
    async with a.line(a.host_url, address) as wire:
        for _ in range(100):
            message = registration(f"t{a.text(120)}", f"http://{address}:1", big_metadata(a.text, 100_000))
            await a.ask(wire, post(REGISTER, message, identity))


@FLOODS(at_once=8)
async def identities_that_end(a: Hostile) -> None:
    address, identity = await _someone(a)
    async with a.line(a.host_url, address) as wire:
        message = registration(f"t{a.text(120)}", f"http://{address}:1")
        response = await a.ask(wire, post(REGISTER, message, identity))
        said = json.loads(response.body)
        if "registrationId" in said:
            await a.ask(wire, post(UNREGISTER, {"registrationId": said["registrationId"]}, identity))


@FLOODS(at_once=20)
async def watches_of_many_types(a: Hostile) -> None:
    address, identity = await _someone(a)
    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(_watch_many, a, identity, address)


async def _watch_many(a: Hostile, identity: Identity, address: str) -> None:
    async with a.websocket(identity, address) as ws, trio.open_nursery() as nursery:
        nursery.start_soon(a.take, ws.wire)
        for _ in range(10):
            await a.follow(ws, *(f"t{a.text(120)}" for _ in range(100)))
        await trio.sleep(20)
        nursery.cancel_scope.cancel()


@FLOODS(at_once=8)
async def watches_of_large_metadata(a: Hostile) -> None:
    """Register what is large, and follow all of it at once, on watches that are hardly read."""
    address, identity = await _someone(a)
    service_type = f"t{a.text(60)}"
    message = registration(service_type, f"http://{address}:1", big_metadata(a.text, 240_000))
    if "registrationId" in await a.call(REGISTER, message, identity, address):
        a.types.append(service_type)
    async with a.websocket(identity, address, receive_buffer=4096) as ws, trio.open_nursery() as nursery:
        nursery.start_soon(_read_slowly, ws.wire)
        for first in range(0, min(len(a.types), 1000), 100):
            await a.follow(ws, *a.types[first : first + 100])
        await trio.sleep(2)
        nursery.cancel_scope.cancel()


async def _read_slowly(wire: Wire) -> None:
    while await wire.stream.receive_some(1000):  # noqa: ASYNC110 - it is slow on purpose
        await trio.sleep(0.1)


@FLOODS(at_once=8)
async def health_of_many(a: Hostile) -> None:
    address, identity = await _someone(a)
    report = {
        "state": "HEALTH_STATE_DEGRADED",
        "reason": a.text(4000),
        "unavailableDependencies": [f"t{a.text(126)}" for _ in range(100)],
    }
    await a.asks(a.host_url, post(REPORT, report, identity), address=address)


@FLOODS(at_once=8)
async def reports_of_direct_calls(a: Hostile) -> None:
    address, identity = await _someone(a)

    def series() -> list[dict[str, str]]:
        return [
            {
                "serviceType": "echo",
                "providerId": a.chance.choice((a.provider_id, a.text(60))),
                "series": str(a.chance.getrandbits(63)),
                "calls": "1",
                "inFlight": "1",
            }
            for _ in range(100)
        ]

    async with a.line(a.host_url, address) as wire:
        for _ in range(50):
            report = {"state": "HEALTH_STATE_HEALTHY", "directCalls": series()}
            await a.ask(wire, post(REPORT, report, identity))


@FLOODS(at_once=8)
async def callers_from_everywhere(a: Hostile) -> None:
    requests = (
        post("/services/echo/x/y", {}, {"x-plugin-runtime-id": a.text(64), "authorization": "Bearer a.b.c"}),
        post(HANDSHAKE, greeting("")),
        post(DISCOVER, {"serviceType": "echo"}),
        post("/connectplugin.health.v1.HealthService/Watch", {}),
    )
    await a.asks(a.host_url, requests, address=a.another_address())


@FLOODS(at_once=8)
async def grants(a: Hostile) -> None:
    address, identity = await _someone(a)
    async with a.line(a.host_url, address) as wire:
        for _ in range(30):
            ask = {"capabilityType": "logger", "reason": a.text(4000)}
            await a.ask(wire, post(CAPABILITY, ask, identity))
            ask = {"capabilityType": "service:echo", "providerId": a.provider_id, "reason": a.text(100_000)}
            await a.ask(wire, post(CAPABILITY, ask, identity))


@FLOODS(at_once=8)
async def lines_of_the_log(a: Hostile) -> None:
    address, identity = await _someone(a)
    ask = {"capabilityType": "logger", "reason": "to log"}
    said = await a.call(CAPABILITY, ask, identity, address)
    if "grant" not in said:
        raise ConnectionRefusedError("no grant")
    granted = said["grant"]
    path = "/" + granted["endpointUrl"].partition("://")[2].partition("/")[2]
    fields = {**identity, "Authorization": f"Bearer {granted['bearerToken']}"}
    async with a.line(a.host_url, address) as wire:
        for _ in range(100):
            message = {"level": "LOG_LEVEL_INFO", "message": a.text(200_000)}
            await a.ask(wire, post(f"{path}/capability.logger.v1.Logger/Log", message, fields))


@FLOODS(at_once=8)
async def routed_paths(a: Hostile) -> None:
    identity = await a.identity()
    service = a.routed.rpartition("/")[0]

    def path() -> str:
        kinds = (
            f"{service}/{a.text(HEAD)}",
            f"/services/t{a.text(HEAD)}/{a.provider_id}/M",
            f"{a.routed}?{a.text(HEAD)}",
        )
        return a.chance.choice(kinds)

    await a.asks(a.host_url, (post(path(), {}, identity) for _ in range(ON_A_LINE)))


@FLOODS(at_once=8)
async def discoveries(a: Hostile) -> None:
    _, identity = await _someone(a)

    def message() -> dict[str, str]:
        return {"serviceType": f"t{a.text(120)}", "minVersion": f"1.0.0-{a.text(56)}"}

    await a.asks(a.host_url, (post(DISCOVER, message(), identity) for _ in range(200)))


@FLOODS(at_once=8)
async def heads_of_answers(a: Hostile) -> None:
    """A provider of the attacker's answers its calls with heads that no two calls have in common."""
    async with trio.open_nursery() as nursery:
        address, identity = await _someone(a)
        listeners = await trio.open_tcp_listeners(0, host=address)
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, lambda stream: _answer_oddly(a, stream), listeners)
        service_type = f"t{a.text(20)}"
        said = await a.call(
            REGISTER, registration(service_type, f"http://{address}:{port}"), identity, address
        )
        if "registrationId" not in said:
            raise ConnectionRefusedError(str(said)[:200])
        path = f"/services/{service_type}/{identity['X-Plugin-Runtime-ID']}/M"
        await a.asks(a.host_url, (post(path, {}, identity) for _ in range(500)), address=address)
        nursery.cancel_scope.cancel()


async def _answer_oddly(a: Hostile, stream: trio.SocketStream) -> None:
    names = ("set-cookie", "x-auth-token", "connection", "server", "content-type", f"x{a.text(60)}")
    async with stream:
        try:
            while await stream.receive_some():
                field = f"{a.chance.choice(names)}: {a.text(HEAD)}"
                reason = a.text(100)
                answer = f"HTTP/1.1 200 {reason}\r\n{field}\r\ncontent-length: 2\r\n\r\nok"
                await stream.send_all(answer.encode())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


@FLOODS(at_once=100)
async def routed_answers_that_nobody_reads(a: Hostile) -> None:
    address, identity = await _someone(a)
    size = MESSAGE
    body = b"\x12" + bytes(
        (0x80 | size & 0x7F, 0x80 | size >> 7 & 0x7F, 0x80 | size >> 14 & 0x7F, size >> 21)
    )
    async with a.line(a.host_url, address, receive_buffer=4096) as wire:
        await wire.send(post(a.routed, body + b"\0" * size, {**PROTO, **identity}))
        a.counts["sent"] += 1
        await trio.sleep(40)
