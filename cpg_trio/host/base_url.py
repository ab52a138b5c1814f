"""At which URL a caller reaches the host: what it is told of paths on the host begins with that."""

from __future__ import annotations

from contextvars import ContextVar
from functools import lru_cache

from cpg_trio.asgi import App, Receive, Scope, Send, header
from cpg_trio.http1 import Origin

_LONGEST_HOST = 300  # bytes: a name has 253 at most, and a port
_base_url: ContextVar[str] = ContextVar("the host's URL, as the caller has it")


def knowing_base_url(app: App, public_url: str = "") -> App:
    """Return an application within which `base_url` says how the host is reached.

    That is `public_url`, or what the request says. It is told to nobody but who has sent the request.
    """

    async def knowing(scope: Scope, receive: Receive, send: Send) -> None:
        host = header(scope, b"host") or b""
        called = _url(scope["scheme"], host) if len(host) <= _LONGEST_HOST else ""
        token = _base_url.set(public_url.rstrip("/") or called)
        try:
            await app(scope, receive, send)
        finally:
            _base_url.reset(token)

    return knowing


def base_url() -> str:
    """Return the host's URL, as the caller of the moment has it; empty if it has sent none that is one."""
    return _base_url.get("")


@lru_cache(maxsize=256)  # callers have few ways to write it
def _url(scheme: str, host: bytes) -> str:
    try:
        origin, path = Origin.parse(f"{scheme}://{host.decode('latin-1')}")
    except ValueError:
        return ""
    return f"{origin.scheme}://{origin.host_header.decode()}" if not path else ""
