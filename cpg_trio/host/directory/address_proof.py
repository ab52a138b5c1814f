"""A plugin proves that it is at a URL: the host asks there who it is.

The question is `GetPluginInfo`, signed for that plugin alone. What answers has to name the plugin's runtime
id, so a plugin can send the host only to what is on its side. One that lies has the host send no more than
that question.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import trio

from cpg_trio import wire
from cpg_trio._addresses import Address
from cpg_trio._lines import one_line
from cpg_trio.host.access import Identity
from cpg_trio.host.directory.plugin_control import ControlClients, could_not_ask
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import PluginIdentityClient
from cpg_trio.rpc import Code, ConnectError

_ASK_S = 2.0  # at each address
_ALL_S = 4.0  # at all addresses of a name
_MOST_OF_A_PLUGIN = 2  # questions at once; more wait
_MOST_AT_AN_ADDRESS = 4
_MAX_QUOTED = 200  # characters of an error


@attrs.define
class _Share:
    """A limit on questions. It exists while one holds it, or waits for it."""

    turns: trio.Semaphore
    users: int = 0


class AddressProof:
    """Asks at addresses which plugin is there. Few questions at once for each plugin, and at each address."""

    def __init__(self, clients: ControlClients) -> None:
        self._clients = clients
        self._shares: dict[str, _Share] = {}

    async def find(
        self, plugin: Identity, url: str, addresses: Sequence[Address]
    ) -> tuple[Address | None, str]:
        """Return at which of the addresses of a URL a plugin answers; if at none, why not.

        Raises: ConnectError `unavailable` if this host cannot ask now.
        """
        why = f"no answer within {_ALL_S:g} s"
        with trio.move_on_after(_ALL_S):
            for address in addresses:
                if not (why := await self._why_not(plugin, url, address)):
                    return address, ""
        return None, why

    async def _why_not(self, plugin: Identity, url: str, address: Address) -> str:
        """Return why a plugin is not at an address; empty if it is."""
        limits = {plugin.runtime_id: _MOST_OF_A_PLUGIN, f"at {address}": _MOST_AT_AN_ADDRESS}
        async with self._turn(limits):
            try:
                client = self._clients.at(PluginIdentityClient, plugin.runtime_id, url, (str(address),))
                info = await client.get_plugin_info(pb.GetPluginInfoRequest(), timeout_s=_ASK_S)
            except ConnectError as error:
                if could_not_ask(error):
                    text = f"this host cannot ask at a base_url now: {error.message}"
                    raise ConnectError(Code.UNAVAILABLE, text) from error.__cause__
                return one_line(error.message, _MAX_QUOTED)
        if info.metadata.get(wire.RUNTIME_ID_KEY) == plugin.runtime_id:
            return ""
        return "what answers there does not say that it is this plugin"

    @asynccontextmanager
    async def _turn(self, limits: Mapping[str, int]) -> AsyncIterator[None]:
        """Wait for a turn within several limits, in their order, and hold it for as long as the block."""
        async with AsyncExitStack() as stack:
            for name, most in limits.items():
                await stack.enter_async_context(self._one(name, most))
            yield

    @asynccontextmanager
    async def _one(self, name: str, most: int) -> AsyncIterator[None]:
        share = self._shares.setdefault(name, _Share(trio.Semaphore(most)))
        share.users += 1
        try:
            async with share.turns:
                yield
        finally:
            share.users -= 1
            if not share.users:
                del self._shares[name]
