"""At which URL a caller reaches the host: what it is told of paths on the host begins with that."""

from __future__ import annotations

from contextvars import ContextVar

from cpg_trio.asgi import App, Receive, Scope, Send, header
from cpg_trio.http import Origin

_LONGEST_HOST = 300  # bytes: a name has 253 at most, and a port
_called: ContextVar[tuple[str, bytes]] = ContextVar("scheme and host that the caller has called")
_public_url: ContextVar[str] = ContextVar("the host's URL for everybody, if there is one", default="")


def knowing_base_url(app: App, public_url: str = "") -> App:
    """Return an application within which `base_url` says how the host is reached.

    That is `public_url`, or what the request says. It is told to nobody but who has sent the request.
    """

    async def knowing(scope: Scope, receive: Receive, send: Send) -> None:
        public = _public_url.set(public_url.rstrip("/"))
        called = _called.set((scope["scheme"], header(scope, b"host") or b""))
        try:
            await app(scope, receive, send)
        finally:
            _called.reset(called)
            _public_url.reset(public)

    return knowing


def base_url() -> str:
    """Return the host's URL, as the caller of the moment has it; empty if it has sent none that is one."""
    return _public_url.get() or _url(*_called.get(("", b"")))


def _url(scheme: str, host: bytes) -> str:
    if len(host) > _LONGEST_HOST:
        return ""
    try:
        origin, path = Origin.parse(f"{scheme}://{host.decode('latin-1')}")
    except ValueError:
        return ""
    return f"{origin.scheme}://{origin.host_header.decode()}" if not path else ""
