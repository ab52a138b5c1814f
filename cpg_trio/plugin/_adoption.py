"""Managed plugins: one without a `HOST_URL` gets its identity from a host that calls it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from cpg_trio._cell import Cell
from cpg_trio.http import Pool
from cpg_trio.plugin._host_link import HostLink
from cpg_trio.plugin._hosts import Hosts, parse_host_urls
from cpg_trio.plugin._retry import LOG_AGAIN_S
from cpg_trio.plugin._session import Session

_log = logging.getLogger("cpg_trio.plugin")

DEFAULT_HOST_URL = "http://localhost:8080"  # of a managing host that does not give its own


class Adoption:
    """The identities that managing hosts have given to a plugin; the newest counts."""

    def __init__(self, pool: Pool, link: HostLink, owner: str) -> None:
        self._pool = pool
        self._link = link
        self._owner = owner
        self._newest: Cell[Session | None] = Cell(None)

    def offer(self, runtime_id: str, token: str, host_url: str) -> None:
        """Take an identity from a managing host."""
        urls = parse_host_urls(host_url or DEFAULT_HOST_URL)
        hosts = Hosts(urls, self._pool, self._link, self._owner)
        self._newest.set(Session(hosts, runtime_id, token, managed=True))

    async def wait(self, self_id: str, bound: Sequence[str]) -> Session:
        """Return the next identity that is valid, however long that takes.

        `bound` are the URLs at which a host can call the plugin, for the log.
        """
        sessions = self._newest.reader()
        while True:
            _log.info(
                "%s has no HOST_URL, and waits for a managing host to call it on %s",
                self_id,
                ", ".join(bound),
            )
            with trio.move_on_after(LOG_AGAIN_S):
                async for session in sessions:
                    if session is not None and not session.void.is_set():
                        return session

    async def end_when_replaced(self, session: Session) -> None:
        """Set `session.void` when a host gives another identity."""
        async for newest in self._newest.reader():
            if newest is not session:
                session.void.set()
