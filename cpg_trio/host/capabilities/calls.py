"""The way to the host's capabilities: `/capabilities/{type}/{grant}/package.Service/Method`.

Who shows a grant that is good gets to the capability's application, which is told whose grant it is and
nothing that proves it. A call ends with its grant. Refusals have the words that other implementations use.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

import attrs

from cpg_trio import wire
from cpg_trio._lines import one_line
from cpg_trio._paths import has_traversal
from cpg_trio.asgi import (
    HeaderList,
    Message,
    Receive,
    ResponseAbortedError,
    Scope,
    Send,
    note_proved,
    send_text,
)
from cpg_trio.host.access.audit import Action, Audit
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.access.policy import Policy
from cpg_trio.host.access.rate_limiting import retry_after
from cpg_trio.host.access.rates import Kind, Rates
from cpg_trio.host.capabilities.grants import Grant, Grants, InvalidGrantError
from cpg_trio.host.routing.admission import PERHAPS_DELIVERED, UNDELIVERED
from cpg_trio.rpc import Caller

PREFIX = b"/capabilities/"

_AUTHORIZATION = wire.AUTHORIZATION_HEADER.lower().encode()
_RUNTIME_ID = wire.RUNTIME_ID_HEADER.lower().encode()
_OURS = b"x-plugin-"
_CREDENTIALS = frozenset({_AUTHORIZATION, b"cookie", b"proxy-authorization"})


class _RefusedError(Exception):
    """A call that goes nowhere.

    `wait_s` is how long its caller has to wait, if that is why, in seconds; `caller` the runtime id that it
    proves, if it does.
    """

    def __init__(self, status: int, text: str, wait_s: int = 0, caller: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.caller = caller
        self.fields = [retry_after(wait_s)] if wait_s else []


def _too_often(wait_s: int) -> _RefusedError:
    return _RefusedError(429, "Rate limit exceeded", wait_s)


@attrs.frozen
class _Path:
    """What a path asks for."""

    capability_type: str
    grant_id: str
    rest: bytes
    """As it was encoded, with its slash."""


class CapabilityCalls:
    """The ASGI application under `/capabilities/`. Calls never wait for each other."""

    def __init__(self, grants: Grants, policy: Policy, audit: Audit, rates: Rates) -> None:
        self._grants = grants
        self._policy = policy
        self._audit = audit
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        try:
            path = _split(scope["raw_path"])
            grant = self._granted(path, scope)
        except _RefusedError as refused:
            refused = self._noted(refused, scope)
            await send_text(send, refused.status, f"{refused.text}\n", [*UNDELIVERED, *refused.fields])
            return
        note_proved(scope, grant.owner.runtime_id)
        await self._pass_on(grant, _as_passed_on(scope, path, grant), receive, send)

    def _granted(self, path: _Path, scope: Scope) -> Grant:
        credentials = _credentials(scope["headers"])
        if (token := wire.bearer_token(credentials.get(_AUTHORIZATION, ""))) is None:
            raise _RefusedError(401, "missing or invalid authorization header")
        runtime_id = credentials.get(_RUNTIME_ID, "")
        try:
            grant = self._grants.check(path.capability_type, path.grant_id, token, runtime_id)
        except InvalidGrantError as error:
            raise _RefusedError(401, str(error)) from None
        self._check_permitted(grant, Peer.of_scope(scope))
        if wait_s := self._rates.take(Kind.CAPABILITY_CALL, grant.owner.runtime_id):
            raise _too_often(wait_s)
        return grant

    def _check_permitted(self, grant: Grant, peer: Peer) -> None:
        """Check what was checked when the grant was given, and may have changed."""
        owner, capability_type = grant.owner, grant.capability.type
        if why_not := self._policy.why_not_certified(peer, owner.self_id):
            raise _RefusedError(401, why_not)
        if not self._policy.may_use(owner, capability_type):
            denied = f"permission denied: {owner.runtime_id} may not use {capability_type}"
            raise _RefusedError(403, denied, caller=owner.runtime_id)

    def _noted(self, refused: _RefusedError, scope: Scope) -> _RefusedError:
        """Return the answer to a refused call, once that is in the audit trail, or too much for it."""
        peer = Peer.of_scope(scope)
        key = refused.caller or peer.key
        if not refused.fields and (wait_s := self._rates.take(Kind.FAILED_AUTHENTICATION, key)):
            return _too_often(wait_s)
        claimed = _credentials(scope["headers"]).get(_RUNTIME_ID, "")
        parts = scope["raw_path"].split(b"/", 3)
        self._audit.denied(
            Action.USE,
            claimed,
            one_line(b"/".join(parts[1:3])),  # the rest of it names a grant
            reason=refused.text,
            address=peer.address,
        )
        return refused

    async def _pass_on(self, grant: Grant, scope: Scope, receive: Receive, send: Send) -> None:
        last: Message | None = None

        async def noting(message: Message) -> None:
            nonlocal last
            last = message
            await send(_without_our_marks(message))

        with self._grants.call(grant) as call:
            await grant.capability.application(scope, receive, noting)
        if call.cancelled_caught:
            await _break_off(send, last)


def _without_our_marks(message: Message) -> Message:
    """Return what an application sends, without what only the host says of a call."""
    if message["type"] != "http.response.start":
        return message
    fields = [field for field in message.get("headers", ()) if not field[0].lower().startswith(_OURS)]
    return {**message, "headers": fields}


async def _break_off(send: Send, last: Message | None) -> None:
    """End a call whose grant has ended before it. `last` is what its client has been sent last."""
    if last is None:
        await send_text(send, 401, "grant expired\n", PERHAPS_DELIVERED)
    elif last["type"] == "http.response.start" or last.get("more_body", False):
        raise ResponseAbortedError("the grant has ended")


def _split(raw_path: bytes) -> _Path:
    path = raw_path.removeprefix(PREFIX)
    parts = path.split(b"/", 2)
    if len(parts) < 3 or has_traversal(path):  # noqa: PLR2004 - type, grant, and the rest
        raise _RefusedError(400, "invalid capability path")
    capability_type, grant_id = (unquote(part.decode("latin-1")) for part in parts[:2])
    return _Path(capability_type, grant_id, b"/" + parts[2])


def _credentials(headers: HeaderList) -> Mapping[bytes, str]:
    """Return the first value of each header by its name in lower case."""
    return {name.lower(): value.decode("latin-1") for name, value in reversed(headers)}


def _as_passed_on(scope: Scope, path: _Path, grant: Grant) -> Scope:
    """Return a scope as the capability's application gets it."""
    caller = Caller(grant.owner.runtime_id, grant.owner.self_id)
    return {
        **scope,
        "raw_path": path.rest,
        "path": unquote(path.rest.decode("ascii")),
        "headers": [field for field in scope["headers"] if not _is_credential(field[0])],
        "state": {**(scope.get("state") or {}), "caller": caller},
    }


def _is_credential(name: bytes) -> bool:
    # Some servers read X_Plugin_Caller_Id as X-Plugin-Caller-ID, and so on.
    normal = name.lower().replace(b"_", b"-")
    return normal in _CREDENTIALS or normal.startswith(_OURS)
