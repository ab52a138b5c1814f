"""Calls of the host's capabilities: `/capabilities/{type}/{grant}/package.Service/Method`.

A call with a valid grant reaches the capability's application, which learns whose grant it is, and gets no
credentials and no claims (`cpg_trio.metadata`). A call ends with its grant. Refusals have the texts of other
implementations.
"""

from __future__ import annotations

from urllib.parse import unquote

import attrs

from cpg_trio import wire
from cpg_trio._lines import one_line
from cpg_trio._paths import has_traversal
from cpg_trio.asgi import (
    HeaderList,
    Receive,
    ResponseAbortedError,
    Scope,
    Send,
    note_proved,
    send_text,
    server_address,
)
from cpg_trio.call_context import current
from cpg_trio.call_record import Call, CallKind, Calls
from cpg_trio.host.access import AccessCheck, Action, Peer, RefusedError, marks
from cpg_trio.host.capabilities.grants import Grant, Grants
from cpg_trio.host.routing import forwarded_in_response
from cpg_trio.host.services.edges import credentials_of
from cpg_trio.metadata import is_claim
from cpg_trio.rpc import Caller, Code, Fault
from cpg_trio.rpc.recording import RecordedCall

PREFIX = b"/capabilities/"


@attrs.frozen
class _Path:
    """The parts of a path."""

    capability_type: str
    grant_id: str
    rest: bytes
    """The path of the method as the caller encoded it, with its slash."""


class CapabilityCalls:
    """The ASGI application under `/capabilities/`. No call waits for another."""

    def __init__(self, grants: Grants, access: AccessCheck, calls: Calls) -> None:
        self._grants = grants
        self._access = access
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        try:
            path, grant = self._admitted(scope)
        except RefusedError as refused:
            record = Call(CallKind.CAPABILITY, protocol=scope["http_version"], context=current())
            record.status, record.code = refused.status, refused.code.value
            record.failure, record.undelivered = refused.message, True
            self._calls.refused.tell(record)
            await send_text(send, refused.status, f"{refused.plain}\n", refused.fields)
            return
        note_proved(scope, grant.owner.runtime_id)
        context, method = current(), one_line(path.rest[1:])
        if (tracer := self._calls.tracer) is not None:
            context = tracer.enter(context, method, server_address(scope))
        record = Call(
            CallKind.CAPABILITY,
            caller=grant.owner.runtime_id,
            service=path.capability_type,
            method=method,
            protocol=scope["http_version"],
            context=context,
        )
        self._calls.begun.tell(record)
        try:
            with self._calls.serving(context):
                await self._pass_on(grant, record, _as_passed_on(scope, path, grant), receive, send)
        finally:
            self._calls.end(record)

    def _admitted(self, scope: Scope) -> tuple[_Path, Grant]:
        """Return the path of a call and its grant. Raises: RefusedError."""
        peer, (runtime_id, authorization) = Peer.of_scope(scope), credentials_of(scope)
        try:
            path = _split(scope["raw_path"])
            token = wire.bearer_token(authorization)
            grant = self._grants.check(path.capability_type, path.grant_id, token, runtime_id)
        except RefusedError as refused:
            parts = scope["raw_path"].split(b"/", 3)
            target = one_line(b"/".join(parts[1:3]))  # the next part is a grant's id
            self._access.refuse(refused, peer, Action.USE, runtime_id, target)
        self._access.admit_granted(grant.owner, peer, grant.capability.type)
        return path, grant

    async def _pass_on(self, grant: Grant, record: Call, scope: Scope, receive: Receive, send: Send) -> None:
        recorded = RecordedCall(record, receive, send, _fields_back)
        with self._grants.call(grant) as call:
            await grant.capability.application(scope, recorded.receive, recorded.send)
        if call.cancelled_caught:
            # The application may have ended its response all the same, with an error.
            is_whole, record.failure = not record.failure, "the grant has ended"
            record.code = Code.UNAUTHENTICATED.value
            if not is_whole:
                await _end_early(send, record)


def _fields_back(_status: int, fields: HeaderList) -> HeaderList:
    """Return what the router, too, passes back of the header fields."""
    return forwarded_in_response(fields)


async def _end_early(send: Send, record: Call) -> None:
    """End a call whose grant has ended before its response was complete."""
    if record.status:
        raise ResponseAbortedError(record.failure)
    record.status = 401
    await send_text(send, record.status, "grant expired\n", marks(Fault.CALLER, undelivered=False))


def _split(raw_path: bytes) -> _Path:
    path = raw_path.removeprefix(PREFIX)
    parts = path.split(b"/", 2)
    if len(parts) < 3 or has_traversal(path):  # noqa: PLR2004 - type, grant, and the rest
        raise RefusedError(Code.INVALID_ARGUMENT, "invalid capability path")
    capability_type, grant_id = (unquote(part.decode("latin-1")) for part in parts[:2])
    return _Path(capability_type, grant_id, b"/" + parts[2])


def _as_passed_on(scope: Scope, path: _Path, grant: Grant) -> Scope:
    """Return the scope for the capability's application."""
    caller = Caller(grant.owner.runtime_id, grant.owner.self_id)
    return {
        **scope,
        "raw_path": path.rest,
        "path": unquote(path.rest.decode("ascii")),
        "headers": [field for field in scope["headers"] if not is_claim(field[0])],
        "state": {**(scope.get("state") or {}), "caller": caller},
    }
