"""What supervision needs of its host."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from cpg_trio.host.access import Audit, Identities, Identity, StartedRuns
from cpg_trio.host.directory import Registry, WatchHub
from cpg_trio.http import Origin
from cpg_trio.http.client.origin import UNIX
from cpg_trio.rpc import LocalHost


class Adopt(Protocol):
    """Gives an identity to a plugin that waits for its host."""

    def __call__(
        self, url: str, host_url: str, self_id: str, token: str, issued: Callable[[Identity], object], /
    ) -> Awaitable[str]:
        """Adopt the plugin of a name at a URL; `issued` is told its identity. Raises: ConnectError.

        `host_url` is the URL of the host for it, and `token` that by which the host proves itself.
        """
        ...


class ShutDown(Protocol):
    """Asks a plugin that has registered to stop."""

    def __call__(self, runtime_id: str, *, grace_s: int, reason: str) -> Awaitable[None]:
        """Give its calls in flight so many seconds to finish. Raises: ConnectError."""
        ...


@attrs.frozen(kw_only=True)
class Surroundings:
    """The parts of a host that its supervision works on."""

    identities: Identities
    registry: Registry
    watches: WatchHub
    started: StartedRuns
    audit: Audit
    lease_s: float
    """After which time of silence a plugin counts as gone."""
    shared: bool = False
    """Whether other hosts have the same directory."""
    is_up_to_date: Callable[[], bool] = lambda: True
    """Whether what the host knows of plugins is so: not while it is cut off from others that know better."""
    end: Callable[[str, str], object]
    """Ends an identity at once, with all that it has: its runtime id, and why."""
    probe: Callable[[str], Awaitable[bool]]
    """Asks a plugin that has registered how it is; whether it has answered. Raises: CannotAskError."""
    shut_down: ShutDown
    adopt: Adopt
    local: Callable[[str], LocalHost]
    """Returns the host for one run as a task; called with a name for it."""
    socket_dir: Path | None = None
    """The directory in which the host and its plugins have Unix sockets."""
    may_share: Callable[[str, str], bool] = lambda _, __: False
    """Whether the policy lets a plugin provide a service beside others: its `self_id`, and the type."""
    rng: random.Random = attrs.field(factory=random.SystemRandom)


def local_url(bound: Sequence[str], public_url: str = "") -> str:
    """Return the URL of a host for plugins on its machine, from those that it listens on."""
    urls = [url for url in bound if not url.startswith(UNIX)]
    if public_url and (not urls or urls[0].startswith("https:")):  # the name of its certificate
        return public_url
    if not urls:
        return bound[0] if bound else ""
    origin, _ = Origin.parse(urls[0])
    is_everywhere = origin.host in ("0.0.0.0", "::")  # noqa: S104 - what it listens on, to be replaced
    return f"{origin.scheme}://127.0.0.1:{origin.port}" if is_everywhere else urls[0]
