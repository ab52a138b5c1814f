"""The stream of events behind the command `events`, across restarts of the host."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable

import trio

from cpg_trio._gen.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.cli._admin import AdminOptions
from cpg_trio.cli._admin_address import find_admin
from cpg_trio.cli._admin_client import admin_client
from cpg_trio.cli._errors import CommandError

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 2.0


def show_events(
    options: AdminOptions, request: pb.WatchEventsRequest, show: Callable[[pb.Event], None]
) -> None:
    """Have each event shown. With `follow` it goes on after a restart of the host, until Ctrl-C.

    Raises: CommandError if there is no host at the beginning.
    """
    trio.run(_EventStream(options, request, show).run)


class _EventStream:
    def __init__(
        self, options: AdminOptions, request: pb.WatchEventsRequest, show: Callable[[pb.Event], None]
    ) -> None:
        self._options = options
        self._request = request
        self._show_event = show
        self._run: tuple[str, int] | None = None  # which process of which host has been read last
        self._connected = False

    async def run(self) -> None:
        wait_s = _FIRST_WAIT_S
        while True:
            why = await self._read_to_end()
            if not self._request.follow:
                return
            if self._connected:
                self._connected, wait_s = False, _FIRST_WAIT_S
                _say(f"{why}; waiting for the host to come back")
            await trio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    async def _read_to_end(self) -> str:
        """Show events until the stream ends; return why it has. Raises: CommandError at the beginning."""
        try:
            async with admin_client(find_admin(self._options.admin, os.environ)) as host:
                self._begin((await host.get_status(pb.GetStatusRequest())).host)
                async with host.watch_events(self._request, timeout_s=math.inf) as stream:
                    async for message in stream:
                        self._show(message)
        except CommandError as error:
            if self._run is None or not self._request.follow:
                raise
            return str(error)
        return "the host has ended the stream"

    def _begin(self, host: pb.HostInfo) -> None:
        """Note which process answers: the sequence numbers of events are its own."""
        run = (host.registry_id, host.pid)
        if self._run is not None:
            _say("the host is there again")
            if run != self._run:
                self._request.after = 0
        self._run = run
        self._connected = True

    def _show(self, message: pb.WatchEventsResponse) -> None:
        if message.missed:
            _say(f"{message.missed} events were missed, since this reader is slow")
        for event in message.events:
            self._show_event(event)
            self._request.after = event.sequence
        sys.stdout.flush()


def _say(text: str) -> None:
    print(f"cpg-trio: {text}", file=sys.stderr)
