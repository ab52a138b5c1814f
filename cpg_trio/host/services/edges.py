"""The edges of the services: who calls, how an error of the state is refused, when a caller may try again."""

from __future__ import annotations

from types import TracebackType

from cpg_trio import wire
from cpg_trio.asgi import Scope, header
from cpg_trio.host.access import AccessCheck, Action, Identity, Kind, LimitError, Peer, RefusedError
from cpg_trio.host.cluster import Arrival, Forwarding
from cpg_trio.host.directory import NoProviderError, UnknownRegistrationError
from cpg_trio.rpc import Code, Context
from cpg_trio.rpc.context import client_of, field_of, note_proved_by

_RUNTIME_ID = wire.RUNTIME_ID_HEADER.lower().encode()
_AUTHORIZATION = wire.AUTHORIZATION_HEADER.lower().encode()


def _refused(error: BaseException | None) -> RefusedError | None:
    """Return an error of the state as a refusal; None for any other."""
    match error:
        case wire.InvalidError():
            return RefusedError(Code.INVALID_ARGUMENT, str(error))
        case NoProviderError() | UnknownRegistrationError():
            return RefusedError(Code.NOT_FOUND, str(error))
        case LimitError():
            return RefusedError(Code.RESOURCE_EXHAUSTED, str(error))
        case _:
            return None


class state_errors:  # noqa: N801 - a context manager; a generator would cost more than all that it does
    """Within the block, raise errors of the state as RefusedError."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if error is not None and (refused := _refused(error)) is not None:
            raise refused from error


class answering:  # noqa: N801 - as `state_errors`
    """Within the block, raise errors of the state as RefusedError, and send `Retry-After` with each refusal.

    The answer also says of a host that cannot take a call now that the call has done nothing.

    RefusedError is a ConnectError, so the server of the services writes its code and its message.
    """

    __slots__ = ("_ctx",)

    def __init__(self, ctx: Context) -> None:
        """Take the context of the call."""
        self._ctx = ctx

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        if isinstance(error, RefusedError):
            self._tell(error)
        elif (refused := _refused(error)) is not None:
            self._tell(refused)
            raise refused from error

    def _tell(self, refused: RefusedError) -> None:
        headers = self._ctx.response_headers
        if refused.retry_after_s:
            headers["retry-after"] = str(refused.retry_after_s)
        if refused.code is Code.UNAVAILABLE:  # of this host: another one may answer
            headers[wire.UNDELIVERED_HEADER.lower()] = "true"
            headers[wire.FAULT_HEADER.lower()] = refused.fault


def authenticate(access: AccessCheck, ctx: Context, kind: Kind) -> Identity:
    """Return who makes a call, once it is counted. Raises: RefusedError."""
    identity = access.admit(*credentials(ctx), peer_of(ctx), kind)
    note_proved_by(ctx, identity.runtime_id)
    return identity


def arrival_of(access: AccessCheck, forwarding: Forwarding, ctx: Context) -> Arrival:
    """Return how a call has come: from its caller, or from another host, which has counted it.

    Raises: RefusedError for a caller that passes itself off as a host.
    """
    peer = peer_of(ctx)
    if ctx.request_headers.get(wire.FORWARDED_BY_HOST_HEADER) is None:
        return Arrival(peer)
    plugin, _ = credentials(ctx)
    try:
        arrival = forwarding.arrival(ctx, plugin)
    except RefusedError as refused:
        access.refuse(refused, peer, Action.AUTHENTICATE, plugin)
    note_proved_by(ctx, f"host {arrival.forwarded_by}")
    return arrival


def authenticate_arrival(
    access: AccessCheck, forwarding: Forwarding, ctx: Context, kind: Kind
) -> tuple[Identity, Arrival]:
    """Return who makes a call, and how it has come; count it if it comes from its caller.

    Raises: RefusedError.
    """
    arrival = arrival_of(access, forwarding, ctx)
    if arrival.forwarded_by:
        return access.authenticate(*credentials(ctx), arrival.peer), arrival
    identity = access.admit(*credentials(ctx), arrival.peer, kind)
    note_proved_by(ctx, identity.runtime_id)
    return identity, arrival


def count_unreadable(access: AccessCheck, ctx: Context) -> None:
    """Count a message that cannot be read for the address that it comes from. Raises: RefusedError."""
    with answering(ctx):
        access.count(Kind.FAILED_AUTHENTICATION, peer_of(ctx).key)


def credentials(ctx: Context) -> tuple[str, str]:
    """Return the runtime id and the authorization of a call, empty where they are missing."""
    return field_of(ctx, _RUNTIME_ID), field_of(ctx, _AUTHORIZATION)


def credentials_of(scope: Scope) -> tuple[str, str]:
    """Return the runtime id and the authorization of an ASGI scope, empty where they are missing."""
    runtime_id, authorization = (header(scope, name) or b"" for name in (_RUNTIME_ID, _AUTHORIZATION))
    return runtime_id.decode("latin-1"), authorization.decode("latin-1")


def peer_of(ctx: Context) -> Peer:
    """Return the other end of a call's connection."""
    return Peer.of(client_of(ctx), ctx.peer_names)
