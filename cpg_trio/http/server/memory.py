"""How many connections a process can have: as many as half of its memory has room for."""

from __future__ import annotations

import attrs

from cpg_trio._memory import Memory, memory_of_process, resident_bytes
from cpg_trio.http.server.config import ServeConfig
from cpg_trio.http.server.errors import logger

CONNECTION_BYTES = 40 * 1024
"""What a connection takes at most while it waits, be it HTTP/1.1, HTTP/2 or a WebSocket."""
_PART = 0.5  # of the memory that the process may have, for what it has at the start and for connections
_LEAST = 16


def fitted_to_memory(
    config: ServeConfig, memory: Memory | None = None, resident: int | None = None
) -> ServeConfig:
    """Return a configuration that takes no more connections than there is memory for.

    A reduction is logged. A host limits its connections together with all else that it keeps.
    """
    memory = memory_of_process() if memory is None else memory
    resident = resident_bytes() if resident is None else resident
    most = max(_LEAST, int((_PART * memory.limit - resident) / CONNECTION_BYTES))
    if config.max_connections <= most:
        return config
    logger.warning(
        "%d connections are taken at once, not %d, as %s lets this process have %d MiB of memory",
        most,
        config.max_connections,
        memory.source,
        memory.mebibytes,
    )
    return attrs.evolve(config, max_connections=most)
