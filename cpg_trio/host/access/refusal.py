"""The refusal of a call, in a form that each edge writes in its own protocol.

Edges and what they write:

    RPCs                              code, message and `Retry-After`      services/edges.py
    /services/ and /capabilities/     status, plain text and `fields`      routing, capabilities/calls.py
    /watch, the handshake             status, message and `Retry-After`    services/websocket.py
    /watch, open                      a close code and the message         services/websocket.py

No provider has seen a call that is refused, so it can be sent again. `fields` say so, and whose failure it
is.
"""

from __future__ import annotations

from collections.abc import Mapping

from cpg_trio import wire
from cpg_trio.asgi import HeaderList
from cpg_trio.rpc import Code, ConnectError, Fault

_UNDELIVERED_HEADER = wire.UNDELIVERED_HEADER.lower().encode()
_FAULT_HEADER = wire.FAULT_HEADER.lower().encode()

_STATUS: Mapping[Code, int] = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
}
_OF_HOST = frozenset({Code.INTERNAL, Code.NOT_FOUND, Code.UNAVAILABLE})


class RefusedError(ConnectError):
    """A call that is not let through. Nothing has changed."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        status: int | None = None,
        plain: str = "",
        retry_after_s: int = 0,
        log: str = "",
        fault: Fault | None = None,
    ) -> None:
        super().__init__(code, message)
        self.status = _STATUS[code] if status is None else status
        """The HTTP status where the call is no RPC."""
        self.plain = plain or message
        """The text where the call is no RPC, as other implementations have it."""
        self.retry_after_s = retry_after_s
        """Whole seconds after which the call may pass; 0 if time changes nothing."""
        self.log = log
        """What the log says of it; nothing if empty."""
        self.fault = fault or (Fault.HOST if code in _OF_HOST else Fault.CALLER)
        """Whose failure it is. What the host does not know is its own: it may have lost it in a restart."""
        self.caller = ""
        """The runtime id of the caller, where that was proved."""

    @property
    def fields(self) -> HeaderList:
        """The header fields of an answer that is no RPC's."""
        return [*marks(self.fault, undelivered=True), *retry_fields(self.retry_after_s)]


def marks(fault: Fault, *, undelivered: bool) -> HeaderList:
    """Return the header fields that are on each answer of the host's own to a call.

    `undelivered` is whether no provider has seen the call, so that it can be sent again.
    """
    return [(_UNDELIVERED_HEADER, b"true" if undelivered else b"false"), (_FAULT_HEADER, fault.encode())]


def retry_fields(seconds: int) -> HeaderList:
    """Return the header field that says when to try again; none for 0 seconds."""
    return [(b"retry-after", b"%d" % seconds)] if seconds else []
