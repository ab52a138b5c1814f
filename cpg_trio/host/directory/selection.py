"""Which of the callable providers of a service a caller gets."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from operator import attrgetter

from cpg_trio.host.directory.registration import Registration

_DRAWS = 20  # of a weighted choice, before all providers are weighed
_by_sequence = attrgetter("sequence")


class Selection(Enum):
    """The strategy for a service type."""

    FIRST = "first"
    """The one that registered first."""
    ROUND_ROBIN = "round-robin"
    """Each in turn, in the order of registration."""
    RANDOM = "random"
    """Any, with equal chances."""
    WEIGHTED = "weighted"
    """Any, with chances that fall with the number of calls it is busy with."""


class Selector:
    """Chooses by a strategy for each service type.

    `selection` is the strategy by type; others get `default`. `calls_in_flight` returns by a runtime id how
    many calls a provider is busy with. `rng` decides where chance does.
    """

    def __init__(
        self,
        selection: Mapping[str, Selection],
        default: Selection,
        calls_in_flight: Callable[[str], int],
        rng: random.Random,
    ) -> None:
        self._selection = dict(selection)
        self._default = default
        self._calls_in_flight = calls_in_flight
        self._rng = rng
        self._last_turn: dict[tuple[str, str], int] = {}  # sequence number, by asker and service type

    def strategy(self, service_type: str) -> Selection:
        """Return the strategy for a service type."""
        return self._selection.get(service_type, self._default)

    def choose(self, asker: str, service_type: str, good: Sequence[Registration]) -> Registration:
        """Choose one of some providers, which are in the order of registration.

        Each kind of `asker` has turns of its own.
        """
        match self.strategy(service_type):
            case Selection.FIRST:
                return good[0]
            case Selection.ROUND_ROBIN:
                return self._next_turn((asker, service_type), good)
            case Selection.RANDOM:
                return self._rng.choice(good)
            case Selection.WEIGHTED:
                return self._weighted(good)

    def forget(self, service_type: str) -> None:
        """Forget whose turn it is."""
        for asker in ("discover", "watch"):
            self._last_turn.pop((asker, service_type), None)

    def _next_turn(self, turn: tuple[str, str], good: Sequence[Registration]) -> Registration:
        # By sequence number and not by index: providers come and go, and none is skipped.
        after = bisect_right(good, self._last_turn.get(turn, 0), key=_by_sequence)
        chosen = good[after] if after < len(good) else good[0]
        self._last_turn[turn] = chosen.sequence
        return chosen

    def _weighted(self, good: Sequence[Registration]) -> Registration:
        """Choose with a chance of 1 / (1 + calls in flight).

        Draw one, and accept it with its chance: that gives the same choice as to weigh all of them, and does
        not grow with their number. Where all are so busy that hardly one is accepted, weigh all.
        """
        for _ in range(_DRAWS):
            drawn = self._rng.choice(good)
            if self._rng.random() * (1 + self._calls_in_flight(drawn.runtime_id)) < 1:
                return drawn
        weights = [1 / (1 + self._calls_in_flight(r.runtime_id)) for r in good]
        return self._rng.choices(good, weights)[0]
