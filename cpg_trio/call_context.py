"""The context of the call that is served: its request id, and its trace. No I/O.

A server reads it from the header fields of the call (`received`), and makes it the current one while the call
is answered (`serving`). The log and the clients find it there (`current`), so that the calls that a handler
makes belong to the same request and the same trace, without anything that the handler does.

What a stranger sends is checked and bounded. What is invalid is dropped: a trace goes on without it, as it
never came. An invalid request id, or none, is replaced by a new one.

Sources: https://www.w3.org/TR/trace-context-2/, https://www.w3.org/TR/baggage/. `x-request-id` has no
standard; proxies agree on what it means.
"""

from __future__ import annotations

import random
import re
from collections.abc import Container
from contextvars import ContextVar

from cpg_trio.asgi import HeaderList

__all__ = ["CallContext", "NewRequest", "new_request_id", "received", "serving"]

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
BAGGAGE = "baggage"
REQUEST_ID = "x-request-id"
FIELDS = frozenset(name.encode() for name in (TRACEPARENT, TRACESTATE, BAGGAGE, REQUEST_ID))
"""The names of the header fields that are the context of a call."""

_SAMPLED, _RANDOM = 1, 2  # flags of a traceparent
_SAMPLED_ENDS = frozenset("13579bdf")  # of flags in hex, with which that of `_SAMPLED` is set
_IDS = rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-"
_TRACEPARENT = re.compile(rb"00%b[0-9a-f]{2}" % _IDS)
# A version that is not known yet begins like a known one; something may follow.
_LATER_TRACEPARENT = re.compile(rb"(?!00|ff)[0-9a-f]{2}(%b)([0-9a-f]{2})(?:-.*+)?" % _IDS)

_STATE = re.compile(rb"([a-z0-9][a-z0-9_*/@-]{0,255}+)=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}+")
_MOST_STATES, _MOST_STATE_BYTES = 32, 512
_LONG_STATE_BYTES = 128  # longer ones are dropped first

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_BAGGAGE_VALUE = rb"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*+"
# No group is possessive: Python before 3.11.4 goes on in the middle of such a group where it has failed.
_BAGGAGE = re.compile(
    rb"%b[ \t]*+=[ \t]*+%b(?:[ \t]*+;[ \t]*+%b(?:[ \t]*+=[ \t]*+%b)?)*"
    % (_TOKEN, _BAGGAGE_VALUE, _TOKEN, _BAGGAGE_VALUE)
)
_MOST_BAGGAGE, _MOST_BAGGAGE_BYTES = 64, 8192

# Without a space, a quote, a comma and a backslash: it stands as one word in lines of logs.
_REQUEST_ID = re.compile(rb"[\x21\x23-\x26\x28-\x2b\x2d-\x5b\x5d-\x7e]{1,128}")


class CallContext:
    """What goes on from a call to the calls that its handler makes. Each text is empty if there is none."""

    __slots__ = ("baggage", "request_id", "traceparent", "tracestate")

    def __init__(
        self, request_id: str = "", traceparent: str = "", tracestate: str = "", baggage: str = ""
    ) -> None:
        """Take what has been checked."""
        self.request_id: str = request_id
        """One word of printable ASCII, of at most 128 characters."""
        self.traceparent: str = traceparent
        """Of version 00, so of 55 characters."""
        self.tracestate: str = tracestate
        self.baggage: str = baggage

    @property
    def trace_id(self) -> str:
        """The trace, in 32 hex digits."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """The operation of the trace that the call is a part of, in 16 hex digits."""
        return self.traceparent[36:52]

    @property
    def is_sampled(self) -> bool:
        """Whether the caller records the trace."""
        return self.traceparent[-1:] in _SAMPLED_ENDS

    def fields(self, given: Container[str] = ()) -> list[tuple[str, str]]:
        """Return the header fields of a call that belongs to this one.

        `given` are the names of the fields that the call has already, in lower case. A call that has its own
        `traceparent` gets no `tracestate`, which would be of another trace.
        """
        fields = []
        if self.request_id and REQUEST_ID not in given:
            fields.append((REQUEST_ID, self.request_id))
        if self.traceparent and TRACEPARENT not in given:
            fields.append((TRACEPARENT, self.traceparent))
            if self.tracestate and TRACESTATE not in given:
                fields.append((TRACESTATE, self.tracestate))
        if self.baggage and BAGGAGE not in given:
            fields.append((BAGGAGE, self.baggage))
        return fields

    @property
    def lines(self) -> bytes:
        """The same header fields as lines of a head. Of a call, so that there is a request id."""
        text = f"x-request-id: {self.request_id}\r\n"
        if self.traceparent:
            text += f"traceparent: {self.traceparent}\r\n"
            if self.tracestate:
                text += f"tracestate: {self.tracestate}\r\n"
        if self.baggage:
            text += f"baggage: {self.baggage}\r\n"
        return text.encode()


_random = random.getrandbits  # twice as fast as `randbytes`


class NewRequest(CallContext):
    """The context of a call that came without one: its request id is as random as a trace id has to be.

    Most calls of a host are such. Nothing is called here that need not be.
    """

    __slots__ = ()

    def __init__(self) -> None:
        """Make the request id."""
        self.request_id: str = _random(128).to_bytes(16, "big").hex()
        self.traceparent = self.tracestate = self.baggage = ""


NO_CALL = CallContext()
"""The context where no call is served."""

_current: ContextVar[CallContext] = ContextVar("context of the call that is served", default=NO_CALL)

current = _current.get
"""Return the context of the call that is served here; `NO_CALL` where there is none."""


class serving:  # noqa: N801 - a context manager; a generator would cost more than all that it does
    """Make a context the current one within the block, and in the tasks that are started in it."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: CallContext) -> None:
        """Take the context."""
        self._context = context

    def __enter__(self) -> None:
        self._token = _current.set(self._context)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def new_request_id() -> str:
    """Return a request id that nobody else has. It is no secret."""
    return NewRequest().request_id


def received(fields: HeaderList) -> CallContext:
    """Return the context of a call with these header fields, whose names may be in any case."""
    values = dict(fields)
    if len(values) < len(fields) or not values.keys() <= FIELDS:
        values = _lists(fields)
    request_id = values.get(b"x-request-id", b"")
    is_known = _REQUEST_ID.fullmatch(request_id)
    context = CallContext(request_id.decode()) if is_known else NewRequest()
    if parent := values.get(b"traceparent"):
        context.traceparent = _traceparent(parent)
        if context.traceparent and (state := values.get(b"tracestate")):
            context.tracestate = _tracestate(state)
    if baggage := values.get(b"baggage"):
        context.baggage = _baggage(baggage)
    return context


def _lists(fields: HeaderList) -> dict[bytes, bytes]:
    """Return the values of the context's fields by their names in lower case.

    Fields of one name are one list (RFC 9110, section 5.2). No list is a traceparent or an id.
    """
    values: dict[bytes, bytes] = {}
    for name, value in fields:
        known = name.lower()
        if known in FIELDS:
            values[known] = b"%b,%b" % (values[known], value) if known in values else value
    return values


def _traceparent(value: bytes) -> str:
    """Return a valid value in the form of version 00; an empty text for any other."""
    if _TRACEPARENT.fullmatch(value):
        return value.decode()
    if (later := _LATER_TRACEPARENT.fullmatch(value)) is None:
        return ""
    flags = int(later[2], 16) & (_SAMPLED | _RANDOM)
    return f"00{later[1].decode()}{flags:02x}"


def _tracestate(value: bytes) -> str:
    """Return the members of a valid list, as many as fit; an empty text for an invalid one."""
    members = _members(value)
    found = [_STATE.fullmatch(member) for member in members]
    keys = {member[1] for member in found if member}
    if len(keys) < len(members) or len(members) > _MOST_STATES:
        return ""
    if _size(members) > _MOST_STATE_BYTES:
        members = [member for member in members if len(member) <= _LONG_STATE_BYTES]
    return _fitting(members, _MOST_STATE_BYTES)


def _baggage(value: bytes) -> str:
    """Return the members of a valid list, as many as fit; an empty text for an invalid one."""
    members = _members(value)[:_MOST_BAGGAGE]
    return _fitting(members, _MOST_BAGGAGE_BYTES) if all(map(_BAGGAGE.fullmatch, members)) else ""


def _members(value: bytes) -> list[bytes]:
    return [member for part in value.split(b",") if (member := part.strip(b" \t"))]


def _size(members: list[bytes]) -> int:
    """Return the length of the list as it is sent."""
    return sum(map(len, members)) + max(len(members) - 1, 0)


def _fitting(members: list[bytes], most: int) -> str:
    """Return the list, without so many of its last members that it has at most `most` bytes."""
    while _size(members) > most:
        members = members[:-1]
    return b",".join(members).decode()
