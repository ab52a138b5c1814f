"""Unix sockets, where a host and its plugins share a directory (`SOCKET_DIR`): which of them the host uses.

A plugin says by which name its socket is found in that directory. The host connects to it only if

- the registration came through the host's own socket, as only those can who share the directory;
- it is a name, not a path, and what has that name is a socket, not a link: nothing leads out of the directory
  (`connect_unix` sees to that at each connection);
- who answers there says that it is that plugin, by the runtime id that the host has given it: another plugin
  says another, and the host itself says none. The owner of the file would tell less, and so would the process
  at its other end: the containers of a pod have one user, and do not see each other's processes.

Everything else is left alone, with a line in the log, and called by TCP. So is a socket that cannot be
connected to, each time that it is needed.

What this does not do is part those who may write in the directory from each other: any of them can take a
name over that another had. The directory is for those who trust each other as much.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import PluginIdentityClient
from cpg_trio._lines import one_line
from cpg_trio.host.access.identity import Identities
from cpg_trio.host.directory.plugin_control import client_at, proof_to
from cpg_trio.http import UNIX, LocalFailureError, Pool, PoolFullError
from cpg_trio.rpc import Code, ConnectError

_log = logging.getLogger("cpg_trio.host")

_NAME = "host.sock"
_MOST_OF_A_MESSAGE = 256  # characters, in the log
_ASK_S = 1.0  # which a plugin that registers has to say who it is


class _RefusedError(Exception):
    """A socket that the host does not use; the message says why."""


class Sockets:
    """The sockets of a host and its plugins. Without a directory there are none."""

    def __init__(self, folder: Path | None, pool: Pool, identities: Identities) -> None:
        self._folder = folder
        self._identities = identities
        self._pool = pool

    @property
    def binds(self) -> Sequence[str]:
        """What the host listens on."""
        return [f"unix:{self._folder / _NAME}"] if self._folder else []

    @property
    def announced(self) -> Mapping[str, str]:
        """What a handshake tells of the host's socket."""
        return {wire.SOCKET_KEY: _NAME} if self._folder else {}

    async def accept(self, runtime_id: str, metadata: Mapping[str, str], client: str | None) -> str:
        """Return the path of the socket that a registration names, if the host is to use it.

        `client` is the address that the registration came from, None through the host's socket. Empty, and a
        line in the log, if it is not; empty if there is none. Raises: ConnectError `unavailable` if this host
        could not ask.
        """
        name = metadata.get(wire.SOCKET_KEY, "")
        if not name:
            return ""
        try:
            path = self._path(name, client)
            await self._ask(path, runtime_id, metadata.get(wire.BASE_URL_KEY, ""))
        except _RefusedError as why:
            _log.warning("%s is called by TCP, not at its socket %.128r: %s", runtime_id, name, why)
            return ""
        return path

    def _path(self, name: str, client: str | None) -> str:
        if self._folder is None:
            raise _RefusedError("this host has no SOCKET_DIR")
        if client is not None:
            raise _RefusedError("the registration did not come through the host's own socket")
        try:
            wire.validate_socket(name)
        except wire.InvalidError as error:
            raise _RefusedError(str(error)) from error
        return str(self._folder / name)

    async def _ask(self, path: str, runtime_id: str, base_url: str) -> None:
        """Ask who answers at a socket, and there alone."""
        # What proves the host there is good for this question alone, if it is the wrong one that hears it.
        proof = proof_to(self._identities, runtime_id)
        client = client_at(PluginIdentityClient, base_url, (UNIX + path,), self._pool, proof)
        try:
            said = await client.get_plugin_info(pb.GetPluginInfoRequest(), timeout_s=_ASK_S)
        except ConnectError as error:
            _check_asked(error)
            raise _RefusedError(one_line(error.message, _MOST_OF_A_MESSAGE)) from error
        if said.metadata.get(wire.RUNTIME_ID_KEY) != runtime_id:
            raise _RefusedError("who answers there does not say that it is this plugin")


def _check_asked(error: ConnectError) -> None:
    """Raise ConnectError `unavailable` if it is for a reason of this host's own that nobody was asked."""
    if isinstance(cause := error.__cause__, LocalFailureError | PoolFullError):
        raise ConnectError(Code.UNAVAILABLE, f"this host cannot look at a socket now: {cause}") from cause
