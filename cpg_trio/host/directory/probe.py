"""Probes: the host asks a plugin that sends no heartbeats who it is, and how it is.

Two questions go to the plugin's control services: `GetPluginInfo` and `GetHealth`. An answer is a sign of
life only if it can come from that plugin and from nobody else:

- What names another plugin has got the plugin's address. It is not the plugin.
- A plugin that knows only the wire protocol may know neither question. Its 404 counts as an answer for as
  long as it has never answered either of them.
- A plugin that has answered once, or whose handshake says that it is on an SDK that does, has to answer
  again. A 404 from its address comes from a stranger: when a container is gone, another gets its address.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import attrs

from cpg_trio import wire
from cpg_trio.host.access import Identities
from cpg_trio.host.directory.leases import CannotAskError
from cpg_trio.host.directory.plugin_control import ControlClients, could_not_ask
from cpg_trio.host.directory.registration import health_of
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.succession import Succession
from cpg_trio.host.directory.unix_sockets import Sockets
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import PluginControlClient, PluginIdentityClient
from cpg_trio.rpc import Code, ConnectError, ResponseMetadata

_log = logging.getLogger("cpg_trio.host")


class _AnotherPluginError(Exception):
    """Another plugin answers at a plugin's address; the message is its name."""


class Prober:
    """Asks plugins, and notes their health in the registry. `before` is called before each probe."""

    def __init__(
        self,
        identities: Identities,
        registry: Registry,
        succession: Succession,
        sockets: Sockets,
        clients: ControlClients,
        before: Callable[[], object],
    ) -> None:
        self._identities = identities
        self._registry = registry
        self._succession = succession
        self._sockets = sockets
        self._clients = clients
        self._before = before

    async def probe(self, runtime_id: str) -> bool:
        """Ask a plugin; return whether it has given a sign of life.

        A report that the plugin sends meanwhile is newer than its answer. Raises: CannotAskError.
        """
        self._before()
        if self._succession.is_succeeded(runtime_id):
            return False  # its successor would answer, and a report of its own needs no question
        before = self._registry.last_report(runtime_id)
        try:
            await self._accept_sockets(runtime_id)
            names_itself = await self._names_itself(runtime_id)
            health = await self._health(runtime_id, may_not_know=names_itself)
        except _AnotherPluginError as error:
            _log.warning("at the address of %s there is another plugin: %.128r", runtime_id, str(error))
            return False
        except ConnectError as error:
            _raise_if_not_asked(error)
            return False
        if self._succession.is_succeeded(runtime_id) or not self._registry.has_registered(runtime_id):
            return False  # by now; a successor may have answered
        if names_itself or health is not None:
            self._identities.note_answered(runtime_id)
        if health is not None and self._registry.last_report(runtime_id) is before:
            try:
                self._registry.report_health(runtime_id, health_of(health))
            except wire.InvalidError as error:
                _log.warning("%s says of its health what makes no sense: %.256r", runtime_id, str(error))
        return True

    async def _names_itself(self, runtime_id: str) -> bool:
        """Whether what answers at a plugin's address says that it is that plugin.

        Raises: _AnotherPluginError if it names another one; CannotAskError.
        """
        client = self._clients.of(PluginIdentityClient, runtime_id)
        try:
            info = await client.get_plugin_info(pb.GetPluginInfoRequest())
        except ConnectError as error:
            _raise_if_not_asked(error)
            return False
        entry, shown = self._identities.entry(runtime_id), info.metadata.get(wire.RUNTIME_ID_KEY, "")
        self_id = entry.identity.self_id if entry is not None else info.self_id
        if shown not in ("", runtime_id) or info.self_id not in ("", self_id):
            raise _AnotherPluginError(shown or info.self_id)
        return bool(shown or info.self_id)

    async def _health(self, runtime_id: str, *, may_not_know: bool) -> pb.GetHealthResponse | None:
        """Return what a plugin answers; None if it is there and does not say. Raises: ConnectError."""
        answer = ResponseMetadata()
        client = self._clients.of(PluginControlClient, runtime_id)
        try:
            return await client.get_health(pb.GetHealthRequest(), metadata=answer)
        except ConnectError as error:
            entry = self._identities.entry(runtime_id)
            may_not_know = may_not_know or entry is None or not entry.identity.answers
            if (error.code == Code.UNIMPLEMENTED and may_not_know) or wire.CLOCK_HEADER in answer.headers:
                return None
            raise

    async def _accept_sockets(self, runtime_id: str) -> None:
        """Look once at the sockets of a plugin that was registered before the host began."""
        for registration in self._registry.registrations(runtime_id):
            metadata = dict(registration.metadata)
            if (
                len(registration.addresses) > 1
                or not self._sockets.announced
                or wire.SOCKET_KEY not in metadata
            ):
                continue
            sockets = await self._sockets.accept(runtime_id, metadata, None)
            if self._registry.provider(registration.service_type, runtime_id) is registration:
                addresses = (*sockets, registration.address)
                self._registry.restore(attrs.evolve(registration, metadata=metadata, addresses=addresses))


def _raise_if_not_asked(error: ConnectError) -> None:
    if could_not_ask(error):
        raise CannotAskError(error.message) from error
