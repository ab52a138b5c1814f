"""The context of a call: a method gets it beside its request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import attrs
from connectrpc.request import Headers, RequestContext

from cpg_trio.asgi import Scope, header, local_caller, note_proved

CALLER = "caller"
PEER_NAMES = "peer_names"

_NOTHING: Mapping[str, Any] = {}
_NO_SCOPE: Scope = {}  # not to be changed
_scope: ContextVar[Scope] = ContextVar("scope of a call", default=_NO_SCOPE)


@attrs.frozen
class Caller:
    """The caller, as the part of the server before the application has authenticated it."""

    id: str
    """Its unique id."""
    name: str
    """Its name, which others may share."""


class Context(RequestContext[Any, Any]):
    """What a method is given beside its request: the caller, the headers of both directions, the time left.

    Its base is that of connectrpc: `request_headers`, `response_headers` and
    `response_trailers`, and `timeout_ms()`, milliseconds or None.
    """

    _call_state: Mapping[str, Any] = _NOTHING
    _scope: Scope = _NO_SCOPE
    _fields: Mapping[bytes, bytes] | None = None
    """The headers of the scope, of those of one name the first, if somebody has read them."""

    @property
    def caller(self) -> Caller | None:
        """The authenticated caller; None if the server does not authenticate this call."""
        caller: Caller | None = self._call_state.get(CALLER)
        return caller

    @property
    def peer_names(self) -> tuple[str, ...]:
        """The names in the client's verified certificate; one empty name if it has none."""
        names: tuple[str, ...] = self._call_state.get(PEER_NAMES, ())
        return names


class WrappedContext(Context):
    """A context of connectrpc, with what the server knows about the call in addition."""

    def __init__(self, inner: RequestContext[Any, Any]) -> None:
        super().__init__(
            method=inner.method,
            http_method=inner.http_method,
            request_headers=inner.request_headers,
            server_address=inner.server_address,
            client_address=inner.client_address,
        )
        self._inner = inner
        self._scope = _scope.get()
        self._call_state = self._scope.get("state") or _NOTHING

    @property
    def response_headers(self) -> Headers:
        return self._inner.response_headers

    @property
    def response_trailers(self) -> Headers:
        return self._inner.response_trailers

    @property
    def timeout_ms(self) -> float | None:
        return self._inner.timeout_ms


def local_of(ctx: Context) -> object:
    """Return who calls from within this process; see `asgi.LOCAL`."""
    return local_caller(ctx._scope)  # noqa: SLF001 - of this module


def field_of(ctx: Context, name: bytes) -> str:
    """Return the first value of a header of a request, empty without one. `name` is lower case.

    It takes a part of the time of `request_headers`, which are made of all fields.
    """
    fields, scope = ctx._fields, ctx._scope  # noqa: SLF001 - of this module
    if fields is not None:
        return fields.get(name, b"").decode("latin-1")
    if scope is _NO_SCOPE:
        return ctx.request_headers.get(name.decode(), "")
    return (header(scope, name) or b"").decode("latin-1")


def client_of(ctx: Context) -> tuple[str, int] | None:
    """Return the address and the port that a call comes from; None for a Unix socket, or this process."""
    client: tuple[str, int] | None = ctx._scope.get("client")  # noqa: SLF001 - of this module
    return client


def note_proved_by(ctx: Context, identity: str) -> None:
    """Report the identity that the client of a call has proved to the server; see `asgi.note_proved`."""
    note_proved(ctx._scope, identity)  # noqa: SLF001 - of this module


def own_context(ctx: RequestContext[Any, Any]) -> Context:
    """Return a context as methods get it."""
    return ctx if isinstance(ctx, Context) else WrappedContext(ctx)


@contextmanager
def scope_of(scope: Scope) -> Iterator[None]:
    """Within the block, contexts that wrap one of connectrpc use this scope."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)
