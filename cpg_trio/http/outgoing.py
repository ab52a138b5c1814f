"""The head of a response, before a protocol gives it its form. No I/O."""

from __future__ import annotations

from typing import Any

from cpg_trio.asgi import HeaderList
from cpg_trio.http.fields import REASONS, block


class OutgoingHead:
    """Status and header fields of a response; several responses may have the same.

    `fields` are in the order and spelling in which HTTP/1.1 writes them. Those that are for one connection
    only (`connection`, `transfer-encoding`) are the protocol's, and are not among them.
    """

    __slots__ = ("fields", "forms", "has_date", "length", "lines", "reason", "status")

    def __init__(self, status: int, fields: HeaderList, reason: bytes | None = None) -> None:
        """Check the fields. Raises: ValueError for a name or a value that would break the message."""
        self.status = status
        self.reason = REASONS.get(status, b"") if reason is None else reason
        self.fields = fields
        self.lines = block(fields)
        """The fields as HTTP/1.1 writes them."""
        self.length: int | None = None
        """The length of the body that the fields declare, in bytes."""
        self.has_date = False
        self.forms: dict[Any, Any] = {}
        """How each protocol writes it: a protocol keeps here what it has written once."""
        for name, value in fields:
            lowered = name.lower()
            if lowered == b"content-length":
                self.length = _as_length(value)
            elif lowered == b"date":
                self.has_date = True

    def declare(self, length: int) -> None:
        """Declare the length of the body, in bytes, before the head is sent."""
        self.length = length
        self.fields = [*self.fields, (b"content-length", b"%d" % length)]
        self.lines += b"content-length: %d\r\n" % length


def _as_length(value: bytes) -> int:
    if not value.isdigit():
        raise ValueError("the response's content-length is not a number")
    return int(value)
