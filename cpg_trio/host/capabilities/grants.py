"""Grants: which plugin may use which capability of the host, and until when.

Plain synchronous state. A grant belongs to one plugin and one capability, and has a time. Its token is signed
(see `grant_tokens`), so that another host of the directory, which has not issued it, takes it and holds it
from then on like its own. A host holds a digest of each token that it has issued or seen. A grant ends when
its time is over, when it is revoked, and with its owner's identity. Its calls in flight end with it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import attrs
import trio

from cpg_trio import _clock
from cpg_trio.host.access import (
    SKEW_S,
    Action,
    Audit,
    Identities,
    Identity,
    Keys,
    LimitError,
    Limits,
    Peer,
    RefusedError,
    Shares,
)
from cpg_trio.host.capabilities.capability import Capability
from cpg_trio.host.capabilities.ended_grants import ENDED_GRANTS, ENDED_GRANTS_OF, EndedGrant, EndedGrants
from cpg_trio.host.capabilities.grant_tokens import GrantClaims, GrantTokens
from cpg_trio.rpc import Code
from cpg_trio.wire import token_digest

_MAX_OF_A_PLUGIN = 32
_ID_BYTES = 16
_REMEMBERED_S = 60.0  # after its end, so that its owner learns that it has expired
_LONGEST_S = 24 * 60 * 60.0  # of a grant that another host may have issued


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
    issued_at: float
    """In seconds since 1970."""
    used: bool = False
    calls: set[trio.CancelScope] = attrs.field(factory=set)


class Grants:
    """The grants of all plugins that this host has issued, or seen.

    Each lasts `ttl_s` seconds, and no longer than its owner's identity. A plugin that asks for too many loses
    its oldest one, so it harms no other plugin and is not locked out. There are `most` at most, shared by the
    addresses that plugins come from. `wall_clock` gives seconds since 1970.
    """

    def __init__(
        self,
        keys: Keys,
        identities: Identities,
        audit: Audit,
        capabilities: Mapping[str, Capability],
        ttl_s: float,
        most: int = Limits().max_grants,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens = GrantTokens(keys)
        self._identities = identities
        self._audit = audit
        self._capabilities = capabilities
        self._ttl_s = ttl_s
        self._wall_clock = wall_clock
        self._realm = random_id()
        self._shared = False
        self.ended = EndedGrants(most, wall_clock)
        """Those that have ended before their time."""
        self._held: dict[str, _Held] = {}  # the oldest first, here and below
        self._by_owner: dict[str, list[str]] = {}
        self._shares = Shares("grants", most)

    def share(self, directory: str) -> None:
        """Take the grants of all hosts of a directory, and not only those of this run of a host."""
        self._realm, self._shared = directory, True

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
        self._make_room(owner.runtime_id)
        share = Peer(owner.address).key
        self._shares.check(share)
        left_s, now = min(self._ttl_s, self._identities.left_s(owner)), self._wall_clock()
        claims = GrantClaims(
            grant_id=random_id(),
            realm=self._realm,
            runtime_id=owner.runtime_id,
            self_id=owner.self_id,
            address=owner.address,
            capability_type=capability.type,
            issued_at=now,
            expires_at=now + left_s,
        )
        token = self._tokens.sign(claims)
        return self._hold(claims.grant_id, owner, capability, token, left_s), token

    def check(self, capability_type: str, grant_id: str, token: str | None, runtime_id: str) -> Grant:
        """Return the grant that a call shows.

        `runtime_id` is who the caller claims to be, empty if it claims nothing. The token is the proof, but
        nobody else may show it. Raises: RefusedError `unauthenticated`, in the words of the protocol;
        `resource_exhausted` for one of another host that there is no room for.
        """
        self._sweep()
        if token is None:
            raise RefusedError(Code.UNAUTHENTICATED, "missing or invalid authorization header")
        held = self._held.get(grant_id)
        grant = held.grant if held is not None else self._recognised(grant_id, token)
        if grant.capability.type != capability_type:
            raise RefusedError(Code.UNAUTHENTICATED, "invalid grant ID")
        if grant.left_s <= 0 or self._owner_has_ended(grant.owner):
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
        """End a grant before its time, at all hosts of the directory; return whether there was one.

        Where hosts share a directory, one that this host does not hold ends, too: another may have issued it.
        """
        key = ENDED_GRANTS + grant_id
        if (held := self._held.get(grant_id)) is not None:
            left_s = held.grant.left_s
            self._end(grant_id, why, actor)
        elif not self._shared or not _is_id(grant_id) or self.ended.get(key) is not None:
            return False
        else:
            left_s = _LONGEST_S
            self._audit.allowed(Action.REVOKE, "", reason=why, actor=actor)
        self.ended.tell(key, EndedGrant(self._wall_clock() + left_s + _REMEMBERED_S, why))
        return True

    def revoke_all(self, runtime_id: str, why: str) -> int:
        """End all grants that a plugin has, at all hosts; return how many of them this host has held."""
        ended, now = self.owner_ended(runtime_id, why), self._wall_clock()
        if ended or self._shared:
            self.ended.tell(ENDED_GRANTS_OF + runtime_id, EndedGrant(now + _LONGEST_S, why, before=now))
        return ended

    def owner_ended(self, runtime_id: str, why: str) -> int:
        """End the grants of a plugin whose identity has ended; return how many there were."""
        return sum([self._end(grant_id, why) for grant_id in list(self._by_owner.get(runtime_id, ()))])

    def ended_elsewhere(self, key: str, ended: EndedGrant) -> None:
        """Note an end that another host has told."""
        self.ended.add(key, ended)
        if key.startswith(ENDED_GRANTS):
            self._end(key.removeprefix(ENDED_GRANTS), ended.why)
            return
        for grant_id in list(self._by_owner.get(key.removeprefix(ENDED_GRANTS_OF), ())):
            if self._held[grant_id].issued_at <= ended.before:
                self._end(grant_id, ended.why)

    def _end(self, grant_id: str, why: str, actor: str = "") -> bool:
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

    def _recognised(self, grant_id: str, token: str) -> Grant:
        """Return the grant of a token that another host has issued, and hold it. Raises: RefusedError."""
        claims = self._tokens.verify(token)
        capability = self._capabilities.get(claims.capability_type) if claims is not None else None
        if (
            claims is None
            or capability is None
            or (claims.realm, claims.grant_id) != (self._realm, grant_id)
            or self.ended.covers(claims)
            or (owner := self._owner(claims)) is None
        ):
            raise RefusedError(Code.UNAUTHENTICATED, "invalid grant ID")
        if (left_s := self._left_of(claims)) <= 0:
            raise RefusedError(Code.UNAUTHENTICATED, "grant expired")
        self._make_room(owner.runtime_id)
        try:
            self._shares.check(Peer(owner.address).key)
        except LimitError as error:
            raise RefusedError(Code.RESOURCE_EXHAUSTED, str(error)) from None
        return self._hold(grant_id, owner, capability, token, left_s, claims.issued_at)

    def _owner(self, claims: GrantClaims) -> Identity | None:
        """Return whose grant it is, of whom the host may not have heard yet; None if it may have ended."""
        entry = self._identities.entry(claims.runtime_id)
        if entry is not None:
            return entry.identity
        owner = Identity(claims.runtime_id, claims.self_id, address=claims.address)
        may_have = claims.issued_at <= self._identities.not_before or self._owner_has_ended(owner)
        return None if may_have else owner

    def _owner_has_ended(self, owner: Identity) -> bool:
        return not self._identities.holds(owner) and (
            not self._shared or self._identities.ended(owner.runtime_id) is not None
        )

    def _left_of(self, claims: GrantClaims) -> float:
        """Return for how many seconds a grant is valid. Clocks of hosts differ, and may have been set."""
        now = self._wall_clock()
        if claims.issued_at > now + SKEW_S:
            return 0.0
        return min(claims.expires_at - now, claims.expires_at - claims.issued_at, _LONGEST_S)

    def _make_room(self, runtime_id: str) -> None:
        """End the oldest grant of a plugin that has as many as it may."""
        mine = self._by_owner.get(runtime_id, [])
        if len(mine) < _MAX_OF_A_PLUGIN:
            return
        oldest, why = self._held[mine[0]], f"{runtime_id} has {_MAX_OF_A_PLUGIN} newer ones"
        until = self._wall_clock() + oldest.grant.left_s + _REMEMBERED_S
        self.ended.add(ENDED_GRANTS_OF + runtime_id, EndedGrant(until, why, before=oldest.issued_at))
        self._end(mine[0], why)

    def _hold(
        self,
        grant_id: str,
        owner: Identity,
        capability: Capability,
        token: str,
        left_s: float,
        issued_at: float | None = None,
    ) -> Grant:
        share = Peer(owner.address).key
        grant = Grant(grant_id, owner, capability, token_digest(token), _clock.current_time() + left_s)
        self._held[grant_id] = _Held(grant, share, self._wall_clock() if issued_at is None else issued_at)
        self._shares.add(share)
        self._by_owner.setdefault(owner.runtime_id, []).append(grant_id)
        return grant

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
    return base64.urlsafe_b64encode(secrets.token_bytes(_ID_BYTES)).decode()


def _is_id(text: str) -> bool:
    """Whether a text can be the id of a grant."""
    try:
        return len(base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)) == _ID_BYTES
    except (UnicodeError, binascii.Error):
        return False
