"""The states of a plugin: for each one word, one sign and one colour, wherever it is shown."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """How a plugin is, from the best to the worst."""

    HEALTHY = (1, "healthy", "●", "*", "green")
    STARTING = (5, "starting", "…", ".", "blue")
    """It has an identity, and has neither registered nor reported anything yet."""
    DRAINING = (6, "draining", "↓", "v", "cyan")
    """It gets no new calls: an operator has said so, or it is leaving."""
    DEGRADED = (2, "degraded", "◐", "~", "yellow")
    """It works with less than it requires, and gets calls."""
    UNHEALTHY = (3, "unhealthy", "○", "o", "red")
    """It says that it cannot work, and gets no calls."""
    LAPSED = (4, "lapsed", "◌", "?", "magenta")
    """It has been silent for longer than its lease, and gets no calls."""
    GONE = (7, "gone", "✕", "x", "grey")
    """It has left, or its identity has ended."""

    def __init__(self, number: int, word: str, sign: str, ascii_sign: str, colour: str) -> None:
        self.number = number
        """That of `PluginState` in the admin service."""
        self.word = word
        self.sign = sign
        self.ascii_sign = ascii_sign
        """For terminals that have no such letter."""
        self.colour = colour
        """A name of a colour, never shown without the word or the sign."""

    @classmethod
    def of(cls, number: int) -> State:
        """Return the state of a `PluginState`. Raises: KeyError for one that there is not."""
        return _BY_NUMBER[number]


_BY_NUMBER = {state.number: state for state in State}
