"""The states of one client's connection to a server, whatever protocol is spoken on it. No I/O.

    IDLE ──▶ HEAD ──▶ BUSY ──▶ IDLE      as long as both sides want another request
      └────────┴───────┤
                       ▼
                      LAST ──▶ CLOSING   a request is in progress, and none follows

From each of these, GONE and BROKEN are one step: the client has left or is out of time, or the end has to be
a reset. Nothing is sent any more then. What is not in the table cannot happen; a KeyError is a bug.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, auto


class State(IntEnum):
    """What a connection does."""

    IDLE = auto()
    """It waits for a request, of which nothing has come."""
    HEAD = auto()
    """A part of a request's head has come."""
    BUSY = auto()
    """A request is in progress; HTTP/2 may have several."""
    LAST = auto()
    """A request is in progress, and none follows it."""
    CLOSING = auto()
    """Nothing is in progress, and nothing will be. What was sent is to be read before the end."""
    GONE = auto()
    """The client has left, or was let go. Nothing is sent any more."""
    BROKEN = auto()
    """As GONE, and the end is a reset: a close could pass for the end of a response, or take too long."""


class Input(IntEnum):
    """What happens to a connection."""

    HEAD = auto()
    """A head has begun to come."""
    REQUEST = auto()
    """A request is taken up."""
    DONE = auto()
    """No request is in progress any more."""
    LAST = auto()
    """No request is to follow: the server stops, or one of both sides has said so."""
    LEAVE = auto()
    """The client has left, or is out of time."""
    BREAK = auto()
    """The end is to be a reset."""


#: States in which another request may follow.
REQUESTS_FOLLOW = frozenset({State.IDLE, State.HEAD, State.BUSY})
#: States in which a request is in progress, or may follow.
SERVING = frozenset({*REQUESTS_FOLLOW, State.LAST})
#: States in which nothing is sent any more.
LOST = frozenset({State.GONE, State.BROKEN})

TRANSITIONS: Mapping[State, Mapping[Input, State]] = {
    State.IDLE: {
        Input.HEAD: State.HEAD,
        Input.REQUEST: State.BUSY,
        Input.LAST: State.CLOSING,
        Input.LEAVE: State.GONE,
        Input.BREAK: State.BROKEN,
    },
    State.HEAD: {
        Input.HEAD: State.HEAD,
        Input.REQUEST: State.BUSY,
        Input.LAST: State.CLOSING,
        Input.LEAVE: State.GONE,
        Input.BREAK: State.BROKEN,
    },
    State.BUSY: {
        Input.REQUEST: State.BUSY,
        Input.DONE: State.IDLE,
        Input.LAST: State.LAST,
        Input.LEAVE: State.GONE,
        Input.BREAK: State.BROKEN,
    },
    State.LAST: {
        Input.DONE: State.CLOSING,
        Input.LAST: State.LAST,
        Input.LEAVE: State.GONE,
        Input.BREAK: State.BROKEN,
    },
    State.CLOSING: {
        Input.LAST: State.CLOSING,
        Input.LEAVE: State.GONE,
        Input.BREAK: State.BROKEN,
    },
    State.GONE: {
        Input.DONE: State.GONE,
        Input.LAST: State.GONE,
        Input.LEAVE: State.GONE,
        Input.BREAK: State.BROKEN,
    },
    State.BROKEN: {
        Input.DONE: State.BROKEN,
        Input.LAST: State.BROKEN,
        Input.LEAVE: State.BROKEN,
        Input.BREAK: State.BROKEN,
    },
}
