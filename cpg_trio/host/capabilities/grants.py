"""Grants: which plugin may use which capability of the host, and until when.

Plain synchronous state. A grant belongs to one plugin and one capability, and has a time. A token proves it;
the host keeps a digest of the token. A grant ends when its time is over, when it is revoked, and with its
owner's identity. Its calls in flight end with it.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs
import trio

from cpg_trio import _clock
from cpg_trio.host.access import Action, Audit, Identities, Identity, Limits, Peer, RefusedError, Shares
from cpg_trio.host.capabilities.capability import Capability
from cpg_trio.rpc import Code
from cpg_trio.wire import token_digest

_MAX_OF_A_PLUGIN = 32
_ID_BYTES, _TOKEN_BYTES = 16, 32
_REMEMBERED_S = 60.0  # after its end, so that its owner learns that it has expired


@attrs.frozen(eq=False)
class Grant:
    """One plugin may use one capability."""

    id: str
    owner: Identity
    capability: Capability
    digest: bytes = attrs.field(repr=False)
    expires_at: float
    """On the clock of `cpg_trio._clock`."""

    @property
    def left_s(self) -> float:
        """Return for how many seconds it is valid."""
        return self.expires_at - _clock.current_time()


@attrs.define(eq=False)
class _Held:
    grant: Grant
    share: str
    """The address that it counts for."""
    used: bool = False
    calls: set[trio.CancelScope] = attrs.field(factory=set)


class Grants:
    """The grants of all plugins.

    Each lasts `ttl_s` seconds, and no longer than its owner's identity. A plugin that asks for too many loses
    its oldest one, so it harms no other plugin and is not locked out. There are `most` at most, shared by the
    addresses that plugins come from.
    """

    def __init__(
        self, identities: Identities, audit: Audit, ttl_s: float, most: int = Limits().max_grants
    ) -> None:
        self._identities = identities
        self._audit = audit
        self._ttl_s = ttl_s
        self._held: dict[str, _Held] = {}  # the oldest first, here and below
        self._by_owner: dict[str, list[str]] = {}
        self._shares = Shares("grants", most)

    def __len__(self) -> int:
        """Return how many grants are remembered."""
        return len(self._held)

    def has(self, runtime_id: str) -> bool:
        """Whether a plugin has a grant."""
        return runtime_id in self._by_owner

    def of(self, runtime_id: str) -> Sequence[Grant]:
        """Return the grants of a plugin, the oldest first."""
        return [self._held[grant_id].grant for grant_id in self._by_owner.get(runtime_id, ())]

    def all(self) -> Sequence[Grant]:
        """Return all grants, the oldest first."""
        return [held.grant for held in self._held.values()]

    def issue(self, owner: Identity, capability: Capability) -> tuple[Grant, str]:
        """Return a new grant and its token. Raises: LimitError."""
        self._sweep()
        mine = self._by_owner.get(owner.runtime_id, [])
        if len(mine) >= _MAX_OF_A_PLUGIN:
            self.revoke(mine[0], f"{owner.runtime_id} has {_MAX_OF_A_PLUGIN} newer ones")
        share = Peer(owner.address).key
        self._shares.check(share)
        token = _encoded(_TOKEN_BYTES)
        expires_at = _clock.current_time() + min(self._ttl_s, self._identities.left_s(owner))
        grant = Grant(random_id(), owner, capability, token_digest(token), expires_at)
        self._held[grant.id] = _Held(grant, share)
        self._shares.add(share)
        self._by_owner.setdefault(owner.runtime_id, []).append(grant.id)
        return grant, token

    def check(self, capability_type: str, grant_id: str, token: str | None, runtime_id: str) -> Grant:
        """Return the grant that a call shows.

        `runtime_id` is who the caller claims to be, empty if it claims nothing. The token is the proof, but
        nobody else may show it. Raises: RefusedError `unauthenticated`, in the words of the protocol.
        """
        self._sweep()
        if token is None:
            raise RefusedError(Code.UNAUTHENTICATED, "missing or invalid authorization header")
        held = self._held.get(grant_id)
        if held is None or held.grant.capability.type != capability_type:
            raise RefusedError(Code.UNAUTHENTICATED, "invalid grant ID")
        grant = held.grant
        if grant.left_s <= 0 or not self._identities.holds(grant.owner):
            raise RefusedError(Code.UNAUTHENTICATED, "grant expired")
        is_owner = runtime_id in ("", grant.owner.runtime_id)
        if not hmac.compare_digest(token_digest(token), grant.digest) or not is_owner:
            raise RefusedError(Code.UNAUTHENTICATED, "invalid token")
        return grant

    @contextmanager
    def call(self, grant: Grant) -> Iterator[trio.CancelScope]:
        """Run a call within the block. It is cancelled when the grant ends."""
        held = self._held[grant.id]
        if not held.used:
            held.used = True
            self._audit.allowed(Action.USE, grant.owner.runtime_id, grant.capability.type)
        with trio.move_on_after(max(0.0, grant.left_s)) as scope:
            held.calls.add(scope)
            try:
                yield scope
            finally:
                held.calls.discard(scope)

    def revoke(self, grant_id: str, why: str, actor: str = "") -> bool:
        """End a grant before its time; return whether there was one."""
        held = self._drop(grant_id)
        if held is None:
            return False
        grant = held.grant
        self._audit.allowed(
            Action.REVOKE, grant.owner.runtime_id, grant.capability.type, reason=why, actor=actor
        )
        for scope in list(held.calls):
            scope.cancel()
        return True

    def revoke_all(self, runtime_id: str, why: str) -> int:
        """End all grants of a plugin before their time; return how many there were."""
        return sum([self.revoke(grant_id, why) for grant_id in list(self._by_owner.get(runtime_id, ()))])

    def _drop(self, grant_id: str) -> _Held | None:
        held = self._held.pop(grant_id, None)
        if held is not None:
            self._shares.remove(held.share)
            owner = held.grant.owner.runtime_id
            self._by_owner[owner].remove(grant_id)
            if not self._by_owner[owner]:
                del self._by_owner[owner]
        return held

    def _sweep(self) -> None:
        while self._held and (oldest := next(iter(self._held.values())).grant).left_s <= -_REMEMBERED_S:
            self._drop(oldest.id)


def random_id() -> str:
    """Return an id for a grant that nobody can guess: 24 characters."""
    return _encoded(_ID_BYTES)


def _encoded(count: int) -> str:
    """Return random bytes as text: URL-safe Base64 with its padding."""
    return base64.urlsafe_b64encode(secrets.token_bytes(count)).decode()
