"""Unix sockets, where a plugin shares a directory with its host (`SOCKET_DIR`): its own, and its host's.

The host says in the handshake, at `HOST_URL`, what its socket is called. What has that name in the plugin's
directory is believed to be that host if it says the same of itself there, since the directory may be another
host's. Nothing that proves the plugin's identity is sent before that.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from cpg_trio import wire
from cpg_trio.http import UNIX, Pool
from cpg_trio.plugin._handshake import shake_hands
from cpg_trio.rpc import ConnectError, PoolClient

_log = logging.getLogger("cpg_trio.plugin")

_MOST_OF_A_NAME = 32  # characters: the path of a socket has room for 107 bytes


def own_socket(self_id: str, hostname: str, binds: Sequence[str]) -> str:
    """Return the name of a plugin's socket: the same at its next start, unless it takes any free port.

    Replicas have others, since no two have the same URL for their host.
    """
    any_port = any(bind.endswith(":0") for bind in binds)
    place = secrets.token_bytes(8) if any_port else " ".join([self_id, hostname, *binds]).encode()
    return f"{self_id[:_MOST_OF_A_NAME]}-{hashlib.sha256(place).hexdigest()[:8]}.sock"


async def host_socket(folder: Path | None, announced: Mapping[str, str], host_url: str, pool: Pool) -> str:
    """Return the path of a host's socket; empty if it is not in this directory, which is said in the log.

    `announced` is the server metadata of the handshake.
    """
    name, host_id = announced.get(wire.SOCKET_KEY, ""), announced.get(wire.HOST_ID_KEY, "")
    if folder is None or not (name and host_id):
        return ""
    path, why = str(folder / name), "another host answers there"
    try:
        wire.validate_socket(name)
        said = await shake_hands(host_url, PoolClient(pool, (UNIX + path,)))
        if said.server_metadata.get(wire.HOST_ID_KEY) == host_id:
            return path
    except (ConnectError, wire.InvalidError) as error:
        why = str(error)
    _log.warning("the host is called by TCP, not at its socket %.256r: %s", path, why)
    return ""
