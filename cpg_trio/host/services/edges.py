"""The edges of the services: who calls, how an error of the state is refused, when a caller may try again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cpg_trio import wire
from cpg_trio.asgi import Scope, header
from cpg_trio.host.access import AccessCheck, Action, Identity, Kind, LimitError, Peer, RefusedError
from cpg_trio.host.cluster import Arrival, Forwarding
from cpg_trio.host.directory import NoProviderError, UnknownRegistrationError
from cpg_trio.rpc import Code, Context
from cpg_trio.rpc.context import note_proved_by


@contextmanager
def state_errors() -> Iterator[None]:
    """Within the block, raise errors of the state as RefusedError."""
    try:
        yield
    except wire.InvalidError as error:
        raise RefusedError(Code.INVALID_ARGUMENT, str(error)) from error
    except (NoProviderError, UnknownRegistrationError) as error:
        raise RefusedError(Code.NOT_FOUND, str(error)) from error
    except LimitError as error:
        raise RefusedError(Code.RESOURCE_EXHAUSTED, str(error)) from error


@contextmanager
def answering(ctx: Context) -> Iterator[None]:
    """Within the block, raise errors of the state as RefusedError, and send `Retry-After` with each refusal.

    The answer also says of a host that cannot take a call now that the call has done nothing.

    RefusedError is a ConnectError, so the server of the services writes its code and its message.
    """
    try:
        with state_errors():
            yield
    except RefusedError as refused:
        if refused.retry_after_s:
            ctx.response_headers["retry-after"] = str(refused.retry_after_s)
        if refused.code is Code.UNAVAILABLE:  # of this host: another one may answer
            ctx.response_headers[wire.UNDELIVERED_HEADER.lower()] = "true"
            ctx.response_headers[wire.FAULT_HEADER.lower()] = refused.fault
        raise


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
    headers = ctx.request_headers
    return headers.get(wire.RUNTIME_ID_HEADER, ""), headers.get(wire.AUTHORIZATION_HEADER, "")


def credentials_of(scope: Scope) -> tuple[str, str]:
    """Return the runtime id and the authorization of an ASGI scope, empty where they are missing."""
    runtime_id, authorization = (
        (header(scope, name.lower().encode()) or b"").decode("latin-1")
        for name in (wire.RUNTIME_ID_HEADER, wire.AUTHORIZATION_HEADER)
    )
    return runtime_id, authorization


def peer_of(ctx: Context) -> Peer:
    """Return the other end of a call's connection."""
    return Peer.at(ctx.client_address, ctx.peer_names)
