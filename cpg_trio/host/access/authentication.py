"""Who is calling one of the host's services, and whether it may: asked before anything else."""

from __future__ import annotations

import trio

from cpg_trio import wire
from cpg_trio.host.access.audit import Action, Audit
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.access.policy import Policy
from cpg_trio.host.access.rate_limiting import charge, retry_told
from cpg_trio.host.access.rates import Kind, Rates
from cpg_trio.rpc import Code, ConnectError, Context


class Gate:
    """Tells who is calling, and whether it may, or refuses. Each refusal is in the audit trail."""

    def __init__(self, identities: Identities, policy: Policy, audit: Audit, rates: Rates) -> None:
        self._identities = identities
        self._policy = policy
        self._audit = audit
        self._rates = rates

    def caller(self, ctx: Context, kind: Kind) -> Identity:
        """Return the identity that a call's headers prove, and count the call as one of its kind.

        Raises: ConnectError `invalid_argument` without a runtime id, as other hosts answer; `unauthenticated`
        without a token, or with one that does not prove that id; `resource_exhausted` for one call too many.
        """
        with retry_told(ctx):
            identity = self.admit(*credentials(ctx), peer_of(ctx), kind)
        ctx.note_proved(identity.runtime_id)
        return identity

    def admit(self, runtime_id: str, authorization: str, peer: Peer, kind: Kind) -> Identity:
        """Return the identity that two headers prove, empty where they are missing; see `caller`.

        A call that proves none is counted for the address that it comes from; for its identity, if that has
        ended, so that it hears of it whatever others do at its address.
        """
        try:
            identity = self._prove(runtime_id, authorization, peer)
        except ConnectError as error:
            former = self._former(runtime_id, authorization)
            charge(self._rates, Kind.FAILED_AUTHENTICATION, former.runtime_id if former else peer.key)
            self._audit.denied(Action.AUTHENTICATE, runtime_id, reason=error.message, address=peer.address)
            raise
        charge(self._rates, kind, identity.runtime_id)
        return identity

    def _prove(self, runtime_id: str, authorization: str, peer: Peer) -> Identity:
        if not runtime_id:
            raise ConnectError(Code.INVALID_ARGUMENT, f"{wire.RUNTIME_ID_HEADER} header required")
        if (token := wire.bearer_token(authorization)) is None:
            raise ConnectError(Code.UNAUTHENTICATED, "Authorization: Bearer <token> required")
        identity = self._identities.authenticate(runtime_id, token)
        if identity is None:
            raise self._refusal(self._former(runtime_id, authorization))
        if why_not := self._policy.why_not_certified(peer, identity.self_id):
            raise ConnectError(Code.UNAUTHENTICATED, why_not)
        return identity

    def _former(self, runtime_id: str, authorization: str) -> Identity | None:
        """Return the identity that two headers proved until it ended."""
        token = wire.bearer_token(authorization)
        return self._identities.former(runtime_id, token) if token is not None else None

    def count_unreadable(self, ctx: Context) -> None:
        """Count a message that cannot be read for where it comes from. Raises: RateExceededError."""
        with retry_told(ctx):
            charge(self._rates, Kind.FAILED_AUTHENTICATION, peer_of(ctx).key)

    def still(self, identity: Identity) -> None:
        """Check that an identity has not ended since. Raises: ConnectError `unauthenticated`."""
        if not self._identities.holds(identity):
            raise self._refusal(identity)

    def seconds_to_wait(self, identity: Identity, kibibytes: int) -> int:
        """Count a request of so many kibibytes on a watch; return 0, or how long it has to wait."""
        return self._rates.take(Kind.SUBSCRIBE, Peer(identity.address).key, 1 + kibibytes)

    def ends_at(self, identity: Identity) -> float:
        """Return when an identity ends unless it is renewed, on Trio's clock."""
        return trio.current_time() + self._identities.left_s(identity)

    def check_may_call(self, caller: Identity, service_type: str, action: Action) -> None:
        """Check that a plugin may be told of a service.

        Raises: ConnectError `permission_denied`; `resource_exhausted` to who has heard that too often, of
        which nothing is written down.
        """
        if not self._policy.may_call(caller, service_type):
            charge(self._rates, Kind.FAILED_AUTHENTICATION, caller.runtime_id)
            reason = f"{caller.runtime_id} may not call {service_type}"
            self._audit.denied(action, caller.runtime_id, service_type, reason=reason)
            raise ConnectError(Code.PERMISSION_DENIED, reason)

    def _refusal(self, proved: Identity | None) -> ConnectError:
        """Return the error for a caller that holds no identity; one that proved a former is told its end."""
        message = "invalid token"
        if proved is not None and (why := self._identities.why_ended(proved)):
            message = f"the identity {proved.runtime_id} has ended ({why}): shake hands again"
        return ConnectError(Code.UNAUTHENTICATED, message)


def credentials(ctx: Context) -> tuple[str, str]:
    """Return the runtime id and the authorization that a call shows, empty where they are missing."""
    headers = ctx.request_headers
    return headers.get(wire.RUNTIME_ID_HEADER, ""), headers.get(wire.AUTHORIZATION_HEADER, "")


def peer_of(ctx: Context) -> Peer:
    """Return who is at the other end of a call's connection."""
    return Peer.at(ctx.client_address, ctx.peer_names)
