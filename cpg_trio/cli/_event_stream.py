"""The stream of events behind the command `events`, across restarts of the host."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from cpg_trio._gen.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.cli._following import follow_host, say

if TYPE_CHECKING:
    from cpg_trio._gen.cpgtrio.admin.v1.admin_trio import AdminServiceClient
    from cpg_trio.cli._admin import AdminOptions


def show_events(
    options: AdminOptions, request: pb.WatchEventsRequest, show: Callable[[pb.Event], None]
) -> None:
    """Have each event shown. With `follow` it goes on after a restart of the host, until Ctrl-C.

    Raises: CommandError if there is no host at the beginning.
    """

    async def read(host: AdminServiceClient, is_other: bool) -> None:  # noqa: FBT001 - see `Read`
        if is_other:
            request.after = 0
        async with host.watch_events(request, timeout_s=math.inf) as stream:
            async for message in stream:
                if message.missed:
                    say(f"{message.missed} events were missed, since this reader is slow")
                for event in message.events:
                    show(event)
                    request.after = event.sequence
                sys.stdout.flush()

    follow_host(options, read, follow=request.follow)
