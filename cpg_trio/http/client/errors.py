"""What can go wrong between a client and its peer, by whose fault it is.

Each class has one answer to who is at fault, and whether the peer may have acted on the request. That is what
decides what follows: only what the peer does counts against it. No message quotes what was received or sent:
it may be a header's value.
"""

from __future__ import annotations


class UpstreamError(Exception):
    """A request was not answered. The caller's own mistakes are never this."""


class NotSentError(UpstreamError):
    """Nothing was sent."""


class LocalFailureError(NotSentError):
    """No connection was tried, for a reason of this machine: no file descriptor, no port, a name not known.

    It tells nothing of the peer.
    """


class ConnectFailedError(NotSentError):
    """The peer could not be connected to: refused, no answer in time, not accepted by its certificate."""


class PoolFullError(NotSentError):
    """No connection to the peer came free in time. The peer is not at fault."""

    def __init__(self, text: str, *, own_share: bool) -> None:
        super().__init__(text)
        self.own_share = own_share
        """Whether there are some, but the caller has its share of them in use."""


class UndeliveredError(UpstreamError):
    """Who has answered is not who was called, and has done nothing with the request."""


class ProtocolError(UpstreamError):
    """The peer's answer is not HTTP/1.1 as it should be. The peer has had the request."""


class ConnectionBrokenError(UpstreamError):
    """The connection was closed or reset before the response, or within it.

    The peer may have acted on the request. You do not get this for a peer that stops reading the request
    but answers it.
    """


class BodyTooLargeError(UpstreamError):
    """The peer's answer has a larger body than the caller allows. The peer has acted on the request."""


class InvalidRequestError(ValueError):
    """The caller's request cannot be sent as HTTP/1.1; nobody upstream is at fault."""
