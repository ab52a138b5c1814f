"""Who a plugin is to the host: a name for this run of it, and the token that proves the name.

Plain synchronous state. Tokens are kept as digests, so what is in memory (or in a dump of it) opens nothing.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable

import attrs
import trio

from cpg_trio.wire import control_credential, token_digest

_SUFFIX_BYTES = 8  # 64 random bits: a name cannot be guessed, and two plugins never share one
_TOKEN_BYTES = 32
_DAY_S = 24 * 60 * 60.0


@attrs.frozen
class Identity:
    """One run of one plugin."""

    runtime_id: str
    self_id: str
    """The plugin's own name, which its runs and its replicas share."""
    expires_at: float
    """On the clock of the identities that issued it, in seconds."""


@attrs.frozen
class _Entry:
    identity: Identity
    digest: bytes


class Identities:
    """Issues identities and recognises them.

    `on_expired` is called with each identity that has run out, when that is noticed: when anyone is next
    asked who they are. `clock` gives seconds.
    """

    def __init__(
        self,
        *,
        ttl_s: float = _DAY_S,
        on_expired: Callable[[Identity], None] = lambda _: None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._ttl_s = ttl_s
        self._on_expired = on_expired
        self._clock = clock
        # Every identity lives equally long, so the oldest is the first to end.
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        """Return how many identities are held."""
        return len(self._entries)

    def issue(self, self_id: str) -> tuple[Identity, str]:
        """Return a new identity and its token (44 characters). The caller has validated `self_id`."""
        self._drop_expired()
        runtime_id = f"{self_id.lower()}-{secrets.token_hex(_SUFFIX_BYTES)}"
        token = _new_token()
        identity = Identity(runtime_id, self_id, self._clock() + self._ttl_s)
        self._entries[runtime_id] = _Entry(identity, token_digest(token))
        return identity, token

    def authenticate(self, runtime_id: str, token: str) -> Identity | None:
        """Return the identity that the token proves, or None.

        The time that this takes tells neither whether the name exists nor how much of the token was right.
        """
        self._drop_expired()
        entry = self._entries.get(runtime_id)
        known = hmac.compare_digest(entry.digest if entry else _NOBODY, token_digest(token))
        return entry.identity if entry and known else None

    def holds(self, identity: Identity) -> bool:
        """Whether an identity that was proved before has neither expired nor been revoked."""
        self._drop_expired()
        return identity.runtime_id in self._entries

    def revoke(self, runtime_id: str) -> None:
        """End an identity before its time. One that is not there is no error."""
        self._entries.pop(runtime_id, None)

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
            del self._entries[entry.identity.runtime_id]
            self._on_expired(entry.identity)


def _new_token() -> str:
    """Return 32 random bytes in URL-safe base64, with its padding: 44 characters, as plugins expect."""
    return secrets.token_urlsafe(_TOKEN_BYTES) + "="


_NOBODY = token_digest(_new_token())
