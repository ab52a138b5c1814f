"""The record of a call that an ASGI application answers, filled in from the messages of both sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from cpg_trio.asgi import HeaderList, Message, Receive, Send
from cpg_trio.call_record import Call, Stage
from cpg_trio.rpc.response_code import code_of_end, code_of_head

FieldsBack: TypeAlias = Callable[[int, HeaderList], HeaderList]


class RecordedCall:
    """`receive` and `send` of one call, which fill in its record.

    They add nothing to the messages. `fields_back` returns the header fields that go back to the client, of
    those of a response or of its trailers, with the status of the response.
    """

    __slots__ = (
        "_code",
        "_fields",
        "_fields_back",
        "_has_trailers",
        "_last",
        "_receive",
        "_send",
        "_trailers",
        "record",
    )

    def __init__(
        self, record: Call, receive: Receive, send: Send, fields_back: FieldsBack | None = None
    ) -> None:
        self._fields_back = fields_back
        self.record: Call = record
        self._receive = receive
        self._send = send
        self._fields: HeaderList = []
        self._trailers: HeaderList = []
        self._has_trailers = False
        self._code = ""
        self._last = b""

    async def receive(self) -> Message:
        """Return the next message of the client."""
        message = await self._receive()
        self.record.request_bytes += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        """Send a message to the client."""
        if message["type"] == "http.response.body":
            await self._send_body(message)
        elif message["type"] == "http.response.start":
            record = self.record
            self._fields, self._has_trailers = message.get("headers", []), message.get("trailers", False)
            record.status, record.stage = message["status"], Stage.RESPONSE
            self._code = code_of_head(record.status, self._fields)
            await self._send(message if self._fields_back is None else self._with_fields_back(message))
        else:
            self._trailers += message.get("headers", ())
            if self._fields_back is not None:
                message = self._with_fields_back(message)
            await self._send(message)
            if not message.get("more_trailers", False):
                self._succeed()

    def _with_fields_back(self, message: Message) -> Message:
        assert self._fields_back is not None  # noqa: S101 - its callers have looked
        fields = self._fields_back(self.record.status, message.get("headers", []))
        return {**message, "headers": fields}

    async def _send_body(self, message: Message) -> None:
        body = message.get("body", b"")
        self.record.response_bytes += len(body)
        self._last = body or self._last
        await self._send(message)
        if not (self._has_trailers or message.get("more_body", False)):
            self._succeed()

    def _succeed(self) -> None:
        status = self.record.status
        self.record.succeed(
            status, self._code or code_of_end(status, self._fields, self._trailers, bytes(self._last))
        )
