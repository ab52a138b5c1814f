"""Requests that web pages make: refused, unless the page is listed in the configuration. No I/O.

A browser sends what a page asks it to, from within the network that the browser is in. That a page reads the
answers of its own origin only is no help: its owner points the page's name at 127.0.0.1, and whatever listens
there is the page's own origin (DNS rebinding). Two header fields tell, which no page can choose:

    Origin   which page asks; programs send none. Refused on every address, unless it is listed, or is the
             server itself, called by a name of its own.
    Host     by which name. Refused on addresses that only this machine reaches, unless it is a name of the
             server. Where other machines call, the operator of the network gives names, so there it is
             checked only if names are listed.

An address is no name: to point one somewhere else takes more than DNS.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from cpg_trio._addresses import is_loopback
from cpg_trio._lines import one_line
from cpg_trio._throttle import LogThrottle
from cpg_trio.asgi import App, Receive, Scope, Send, refuse_websocket, send_text
from cpg_trio.http.channel import Address
from cpg_trio.http.server.config import ANY, ServeConfig
from cpg_trio.http.server.errors import logger
from cpg_trio.http.server.listen import is_private, is_unspecified, name_of

FORBIDDEN = 403

_MOST_OF_A_FIELD = 100  # characters, in the log
# What browsers take for an address (WHATWG URL, 3.5): brackets, or nothing but digits and dots.
_AN_ADDRESS = re.compile(rb"(?:[0-9.]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_LOCALHOST = b"localhost"


class BrowserGuard:
    """Tells the requests of web pages from those of programs, and which of them a server takes."""

    def __init__(
        self,
        config: ServeConfig,
        *,
        binds: Sequence[str] = (),
        names: Iterable[str] = (),
        pages: str = "a web page may call this only if ALLOWED_ORIGINS lists its origin",
    ) -> None:
        """Guard what listens on `binds`. `names` are its own, beside localhost and those in the binds.

        `pages` is what a page is told that may not call.
        """
        self._pages = pages
        listed = [*names, *config.allowed_hosts, *filter(None, map(name_of, binds))]
        self._names = frozenset(name.lower().removesuffix(".").encode() for name in listed)
        self._origins = frozenset(origin.lower().encode() for origin in config.allowed_origins)
        self._any_origin = ANY in config.allowed_origins
        self._any_host = ANY in config.allowed_hosts
        self._checks_hosts = bool(config.allowed_hosts)
        self._checks_loopback = any(map(is_private, binds)) and not any(map(is_unspecified, binds))
        self._throttle = LogThrottle()

    def why_not(self, host: bytes | None, origin: bytes | None, server: Address) -> str:
        """Return why a request is refused; an empty string if it is not.

        `host` and `origin` are its header fields, None for those that it has not; `server` is the address
        that it came to.
        """
        if origin is None and (server is None or self._is_own(host)):
            return ""
        if origin is not None and not self._is_listed(origin, host):
            why = self._pages
        elif not self._is_own(host) and self._checks(server):
            why = "this is called by a name that is not its own: list it in ALLOWED_HOSTS if it is"
        else:
            return ""
        self._note(why, host, origin)
        return why

    def guarding(self, app: App) -> App:
        """Return an application before which this is decided."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            fields = dict(scope["headers"])
            host, origin = fields.get(b"host"), fields.get(b"origin")
            if origin is not None:
                origin = b", ".join(value for name, value in scope["headers"] if name == b"origin")
            if why := self.why_not(host, origin, scope.get("server")):
                await _refuse(why, scope, receive, send)
            else:
                await app(scope, receive, send)

        return guarded

    def _is_own(self, host: bytes | None) -> bool:
        if self._any_host or host is None or _AN_ADDRESS.fullmatch(host):
            return True
        name = host.partition(b":")[0].lower().removesuffix(b".")
        return name == _LOCALHOST or name in self._names or name.endswith(b".localhost")

    def _is_listed(self, origin: bytes, host: bytes | None) -> bool:
        origin = origin.lower()
        if self._any_origin or origin in self._origins:
            return True
        itself = host is not None and origin.partition(b"://")[2] == host.lower()
        return itself and self._is_own(host)

    def _checks(self, server: Address) -> bool:
        """Whether names are checked where a request came to."""
        if server is None:
            return False  # a Unix socket, which no page reaches
        return self._checks_hosts or (self._checks_loopback and is_loopback(server[0]))

    def _note(self, why: str, host: bytes | None, origin: bytes | None) -> None:
        if (more := self._throttle.suffix()) is not None:
            fields = _shown(origin), _shown(host)
            logger.warning("refused a request: %s (Origin: %s, Host: %s)%s", why, *fields, more)


def _shown(field: bytes | None) -> str:
    return "none" if field is None else repr(one_line(field, _MOST_OF_A_FIELD))


async def _refuse(why: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        await refuse_websocket(send, FORBIDDEN, why)
    else:
        await send_text(send, FORBIDDEN, f"{why}\n")
