"""What a host has that shares its directory with nobody."""

from __future__ import annotations

from cpg_trio.host import Keys
from cpg_trio.host.cluster import Forwarding, HostCalls, Owners
from cpg_trio.http import Pool


def no_forwarding() -> Forwarding:
    owners = Owners()
    return Forwarding(owners, HostCalls(owners, Keys(), Pool()))
