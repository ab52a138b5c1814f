"""The host of the command `host`, which its settings configure."""

from __future__ import annotations

import logging
import os

import trio

from cpg_trio.host import Host, from_settings
from cpg_trio.settings import Settings
from cpg_trio.variables import misspelt

_log = logging.getLogger("cpg_trio.host")


async def serve_host(settings: Settings, stop: trio.Event) -> None:
    """Run a host until `stop` is set. Raises: StartError."""
    for sentence in misspelt(os.environ):
        _log.warning("%s", sentence)
    config, binds = from_settings(settings)
    await Host(config).serve(stop, bind=binds)
