"""Corrections to connectrpc's application. They use its internals, so the package pins its minor version.

A failed call leaves no memory behind, and bad input of any kind is `invalid_argument`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from connectrpc._protocol import HTTPError
from connectrpc.compat import google_protobuf_codecs
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication
from google.protobuf.message import Message

from cpg_trio._lines import one_line
from cpg_trio.asgi import App
from cpg_trio.rpc.codecs import CheckedCodec, UnreadableError
from cpg_trio.rpc.context import Context, own_context
from cpg_trio.rpc.room import current

_Given: TypeAlias = RequestContext[Any, Any]
_M = TypeVar("_M", bound=Message)

OnUnreadable: TypeAlias = Callable[[Context], None]
"""Called for a call whose message cannot be read. Raises: ConnectError, which becomes the call's error."""

#: Copies of a message that exist at once in connectrpc: in the buffer, cut out of it, decoded, and packed.
COPIES = 4


def hardened(app: App) -> App:
    """Correct a service's application, and return it. Codecs that connectrpc does not have are kept."""
    if isinstance(app, ConnectASGIApplication):
        codecs = app._codecs  # noqa: SLF001 - here and below, see the module's docstring
        if list(codecs.values()) == google_protobuf_codecs():
            app._codecs = {name: _RoomyCodec(codec) for name, codec in codecs.items()}  # noqa: SLF001
        answer = app._handle_error  # noqa: SLF001

        async def answer_and_forget(error: Exception, *args: Any) -> bool:
            answered = await answer(error, *args)
            _forget_refusal(error)
            return answered

        app._handle_error = answer_and_forget  # type: ignore[assignment, method-assign]  # noqa: SLF001
    return app


class _RoomyCodec(CheckedCodec):
    """A codec that reserves memory for each message of the current call."""

    def decode(self, data: bytes | bytearray, message_class: type[_M]) -> _M:
        """Decode a message. Raises: ConnectError `resource_exhausted` without room; UnreadableError."""
        if (place := current.get()) is not None:
            place.decode(len(data), COPIES)
        return super().decode(data, message_class)


class Forgetting:
    """An interceptor that removes the traceback from the error of a failed call. It is the outermost one.

    connectrpc keeps the error in a frame that is in the error's own traceback. Such a cycle, and the message
    that its frames hold, would stay until the garbage collector runs, which counts objects and not bytes.
    `hardened` handles errors from before the first interceptor; this one those of streams.

    `on_unreadable` is called for each message that cannot be read; what it raises replaces the call's error.
    """

    def __init__(self, on_unreadable: OnUnreadable = lambda _: None) -> None:
        self._on_unreadable = on_unreadable

    async def on_start(self, ctx: _Given) -> None:
        """See `connectrpc.interceptor.MetadataInterceptor`."""

    async def on_end(self, _started: None, ctx: _Given, error: Exception | None, /) -> None:
        """See `connectrpc.interceptor.MetadataInterceptor`."""
        _forget_refusal(error)
        if isinstance(error, UnreadableError):
            self._on_unreadable(own_context(ctx))


def _forget_refusal(error: Exception | None) -> None:
    if isinstance(error, ConnectError | HTTPError):  # the server logs the traceback of any other
        forget_frames(error)


def forget_frames(error: BaseException) -> None:
    """Remove the traceback from an error, its causes and its contexts."""
    seen, left = set[int](), [error]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        each.__traceback__ = None
        left += [other for other in (each.__cause__, each.__context__) if other is not None]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions


def sendable(error: ConnectError) -> ConnectError:
    """Return an error whose message can be sent. A lone surrogate, which JSON may contain, has no UTF-8."""
    try:
        error.message.encode()
    except UnicodeEncodeError:
        return ConnectError(error.code, one_line(error.message, len(error.message)), error.details)
    return error
