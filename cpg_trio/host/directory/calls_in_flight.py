"""The routed calls that are in flight, by provider and by caller, so that they end when either is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import trio


class InFlight(Protocol):
    """A call on its way. Compared by identity."""

    def cancel(self) -> None:
        """End it: its provider is gone, or its caller."""


class CallsInFlight:
    """Holds the calls in flight. `elsewhere` returns how many not routed calls a provider is busy with."""

    def __init__(self, elsewhere: Callable[[str], int] = lambda _: 0) -> None:
        self._elsewhere = elsewhere
        self._of_provider: dict[str, set[InFlight]] = {}
        self._of_caller: dict[str, set[InFlight]] = {}

    def begin(self, caller: str, provider: str, call: InFlight) -> None:
        """Hold a call until `end`."""
        _hold(self._of_caller, caller, call)
        _hold(self._of_provider, provider, call)

    def end(self, caller: str, provider: str, call: InFlight) -> None:
        """Hold a call no longer."""
        _release(self._of_caller, caller, call)
        _release(self._of_provider, provider, call)

    @contextmanager
    def call(self, caller: str, provider: str) -> Iterator[trio.CancelScope]:
        """Hold a call for as long as the block lasts. The block is cancelled when either side is gone."""
        with trio.CancelScope() as scope:
            self.begin(caller, provider, scope)
            try:
                yield scope
            finally:
                self.end(caller, provider, scope)

    def of_provider(self, runtime_id: str) -> Sequence[InFlight]:
        """Return the calls to a plugin."""
        return list(self._of_provider.get(runtime_id, ()))

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


def _hold(held: dict[str, set[InFlight]], runtime_id: str, call: InFlight) -> None:
    calls = held.get(runtime_id)
    if calls is None:
        calls = held[runtime_id] = set()
    calls.add(call)


def _release(held: dict[str, set[InFlight]], runtime_id: str, call: InFlight) -> None:
    calls = held[runtime_id]
    calls.remove(call)
    if not calls:
        del held[runtime_id]
