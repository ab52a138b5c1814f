"""Unix sockets in a directory that a plugin shares with its host (`SOCKET_DIR`).

The host gives the name of its socket in the handshake, at `HOST_URL`. The directory may be another host's, so
the plugin first asks at the socket which host answers there. Before that it sends nothing there that proves
its identity.
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

BY_URL = ("",)  # the addresses of a host that is called where its URL says

_MAX_SELF_ID = 32  # characters: the path of a socket has room for 107 bytes


def own_socket(self_id: str, hostname: str, binds: Sequence[str]) -> str:
    """Return the name of a plugin's socket: the same at its next start, unless its port is any free one.

    Replicas have different names, since each has another host name or port.
    """
    any_port = any(bind.endswith(":0") for bind in binds)
    place = secrets.token_bytes(8) if any_port else " ".join([self_id, hostname, *binds]).encode()
    return f"{self_id[:_MAX_SELF_ID]}-{hashlib.sha256(place).hexdigest()[:8]}.sock"


async def host_addresses(
    folder: Path | None, server_metadata: Mapping[str, str], host_url: str, pool: Pool
) -> tuple[str, ...]:
    """Return where to connect to a host: at its socket, if that is in this directory, and by its URL.

    `server_metadata` is that of the handshake. A socket that is not the host's is named in the log.
    """
    name, host_id = server_metadata.get(wire.SOCKET_KEY, ""), server_metadata.get(wire.HOST_ID_KEY, "")
    if folder is None or not (name and host_id):
        return BY_URL
    address, why = f"{UNIX}{folder / name}", "another host answers there"
    try:
        wire.validate_socket(name)
        answer = await shake_hands(host_url, PoolClient(pool, (address,)))
        if answer.server_metadata.get(wire.HOST_ID_KEY) == host_id:
            return address, *BY_URL
    except (ConnectError, wire.InvalidError) as error:
        why = str(error)
    _log.warning("the host is called by TCP, not at its socket %.256r: %s", str(folder / name), why)
    return BY_URL
