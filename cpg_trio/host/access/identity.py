"""Identities of plugins: a name for one run of a plugin, and the tokens that prove the name.

Plain synchronous state, whose changes are announced. A token is signed (see `keys`), so that also a host that
has never seen it accepts it, or one that has been restarted. A host keeps the digest of a token, from which
nobody can make the token. An identity may have several valid tokens: a new one does not end the others, so
that no call fails when a plugin changes its token. The digests of the newest tokens are kept; older tokens
are accepted for their signature.

An identity ends when its last token expires, or when it is revoked (see `ended_identities`). An identity is
idle if it has registered nothing, has no call in flight and no watch, and has not called the host for ten
minutes. An idle identity is dropped, but does not end: a call with its token brings it back, for the
signature. So there is always room for identities in use.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from heapq import heapify, heappop, heappush

import attrs

from cpg_trio import _clock
from cpg_trio._listeners import Listeners
from cpg_trio.host.access.ended_identities import REMEMBERED_S, Ended, EndedIdentities
from cpg_trio.host.access.keys import Claims, Keys
from cpg_trio.host.access.limits import LimitError, Limits, held_bytes
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.access.shares import Shares
from cpg_trio.wire import token_digest

_log = logging.getLogger("cpg_trio.host")

_SUFFIX_BYTES = 8  # 64 random bits: a name cannot be guessed, and two plugins never share one
_DAY_S = 24 * 60 * 60.0
EXPIRED = "it has expired"  # why such an identity has ended
SKEW_S = 5 * 60.0  # the clocks of hosts with the same key may differ by this
_IDLE_S = 10 * 60.0  # without a call, until an identity that is not in use is dropped
_FRESH_S = 30.0  # after its last call, in which it is not dropped for another one
_MOST_TOKENS = 4  # digests that are kept for an identity
_MOST_LOOKED_AT = 64  # identities, to find one that can be dropped


@attrs.frozen
class Identity:
    """One run of one plugin."""

    runtime_id: str
    self_id: str
    """The plugin's own name. All its runs and replicas have the same."""
    provides: tuple[str, ...] | None = None
    """The service types that it has declared to provide; None if it has declared nothing."""
    requires: tuple[str, ...] | None = None
    """Those that it has declared to call."""
    address: str = ""
    """The address that its handshake came from, without a port; empty for the host's Unix socket."""
    answers: bool = False
    """Whether it answers the host's probes: it has done so, or its handshake says that it is on an SDK that
    does. A plugin that knows only the wire protocol may not."""
    uses: tuple[str, ...] = ()
    """Those of `requires` that it does without, if it has to."""


@attrs.frozen(kw_only=True)
class TokenLifetimes:
    """How long runtime tokens are valid, in seconds."""

    renewed_s: float
    """Of plugins that ask for another in time."""
    unrenewed_s: float
    """Of plugins that do not: they have to shake hands again."""

    def of(self, *, renews: bool) -> float:
        """Return the lifetime of the tokens of a plugin."""
        return self.renewed_s if renews else self.unrenewed_s


@attrs.define
class Entry:
    """An identity, and what the host remembers of its tokens."""

    identity: Identity
    digest: bytes = attrs.field(repr=False)
    """Of the newest token that the plugin has shown, so it has certainly received it."""
    expires_at: float
    """When the last of its tokens expires, on the clock of the identities, in seconds."""
    tokens: dict[bytes, float] = attrs.field(factory=dict, repr=False)
    """When each of the newest tokens expires, by digest, in the order in which the host learned of them."""
    used_at: float = 0.0
    """When a call last proved it, on the clock."""
    share: str = ""
    """The address that it counts for (see `shares`)."""
    size: int = attrs.field(init=False)
    """What is declared with it, in bytes of memory."""

    @size.default
    def _declared_bytes(self) -> int:
        identity = self.identity
        declared = identity.provides, identity.requires, identity.uses
        return sum(held_bytes(*types) for types in declared if types)


class Identities:
    """Issues identities and recognises them.

    No token is valid for longer than `longest_s` seconds, whatever it or a state file says. `on_expired` is
    called with each identity that has expired, when the next call is authenticated. `on_accepted` is called
    when an unknown token is accepted for its signature, and `may_return` asked before that by the name of a
    plugin whose identity is not kept. `in_use` tells by a runtime id whether something needs the identity to
    be kept. `owns` tells whether this host decides when an identity ends or is dropped; others are kept until
    their owner says so. `clock` gives seconds, `wall_clock` seconds since 1970.
    """

    def __init__(
        self,
        keys: Keys | None = None,
        *,
        longest_s: float = _DAY_S,
        limits: Limits | None = None,
        on_expired: Callable[[Identity], object] = lambda _: None,
        on_accepted: Callable[[Identity], object] = lambda _: None,
        may_return: Callable[[str], bool] = lambda _: True,
        in_use: Callable[[str], bool] = lambda _: False,
        owns: Callable[[str], bool] = lambda _: True,
        clock: Callable[[], float] = _clock.current_time,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys or Keys()
        self._longest_s = longest_s
        self._on_expired = on_expired
        self._on_accepted = on_accepted
        self._may_return = may_return
        self._in_use = in_use
        self._owns = owns
        self._clock = clock
        self._wall_clock = wall_clock
        self._entries: dict[str, Entry] = {}
        limits = limits or Limits()
        self._shares = Shares("identities", limits.max_identities)
        self._declared = Shares("bytes of declared service types", limits.max_declared_bytes)
        self._of_share: dict[str, OrderedDict[str, None]] = {}
        self._ended = EndedIdentities(limits.max_ended_identities)
        self._looks: list[tuple[float, str]] = []  # a heap: when to look again at which entry
        self.not_before = 0.0
        """Tokens that were issued before prove nothing, unless the host knows them. In seconds since 1970."""
        self._listeners = Listeners[str]("identities")

    def __len__(self) -> int:
        """Return how many identities are held."""
        return len(self._entries)

    def share_of(self, runtime_id: str) -> str:
        """Return which address a plugin counts for (see `shares`), empty if it has no identity."""
        entry = self._entries.get(runtime_id)
        return entry.share if entry is not None else ""

    def name_of(self, runtime_id: str) -> str:
        """Return a plugin's own name, empty if it has no identity."""
        entry = self._entries.get(runtime_id)
        return entry.identity.self_id if entry is not None else ""

    def watched(self, listener: Callable[[str], object]) -> AbstractContextManager[None]:
        """Within the block, call `listener` with the runtime id of each identity that changes."""
        return self._listeners.added(listener)

    def issue(
        self,
        self_id: str,
        *,
        ttl_s: float | None = None,
        provides: tuple[str, ...] | None = None,
        requires: tuple[str, ...] | None = None,
        uses: tuple[str, ...] = (),
        address: str = "",
        answers: bool = False,
    ) -> tuple[Identity, str]:
        """Return a new identity and its token. The caller has validated the arguments.

        Raises: LimitError, and then nothing has changed.
        """
        self._drop_expired()
        runtime_id = f"{self_id.lower()}-{secrets.token_hex(_SUFFIX_BYTES)}"
        identity = Identity(runtime_id, self_id, provides, requires, address, answers, uses)
        token, digest, expires_at = self._new_token(identity, ttl_s)
        self._take(Entry(identity, digest, expires_at))
        return identity, token

    def renew(
        self,
        identity: Identity,
        *,
        ttl_s: float | None = None,
        address: str = "",
        answers: bool = False,
    ) -> str:
        """Return another token for an identity that is kept. Its other tokens stay valid until they expire.

        `address` is where it calls from now; empty leaves the address as it is.
        """
        entry = self._entries[identity.runtime_id]
        entry.identity = attrs.evolve(
            entry.identity,
            address=address or entry.identity.address,
            answers=answers or entry.identity.answers,
        )
        token, digest, expires_at = self._new_token(entry.identity, ttl_s)
        self._add_token(entry, digest, expires_at)
        self._announce(identity.runtime_id)
        return token

    def note_answered(self, runtime_id: str) -> None:
        """Note that a plugin has answered a probe itself."""
        entry = self._entries.get(runtime_id)
        if entry is not None and not entry.identity.answers:
            entry.identity = attrs.evolve(entry.identity, answers=True)
            self._announce(runtime_id)

    def restore(self, entry: Entry) -> None:
        """Keep an identity, with the one token whose digest it has. It expires no later than a new token."""
        now, runtime_id = self._clock(), entry.identity.runtime_id
        self._drop(runtime_id)
        entry.expires_at = min(entry.expires_at, now + self._longest_s)
        entry.tokens[entry.digest] = entry.expires_at
        entry.used_at, entry.share = now, Peer(entry.identity.address).key
        self._entries[runtime_id] = entry
        self._shares.add(entry.share)
        self._declared.add(entry.share, entry.size)
        self._of_share.setdefault(entry.share, OrderedDict())[runtime_id] = None
        self._look_later(entry, now)
        self._announce(runtime_id)

    def follow(self, told: Entry) -> None:
        """Keep an identity as another host tells it, with its newest token; other tokens stay valid."""
        identity, digest, runtime_id = told.identity, told.digest, told.identity.runtime_id
        if (entry := self._entries.get(runtime_id)) is None:
            self.restore(told)
            return
        expires_at = min(told.expires_at, self._clock() + self._longest_s)
        if digest in entry.tokens and entry.identity == identity:
            entry.tokens[digest] = max(entry.tokens[digest], expires_at)
            entry.expires_at = max(entry.expires_at, expires_at)
            return
        entry.identity = identity
        entry.digest = digest
        self._add_token(entry, digest, expires_at)
        self._announce(runtime_id)

    def adopt(self, runtime_id: str) -> None:
        """Decide from now on when an identity ends: this host has come to own it."""
        if (entry := self._entries.get(runtime_id)) is not None:
            self._look_later(entry, self._clock())

    def end(self, ended: Ended) -> None:
        """End an identity as another host tells it. One that has ended is no error."""
        if self._ended.get(ended.runtime_id) is None:
            self._drop(ended.runtime_id)
            self.restore_ended(ended)
            self._announce(ended.runtime_id)

    def restore_ended(self, ended: Ended) -> None:
        """Remember that an identity has ended."""
        now = self._clock()
        longest = now + self._longest_s + REMEMBERED_S
        dropped, may_be_good = self._ended.add(attrs.evolve(ended, until=min(ended.until, longest)), now)
        if dropped is None:
            return
        if may_be_good:
            if not self.not_before:
                _log.warning(
                    "more identities were revoked than are remembered; tokens that were issued before and are"
                    " not known prove nothing from now on (LIMITS=max_ended_identities=… raises the number)"
                )
            self.not_before = math.ceil(self._wall_clock() * 1000) / 1000  # tokens have milliseconds
        self._announce(dropped.runtime_id)

    def authenticate(self, runtime_id: str, token: str | None) -> Identity | None:
        """Return the identity that a token proves; None if it proves none, or there is none.

        The time that the look-up of a digest takes tells nothing about the token.
        """
        if token is None:
            return None
        now = self._clock()
        if self._ended.next_end <= now or (self._looks and self._looks[0][0] <= now):
            self._drop_expired()
        entry = self._entries.get(runtime_id)
        digest = token_digest(token)
        if entry is not None and entry.tokens.get(digest, -math.inf) > now:
            entry.used_at = now
            if digest != entry.digest:
                self._shown(entry, digest)
            return entry.identity
        return self._recognised(runtime_id, token, digest)

    def former(self, runtime_id: str, token: str) -> Identity | None:
        """Return the ended identity that the token proved before, or None."""
        ended = self._ended.get(runtime_id)
        claims = self._keys.verify(token)
        if ended is None or claims is None or claims.runtime_id != runtime_id:
            return None
        return Identity(ended.runtime_id, ended.self_id)

    def why_ended(self, identity: Identity) -> str:
        """Return why an identity has ended; empty if it has not, or is not remembered."""
        ended = self._ended.get(identity.runtime_id)
        return ended.why if ended else ""

    def holds(self, identity: Identity) -> bool:
        """Whether an identity that was proved before has neither expired nor been revoked."""
        self._drop_expired()
        return identity.runtime_id in self._entries

    def left_s(self, identity: Identity) -> float:
        """Return in how many seconds an identity ends unless it is renewed; 0 for one that has ended."""
        entry = self._entries.get(identity.runtime_id)
        return max(0.0, entry.expires_at - self._clock()) if entry else 0.0

    def forget(self, runtime_id: str) -> None:
        """Drop an identity as if it had never been issued; nobody has its token."""
        if self._drop(runtime_id) is not None:
            self._announce(runtime_id)

    def revoke(self, runtime_id: str, why: str = "it has been revoked", *, by_owner: bool = False) -> bool:
        """End an identity and all its tokens; return whether it had not ended before.

        An identity that is not kept ends, too: it may be idle, or another host with the same key may have
        issued it.
        """
        if self._ended.get(runtime_id) is not None:
            return False
        # Another host with the same key may have issued tokens that this one does not know.
        self._end(runtime_id, why, self._clock() + self._longest_s, by_owner=by_owner)
        return True

    def revive(self, runtime_id: str) -> None:
        """Note that an identity has not ended: another host owns it, and knows better."""
        self._ended.remove(runtime_id)

    def entry(self, runtime_id: str) -> Entry | None:
        """Return an identity and its tokens, None if it is not kept."""
        return self._entries.get(runtime_id)

    def ended(self, runtime_id: str) -> Ended | None:
        """Return an identity that has ended, None if it has not or is not remembered."""
        return self._ended.get(runtime_id)

    def known(self) -> Iterator[str]:
        """Yield the runtime ids of all identities that are kept, and of ended ones that are remembered."""
        yield from self._entries
        yield from self._ended

    def _new_token(self, identity: Identity, ttl_s: float | None) -> tuple[str, bytes, float]:
        ttl_s = self._longest_s if ttl_s is None else min(ttl_s, self._longest_s)
        now = self._wall_clock()
        token = self._keys.sign(
            Claims(
                identity.runtime_id,
                identity.self_id,
                now + ttl_s,
                identity.provides,
                identity.requires,
                identity.address,
                issued_at=now,
                uses=identity.uses,
            )
        )
        return token, token_digest(token), self._clock() + ttl_s

    def _add_token(self, entry: Entry, digest: bytes, expires_at: float) -> None:
        now = self._clock()
        entry.tokens = {d: end for d, end in entry.tokens.items() if end > now}
        entry.tokens[digest] = expires_at
        older = [d for d in entry.tokens if d not in (entry.digest, digest)]
        for d in older[: max(0, len(entry.tokens) - _MOST_TOKENS)]:
            del entry.tokens[d]
        entry.expires_at = max(entry.expires_at, expires_at)

    def _shown(self, entry: Entry, digest: bytes) -> None:
        """Note that a plugin has shown a token. Calls with an older one may still be under way."""
        order = list(entry.tokens)
        if entry.digest not in order or order.index(digest) > order.index(entry.digest):
            entry.digest = digest
            self._announce(entry.identity.runtime_id)

    def _recognised(self, runtime_id: str, token: str, digest: bytes) -> Identity | None:
        """Return the identity that an unknown token proves by its signature."""
        claims = self._keys.verify(token)
        if claims is None or claims.runtime_id != runtime_id or self._ended.get(runtime_id):
            return None
        if (left_s := self._left_of(claims)) <= 0 or self._issued_at(claims) <= self.not_before:
            return None
        expires_at = self._clock() + left_s
        entry = self._entries.get(runtime_id)
        if entry is None:
            if not self._may_return(claims.self_id):
                return None
            identity = Identity(
                runtime_id,
                claims.self_id,
                claims.provides,
                claims.requires,
                claims.address,
                uses=claims.uses,
            )
            entry = Entry(identity, digest, expires_at)
            try:
                self._take(entry)
            except LimitError:
                return None  # the next handshake is refused for the lack of room
        else:
            self._add_token(entry, digest, expires_at)
            self._shown(entry, digest)
        self._on_accepted(entry.identity)
        return entry.identity

    def _issued_at(self, claims: Claims) -> float:
        """Return the earliest time at which a token was issued, in seconds since 1970."""
        return claims.expires_at - self._longest_s if claims.issued_at is None else claims.issued_at

    def _left_of(self, claims: Claims) -> float:
        """Return for how many seconds a token is valid; 0 or less for one that is not.

        Somebody may have set the clock since it was issued. A token that was issued in the future is not
        valid yet, and no token is valid for longer than it was issued for.
        """
        now = self._wall_clock()
        left_s = min(claims.expires_at - now, self._longest_s)
        if claims.issued_at is None:
            return left_s
        if claims.issued_at > now + SKEW_S:
            return 0.0
        return min(left_s, claims.expires_at - claims.issued_at)

    def _take(self, entry: Entry) -> None:
        """Keep another identity. Raises: LimitError if there is no room for it."""
        share = Peer(entry.identity.address).key
        while True:
            try:
                self._shares.check(share)
                self._declared.check(share, entry.size)
            except LimitError:
                if not (self._drop_idle(share) or self._drop_idle(self._shares.largest() or share)):
                    raise
            else:
                break
        self.restore(entry)

    def _drop_idle(self, share: str) -> bool:
        """Drop one identity of an address that is not in use; return whether there was one.

        They are looked at in turn: first those that have not been looked at for the longest time.
        """
        fresh_since = self._clock() - _FRESH_S
        mine = self._of_share.get(share, OrderedDict[str, None]())
        for _ in range(min(len(mine), _MOST_LOOKED_AT)):
            runtime_id = next(iter(mine))
            if self._entries[runtime_id].used_at <= fresh_since and not self._is_needed(runtime_id):
                self.forget(runtime_id)
                return True
            mine.move_to_end(runtime_id)
        return False

    def _drop(self, runtime_id: str) -> Entry | None:
        """Drop an identity; return it if it was kept."""
        entry = self._entries.pop(runtime_id, None)
        if entry is None:
            return None
        self._shares.remove(entry.share)
        self._declared.remove(entry.share, entry.size)
        del self._of_share[entry.share][runtime_id]
        if not self._of_share[entry.share]:
            del self._of_share[entry.share]
        if len(self._looks) > 2 * len(self._entries) + _MOST_LOOKED_AT:
            self._looks = [look for look in self._looks if look[1] in self._entries]
            heapify(self._looks)
        return entry

    def _drop_expired(self) -> None:
        """End the identities that have expired, and drop what else is over."""
        now = self._clock()
        while self._looks and self._looks[0][0] <= now:
            _, runtime_id = heappop(self._looks)
            if (entry := self._entries.get(runtime_id)) is not None:
                self._look_at(entry, now)
        if self._ended.next_end <= now:
            for runtime_id in self._ended.drop_old(now):
                self._announce(runtime_id)

    def _is_needed(self, runtime_id: str) -> bool:
        return self._in_use(runtime_id) or not self._owns(runtime_id)

    def _look_at(self, entry: Entry, now: float) -> None:
        runtime_id = entry.identity.runtime_id
        if entry.expires_at <= now and self._owns(runtime_id):
            self._end(runtime_id, EXPIRED, entry.expires_at, by_owner=True)
            self._on_expired(entry.identity)
        elif entry.used_at + _IDLE_S > now or self._is_needed(runtime_id):
            self._look_later(entry, now)
        else:
            self.forget(runtime_id)

    def _look_later(self, entry: Entry, now: float) -> None:
        idle_at = entry.used_at + _IDLE_S
        look_at = idle_at if idle_at > now else now + _IDLE_S
        if entry.expires_at > now or self._owns(entry.identity.runtime_id):
            look_at = min(look_at, entry.expires_at)
        heappush(self._looks, (look_at, entry.identity.runtime_id))

    def _end(self, runtime_id: str, why: str, last_token_ends: float, *, by_owner: bool) -> None:
        entry = self._drop(runtime_id)
        self_id = entry.identity.self_id if entry is not None else ""
        self.restore_ended(Ended(runtime_id, self_id, why, last_token_ends + REMEMBERED_S, by_owner))
        self._announce(runtime_id)

    def _announce(self, runtime_id: str) -> None:
        self._listeners.tell(runtime_id)
