"""How much is kept for operators: more on a host that may keep many identities."""

from __future__ import annotations

from typing import Self

import attrs

from cpg_trio.host.access import Limits


@attrs.frozen
class Kept:
    """What is kept at most. The memory for it is part of the price of an identity, and of `OTHER_BYTES`."""

    events: int = 1500
    history_bytes: int = 2 * 1024 * 1024
    """Of the histories of all plugins together; each plugin keeps its last change."""
    gone: int = 200
    """Plugins that are gone."""

    @classmethod
    def within(cls, limits: Limits) -> Self:
        """Return what a host with some limits keeps."""
        identities = limits.max_identities
        return cls(
            _between(200, identities // 10, 1500),
            _between(256 * 1024, identities * 100, 2 * 1024 * 1024),
            _between(20, identities // 100, 200),
        )


def _between(least: int, wanted: int, most: int) -> int:
    return max(least, min(wanted, most))
