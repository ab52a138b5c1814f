"""The routed calls that are in flight, by provider and by caller, so that they end when either is gone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol


class InFlight(Protocol):
    """A call on its way. Compared by identity."""

    def cancel(self) -> None:
        """End it: its provider is gone, or its caller."""

    def note_progress(self) -> None:
        """Bring its record up to date."""


class CallsInFlight:
    """Holds the calls in flight. `elsewhere` returns how many not routed calls a provider is busy with."""

    def __init__(self, elsewhere: Callable[[str], int] = lambda _: 0) -> None:
        self._elsewhere = elsewhere
        self._of_provider: defaultdict[str, set[InFlight]] = defaultdict(set)
        self._of_caller: defaultdict[str, set[InFlight]] = defaultdict(set)

    def begin(self, caller: str, provider: str, call: InFlight) -> None:
        """Hold a call until `end`."""
        self._of_caller[caller].add(call)
        self._of_provider[provider].add(call)

    def end(self, caller: str, provider: str, call: InFlight) -> None:
        """Hold a call no longer."""
        made, given = self._of_caller[caller], self._of_provider[provider]
        made.remove(call)
        given.remove(call)
        if not made:
            del self._of_caller[caller]
        if not given:
            del self._of_provider[provider]

    def of_provider(self, runtime_id: str) -> Sequence[InFlight]:
        """Return the calls to a plugin."""
        return list(self._of_provider.get(runtime_id, ()))

    def note_progress(self) -> None:
        """Bring the records of all calls up to date, for somebody who looks at them."""
        for calls in self._of_provider.values():
            for call in calls:
                call.note_progress()

    def has_called(self, runtime_id: str) -> bool:
        """Whether a plugin has made a call that is in flight."""
        return runtime_id in self._of_caller

    def count(self, provider: str) -> int:
        """Return how many calls a provider is busy with, as far as the host knows."""
        return len(self._of_provider.get(provider, ())) + self._elsewhere(provider)

    def cancel_of_provider(self, runtime_id: str) -> None:
        """Cancel the calls to a plugin."""
        for call in self.of_provider(runtime_id):
            call.cancel()

    def cancel_of_caller(self, runtime_id: str) -> None:
        """Cancel the calls that a plugin has made."""
        for call in list(self._of_caller.get(runtime_id, ())):
            call.cancel()
