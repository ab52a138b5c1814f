"""`HostService`: what other hosts of the directory tell this one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NoReturn

from cpg_trio._gen.cpgtrio.hosts.v1 import hosts_pb2 as pb
from cpg_trio._gen.cpgtrio.hosts.v1.hosts_trio import HostService
from cpg_trio.host.access import AccessCheck, Action, RefusedError
from cpg_trio.host.cluster import HostCalls
from cpg_trio.host.services.edges import answering, peer_of
from cpg_trio.rpc import Code, Context


class HostsOfDirectory(HostService):
    """`cpgtrio.hosts.v1.HostService`. `ask` asks a plugin how it is, for one that could not be reached."""

    def __init__(self, access: AccessCheck, hosts: HostCalls, ask: Callable[[str], Awaitable[None]]) -> None:
        self._access = access
        self._hosts = hosts
        self._ask = ask

    async def suspect(self, request: pb.SuspectRequest, ctx: Context, /) -> pb.SuspectResponse:
        """Ask a plugin that another host could not reach. Raises: ConnectError `permission_denied`."""
        with answering(ctx):
            host = self._check_host(ctx, request.runtime_id)
        ctx.note_proved(f"host {host}")
        await self._ask(request.runtime_id)
        return pb.SuspectResponse()

    def _check_host(self, ctx: Context, plugin: str) -> str:
        """Return the id of the host that calls. Raises: RefusedError for anybody else."""
        try:
            stated = self._hosts.stated(ctx, plugin)
        except RefusedError as refused:
            self._refuse(refused, ctx)
        if stated is None:
            why = "only another host of this directory may call this"
            self._refuse(RefusedError(Code.PERMISSION_DENIED, why), ctx)
        return stated.issuer

    def _refuse(self, refused: RefusedError, ctx: Context) -> NoReturn:
        self._access.refuse(refused, peer_of(ctx), Action.AUTHENTICATE, "")
