"""Who makes a routed call, and whether it may: identity, rate, certificate, policy. No I/O.

Refusals have the texts that other implementations use. What they log is one line, whatever the caller sent.
"""

from __future__ import annotations

import logging

from cpg_trio import wire
from cpg_trio._lines import one_line
from cpg_trio._throttle import LogThrottle
from cpg_trio.asgi import HeaderList
from cpg_trio.host.access.audit import Action, Audit
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.access.policy import Permitted, Policy
from cpg_trio.host.access.rate_limiting import retry_after
from cpg_trio.host.access.rates import Kind, Rates

_log = logging.getLogger("cpg_trio.router")

# On each answer that is the host's own: whether nobody has seen the call, so that it can be sent again.
UNDELIVERED = [(wire.UNDELIVERED_HEADER.lower().encode(), b"true")]
PERHAPS_DELIVERED = [(wire.UNDELIVERED_HEADER.lower().encode(), b"false")]


class RefusedError(Exception):
    """A call that goes nowhere: the answer to it, and what the log says of it (nothing, if empty)."""

    def __init__(self, status: int, text: str, log: str = "", fields: HeaderList | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.log = log
        self.fields = [*UNDELIVERED, *(fields or ())]
        """The header fields beside the answer."""


class Admission:
    """Lets calls through, or refuses them. What the policy says is asked for each call, and told once."""

    def __init__(self, identities: Identities, rates: Rates, policy: Policy, audit: Audit) -> None:
        self._identities = identities
        self._rates = rates
        self._policy = policy
        self._audit = audit
        self._permitted = Permitted(policy)
        self._failures = LogThrottle()

    def admit(self, raw_path: bytes, runtime_id: bytes, authorization: bytes, peer: Peer) -> Identity:
        """Return who makes a call, and count the call. Raises: RefusedError."""
        caller = self._authenticate(raw_path, runtime_id, authorization.decode("latin-1"), peer)
        if wait_s := self._rates.take(Kind.ROUTER, caller.runtime_id):
            raise _too_often(wait_s)
        return caller

    def count_failed(self, peer: Peer) -> None:
        """Count a call that proves no identity. Raises: RefusedError for one too many."""
        if wait_s := self._rates.take(Kind.FAILED_AUTHENTICATION, peer.key):
            raise _too_often(wait_s)

    def is_known(self, runtime_id: str) -> bool:
        """Whether a caller that was admitted is still who it was."""
        return self._identities.entry(runtime_id) is not None

    def check_permitted(self, caller: Identity, service_type: str) -> None:
        """Check that a plugin may call a service; what has been found out holds while the rules do."""
        was_permitted = (caller.runtime_id, service_type) in self._permitted
        if was_permitted and self._policy.decides_by_rules:
            return
        if not self._permits(caller, service_type):
            if was_permitted:
                self._permitted.forget()
            denied = f"{caller.runtime_id} may not call {one_line(service_type)}"
            self._audit.denied(Action.CALL, caller.runtime_id, service_type, reason="the policy")
            raise RefusedError(403, f"permission denied: {denied}", f"Denied: {denied}")
        if not was_permitted:
            self._permitted.add((caller.runtime_id, service_type))
            self._audit.allowed(Action.CALL, caller.runtime_id, service_type)

    def _permits(self, caller: Identity, service_type: str) -> bool:
        try:
            return self._policy.may_call(caller, service_type)
        except Exception as error:
            if (more := self._failures.suffix()) is not None:
                _log.exception("the policy failed on a call of %s%s", caller.runtime_id, more)
            raise RefusedError(500, "failed to find out whether the call is permitted") from error

    def _authenticate(self, raw_path: bytes, runtime_id: bytes, authorization: str, peer: Peer) -> Identity:
        token = wire.bearer_token(authorization)
        if runtime_id and token is not None:
            identity = self._identities.authenticate(runtime_id.decode("latin-1"), token)
            if identity is not None and not self._policy.why_not_certified(peer, identity.self_id):
                return identity
        name = runtime_id.decode("latin-1")
        former = self._identities.former(name, token) if token is not None else None
        if wait_s := self._rates.take(Kind.FAILED_AUTHENTICATION, former.runtime_id if former else peer.key):
            raise _too_often(wait_s)
        refused = _unauthenticated(one_line(raw_path), one_line(runtime_id), authorization)
        self._audit.denied(Action.AUTHENTICATE, name, reason=refused.text, address=peer.address)
        raise refused


def _too_often(wait_s: int) -> RefusedError:
    return RefusedError(429, "Rate limit exceeded", fields=[retry_after(wait_s)])


def _unauthenticated(path: str, runtime_id: str, authorization: str) -> RefusedError:
    if not runtime_id:
        return RefusedError(
            401,
            f"{wire.RUNTIME_ID_HEADER} header required",
            f"Missing {wire.RUNTIME_ID_HEADER} header for {path}",
        )
    if wire.bearer_token(authorization) is None:
        return RefusedError(
            401,
            "Authorization: Bearer <token> required",
            f"Missing/invalid Authorization header for {path} (caller: {runtime_id})",
        )
    return RefusedError(401, "invalid token", f"Invalid token for caller: {runtime_id}")
