"""The errors that keep a server from starting, and the log of the others."""

from __future__ import annotations

import logging

from cpg_trio.errors import CpgTrioError

logger = logging.getLogger("cpg_trio.http")


def log_ending(error: BaseException) -> None:
    """Log an error that ends one connection, and no other."""
    logger.error("an error ended a connection", exc_info=error)


class StartError(CpgTrioError):
    """The process cannot start, for a reason that its operator can mend; the message says how.

    `run` prints the message alone, without a traceback.
    """


class BindError(StartError, OSError):
    """An address to listen on is taken, malformed or not of this machine."""
