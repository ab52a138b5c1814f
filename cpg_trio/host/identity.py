"""Who a plugin is to the host: a name for this run of it, and the tokens that prove the name.

Plain synchronous state, whose changes are announced. A token is signed (see `keys`), so a host that has never
seen it, or has been restarted, can tell that it is good; what a host remembers of it is a digest, which opens
nothing. An identity has as many tokens as have been issued for it and have not expired: a new one takes
nothing from those before it, so that no call is lost when they change.

An identity ends when its last token has expired, or when it is revoked. What is revoked is remembered for as
long as a token of it could be shown.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from heapq import heappop, heappush

import attrs

from cpg_trio import _clock
from cpg_trio.wire import token_digest

from .keys import Claims, Keys
from .limits import LimitError, Limits
from .listeners import Listeners

_SUFFIX_BYTES = 8  # 64 random bits: a name cannot be guessed, and two plugins never share one
_DAY_S = 24 * 60 * 60.0
_SKEW_S = 5 * 60.0  # by which the clocks of hosts with the same key may differ
_REMEMBERED_S = 60 * 60.0  # beyond its last token: for the sake of who comes back with it


@attrs.frozen
class Identity:
    """One run of one plugin."""

    runtime_id: str
    self_id: str
    """The plugin's own name, which its runs and its replicas share."""
    provides: tuple[str, ...] | None = None
    """The service types that it has declared to provide; None if it has declared nothing."""
    requires: tuple[str, ...] | None = None
    """Those that it has declared to call."""
    address: str = ""
    """Where its handshake came from, without a port; empty for the host's Unix socket."""


@attrs.define
class Entry:
    """An identity, and what the host remembers of its tokens."""

    identity: Identity
    digest: bytes = attrs.field(repr=False)
    """Of the newest token that the plugin has shown: that it has it is certain."""
    expires_at: float
    """When the last of its tokens expires, on the clock of the identities, in seconds."""
    tokens: dict[bytes, float] = attrs.field(factory=dict, repr=False)
    """When each token expires, by digest, in the order in which the host heard of them."""


@attrs.frozen
class Ended:
    """An identity that has ended before its tokens have."""

    identity: Identity
    """Its names, and nothing else of it."""
    why: str
    until: float
    """How long that is remembered, on the clock; beyond the end of its last token."""


class Identities:
    """Issues identities and recognises them.

    No token is good for longer than `longest_s` seconds, whatever it or a state file says. `on_expired` is
    called with each identity that has run out, when that is noticed: when anyone is next asked who they are;
    `on_accepted` when a token that was not known is accepted for its signature. `clock` gives seconds,
    `wall_clock` seconds since 1970.
    """

    def __init__(
        self,
        keys: Keys | None = None,
        *,
        longest_s: float = _DAY_S,
        max_identities: int = Limits().max_identities,
        on_expired: Callable[[Identity], object] = lambda _: None,
        on_accepted: Callable[[Identity], object] = lambda _: None,
        clock: Callable[[], float] = _clock.current_time,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys or Keys()
        self._longest_s = longest_s
        self._max_identities = max_identities
        self._on_expired = on_expired
        self._on_accepted = on_accepted
        self._clock = clock
        self._wall_clock = wall_clock
        self._entries: dict[str, Entry] = {}
        self._ended: dict[str, Ended] = {}
        self._ends: list[tuple[float, str]] = []  # a heap: when to look again at which of both
        self._listeners = Listeners[[str]]("identities")

    def __len__(self) -> int:
        """Return how many identities are held."""
        return len(self._entries)

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
        address: str = "",
    ) -> tuple[Identity, str]:
        """Return a new identity and its token. The caller has validated what it is given.

        Raises: LimitError, and then nothing has changed.
        """
        self._drop_expired()
        if len(self._entries) >= self._max_identities:
            raise LimitError("identities", self._max_identities)
        runtime_id = f"{self_id.lower()}-{secrets.token_hex(_SUFFIX_BYTES)}"
        identity = Identity(runtime_id, self_id, provides, requires, address)
        token, digest, expires_at = self._new_token(identity, ttl_s)
        self.restore(Entry(identity, digest, expires_at))
        return identity, token

    def renew(self, identity: Identity, *, ttl_s: float | None = None) -> str:
        """Return another token for an identity that is held; those before it are good until they expire."""
        entry = self._entries[identity.runtime_id]
        token, digest, expires_at = self._new_token(identity, ttl_s)
        self._add_token(entry, digest, expires_at)
        self._announce(identity.runtime_id)
        return token

    def restore(self, entry: Entry) -> None:
        """Take an identity (back), with the one token whose digest it has. None outlives a new one."""
        entry.expires_at = min(entry.expires_at, self._clock() + self._longest_s)
        entry.tokens[entry.digest] = entry.expires_at
        self._entries[entry.identity.runtime_id] = entry
        heappush(self._ends, (entry.expires_at, entry.identity.runtime_id))
        self._announce(entry.identity.runtime_id)

    def restore_ended(self, ended: Ended) -> None:
        """Take (back) that an identity has ended."""
        runtime_id = ended.identity.runtime_id
        longest = self._clock() + self._longest_s + _REMEMBERED_S
        self._ended[runtime_id] = ended = attrs.evolve(ended, until=min(ended.until, longest))
        heappush(self._ends, (ended.until, runtime_id))

    def authenticate(self, runtime_id: str, token: str) -> Identity | None:
        """Return the identity that the token proves, or None.

        To find a digest among others takes a time that tells nothing of the token that it is of.
        """
        now = self._drop_expired()
        entry = self._entries.get(runtime_id)
        digest = token_digest(token)
        if entry is not None and entry.tokens.get(digest, -math.inf) > now:
            if digest != entry.digest:
                self._shown(entry, digest)
            return entry.identity
        return self._recognised(runtime_id, token, digest)

    def former(self, runtime_id: str, token: str) -> Identity | None:
        """Return the identity that the token proved until it ended, or None."""
        ended = self._ended.get(runtime_id)
        claims = self._keys.verify(token)
        if ended is None or claims is None or claims.runtime_id != runtime_id:
            return None
        return ended.identity

    def why_ended(self, identity: Identity) -> str:
        """Return why an identity has ended; empty if it has not, or nobody remembers."""
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
        """Be as if an identity had never been issued; nobody has its token."""
        if self._entries.pop(runtime_id, None) is not None:
            self._announce(runtime_id)

    def revoke(self, runtime_id: str, why: str = "it has been revoked") -> bool:
        """End an identity before its time, with all of its tokens; return whether it had not ended before.

        One that is not known ends, too: another host with the same key may have issued it, or this one before
        it was restarted, and its tokens are good until they have been seen here.
        """
        if runtime_id in self._ended:
            return False
        entry = self._entries.get(runtime_id) or Entry(Identity(runtime_id, ""), b"", 0.0)
        self._end(entry, why, self._clock() + self._longest_s)
        return True

    def entry(self, runtime_id: str) -> Entry | None:
        """Return an identity with its digest, or None if it has ended or never was."""
        return self._entries.get(runtime_id)

    def ended(self, runtime_id: str) -> Ended | None:
        """Return what is remembered of an identity that has ended."""
        return self._ended.get(runtime_id)

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
            )
        )
        return token, token_digest(token), self._clock() + ttl_s

    def _add_token(self, entry: Entry, digest: bytes, expires_at: float) -> None:
        now = self._clock()
        entry.tokens = {d: end for d, end in entry.tokens.items() if end > now}
        entry.tokens[digest] = expires_at
        entry.expires_at = max(entry.expires_at, expires_at)

    def _shown(self, entry: Entry, digest: bytes) -> None:
        """Note that a plugin has shown a token; one of before may still be on its way in some call."""
        order = list(entry.tokens)
        if entry.digest not in order or order.index(digest) > order.index(entry.digest):
            entry.digest = digest
            self._announce(entry.identity.runtime_id)

    def _recognised(self, runtime_id: str, token: str, digest: bytes) -> Identity | None:
        """Return the identity that a token proves by its signature alone."""
        claims = self._keys.verify(token)
        if claims is None or claims.runtime_id != runtime_id or runtime_id in self._ended:
            return None
        if (left_s := self._left_of(claims)) <= 0:
            return None
        expires_at = self._clock() + left_s
        entry = self._entries.get(runtime_id)
        if entry is None:
            identity = Identity(runtime_id, claims.self_id, claims.provides, claims.requires, claims.address)
            entry = Entry(identity, digest, expires_at)
            self.restore(entry)
        else:
            self._add_token(entry, digest, expires_at)
            self._shown(entry, digest)
        self._on_accepted(entry.identity)
        return entry.identity

    def _left_of(self, claims: Claims) -> float:
        """Return for how many seconds a token is good, not more than 0 for one that is not.

        The clock that it was issued by may have been set since: what was issued later than now is not good
        yet, and nothing is good for longer than it was issued for.
        """
        now = self._wall_clock()
        left_s = min(claims.expires_at - now, self._longest_s)
        if claims.issued_at is None:
            return left_s
        if claims.issued_at > now + _SKEW_S:
            return 0.0
        return min(left_s, claims.expires_at - claims.issued_at)

    def _drop_expired(self) -> float:
        """Return the time on the clock, once what is over by then is gone."""
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            _, runtime_id = heappop(self._ends)
            if (entry := self._entries.get(runtime_id)) is not None:
                self._look_at(entry, now)
            elif (ended := self._ended.get(runtime_id)) is not None and ended.until <= now:
                del self._ended[runtime_id]
                self._announce(runtime_id)
        return now

    def _look_at(self, entry: Entry, now: float) -> None:
        if entry.expires_at > now:  # it has been renewed since
            heappush(self._ends, (entry.expires_at, entry.identity.runtime_id))
            return
        self._end(entry, "it has expired", entry.expires_at)
        self._on_expired(entry.identity)

    def _end(self, entry: Entry, why: str, last_token_ends: float) -> None:
        runtime_id = entry.identity.runtime_id
        self._entries.pop(runtime_id, None)
        named = Identity(runtime_id, entry.identity.self_id)
        self.restore_ended(Ended(named, why, last_token_ends + _REMEMBERED_S))
        self._announce(runtime_id)

    def _announce(self, runtime_id: str) -> None:
        self._listeners.tell(runtime_id)
