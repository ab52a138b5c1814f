"""The record of a call that an application answers, filled in from the messages of both sides."""

from __future__ import annotations

from typing import Any

import pytest

from cpg_trio.asgi import Message
from cpg_trio.call_record import Call, CallKind, Stage
from cpg_trio.rpc.recording import RecordedCall


class Sides:
    """A client that has sent something, and what was sent to it."""

    def __init__(self, *requested: bytes) -> None:
        self._requested = list(requested)
        self.sent: list[Message] = []
        self.call = Call(CallKind.CAPABILITY)
        self.recorded = RecordedCall(self.call, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._requested:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._requested.pop(0), "more_body": bool(self._requested)}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    async def start(self, status: int = 200, content_type: bytes = b"application/proto", **more: Any) -> None:
        fields = [(b"content-type", content_type)]
        await self.recorded.send({"type": "http.response.start", "status": status, "headers": fields, **more})

    async def body(self, body: bytes, *, more: bool = False) -> None:
        await self.recorded.send({"type": "http.response.body", "body": body, "more_body": more})


async def test_the_bytes_of_both_directions_and_the_code_are_recorded() -> None:
    sides = Sides(b"abc", b"de")
    for _ in range(3):
        await sides.recorded.receive()
    await sides.start()
    await sides.body(b"1234", more=True)
    assert (sides.call.failure, sides.call.stage) == ("canceled", Stage.RESPONSE)
    await sides.body(b"5")
    call = sides.call
    assert (call.request_bytes, call.response_bytes, call.status) == (5, 5, 200)
    assert (call.code, call.failure) == ("ok", "")
    assert len(sides.sent) == 3


async def test_a_response_with_trailers_ends_with_them_and_has_their_code() -> None:
    sides = Sides()
    await sides.start(content_type=b"application/grpc", trailers=True)
    await sides.body(b"message")
    assert sides.call.failure == "canceled"
    for more, fields in ((True, [(b"x", b"y")]), (False, [(b"grpc-status", b"5")])):
        await sides.recorded.send(
            {"type": "http.response.trailers", "headers": fields, "more_trailers": more}
        )
    assert (sides.call.code, sides.call.failure) == ("not_found", "")


@pytest.mark.parametrize(
    ("pieces", "code"),
    [((b'{"code":"aborted"}',), "aborted"), ((b'{"code":', b'"aborted"}'), "unavailable")],
)
async def test_an_error_body_tells_its_code_if_it_comes_in_one_piece(
    pieces: tuple[bytes, ...], code: str
) -> None:
    sides = Sides()
    await sides.start(503, b"application/json")
    for piece in pieces:
        await sides.body(piece, more=True)
    await sides.body(b"")
    assert (sides.call.code, sides.call.failure) == (code, "")


async def test_a_response_that_does_not_end_was_canceled() -> None:
    sides = Sides()
    await sides.start()
    await sides.body(b"1", more=True)
    assert (sides.call.code, sides.call.status) == ("canceled", 200)
