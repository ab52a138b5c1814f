"""The URL at which a caller reaches the host: URLs of paths on the host that it is told begin with that."""

from __future__ import annotations

from contextvars import ContextVar

from cpg_trio.asgi import App, Receive, Scope, Send, header, local_caller
from cpg_trio.http import Origin

_MAX_HOST_BYTES = 300  # a name has 253 at most, and a port follows
_called: ContextVar[tuple[str, str, bytes]] = ContextVar("public URL; scheme and host of the request")


def knowing_base_url(app: App, public_url: str = "") -> App:
    """Return an application within which `base_url` says how the host is reached.

    That is `public_url`, or what the request says. Only the sender of the request is told.
    """

    async def knowing(scope: Scope, receive: Receive, send: Send) -> None:
        # A plugin in this process calls at no address: what it is told leads back here, in memory.
        public = "" if local_caller(scope) is not None else public_url.rstrip("/")
        called = _called.set((public, scope["scheme"], header(scope, b"host") or b""))
        try:
            await app(scope, receive, send)
        finally:
            _called.reset(called)

    return knowing


def base_url() -> str:
    """Return the host's URL for the caller of the moment; empty if its request names no valid one."""
    public_url, scheme, host = _called.get(("", "", b""))
    if public_url or len(host) > _MAX_HOST_BYTES:
        return public_url
    try:
        origin, path = Origin.parse(f"{scheme}://{host.decode('latin-1')}")
    except ValueError:
        return ""
    return "" if path else f"{origin.scheme}://{origin.host_header.decode()}"
