"""The stream of events behind the command `events`, across restarts of the host."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from cpg_trio.cli._following import follow_entries
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from cpg_trio.cli._admin import AdminOptions


def show_events(
    options: AdminOptions, request: pb.WatchEventsRequest, show: Callable[[pb.Event], None]
) -> None:
    """Have each event shown. With `follow` it goes on after a restart of the host, until Ctrl-C.

    Raises: CommandError if there is no host at the beginning.
    """
    follow_entries(
        options,
        request,
        lambda host: host.watch_events(request, timeout_s=math.inf),
        lambda part: part.events,
        show,
        what="events",
    )
