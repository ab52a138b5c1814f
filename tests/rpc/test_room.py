"""All messages of a process together have a part of its memory, and each client a part of that."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

from cpg_trio.asgi import App
from cpg_trio.rpc import ConnectError, Context, application
from cpg_trio.rpc.inprocess import AsgiTransport
from cpg_trio.rpc.room import Room
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoService

TOTAL = 1_000_000
LARGE = pb.EchoRequest(data=b"x" * 40_000).SerializeToString()
SMALL = pb.EchoRequest(text="small").SerializeToString()
ECHO, COUNT = "/echo.v1.EchoService/Echo", "/echo.v1.EchoService/Count"
PROTO, WEB = "application/proto", "application/grpc-web+proto"


class Echo(EchoService):
    async def echo(self, request: pb.EchoRequest, _ctx: Context, /) -> pb.EchoResponse:
        if request.text == "wait":
            await trio.sleep_forever()
        return pb.EchoResponse(data=b"x" * int(request.text or "0") if request.text.isdigit() else b"")

    async def count(self, request: pb.CountRequest, _ctx: Context, /) -> AsyncIterator[pb.CountResponse]:
        for number in range(request.to):
            yield pb.CountResponse(number=number)


@pytest.fixture
def room() -> Room:
    return Room(TOTAL)


@asynccontextmanager
async def client(app: App, address: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = AsgiTransport(app, (address, 5))
    async with httpx.AsyncClient(transport=transport, base_url="http://h", timeout=None) as http:
        yield http


def framed(content: bytes) -> bytes:
    return b"\0" + len(content).to_bytes(4, "big") + content


async def unfinished(part: bytes) -> AsyncIterator[bytes]:
    yield part
    await trio.sleep_forever()


async def status_of(http: httpx.AsyncClient, body: bytes, kind: str = PROTO, **headers: str) -> int:
    content = framed(body) if kind == WEB else body
    answer = await http.post(ECHO, content=content, headers={"content-type": kind, **headers})
    if found := re.search(rb"grpc-status: ([1-9][0-9]*)", answer.content):
        return int(found[1])
    return int(answer.headers.get("grpc-status", 0)) or answer.status_code


@pytest.mark.parametrize(("kind", "copies"), [(PROTO, 1), (WEB, 4)])
async def test_one_client_has_half_of_the_room_for_messages_that_do_not_end(
    kind: str, copies: int, room: Room
) -> None:
    app = application([Echo()], room=room)
    part = framed(LARGE)[:-1] if kind == WEB else LARGE[:-1]

    async def hold(http: httpx.AsyncClient) -> None:
        await http.post(ECHO, content=unfinished(part), headers={"content-type": kind})

    async with (
        client(app, "192.0.2.1") as one,
        client(app, "192.0.2.2") as other,
        trio.open_nursery() as nursery,
    ):
        for _ in range(20):
            nursery.start_soon(hold, one)
        await trio.testing.wait_all_tasks_blocked()
        assert TOTAL // 2 - copies * len(LARGE) < room.taken <= TOTAL // 2
        assert await status_of(one, LARGE, kind) in {429, 8}
        assert await status_of(one, SMALL, kind) == 200
        assert await status_of(other, LARGE, kind) == 200
        nursery.cancel_scope.cancel()
    assert room.taken == 0


async def test_the_addresses_of_one_ipv6_network_are_one_client(room: Room) -> None:
    app = application([Echo()], room=room)

    async def hold_at(address: str) -> None:
        async with client(app, address) as http:
            await http.post(ECHO, content=unfinished(LARGE[:-1]), headers={"content-type": PROTO})

    async with (
        client(app, "2001:db8::ffff") as same,
        client(app, "2001:db8:0:1::1") as other,
        trio.open_nursery() as nursery,
    ):
        for number in range(TOTAL // 2 // len(LARGE)):
            nursery.start_soon(hold_at, f"2001:db8::{number}")
        await trio.testing.wait_all_tasks_blocked()
        assert await status_of(same, LARGE) == 429
        assert await status_of(other, LARGE) == 200
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", [PROTO, WEB])
async def test_a_message_takes_the_room_that_it_has_when_it_is_unpacked(kind: str, room: Room) -> None:
    app = application([Echo()], room=room)
    bomb = pb.EchoRequest(data=bytes(2_000_000)).SerializeToString()
    async with client(app, "192.0.2.1") as http:
        if kind == PROTO:
            packed = {"content-encoding": "gzip"}
            assert await status_of(http, gzip.compress(bomb), **packed) == 429
        else:
            content = b"\1" + framed(gzip.compress(bomb))[1:]
            answer = await http.post(
                ECHO, content=content, headers={"content-type": WEB, "grpc-encoding": "gzip"}
            )
            assert b"grpc-status: 8" in answer.content or answer.headers["grpc-status"] == "8"
    assert room.taken == 0


async def test_an_answer_takes_room_until_it_is_sent(room: Room) -> None:
    app = application([Echo()], room=room)
    sent, taken = trio.Event(), []

    async def receive() -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        return {"type": "http.request", "body": pb.EchoRequest(text="200000").SerializeToString()}

    async def send(message: dict[str, object]) -> None:
        if message.get("body"):
            taken.append(room.taken)
            sent.set()
            await trio.lowlevel.checkpoint()

    scope = {
        "type": "http",
        "method": "POST",
        "path": ECHO,
        "headers": [(b"content-type", PROTO.encode())],
        "query_string": b"",
        "client": ("192.0.2.1", 5),
        "scheme": "http",
        "extensions": {},
        "state": {},
    }
    with trio.fail_after(10):
        await app(scope, receive, send)  # type: ignore[arg-type]
    assert taken[0] >= 200_000
    assert room.taken == 0


async def test_an_answer_for_which_there_is_no_room_is_refused(room: Room) -> None:
    app = application([Echo()], room=room)
    async with client(app, "192.0.2.1") as http:
        assert await status_of(http, pb.EchoRequest(text="300000").SerializeToString()) == 429
    assert room.taken == 0


async def test_a_long_stream_of_small_messages_takes_no_room(room: Room) -> None:
    app = application([Echo()], room=room)
    async with client(app, "192.0.2.1") as http:
        content = framed(pb.CountRequest(to=50_000).SerializeToString())
        headers = {"content-type": "application/connect+proto"}
        async with http.stream("POST", COUNT, content=content, headers=headers) as answer:
            async for _ in answer.aiter_raw():
                assert room.taken < 100_000
    assert room.taken == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 900_000)), max_size=30))
def test_no_more_is_ever_taken_than_there_is_and_all_of_it_is_given_back(
    moves: list[tuple[str, int]],
) -> None:
    room = Room(TOTAL)
    places = {name: room.place({"client": (name, 1)}) for name in "abc"}
    open_places = {name: place.__enter__() for name, place in places.items()}
    for name, size in moves:
        with suppress(ConnectError):
            open_places[name].resize(size)
        assert 0 <= room.taken <= TOTAL
        assert all(0 < mine <= TOTAL // 2 for mine in room._of_client.values())
    for place in places.values():
        place.__exit__(None, None, None)
    assert room.taken == 0
    assert not room._of_client
