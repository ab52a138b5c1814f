"""HTTP/1.1 by h11, the engine of Hypercorn: a second opinion on each request.

Requests are read twice: by this project's strict reader, which decides first, and then by h11, which is given
what the strict reader has accepted. The body that is passed on is h11's. Where the two disagree about where a
message ends or what it says, the request is refused, as whoever stands behind this server might disagree in
the same way. Responses are written by h11. Everything else is as for `http1`: connection, timeouts, limits,
relay.

It is slower, and is there for those who prefer to rely on a second reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import h11

from cpg_trio.http.heads import MalformedError, checked_request
from cpg_trio.http.outgoing import OutgoingHead, date
from cpg_trio.http.server.http1 import Http1Connection, Http1Exchange
from cpg_trio.http.server.states import Input

_NO_LIMIT = 2**31  # of what h11 holds of an event: the strict reader has limits, and reads first
_DISAGREE = "two readers of HTTP disagree about this message"


class H11Exchange(Http1Exchange):
    """A request that two readers agree on, and its response."""

    passes_at_once = False  # the second reader keeps what it reads

    def __init__(self, connection: Http1Connection) -> None:
        """Take what comes next on a connection."""
        super().__init__(connection)
        self._h11 = h11.Connection(h11.SERVER, _NO_LIMIT)

    # The request

    def feed(self, data: bytes) -> bytes:
        """Take what came in; return what follows the message. Raises: MalformedError."""
        held = b"" if self.has_head else self.head_bytes
        rest = super().feed(data)
        if self.has_head:
            self._read_again((held + data)[: len(held) + len(data) - len(rest)])
        return rest

    def _read_again(self, data: bytes) -> None:
        """Have h11 read what the strict reader has accepted. Raises: MalformedError."""
        if self._h11.their_state is h11.IDLE:
            body = data.removeprefix(b"\r\n")[len(self.head_bytes) :]
            data = checked_request(self.head_bytes) + body
        self._parts, strict = [], self._parts
        try:
            if data:  # nothing at all would be the end of the connection
                self._h11.receive_data(data)
            ended = self._take_events()
        except h11.RemoteProtocolError:
            raise MalformedError(_DISAGREE) from None
        agree = ended == self.complete and sum(map(len, self._parts)) == sum(map(len, strict))
        if not agree or (ended and self._h11.trailing_data[0]):
            raise MalformedError(_DISAGREE)

    def _take_events(self) -> bool:
        """Take what h11 has read; return whether the message has ended."""
        while isinstance(event := self._h11.next_event(), h11.Request | h11.Data | h11.EndOfMessage):
            if isinstance(event, h11.EndOfMessage):
                return True
            if isinstance(event, h11.Data):
                self._parts.append(bytes(event.data))
            elif event.method != self.method or _names(event.headers) != _names(self.headers):
                raise MalformedError(_DISAGREE)
        return False

    # The response

    def _written(self, head: OutgoingHead, *, close: bool) -> bytes:
        fields = [*head.fields, *self._own_fields()]
        if not head.has_date:
            fields.append((b"date", date()))
        if close:
            fields.append((b"connection", b"close"))
        return self._sent(h11.Response(status_code=head.status, headers=fields, reason=head.reason))

    def _framed(self, data: bytes | memoryview) -> bytes:
        return b"" if self.silent or not data else self._sent(h11.Data(data=bytes(data)))

    def _last(self, data: bytes, trailers: Sequence[tuple[bytes, bytes]]) -> bytes:
        if self._out is not None and not self.complete:
            self.http1.enter(Input.LAST)  # the rest of the request is not wanted
        self.finished = True
        out = self._taken_head() + self._framed(data)
        kept = [*trailers] if self._chunked and self.accepts_trailers else []
        return out + self._sent(h11.EndOfMessage(headers=kept))

    def _sent(self, event: h11.Event) -> bytes:
        return self._h11.send(event) or b""


def _names(fields: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the names of fields, but for that of the host, which may be the target's to name."""
    return [lowered for name, _ in fields if (lowered := name.lower()) != b"host"]
