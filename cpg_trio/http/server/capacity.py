"""How many connections a process can have: as many as there are file descriptors, and memory, for.

A process starts with a soft limit that is low, often 1,024, for the sake of programs that use `select`. It
may raise it to the hard one. What it has then is for three things: connections that come, connections that go
out (a routed call needs one of each), and a reserve for files, databases and what else the process opens.
Half of the memory is for connections and what the process has when it starts.
"""

from __future__ import annotations

import logging
import resource
from contextlib import suppress

import attrs

from cpg_trio._memory import Memory, memory_of_process, resident_bytes
from cpg_trio.http.server.config import ServeConfig
from cpg_trio.http.server.errors import logger

CONNECTION_BYTES = 40 * 1024
"""What a connection takes at most while it waits, be it HTTP/1.1, HTTP/2 or a WebSocket."""
_PART = 0.5  # of the memory that the process may have, for what it has at the start and for connections
_LEAST = 16  # connections, however little memory there is
_LEAST_RESERVE = 16  # descriptors
_RESERVE = 8  # an eighth more, up to the most
_MOST_RESERVE = 512
_MUCH = 0.9  # of what was configured: less is worth a warning


def raise_descriptor_limit() -> None:
    """Raise the soft limit of file descriptors to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # then it stays as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections() -> int:
    """Return how many connections may come at once; as many may go out."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 2**31 - 1
    return max(1, (soft - min(_LEAST_RESERVE + soft // _RESERVE, _MOST_RESERVE)) // 2)


def fitted_to_descriptors(config: ServeConfig) -> ServeConfig:
    """Return a configuration that takes no more connections than there are file descriptors for.

    A large reduction is logged as a warning.
    """
    most = most_connections()
    if config.max_connections <= most:
        return config
    logger.log(
        logging.WARNING if most < config.max_connections * _MUCH else logging.DEBUG,
        "%d connections are taken at once, not %d, as this process may have %d files open (ulimit -Hn)",
        most,
        config.max_connections,
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )
    return attrs.evolve(config, max_connections=most)


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
