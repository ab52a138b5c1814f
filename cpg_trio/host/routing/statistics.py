"""The router's numbers since the host began, and how much room there is for series of calls."""

from __future__ import annotations

import attrs

from cpg_trio.call_record import CallKind
from cpg_trio.host.access import LimitError, Shares
from cpg_trio.statistics import CallTable, Tally


@attrs.frozen
class RouterStatistics:
    """The router's numbers since the host began.

    `calls` were let through, of which `in_flight` have not ended, and `failed` have ended with an error;
    `refused` were not let through. Of the calls that have ended, `durations[i]` took at most `BOUNDS_S[i]`
    seconds, and more than the bound before; the last number has those that took longer than all bounds.
    """

    calls: int
    in_flight: int
    failed: int
    refused: int
    durations: tuple[int, ...]


def router_statistics(table: CallTable) -> RouterStatistics:
    """Return the numbers of this moment."""
    ended = Tally()
    for labels, part in table.parts():
        if labels.kind == CallKind.ROUTED:
            ended.add(part)
    in_flight = sum(call.kind is CallKind.ROUTED for call in table.in_flight())
    refused = sum(count for (kind, _), count in table.refused().items() if kind == CallKind.ROUTED)
    return RouterStatistics(ended.calls + in_flight, in_flight, ended.failed, refused, ended.buckets())


class SharedRoom:
    """Room for series of calls, shared by the addresses of the callers. See `SeriesRoom`."""

    def __init__(self, most: int) -> None:
        self._shares = Shares("series of calls", most)

    def take(self, share: str) -> bool:
        """See `SeriesRoom`."""
        try:
            self._shares.check(share)
        except LimitError:
            return False
        self._shares.add(share)
        return True

    def give_back(self, share: str) -> None:
        """See `SeriesRoom`."""
        self._shares.remove(share)
