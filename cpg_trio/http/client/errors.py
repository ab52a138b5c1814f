"""What can go wrong between a client and its peer.

Each class stands for one party at fault, and for one answer to whether the peer may have acted on the
request. Only the peer's own failures count against it. No message quotes what was received or sent, which may
be secret.
"""

from __future__ import annotations

from h2.errors import ErrorCodes

from cpg_trio.errors import CpgTrioError


class UpstreamError(CpgTrioError):
    """A request was not answered. You do not get this for the caller's own mistakes."""


class NotSentError(UpstreamError):
    """Nothing was sent."""


class LocalFailureError(NotSentError):
    """This machine could not try to connect: no file descriptor, no port, an unknown name.

    The peer is not at fault.
    """


class UnknownNameError(LocalFailureError):
    """The peer's name could not be looked up: it is none, or the name servers do not answer."""


class ConnectFailedError(NotSentError):
    """The peer could not be connected to: it refused, was silent, or its certificate was not accepted."""


class PoolFullError(NotSentError):
    """No connection to the peer came free in time. The peer is not at fault."""

    def __init__(self, text: str, *, own_share: bool) -> None:
        super().__init__(text)
        self.own_share = own_share
        """Whether connections are free, but the caller uses its share already."""


class UndeliveredError(UpstreamError):
    """Another server than the one that was called has answered, and has not acted on the request."""


class ProtocolError(UpstreamError):
    """The peer's answer is not HTTP/1.1 as it should be. The peer has had the request."""


class ConnectionBrokenError(UpstreamError):
    """The connection was closed or reset before the response, or within it.

    The peer may have acted on the request. You do not get this if the peer stops reading the request but
    answers it.
    """


class StreamResetError(UpstreamError):
    """The peer has ended a stream of HTTP/2 before its answer ended. `code` is HTTP/2's, and says why.

    With REFUSED_STREAM, the peer has not acted on the request; otherwise it may have.
    """

    def __init__(self, code: ErrorCodes | int) -> None:
        name = code.name if isinstance(code, ErrorCodes) else str(code)
        super().__init__(f"the peer has ended the stream ({name})")
        self.code = code


class BodyTooLargeError(UpstreamError):
    """The peer's answer has a larger body than the caller allows. The peer has acted on the request."""


class InvalidRequestError(CpgTrioError, ValueError):
    """The request cannot be sent as HTTP/1.1. The caller is at fault."""
