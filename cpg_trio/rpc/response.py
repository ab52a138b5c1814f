"""What a call gets: the headers and trailers of its response, and the stream of its responses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Generic, TypeVar

import attrs
from connectrpc.request import Headers
from google.protobuf.message import Message

_M = TypeVar("_M", bound=Message)


@attrs.define
class ResponseMetadata:
    """The headers and trailers of a response. The call that it is given to fills it in."""

    headers: Headers = attrs.field(factory=Headers)
    trailers: Headers = attrs.field(factory=Headers)


class ResponseStream(Generic[_M]):
    """The responses of a call with a stream of them, in order.

    `metadata.headers` are there from the start (of a call that streams both ways, from the first response),
    `metadata.trailers` when the stream has ended. Iterating
    raises ConnectError with the server's error, or `internal` for a stream that broke off before its end.
    """

    def __init__(self, messages: AsyncIterator[_M], metadata: ResponseMetadata) -> None:
        self._messages = messages
        self.metadata = metadata

    def __aiter__(self) -> AsyncIterator[_M]:
        """Return the iterator, of which there is one."""
        return self._messages

    def __anext__(self) -> Awaitable[_M]:
        """Return the next response, as `anext(stream)` asks for it."""
        return self._messages.__anext__()
