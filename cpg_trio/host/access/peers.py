"""The other end of a connection: its address and its certificate, as the connection itself shows them.

Any client can send a header that names an address (`X-Forwarded-For` and others), so no such header is read.
Behind a proxy all callers have the address of the proxy.
"""

from __future__ import annotations

import attrs

from cpg_trio._addresses import address_key
from cpg_trio.asgi import Scope


@attrs.frozen
class Peer:
    """The other end of a connection."""

    address: str = ""
    """Without a port; empty for the host's Unix socket."""
    names: tuple[str, ...] = ()
    """The URIs and DNS names in its verified certificate; empty without one."""

    @property
    def key(self) -> str:
        """What it is counted by while it has proved no identity. No runtime id is the same."""
        return address_key(self.address)

    @classmethod
    def of(cls, client: tuple[str, int] | None, names: tuple[str, ...] = ()) -> Peer:
        """Return the peer at an address and a port, as ASGI has them; None for a Unix socket."""
        if client is None and not names:
            return _NOWHERE
        return cls(client[0] if client else "", names)

    @classmethod
    def of_scope(cls, scope: Scope) -> Peer:
        """Return the peer that an ASGI call comes from."""
        return cls.of(scope.get("client"), (scope.get("state") or {}).get("peer_names", ()))


_NOWHERE = Peer()
