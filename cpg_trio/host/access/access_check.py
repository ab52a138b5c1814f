"""The access check: who is calling, and what they may. Every way into the host asks here first.

    step            refused as                                    method
    credentials     `invalid_argument` (401), `unauthenticated`   `authenticate`
    identity        `unauthenticated`                             `authenticate`
    certificate     `unauthenticated`                             `authenticate`
    rate            `resource_exhausted`                          `count`
    policy          `permission_denied`                           `check_may_call` and others
    after a wait    `unauthenticated`                             `check_still_valid`

`admit` takes RPCs and `/watch` through the first four steps, `admit_routed` a routed call through the first
five, `admit_granted` a call of a capability, and `count_handshake` with `check_enrolled` a handshake.

Each refusal is in the audit trail. It counts as a failed authentication first, unless another rate bounds it:
beyond that rate the call is refused for its rate, and nothing is written, so that no caller fills the log.

Plain synchronous state without I/O.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import NoReturn, TypeVar

import trio

from cpg_trio import wire
from cpg_trio._lines import one_line
from cpg_trio._throttle import LogThrottle
from cpg_trio.host.access.audit import Action, Audit
from cpg_trio.host.access.enrolment import Enrolment
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.access.policy import Permitted, Policy
from cpg_trio.host.access.rate_limiting import Kind, RateLimiter, RateLimits
from cpg_trio.host.access.refusal import RefusedError
from cpg_trio.host.access.started_runs import StartedRuns
from cpg_trio.rpc import Code

_log = logging.getLogger("cpg_trio.host")
_T = TypeVar("_T")
_ROUTER = Kind.ROUTER  # a member of an Enum takes ten times as long to look up as a global name

_OF_THE_HOST = f"{wire.HOST_NAME}-"  # begins no runtime id of a plugin
_PROVIDERS_CHANGE_S = 1  # after which the plugins that provide a service may have gone


class AccessCheck:
    """Lets calls through, or refuses them. Every method that checks raises `RefusedError`."""

    def __init__(
        self,
        identities: Identities,
        *,
        enrolment: Enrolment | None = None,
        policy: Policy | None = None,
        audit: Audit | None = None,
        limiter: RateLimiter | None = None,
        started: StartedRuns | None = None,
    ) -> None:
        self._identities = identities
        self._started = started or StartedRuns()
        self._enrolment = enrolment or Enrolment()
        self._policy = policy or Policy()
        self._audit = audit or Audit()
        self._limiter = limiter or RateLimiter(RateLimits())
        self._permitted = Permitted(self._policy)
        self._policy_failures = LogThrottle()

    # Whole calls

    def admit(self, runtime_id: str, authorization: str, peer: Peer, kind: Kind) -> Identity:
        """Return the identity that two headers prove, empty where they are missing; count its call."""
        identity = self.authenticate(runtime_id, authorization, peer)
        self.count(kind, identity.runtime_id)
        return identity

    def admit_routed(self, runtime_id: str, authorization: str, peer: Peer, service_type: str) -> Identity:
        """Return the caller of a routed call, which may call providers of a service type; count the call.

        Most calls were permitted before. Such a call costs its authentication, a token of its rate and one
        look-up. A decision holds for as long as the rules do, and is one event of the audit trail.
        """
        identity = self._identities.authenticate(runtime_id, wire.bearer_token(authorization))
        if identity is None:
            self._refuse_unproved(runtime_id, authorization, peer)
        # The certificate is a part of what was decided. No Unix socket passes for an address.
        decision = (identity.runtime_id, service_type, "" if peer.address else "unix", *peer.names)
        was_permitted = decision in self._permitted
        if was_permitted and self._policy.decides_by_rules:
            self._limiter.check(_ROUTER, identity.runtime_id)
            return identity
        self._check_certificate(identity, peer)
        self._limiter.check(_ROUTER, identity.runtime_id)
        if not self._ask(identity.runtime_id, self._policy.may_call, identity, service_type):
            if was_permitted:
                self._permitted.clear()
            raise self._denied(identity, f"call {one_line(service_type)}", Action.CALL, service_type)
        if not was_permitted:
            self._permitted.add(decision)
            self._audit.allowed(Action.CALL, identity.runtime_id, service_type)
        return identity

    def admit_granted(self, owner: Identity, peer: Peer, capability_type: str) -> None:
        """Check a call by a grant of a capability, whose owner it proves; count the call.

        The certificate and the policy are asked again, as they may have changed since the grant was given.
        """
        self._check_certificate(owner, peer, Action.USE, capability_type)
        self.check_may_use(owner, capability_type, Action.USE, peer.address)
        self.count(Kind.CAPABILITY_CALL, owner.runtime_id)

    def count_handshake(
        self, self_id: str, runtime_id: str, authorization: str, enrolment_token: str, peer: Peer
    ) -> Identity | None:
        """Count a handshake; return the identity of that name that it proves, None if it proves none.

        It counts for that identity; else for its name, if an enrolment token or a certificate proves that; or
        else for the address that it comes from. So no stranger at an address keeps plugins there out.
        """
        identity = self.held(self_id, runtime_id, authorization, peer)
        if identity is not None:
            self.count(Kind.HANDSHAKE, identity.runtime_id)
            return identity
        proves_name = self_id and not self._why_not_enrolled(self_id, enrolment_token, peer)
        has_token = self._started.proves(self_id, enrolment_token) or self._enrolment.digest(self_id)
        if proves_name and (peer.names or has_token):
            self.count(Kind.HANDSHAKE, f"name:{self_id}")
        else:
            self.count(Kind.HANDSHAKE, peer.key)
        return None

    # Steps

    def authenticate(self, runtime_id: str, authorization: str, peer: Peer) -> Identity:
        """Return the identity that two headers prove, on a connection whose certificate is that plugin's.

        A call that proves none counts for the address that it comes from. If it proves an identity that has
        ended, it counts for that, so that its plugin learns of the end whatever others do at its address.
        """
        identity = self._identities.authenticate(runtime_id, wire.bearer_token(authorization))
        if identity is None:
            self._refuse_unproved(runtime_id, authorization, peer)
        self._check_certificate(identity, peer)
        return identity

    def identify(self, runtime_id: str, authorization: str, peer: Peer) -> Identity | None:
        """Return the identity that a call proves, None if it proves none where it need not."""
        identity = self._identities.authenticate(runtime_id, wire.bearer_token(authorization))
        if identity is None or self._why_not_certified(identity.self_id, peer):
            return None
        return identity

    def held(self, self_id: str, runtime_id: str, authorization: str, peer: Peer) -> Identity | None:
        """Return the identity of a name that a handshake proves, None if it proves none."""
        identity = self.identify(runtime_id, authorization, peer)
        return identity if identity is not None and identity.self_id == self_id else None

    def count(self, kind: Kind, key: str) -> None:
        """Count a call of a kind for a runtime id, or for the key of a `Peer`."""
        self._limiter.check(kind, key)

    def subscribe_wait_s(self, identity: Identity, kibibytes: int) -> int:
        """Count a request of so many kibibytes on a watch; return 0, or the seconds that it has to wait."""
        return self._limiter.take(Kind.SUBSCRIBE, Peer(identity.address).key, 1 + kibibytes)

    def check_enrolled(self, action: Action, self_id: str, enrolment_token: str, peer: Peer) -> None:
        """Check that a plugin may have an identity of a name: by enrolment token, and by certificate.

        One that renews the token of its identity may have been started by another host.
        """
        why_not = "" if action is Action.RENEW else self._started.why_not(self_id, enrolment_token)
        if why_not := why_not or self._why_not_enrolled(self_id, enrolment_token, peer):
            self._audit.denied(action, self_id, reason=why_not, address=peer.address)
            raise RefusedError(Code.PERMISSION_DENIED, f"{self_id} is not let in: {why_not}")

    def issued(self, identity: Identity, enrolment_token: str) -> None:
        """Note the identity that a plugin has got by an enrolment token, which may be that of a run."""
        self._started.bind(identity, enrolment_token)

    def check_may_call(self, caller: Identity, service_type: str, action: Action) -> None:
        """Check that a plugin may call the providers of a service type, or learn who they are."""
        if not self._ask(caller.runtime_id, self._policy.may_call, caller, service_type):
            self.count(Kind.FAILED_AUTHENTICATION, caller.runtime_id)
            raise self._denied(caller, f"call {one_line(service_type)}", action, service_type)

    def check_may_call_directly(self, caller: Identity, service_type: str, action: Action) -> None:
        """Check that a plugin may call the providers of a service type without the host in between."""
        if not self.may_call_directly(caller, service_type):
            self.count(Kind.FAILED_AUTHENTICATION, caller.runtime_id)
            target = wire.DIRECT_PREFIX + service_type
            raise self._denied(caller, f"call {service_type} directly", action, target)

    def may_call_directly(self, caller: Identity, service_type: str) -> bool:
        """Whether the rules let a plugin call the providers of a service type directly."""
        return self._ask(caller.runtime_id, self._policy.may_call_directly, caller, service_type)

    def check_may_use(
        self, caller: Identity, capability_type: str, action: Action, address: str = ""
    ) -> None:
        """Check that a plugin may use a capability of the host."""
        if not self._ask(caller.runtime_id, self._policy.may_use, caller, capability_type):
            self.count(Kind.FAILED_AUTHENTICATION, caller.runtime_id)
            raise self._denied(caller, f"use {capability_type}", action, capability_type, address)

    def check_may_provide(self, plugin: Identity, service_type: str, holders: Collection[str]) -> None:
        """Check that a plugin may provide a service type, which plugins of other names may provide already.

        `holders` are the names of those that do. The refusal says when to try again if they are the reason.
        """
        if not self.may_provide(plugin, service_type):
            refused = RefusedError(Code.PERMISSION_DENIED, f"{plugin.self_id} may not provide {service_type}")
        elif not self.may_join(plugin, service_type, holders):
            others = ", ".join(sorted(set(holders) - {plugin.self_id}))
            refused = RefusedError(
                Code.PERMISSION_DENIED,
                f"{service_type} is provided by {others}, and no policy says that {plugin.self_id} may, too",
                retry_after_s=_PROVIDERS_CHANGE_S,
            )
        else:
            return
        self._audit.denied(Action.REGISTER, plugin.runtime_id, service_type, reason=refused.message)
        raise refused

    def may_provide(self, plugin: Identity, service_type: str) -> bool:
        """Whether the rules let a plugin provide a service type, whoever else does."""
        return self._ask(plugin.runtime_id, self._policy.may_provide, plugin, service_type)

    def may_join(self, plugin: Identity, service_type: str, holders: Collection[str]) -> bool:
        """Whether the rules let a plugin provide a service type that plugins of some names provide."""
        return self._ask(plugin.runtime_id, self._policy.may_join, plugin, service_type, holders)

    def is_valid(self, runtime_id: str) -> bool:
        """Whether an identity that was proved has not ended. That of the host itself does not."""
        return runtime_id.startswith(_OF_THE_HOST) or self._identities.entry(runtime_id) is not None

    def check_still_valid(self, identity: Identity) -> None:
        """Check that an identity has not ended since it was proved: to be called after each wait."""
        if not self._identities.holds(identity):
            raise self._ended(identity)

    def expires_at(self, identity: Identity) -> float:
        """Return when an identity ends unless it is renewed, on Trio's clock."""
        return trio.current_time() + self._identities.left_s(identity)

    def record_once(self, action: Action, caller: Identity, target: str, reason: str) -> None:
        """Record a permission that is given again and again, once for as long as the rules hold."""
        decision = (action.value, caller.runtime_id, target)
        if decision not in self._permitted:
            self._permitted.add(decision)
            self._audit.allowed(action, caller.runtime_id, target, reason=reason)

    # Refusals

    def refuse(
        self,
        refused: RefusedError,
        peer: Peer,
        action: Action,
        subject: str,
        target: str = "",
        key: str = "",
    ) -> NoReturn:
        """Raise the refusal of a call that proves nothing, once it is counted and in the audit trail.

        It counts for `key`, or for the peer.
        """
        self.count(Kind.FAILED_AUTHENTICATION, key or peer.key)
        self._audit.denied(action, subject, target, reason=refused.message, address=peer.address)
        raise refused

    def _refuse_unproved(self, runtime_id: str, authorization: str, peer: Peer) -> NoReturn:
        """Refuse a call whose headers prove no identity."""
        key, token = "", wire.bearer_token(authorization)
        if not runtime_id:
            message = f"{wire.RUNTIME_ID_HEADER} header required"
            # To RPCs as other hosts answer.
            refused = RefusedError(Code.INVALID_ARGUMENT, message, status=401)
        elif token is None:
            refused = RefusedError(Code.UNAUTHENTICATED, "Authorization: Bearer <token> required")
        elif (former := self._identities.former(runtime_id, token)) is not None:
            key, refused = former.runtime_id, self._ended(former)
        else:
            refused = RefusedError(Code.UNAUTHENTICATED, "invalid token")
        self.refuse(refused, peer, Action.AUTHENTICATE, runtime_id, key=key)

    def _ended(self, identity: Identity) -> RefusedError:
        """Return the refusal of a caller that has proved an identity that has ended."""
        if why := self._identities.why_ended(identity):
            message = f"the identity {identity.runtime_id} has ended ({why}): shake hands again"
            return RefusedError(Code.UNAUTHENTICATED, message, plain="invalid token")
        return RefusedError(Code.UNAUTHENTICATED, "invalid token")

    def _denied(
        self, caller: Identity, what: str, action: Action, target: str, address: str = ""
    ) -> RefusedError:
        """Return the refusal of what the policy does not permit a caller."""
        message = f"{caller.runtime_id} may not {what}"
        self._audit.denied(action, caller.runtime_id, target, reason=message, address=address)
        refused = RefusedError(Code.PERMISSION_DENIED, message, plain=f"permission denied: {message}")
        refused.caller = caller.runtime_id
        return refused

    def _check_certificate(
        self, identity: Identity, peer: Peer, action: Action = Action.AUTHENTICATE, target: str = ""
    ) -> None:
        if why_not := self._why_not_certified(identity.self_id, peer):
            refused = RefusedError(Code.UNAUTHENTICATED, why_not)
            self.refuse(refused, peer, action, identity.runtime_id, target)

    def _why_not_enrolled(self, self_id: str, enrolment_token: str, peer: Peer) -> str:
        is_started = self._started.proves(self_id, enrolment_token)
        why_not = "" if is_started else self._enrolment.why_not(self_id, enrolment_token)
        return why_not or self._why_not_certified(self_id, peer)

    def _why_not_certified(self, self_id: str, peer: Peer) -> str:
        return self._ask(self_id, self._policy.why_not_certified, peer, self_id)

    def _ask(self, who: str, question: Callable[..., _T], *args: object) -> _T:
        """Return the policy's answer. One that fails, as somebody's own class may, permits nothing."""
        try:
            return question(*args)
        except Exception as error:
            if (more := self._policy_failures.suffix()) is not None:
                _log.exception("the policy failed on a call of %s%s", who, more)
            raise RefusedError(Code.INTERNAL, "failed to find out whether the call is permitted") from error
