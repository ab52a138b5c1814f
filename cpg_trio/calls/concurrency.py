"""A bound on the calls in flight of a dependency, and a bounded wait for a place.

Without it, callers of a slow provider gather in the memory of the plugin until that ends. Envoy's words for
the two bounds are `max_requests` and `max_pending_requests`.
"""

from __future__ import annotations

from types import TracebackType

import trio

from cpg_trio import _human
from cpg_trio.calls.policy import Concurrency
from cpg_trio.rpc import CallError, Code, Fault


class InFlight:
    """The places for calls of a service. `async with` takes one, and gives it back.

    A place that is free is taken at once and without a checkpoint; others in the order of arrival.
    """

    __slots__ = ("_lot", "_policy", "_service", "_taken", "refused")

    def __init__(self, service: str, policy: Concurrency) -> None:
        self._service = service
        self._policy = policy
        self._taken = 0
        self._lot = trio.lowlevel.ParkingLot()
        self.refused: int = 0
        """How many calls were refused."""

    @property
    def in_flight(self) -> int:
        """How many places are taken."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many calls wait for one."""
        return len(self._lot)

    @property
    def full(self) -> bool:
        """Whether the next call has to wait, or is refused."""
        return self._taken >= self._policy.max_in_flight

    async def take(self) -> None:
        """Take a place; wait for one for a while.

        Raises: CallError `resource_exhausted`, of the caller, if too many wait already, or none came free.
        """
        if self._taken < self._policy.max_in_flight:  # then nobody waits
            self._taken += 1
            return
        policy = self._policy
        if len(self._lot) >= policy.max_waiting:
            self._refuse(f"and {policy.max_waiting:,} wait")
        with trio.move_on_after(policy.max_wait_s) as wait:
            await self._lot.park()  # until it gets the place of a call that has ended
        if wait.cancelled_caught:
            self._refuse(f"and none has ended in {_human.duration(policy.max_wait_s)}")

    def give_back(self) -> None:
        """Give back a place: to the call that has waited longest, if one waits."""
        # A task that is woken cannot be cancelled any more in its wait, so the place is not lost.
        if not (self._lot and self._lot.unpark()):
            self._taken -= 1

    async def __aenter__(self) -> None:
        """See `take`."""
        await self.take()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """See `give_back`."""
        self.give_back()

    def _refuse(self, why: str) -> None:
        self.refused += 1
        raise CallError(
            Code.RESOURCE_EXHAUSTED,
            f"{self._policy.max_in_flight:,} calls of {self._service} are in flight, {why}; "
            "the bounds are those of CallPolicy.concurrency",
            fault=Fault.CALLER,
        )
