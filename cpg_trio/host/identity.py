"""Who a plugin is to the host: a name for this run of it, and the token that proves the name.

Plain synchronous state, whose changes are announced. Tokens are kept as digests, so what is in memory (or in
a dump of it) opens nothing.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import attrs
import trio

from cpg_trio.wire import control_credential, token_digest

from .limits import LimitError, Limits

_SUFFIX_BYTES = 8  # 64 random bits: a name cannot be guessed, and two plugins never share one
_TOKEN_BYTES = 32
_DAY_S = 24 * 60 * 60.0
_REMEMBERED = 1000  # identities that have ended, for the sake of those who come back with them

Listener: TypeAlias = Callable[[str], object]


@attrs.frozen
class Identity:
    """One run of one plugin."""

    runtime_id: str
    self_id: str
    """The plugin's own name, which its runs and its replicas share."""
    expires_at: float
    """On the clock of the identities that issued it, in seconds."""


@attrs.frozen
class Entry:
    """An identity, and the digest of the token that proves it."""

    identity: Identity
    digest: bytes = attrs.field(repr=False)
    ended: str = ""
    """Why it has ended; empty while it has not."""


class Identities:
    """Issues identities and recognises them.

    `on_expired` is called with each identity that has run out, when that is noticed: when anyone is next
    asked who they are. `clock` gives seconds.
    """

    def __init__(
        self,
        *,
        ttl_s: float = _DAY_S,
        max_identities: int = Limits().max_identities,
        on_expired: Callable[[Identity], None] = lambda _: None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._ttl_s = ttl_s
        self._max_identities = max_identities
        self._on_expired = on_expired
        self._clock = clock
        # None lives longer than any that comes after it, so the oldest is the first to end.
        self._entries: dict[str, Entry] = {}
        self._ended: dict[str, Entry] = {}
        self._listeners: list[Listener] = []

    def __len__(self) -> int:
        """Return how many identities are held."""
        return len(self._entries)

    @contextmanager
    def watched(self, listener: Listener) -> Iterator[None]:
        """Within the block, call `listener` with the runtime id of each identity that begins or ends."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def issue(self, self_id: str) -> tuple[Identity, str]:
        """Return a new identity and its token (44 characters). The caller has validated `self_id`.

        Raises: LimitError, and then nothing has changed.
        """
        self._drop_expired()
        if len(self._entries) >= self._max_identities:
            raise LimitError("identities", self._max_identities)
        runtime_id = f"{self_id.lower()}-{secrets.token_hex(_SUFFIX_BYTES)}"
        token = _new_token()
        identity = Identity(runtime_id, self_id, self._clock() + self._ttl_s)
        self.restore(Entry(identity, token_digest(token)))
        return identity, token

    def restore(self, entry: Entry) -> None:
        """Take an identity (back); of several, the first to end comes first. None outlives a new one."""
        identity = entry.identity
        ends = min(identity.expires_at, self._clock() + self._ttl_s)
        self._entries[identity.runtime_id] = Entry(attrs.evolve(identity, expires_at=ends), entry.digest)
        self._announce(identity.runtime_id)

    def authenticate(self, runtime_id: str, token: str) -> Identity | None:
        """Return the identity that the token proves, or None.

        The time that this takes tells neither whether the name exists nor how much of the token was right.
        """
        self._drop_expired()
        return _proved(self._entries, runtime_id, token)

    def former(self, runtime_id: str, token: str) -> Identity | None:
        """Return the identity that the token proved until it ended, or None; in equal time, as above."""
        return _proved(self._ended, runtime_id, token)

    def why_ended(self, identity: Identity) -> str:
        """Return why an identity has ended; empty if it has not, or nobody remembers."""
        entry = self._ended.get(identity.runtime_id)
        return entry.ended if entry else ""

    def holds(self, identity: Identity) -> bool:
        """Whether an identity that was proved before has neither expired nor been revoked."""
        self._drop_expired()
        return identity.runtime_id in self._entries

    def revoke(self, runtime_id: str, why: str = "") -> None:
        """End an identity before its time. One that is not there is no error.

        `why` is remembered for a while, for who had it; without a reason it is as if it had never been.
        """
        if (entry := self._entries.get(runtime_id)) is not None:
            self._end(entry, why)

    def entry(self, runtime_id: str) -> Entry | None:
        """Return an identity with its digest, or None if it has ended or never was."""
        return self._entries.get(runtime_id)

    def control_credential(self, runtime_id: str) -> str | None:
        """Return what the host shows a plugin to be obeyed, or None if it does not know the plugin."""
        entry = self._entries.get(runtime_id)
        return control_credential(entry.digest) if entry else None

    def _drop_expired(self) -> None:
        now = self._clock()
        while self._entries:
            entry = next(iter(self._entries.values()))
            if entry.identity.expires_at > now:
                return
            self._end(entry, "it has expired")
            self._on_expired(entry.identity)

    def _end(self, entry: Entry, why: str) -> None:
        runtime_id = entry.identity.runtime_id
        del self._entries[runtime_id]
        if why:
            self._ended[runtime_id] = attrs.evolve(entry, ended=why)
        if len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]
        self._announce(runtime_id)

    def _announce(self, runtime_id: str) -> None:
        for listener in self._listeners:
            listener(runtime_id)


def _proved(entries: Mapping[str, Entry], runtime_id: str, token: str) -> Identity | None:
    entry = entries.get(runtime_id)
    known = hmac.compare_digest(entry.digest if entry else _NOBODY, token_digest(token))
    return entry.identity if entry and known else None


def _new_token() -> str:
    """Return 32 random bytes in URL-safe base64, with its padding: 44 characters, as plugins expect."""
    return secrets.token_urlsafe(_TOKEN_BYTES) + "="


_NOBODY = token_digest(_new_token())
