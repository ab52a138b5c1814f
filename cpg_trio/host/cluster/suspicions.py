"""Suspicions: a host that cannot reach a plugin tells the plugin's owner, which asks the plugin at once.

What is told is conflated: once a second for each plugin, however many calls fail meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio

from cpg_trio.host.cluster.host_calls import HostCalls
from cpg_trio.host.cluster.owners import Owners
from cpg_trio.protos.cpgtrio.hosts.v1 import hosts_pb2 as pb
from cpg_trio.protos.cpgtrio.hosts.v1.hosts_trio import HostServiceClient
from cpg_trio.rpc import ConnectError

_TELL_S = 5.0  # longer than the owner waits for the plugin
_AGAIN_S = 1.0  # after which a plugin may be suspected again
_MOST = 100  # plugins that are suspected at once; more are not told of


class Suspicions:
    """Tells the owners of plugins that these cannot be reached.

    `suspect` is called for a plugin that this host owns.
    """

    def __init__(self, owners: Owners, hosts: HostCalls, suspect: Callable[[str], object]) -> None:
        self._owners = owners
        self._hosts = hosts
        self._suspect = suspect
        self._told: set[str] = set()  # plugins, for as long as they are not told of again
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell until cancelled. Without it, nothing is told."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def suspect(self, runtime_id: str) -> None:
        """Note that a plugin could not be reached."""
        if self._owners.owns(runtime_id):
            self._suspect(runtime_id)
        elif self._nursery is not None and runtime_id not in self._told and len(self._told) < _MOST:
            self._told.add(runtime_id)
            self._nursery.start_soon(self._tell, runtime_id)

    async def _tell(self, runtime_id: str) -> None:
        try:
            if (owner := self._owners.elsewhere(runtime_id)) is not None and owner.url:
                client = self._hosts.client(HostServiceClient, owner, runtime_id)
                with suppress(ConnectError):  # an owner that cannot be reached cannot ask either
                    await client.suspect(pb.SuspectRequest(runtime_id=runtime_id), timeout_s=_TELL_S)
            await trio.sleep(_AGAIN_S)
        finally:
            self._told.discard(runtime_id)
