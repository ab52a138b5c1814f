"""Admin addresses on real sockets, before an application that says who acts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import Receive, Scope, Send, send_response
from cpg_trio.host import Audit, AuditEvent, RateLimits
from cpg_trio.host.access import AccessCheck, Identities, RateLimiter
from cpg_trio.host.access.keys import Keys
from cpg_trio.host.admin import AdminConfig, AdminTokens, current_actor, serve_admin
from cpg_trio.http import ServeConfig
from tests._wire import Response, dial, request
from tests.http.apps import read_body

TOKEN = "operator-" + "0123456789abcdef" * 2
OTHER = "somebody-" + "0123456789abcdef" * 2
BEARER = {"authorization": f"Bearer {TOKEN}"}


async def whoami(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with who acts, and what was sent."""
    body = await read_body(receive)
    said = f"{scope['method']} {scope['path']} by {current_actor()}: ".encode() + body
    await send_response(send, 200, said, [(b"content-type", b"text/plain"), (b"set-cookie", b"a=b")])


@attrs.frozen
class Admin:
    urls: tuple[str, ...]
    audited: list[AuditEvent]
    stop: trio.Event

    @property
    def url(self) -> str:
        return self.urls[-1]

    def refusals(self) -> list[str]:
        return [event.reason for event in self.audited if not event.allowed]

    def admitted(self) -> list[str]:
        return [event.subject for event in self.audited if event.allowed]


def access_check(audit: Audit, rates: RateLimits | None = None) -> AccessCheck:
    return AccessCheck(
        Identities(Keys(), longest_s=60.0), audit=audit, limiter=RateLimiter(rates or RateLimits())
    )


@asynccontextmanager
async def admin(
    app: Any = whoami,
    *,
    socket: Path | None = None,
    bind: str | None = "127.0.0.1:0",
    tokens: AdminTokens | None = None,
    serving: ServeConfig | None = None,
    rates: RateLimits | None = None,
    **more: Any,
) -> AsyncIterator[Admin]:
    audit, stop = Audit(), trio.Event()
    audited: list[AuditEvent] = []
    audit.subscribe(audited.append)
    config = AdminConfig(
        socket=socket,
        bind=[bind] if bind else [],
        tokens=tokens or AdminTokens([TOKEN]),
        socket_is_required=more.pop("socket_is_required", True),
    )
    async with open_plain_nursery() as nursery:
        served = partial(
            serve_admin,
            app,
            config,
            access=access_check(audit, rates),
            audit=audit,
            serving=serving or ServeConfig(),
            port=8080,
            stop=stop,
            **more,
        )
        urls = await nursery.start(served)
        try:
            yield Admin(urls, audited, stop)
        finally:
            stop.set()


async def ask(
    url: str,
    path: str = "/",
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    body: bytes = b"",
    host: str = "",
) -> Response:
    """Send one request of HTTP/1.1. `host` is in place of the address."""
    sent = request(
        method,
        path,
        {**(headers or {}), **({"content-length": "0"} if method == "POST" and not body else {})},
        body,
    )
    authority = host or url.rpartition("/")[2]
    async with dial(url) as wire:
        await wire.send(sent.replace(b"host: localhost", b"host: " + authority.encode(), 1))
        return await wire.response(head_only=method == "HEAD")


def page(url: str, **more: str) -> dict[str, str]:
    """Return the fields that a browser sends with a request of a page of `url`'s own."""
    return {
        "origin": url,
        "sec-fetch-site": "same-origin",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
        "accept": "text/html,*/*;q=0.8",
        **more,
    }


async def logged_in(url: str, token: str = TOKEN, **more: str) -> dict[str, str]:
    """Log in as a browser does; return the fields of its next requests."""
    form = f"token={token}&next=/plugins".encode()
    fields = page(url, **{"content-type": "application/x-www-form-urlencoded", **more})
    response = await ask(url, "/login", fields, method="POST", body=form)
    assert response.status == 303, response
    assert response.header(b"location") == b"/plugins"
    cookie = response.header(b"set-cookie")
    assert cookie is not None
    return page(url, cookie=cookie.partition(b";")[0].decode())
