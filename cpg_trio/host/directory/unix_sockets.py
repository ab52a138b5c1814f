"""Unix sockets of plugins, where host and plugins share a directory (`SOCKET_DIR`): which of them are used.

A plugin registers the name of its socket in that directory. The host connects to it only if

- the registration came through the host's own socket, which only processes with the directory can reach;
- it is a name and not a path, and the file is a socket and not a link, so that nothing leads out of the
  directory (`connect_unix` checks the file at each connection);
- what answers there gives the runtime id of that plugin. Another plugin gives another one, and the host none.
  The owner of the file, or the process at its other end, would tell less: the containers of a pod have one
  user, and do not see each other's processes.

Otherwise the name is logged and dropped, and the plugin is called by TCP; so it is at each call for which the
socket cannot be connected to. Where several hosts share the registrations, the name is dropped: other hosts
may be on other machines.

Processes that may write in the directory are not protected from each other: each of them can take over the
name of another one. The directory is for processes that trust each other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from cpg_trio import wire
from cpg_trio._lines import one_line
from cpg_trio.host.directory.plugin_control import ControlClients, could_not_ask
from cpg_trio.http.client.origin import UNIX
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import PluginIdentityClient
from cpg_trio.rpc import Code, ConnectError

_log = logging.getLogger("cpg_trio.host")

_NAME = "host.sock"
_MAX_LOGGED = 256  # characters of a message
_ASK_S = 1.0  # for the answer of the plugin that registers


class _UnusableSocketError(Exception):
    """The host does not use a socket; the message says why."""


class Sockets:
    """The sockets of a host and its plugins. Without a directory there are none."""

    def __init__(self, folder: Path | None, clients: ControlClients, *, shared: bool = False) -> None:
        """Take the directory. To other hosts, which have `shared` registrations, a socket means nothing."""
        self._folder = folder
        self._shared = shared
        self._clients = clients
        self.binds: Sequence[str] = [f"{UNIX}{folder / _NAME}"] if folder else []
        """What the host listens on."""
        self.announced: Mapping[str, str] = {wire.SOCKET_KEY: _NAME} if folder else {}
        """What a handshake tells of the host's socket."""

    async def accept(self, runtime_id: str, metadata: dict[str, str], client: str | None) -> tuple[str, ...]:
        """Return the address of the socket that a registration names, if the host is to use it; else nothing.

        A name that is not used is taken out of `metadata`, and logged. `client` is the address that the
        registration came from, None through the host's socket. Raises: ConnectError `unavailable` if this
        host could not ask.
        """
        name = metadata.get(wire.SOCKET_KEY, "")
        if not name:
            return ()
        if self._shared:
            del metadata[wire.SOCKET_KEY]
            return ()
        try:
            address = self._address(name, client)
            await self._ask(address, runtime_id, metadata.get(wire.BASE_URL_KEY, ""))
        except _UnusableSocketError as why:
            _log.warning("%s is called by TCP, not at its socket %.128r: %s", runtime_id, name, why)
            del metadata[wire.SOCKET_KEY]
            return ()
        return (address,)

    def _address(self, name: str, client: str | None) -> str:
        if self._folder is None:
            raise _UnusableSocketError("this host has no SOCKET_DIR")
        if client is not None:
            raise _UnusableSocketError("the registration did not come through the host's own socket")
        try:
            wire.validate_socket(name)
        except wire.InvalidError as error:
            raise _UnusableSocketError(str(error)) from error
        return f"{UNIX}{self._folder / name}"

    async def _ask(self, address: str, runtime_id: str, base_url: str) -> None:
        """Check that the plugin answers at a socket. TCP is not tried instead."""
        try:
            client = self._clients.at(PluginIdentityClient, runtime_id, base_url, (address,))
            info = await client.get_plugin_info(pb.GetPluginInfoRequest(), timeout_s=_ASK_S)
        except ConnectError as error:
            if could_not_ask(error):
                raise ConnectError(
                    Code.UNAVAILABLE, f"this host cannot look at a socket now: {error.message}"
                ) from error.__cause__
            raise _UnusableSocketError(one_line(error.message, _MAX_LOGGED)) from error
        if info.metadata.get(wire.RUNTIME_ID_KEY) != runtime_id:
            raise _UnusableSocketError("what answers there does not say that it is this plugin")
