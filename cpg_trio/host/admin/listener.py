"""Where the admin application of a host is served, and to whom.

    a Unix socket    to processes of the host's own user, and of root: mode 0600, in a directory of the
                     host's own, and the kernel says who connects. Any program of that user may use it.
    ADMIN_BIND       to who shows the admin token (`Authorization: Bearer`), and to browsers that have shown
                     it once and have a cookie for it.

These addresses have a server of their own, with limits of its own: they answer when the port of the plugins
has no room, and the other way round. Nothing of it is ever on the port of the plugins.

The application gets the requests that are let in, whole; `current_actor` says who makes them.
Each refusal is in the audit trail, and each way in when it is first used.
"""

from __future__ import annotations

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import attrs
import trio

from cpg_trio import wire
from cpg_trio._admin_socket import make_directory
from cpg_trio._lines import one_line
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import (
    App,
    HeaderList,
    Message,
    Receive,
    Scope,
    Send,
    no_websocket,
    note_message,
    note_proved,
    read_body,
    send_response,
)
from cpg_trio.host.access import AccessCheck, Action, Audit, Peer, RefusedError, check_listening, retry_fields
from cpg_trio.host.admin.actor import acting_as
from cpg_trio.host.admin.browsers import BrowserRequest, PageRules, secured
from cpg_trio.host.admin.login import STYLE, STYLE_PATH, form_fields, login_page, message_page
from cpg_trio.host.admin.sessions import Sessions
from cpg_trio.host.admin.tokens import AdminTokens
from cpg_trio.http import ServeConfig, StartError, serve
from cpg_trio.http.channel import PeerProcess
from cpg_trio.http.client.origin import UNIX
from cpg_trio.rpc import Code

_log = logging.getLogger("cpg_trio.host")

MAX_BODY_BYTES = 64 * 1024
"""The most of a request's body."""
LOGIN_PATH, LOGOUT_PATH = "/login", "/logout"

_MOST_CONNECTIONS = 64
_MOST_ACTORS = 256  # whose first use is remembered
_ACTS_AS = "admin"  # what the connections of those who are let in count for
_HTML_FIELDS: HeaderList = [(b"content-type", b"text/html; charset=utf-8")]
_REFUSED_BY_CHOICE = frozenset({401, 429})  # another token may help


def _check_bind(config: AdminConfig, _: object, bind: Sequence[str]) -> None:
    if bind and config.tokens is None:
        raise ValueError("an admin address that is no Unix socket needs an admin token")


@attrs.frozen(kw_only=True)
class AdminConfig:
    """Where the admin service of a host is served. Raises: ValueError for `bind` without `tokens`."""

    socket: Path | None = None
    """The path of the Unix socket; `{port}` in it is the port of the host. Its directory is made if it is
    missing. None: there is no socket."""
    socket_is_required: bool = True
    """Whether the host starts only if it can have that socket."""
    tokens: AdminTokens | None = None
    """The tokens of the other addresses."""
    bind: Sequence[str] = attrs.field(default=(), validator=_check_bind)
    """The other addresses, with ports. Those that other machines reach have TLS, as the host has."""


async def serve_admin(
    app: App,
    config: AdminConfig,
    *,
    access: AccessCheck,
    audit: Audit,
    serving: ServeConfig,
    port: int,
    stop: trio.Event,
    allow_plaintext: bool = False,
    task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the admin application until `stop` is set. `started` reports the addresses.

    `serving` is how the host itself is served, and `port` where. Raises: StartError.
    """
    encrypted = serving.tls.serves or allow_plaintext
    check_listening(config.bind, encrypted=encrypted, variable="ADMIN_BIND")
    guarded = AdminAccess(app, config, access, audit, serving.allowed_hosts)
    settings = ServeConfig(
        grace_s=0.5,
        header_timeout_s=5,
        body_timeout_s=5,
        max_connections=_MOST_CONNECTIONS,
        backlog=_MOST_CONNECTIONS,
        socket_mode=0o600,
        tls=serving.tls,
        http1_engine=serving.http1_engine,
    )
    bound: list[str] = []
    async with open_plain_nursery() as nursery:
        each = partial(serve, guarded, config=settings, stop=stop)
        if config.socket is not None:
            try:
                path = _with_directory(config.socket, port)
                bound += await nursery.start(partial(each, bind=f"{UNIX}{path}"))
            except StartError as error:
                if config.socket_is_required:
                    raise
                _log.warning("there is no admin socket: %s", error)
        if config.bind:
            bound += await nursery.start(partial(each, bind=config.bind))
        if bound:
            _log.info("admin service on %s", ", ".join(bound))
        task_status.started(tuple(bound))


def _with_directory(template: Path, port: int) -> Path:
    """Return the path of the socket, in a directory that nobody else may change. Raises: StartError."""
    path = Path(str(template).replace("{port}", str(port)))
    try:
        make_directory(path.parent)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise StartError(
            f"cannot have the admin socket {path}: {why}; choose a directory with ADMIN_SOCKET, or say"
            " ADMIN_SOCKET=off"
        ) from error
    return path


class AdminAccess:
    """An ASGI application: the admin application, behind the check of who calls."""

    def __init__(
        self,
        app: App,
        config: AdminConfig,
        access: AccessCheck,
        audit: Audit,
        allowed_hosts: Sequence[str] = (),
    ) -> None:
        self._app = app
        self._access = access
        self._audit = audit
        self._rules = PageRules(config.bind, allowed_hosts)
        self._tokens = config.tokens
        self._sessions = Sessions(is_valid=self._holds)
        self._seen: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "websocket":
            await no_websocket(scope, receive, send)
            return
        call = _Call(scope, receive, _SecuringSend(send))
        try:
            await self._answer(call)
        except RefusedError as refused:
            await call.refuse(refused)

    async def _answer(self, call: _Call) -> None:
        path = call.scope["path"]
        if why := self._rules.why_not(call.request, call.scope["server"]):
            self._refuse(call, RefusedError(Code.PERMISSION_DENIED, why))
        if call.scope["client"] is None:
            actor = self._process(call)
        elif path == STYLE_PATH:
            await call.send_whole(200, STYLE, [(b"content-type", b"text/css")])
            return
        elif path == LOGIN_PATH:
            await self._log_in(call)
            return
        elif call.may_log_in and not self._is_let_in(call):
            await call.send_whole(401, login_page(call.target), _HTML_FIELDS)
            return
        else:
            actor = self._prover(call)
            if path == LOGOUT_PATH:
                await self._log_out(call)
                return
        self._note_use(call, actor)
        await self._pass_on(call, actor)

    async def _pass_on(self, call: _Call, actor: str) -> None:
        note_proved(call.scope, _ACTS_AS)
        body = await call.body()
        with acting_as(actor):
            await self._app(call.scope, _replayed(body, call.receive), call.send)

    # Who calls

    def _process(self, call: _Call) -> str:
        """Return which process calls through the Unix socket. Raises: RefusedError for another user's."""
        process: PeerProcess | None = call.scope["state"].get("peer_process")
        if process is None:  # the kernel does not tell; the modes of directory and socket hold
            return f"uid {os.geteuid()}"
        if process.uid not in {0, os.geteuid()}:
            why = f"the admin socket is for the user of the host and for root, not for user {process.uid}"
            self._refuse(call, RefusedError(Code.PERMISSION_DENIED, why), f"uid {process.uid}")
        return f"uid {process.uid}"

    def _prover(self, call: _Call) -> str:
        """Return who proves by a token or a cookie that they are let in. Raises: RefusedError."""
        request, address = call.request, call.peer.address
        if (token := wire.bearer_token(request.authorization.decode("latin-1"))) is not None:
            if self._proof(token) is None:
                self._refuse(call, RefusedError(Code.UNAUTHENTICATED, "the admin token is wrong"))
            return f"token from {address}"
        if not self._is_let_in(call):
            why = "an admin token is needed (Authorization: Bearer, from ADMIN_TOKEN of the host)"
            self._refuse(call, RefusedError(Code.UNAUTHENTICATED, why))
        if why := self._rules.why_not_by_cookie(request):
            self._refuse(call, RefusedError(Code.PERMISSION_DENIED, why))
        return f"browser from {address}"

    def _is_let_in(self, call: _Call) -> bool:
        request = call.request
        return self._sessions.find(request.host, request.cookies, secure=call.is_secure) is not None

    def _proof(self, token: str) -> bytes | None:
        return None if self._tokens is None else self._tokens.proof(token)

    def _holds(self, proof: bytes) -> bool:
        return self._tokens is not None and self._tokens.holds(proof)

    def _note_use(self, call: _Call, actor: str) -> None:
        """Have the first use of a way in recorded."""
        if actor in self._seen:
            return
        self._seen[actor] = None
        if len(self._seen) > _MOST_ACTORS:
            self._seen.popitem(last=False)
        self._audit.allowed(Action.ADMIN, actor, call.path, address=call.peer.address)

    def _refuse(self, call: _Call, refused: RefusedError, subject: str = "") -> NoReturn:
        """Raise a refusal, once it is counted for the address that it comes from, and in the audit trail."""
        self._access.refuse(refused, call.peer, Action.ADMIN, subject, call.path)

    # Browsers

    async def _log_in(self, call: _Call) -> None:
        if not call.request.changes_something:
            await call.send_whole(200, login_page("/"), _HTML_FIELDS)
            return
        if why := self._rules.why_not_by_cookie(call.request):
            self._refuse(call, RefusedError(Code.PERMISSION_DENIED, why))
        host = call.request.host
        try:
            token, target = form_fields(await call.body())
        except ValueError:
            raise RefusedError(Code.INVALID_ARGUMENT, "this is not the login form") from None
        proof = self._proof(token)
        if proof is None or host is None:
            self._refuse(call, RefusedError(Code.UNAUTHENTICATED, "the admin token is wrong"))
        self._audit.allowed(
            Action.ADMIN, f"browser from {call.peer.address}", LOGIN_PATH, address=call.peer.address
        )
        cookie = self._sessions.open(host, proof, secure=call.is_secure)
        await call.redirect(target, cookie)

    async def _log_out(self, call: _Call) -> None:
        if not call.request.changes_something:
            raise RefusedError(Code.INVALID_ARGUMENT, "log out with POST", status=405)
        request = call.request
        await call.redirect(
            LOGIN_PATH, self._sessions.close(request.host, request.cookies, secure=call.is_secure)
        )


class _Call:
    """One request, and how it is answered where the application does not."""

    def __init__(self, scope: Scope, receive: Receive, send: _SecuringSend) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.request = BrowserRequest.of(scope["method"], scope["headers"])
        self.peer = Peer.of_scope(scope)
        self.path = one_line(scope["path"])

    @property
    def is_secure(self) -> bool:
        return bool(self.scope["scheme"] == "https")

    @property
    def target(self) -> str:
        """Where it goes, as a browser asks for it."""
        query = self.scope["query_string"]
        return str((self.scope["raw_path"] + (b"?" + query if query else b"")).decode("ascii"))

    @property
    def may_log_in(self) -> bool:
        """Whether somebody looks at a page, and shows nothing yet."""
        request = self.request
        return request.wants_html and not request.changes_something and not request.authorization

    async def body(self) -> bytes:
        """Return the body when it has come whole. Raises: RefusedError for one that is too large."""
        note_message(self.scope)
        try:
            return await read_body(self.receive, MAX_BODY_BYTES)
        except ValueError as error:
            raise RefusedError(Code.RESOURCE_EXHAUSTED, str(error), status=413) from error

    async def send_whole(self, status: int, body: bytes, fields: HeaderList) -> None:
        await send_response(self.send, status, body, fields)

    async def redirect(self, target: str, cookie: bytes) -> None:
        self.send.own = [(b"set-cookie", cookie)]
        await self.send_whole(303, b"", [(b"location", target.encode())])

    async def refuse(self, refused: RefusedError) -> None:
        """Answer with a refusal: as a page to a person, as Connect has it to a program."""
        fields = retry_fields(refused.retry_after_s)
        if refused.status == 401:  # noqa: PLR2004 - RFC 9110, 11.6.1
            fields.append((b"www-authenticate", b"Bearer"))
        if not self.request.wants_html:
            said = json.dumps({"code": refused.code.value, "message": refused.message}).encode()
            await self.send_whole(refused.status, said, [(b"content-type", b"application/json"), *fields])
            return
        if refused.status in _REFUSED_BY_CHOICE and self.scope["client"] is not None:
            page = login_page("/", refused.message)
        else:
            page = message_page("Refused", refused.message)
        await self.send_whole(refused.status, page, [*_HTML_FIELDS, *fields])


class _SecuringSend:
    """Sends a response with the fields that tell a browser what its page may do."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.own: HeaderList = []
        """Fields of the access check itself, such as its cookies."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": secured(message.get("headers", ()), self.own)}
        await self._send(message)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return what an application receives of a request that has been read."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        if not messages:
            return await receive()
        await trio.lowlevel.checkpoint()
        return messages.pop()

    return receive_again
