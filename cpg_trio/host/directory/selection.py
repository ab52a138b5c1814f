"""Which of the callable providers of a service a caller gets, or a call that names no provider."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from cpg_trio.calls.balancing import Balancer, First, LeastLoaded, Random, RoundRobin
from cpg_trio.host.directory.registration import Registration

_ASKERS = ("discover", "watch", "call")


class Selection(Enum):
    """The strategy for a service type."""

    FIRST = "first"
    """The one that registered first."""
    ROUND_ROBIN = "round-robin"
    """Each in turn, in the order of registration."""
    RANDOM = "random"
    """Any, with equal chances."""
    LEAST_LOADED = "least-loaded"
    """The less loaded of two that are drawn, by calls in flight, latency and failures: see `Load.weight`."""
    WEIGHTED = LEAST_LOADED
    """The former name, `weighted`."""

    @classmethod
    def _missing_(cls, value: object) -> Selection | None:
        return cls.LEAST_LOADED if value == "weighted" else None


class Selector:
    """Chooses by a strategy for each service type.

    `selection` is the strategy by type; others get `default`. `calls_in_flight` returns by a runtime id how
    many calls a provider is busy with. `rng` decides where chance does. `clock` is that of the loads.
    """

    def __init__(
        self,
        selection: Mapping[str, Selection],
        default: Selection,
        calls_in_flight: Callable[[str], int],
        rng: random.Random,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._selection = dict(selection)
        self._default = default
        self._clock = clock
        self._balancers: Mapping[Selection, Balancer[Registration]] = {
            Selection.FIRST: First(),
            Selection.RANDOM: Random(rng),
            Selection.LEAST_LOADED: LeastLoaded(rng, lambda provider: calls_in_flight(provider.runtime_id)),
        }
        self._turns: dict[tuple[str, str], RoundRobin[Registration]] = {}  # by asker and service type

    def strategy(self, service_type: str) -> Selection:
        """Return the strategy for a service type."""
        return self._selection.get(service_type, self._default)

    def choose(self, asker: str, service_type: str, good: Sequence[Registration]) -> Registration:
        """Choose one of some providers, which are in the order of registration.

        Each kind of `asker` has turns of its own. A call (`call`) goes to the least loaded where the type has
        no strategy of its own: the default one is for callers, which then stay with their provider.
        """
        default = Selection.LEAST_LOADED if asker == "call" else self._default
        strategy = self._selection.get(service_type, default)
        if strategy is Selection.ROUND_ROBIN:
            balancer = self._turns.get((asker, service_type))
            if balancer is None:
                balancer = self._turns[asker, service_type] = RoundRobin()
            return balancer.choose(good, "", 0.0)
        return self._balancers[strategy].choose(good, "", self._clock())

    def note_new(self, registration: Registration) -> None:
        """Have the share of a provider grow that joins others."""
        registration.load.joined_at = self._clock()

    def forget(self, service_type: str) -> None:
        """Forget whose turn it is."""
        for asker in _ASKERS:
            self._turns.pop((asker, service_type), None)
