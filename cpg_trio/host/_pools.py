"""The connections of a host to its plugins.

Probes and control calls have a pool of their own: calls between plugins, however many there are, do not keep
the host from finding out who is alive.
"""

from __future__ import annotations

from cpg_trio.http import Pool, most_connections
from cpg_trio.http.certificates import Contexts

_KEEP_S = 4.0  # an idle connection to a plugin: servers keep theirs for 5 s or more
_MAX_PER_PROVIDER = 2000  # connections of the router, of which a caller alone has half
_FOR_CONTROL = 4  # a part of all connections that go out


def routing_pool(contexts: Contexts) -> Pool:
    """Return the pool for calls between plugins."""
    most = most_connections()
    return Pool(
        idle_expiry_s=_KEEP_S,
        ssl_context=contexts,
        max_per_origin=_MAX_PER_PROVIDER,
        max_total=most - most // _FOR_CONTROL,
    )


def control_pool(contexts: Contexts) -> Pool:
    """Return the pool for probes and control calls."""
    most = max(1, most_connections() // _FOR_CONTROL)
    return Pool(idle_expiry_s=_KEEP_S, ssl_context=contexts, max_total=most)
