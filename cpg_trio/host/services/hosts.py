"""`HostService`: what other hosts of the directory tell this one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cpg_trio.host.access import AccessCheck, Action, RefusedError
from cpg_trio.host.cluster import HostCalls
from cpg_trio.host.services.edges import answering, peer_of
from cpg_trio.protos.cpgtrio.hosts.v1 import hosts_pb2 as pb
from cpg_trio.protos.cpgtrio.hosts.v1.hosts_trio import HostService
from cpg_trio.rpc import Context
from cpg_trio.rpc.context import note_proved_by


class HostsOfDirectory(HostService):
    """`cpgtrio.hosts.v1.HostService`. `ask` asks a plugin how it is, for one that could not be reached."""

    def __init__(self, access: AccessCheck, hosts: HostCalls, ask: Callable[[str], Awaitable[None]]) -> None:
        self._access = access
        self._hosts = hosts
        self._ask = ask

    async def suspect(self, request: pb.SuspectRequest, ctx: Context, /) -> pb.SuspectResponse:
        """Ask a plugin that another host could not reach.

        Raises: ConnectError `permission_denied` for whoever is no other host.
        """
        with answering(ctx):
            try:
                stated = self._hosts.stated(ctx, request.runtime_id)
            except RefusedError as refused:
                self._access.refuse(refused, peer_of(ctx), Action.AUTHENTICATE, "")
        note_proved_by(ctx, f"host {stated.issuer}")
        await self._ask(request.runtime_id)
        return pb.SuspectResponse()
