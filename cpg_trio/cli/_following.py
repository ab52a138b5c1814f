"""Streams of a host that a command goes on reading, across restarts of the host."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, TypeVar

import trio

from cpg_trio.cli._admin_address import find_admin
from cpg_trio.cli._admin_client import admin_client
from cpg_trio.cli._errors import CommandError
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from cpg_trio.cli._admin import AdminOptions
    from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 2.0

_Request = TypeVar("_Request", pb.WatchEventsRequest, pb.WatchLogsRequest)
_Part = TypeVar("_Part", pb.WatchEventsResponse, pb.WatchLogsResponse)
_Entry = TypeVar("_Entry", pb.Event, pb.LogLine)
Read = Callable[["AdminServiceClient", bool], Awaitable[None]]
"""Reads a stream to its end. True: another process answers than before, and counts anew."""


def follow_host(options: AdminOptions, read: Read, *, follow: bool) -> None:
    """Read a stream of a host. With `follow` it goes on after a restart of the host, until Ctrl-C.

    Raises: CommandError if there is no host at the beginning.
    """
    trio.run(_Following(options, read, follow=follow).run)


def follow_entries(
    options: AdminOptions,
    request: _Request,
    watch: Callable[[AdminServiceClient], AbstractAsyncContextManager[AsyncIterable[_Part]]],
    entries: Callable[[_Part], Iterable[_Entry]],
    show: Callable[[_Entry], None],
    *,
    what: str,
) -> None:
    """Have each entry of a log of the host shown, as `follow_host`. `what` they are is said of those missed.

    `watch` sends the request, which is kept up to date with what was shown.
    """

    async def read(host: AdminServiceClient, is_other: bool) -> None:  # noqa: FBT001 - see `Read`
        if is_other:
            request.after = 0
        async with watch(host) as stream:
            async for part in stream:
                if part.missed:
                    say(f"{part.missed} {what} were missed, since this reader is slow")
                for entry in entries(part):
                    show(entry)
                    request.after = entry.sequence
                sys.stdout.flush()

    follow_host(options, read, follow=request.follow)


class _Following:
    def __init__(self, options: AdminOptions, read: Read, *, follow: bool) -> None:
        self._options = options
        self._read = read
        self._follow = follow
        self._run: tuple[str, int] | None = None  # which process of which host has been read last
        self._connected = False

    async def run(self) -> None:
        wait_s = _FIRST_WAIT_S
        while True:
            why = await self._read_to_end()
            if not self._follow:
                return
            if self._connected:
                self._connected, wait_s = False, _FIRST_WAIT_S
                say(f"{why}; waiting for the host to come back")
            await trio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    async def _read_to_end(self) -> str:
        """Read until the stream ends; return why it has. Raises: CommandError at the beginning."""
        try:
            async with admin_client(find_admin(self._options.admin, os.environ)) as host:
                is_other = self._begin((await host.get_status(pb.GetStatusRequest())).host)
                await self._read(host, is_other)
        except CommandError as error:
            if self._run is None or not self._follow:
                raise
            return str(error)
        return "the host has ended the stream"

    def _begin(self, host: pb.HostInfo) -> bool:
        """Note which process answers; return whether it is another one than before."""
        run = (host.registry_id, host.pid)
        is_other = self._run not in {None, run}
        if self._run is not None:
            say("the host is there again")
        self._run = run
        self._connected = True
        return is_other


def say(text: str) -> None:
    """Tell people of the stream itself, beside what is in it."""
    print(f"cpg-trio: {text}", file=sys.stderr)
