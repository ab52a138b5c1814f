"""The dashboard as an ASGI application: addresses, methods, and answers.

Who may use it is decided before it: each request that comes here is an operator's, and a POST comes from one
of these pages.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import unquote

import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import HeaderList, Receive, Scope, Send, header, read_body, send_response
from cpg_trio.host.admin.actions import Actions
from cpg_trio.host.admin.actor import current_actor
from cpg_trio.host.admin.dashboard._assets import load_assets
from cpg_trio.host.admin.dashboard._forms import Form, Forms
from cpg_trio.host.admin.dashboard._live import Changes, Pace
from cpg_trio.host.admin.dashboard._pages import Page, Pages
from cpg_trio.host.admin.dashboard._query import Query
from cpg_trio.host.admin.dashboard._rendering import Renderer
from cpg_trio.host.admin.events import EventLog, EventReader
from cpg_trio.host.admin.managed_actions import ManagedActions
from cpg_trio.host.admin.view import View
from cpg_trio.rpc import Code, ConnectError

_REFRESH_S = 2.0  # between two looks at a page that is open
_LEAST_S = 0.5  # the same, while there are many events

_STATUS = {
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    Code.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
_MOST_FORM_BYTES = 64 * 1024

_HTML = (b"content-type", b"text/html; charset=utf-8")
_LINES = (b"content-type", b"application/x-ndjson")
_NOT_KEPT = (b"cache-control", b"no-store")


class Dashboard:
    """Serves the pages of a host. `wall_clock` gives seconds since 1970."""

    def __init__(
        self,
        view: View,
        events: EventLog,
        actions: Actions,
        managed: ManagedActions,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._view = view
        self._events = events
        self._wall_clock = wall_clock
        self._pages = Pages(view, events, Renderer(wall_clock))
        self._forms = Forms(actions, managed)
        self._assets = load_assets()
        self._pace = Pace()
        self._tables: Mapping[str, Callable[[Query], Page]] = {
            "plugins": self._pages.plugins,
            "services": self._pages.services,
            "calls": self._pages.calls,
            "capabilities": self._pages.capabilities,
            "configuration": self._pages.configuration,
            "events": self._pages.events,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            await self._answer(scope, receive, send)
        except ConnectError as error:
            await self._refuse(send, _STATUS.get(error.code, HTTPStatus.BAD_GATEWAY), error.message)
        except ValueError as error:  # a query or a form with more fields than any of ours
            await self._refuse(send, HTTPStatus.BAD_REQUEST, str(error))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, segments = scope["method"], _segments(_path(scope))
        if method == "POST":
            await self._act(segments, await read_body(receive, _MOST_FORM_BYTES), send)
        elif method not in {"GET", "HEAD"}:
            why = f"pages have no {method}"
            await self._refuse(send, HTTPStatus.METHOD_NOT_ALLOWED, why, (b"allow", b"GET, HEAD, POST"))
        elif segments[:1] == ["static"]:
            await self._send_asset(scope, "/".join(segments[1:]), send)
        elif segments == ["favicon.ico"]:  # what browsers ask for on pages that name no icon
            await self._send_asset(scope, "icon.svg", send)
        elif segments == ["live"] and method == "GET":
            await self._stream(Query.parse(scope["query_string"].decode("latin-1")), receive, send)
        else:
            query = Query.parse(scope["query_string"].decode("latin-1"))
            await self._send_page(send, self._page(segments, query))

    def _page(self, segments: Sequence[str], query: Query) -> Page:
        """Return the page of an address. Raises: ConnectError `not_found`."""
        match segments:
            case []:
                return self._pages.overview(query)
            case [name] if name in self._tables:
                return self._tables[name](query)
            case ["plugins", plugin]:
                return self._pages.plugin(plugin, query)
            case ["managed", plugin]:
                return self._pages.managed(plugin, query)
            case _:
                return self._pages.confirmation(*self._form(segments))

    # Actions

    def _form(self, segments: Sequence[str]) -> tuple[Form, str]:
        """Return the action of an address and what it is about. Raises: ConnectError `not_found`."""
        match segments:
            case ["plugins", plugin, action] if action in self._forms.of_plugin:
                return self._forms.of_plugin[action], plugin
            case ["managed", plugin, action] if action in self._forms.of_managed:
                return self._forms.of_managed[action], plugin
            case ["capabilities", grant_id, "revoke"]:
                return self._forms.revoke_grant, grant_id
            case ["configuration", action] if action in self._forms.of_host:
                return self._forms.of_host[action], ""
            case _:
                raise ConnectError(Code.NOT_FOUND, "there is no such page")

    async def _act(self, segments: Sequence[str], body: bytes, send: Send) -> None:
        form, subject = self._form(segments)
        done = await form.run(subject, Query.parse(body.decode("latin-1")), current_actor())
        await self._send_page(send, self._pages.done(form, subject, done))

    # Answers

    async def _send_page(
        self,
        send: Send,
        page: Page,
        status: HTTPStatus = HTTPStatus.OK,
        *headers: tuple[bytes, bytes],
    ) -> None:
        await send_response(send, status, self._pages.render(page), [_HTML, _NOT_KEPT, *headers])

    async def _refuse(self, send: Send, status: HTTPStatus, why: str, *headers: tuple[bytes, bytes]) -> None:
        page = self._pages.about("error.html", status.phrase, why=why)
        await self._send_page(send, page, status, *headers)

    async def _send_asset(self, scope: Scope, name: str, send: Send) -> None:
        asset = self._assets.get(name)
        if asset is None:
            raise ConnectError(Code.NOT_FOUND, "there is no such file")
        headers: HeaderList = [(b"etag", asset.etag), (b"cache-control", b"no-cache")]
        if asset.etag in (header(scope, b"if-none-match") or b""):
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            headers.append((b"content-type", asset.content_type))
            await send_response(send, HTTPStatus.OK, asset.body, headers)

    # What is new on a page that is open

    async def _stream(self, query: Query, receive: Receive, send: Send) -> None:
        """Send what changes on a page, one JSON object a line, until the client leaves or the host stops."""
        path, _, rest = query.get("page", "/").partition("?")
        segments, wanted = _segments(path), Query.parse(rest)
        self._page(segments, wanted)  # whether there is one, before the answer begins
        with self._events.reading(self._events.last) as reader:
            await send({"type": "http.response.start", "status": 200, "headers": [_LINES, _NOT_KEPT]})
            async with open_plain_nursery() as nursery:
                nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
                await self._send_changes(lambda: self._page(segments, wanted), reader, send)
                nursery.cancel_scope.cancel()

    async def _send_changes(self, page: Callable[[], Page], reader: EventReader, send: Send) -> None:
        changes, following = Changes(), True
        while True:
            try:
                news = changes.of(await self._pace.look(lambda: self._pages.parts(page())))
            except ConnectError as error:  # the plugin is not remembered any more
                news = {"error": error.message}
                following = False
            line = json.dumps({"now": math.floor(self._wall_clock() * 1000), **news}).encode() + b"\n"
            await send({"type": "http.response.body", "body": line, "more_body": following})
            if not following:
                return
            await trio.sleep(_LEAST_S)
            with trio.move_on_after(_REFRESH_S - _LEAST_S):
                following = await reader.wait()
            while any(reader.next()):
                pass


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _path(scope: Scope) -> str:
    raw: bytes = scope["raw_path"]
    return raw.partition(b"?")[0].decode("latin-1")


def _segments(path: str) -> list[str]:
    """Return the segments of a path. They are decoded one by one, as an id may hold any character."""
    return [unquote(segment) for segment in path.split("/") if segment]
