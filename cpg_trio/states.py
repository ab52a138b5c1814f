"""The states of a plugin: for each one word, one sign and one colour, wherever it is shown."""

from __future__ import annotations

from enum import Enum


class HealthState(Enum):
    """How well a plugin works. Each value is the word for it in logs, commands and metrics."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """It works with less than it requires, and gets calls."""
    UNHEALTHY = "unhealthy"
    """It cannot work, and gets no calls."""


class State(Enum):
    """How a plugin is, from the best to the worst."""

    HEALTHY = (1, "healthy", "●", "*", "green")
    STARTING = (5, "starting", "…", ".", "blue")
    """It has neither registered nor reported anything yet."""
    WAITING = (8, "waiting", "◔", ",", "bright_blue")
    """The host starts it as soon as others are ready."""
    DRAINING = (6, "draining", "↓", "v", "cyan")
    """It gets no new calls: an operator has said so, or it is leaving."""
    STOPPED = (10, "stopped", "■", "#", "white")
    """The host has run it; it has ended, and is not started again."""
    DEGRADED = (2, "degraded", "◐", "~", "yellow")
    """It works with less than it requires, and gets calls."""
    BACKING_OFF = (9, "backing off", "↻", "@", "bright_yellow")
    """Its last run has ended, and the host starts it again after a wait."""
    UNHEALTHY = (3, "unhealthy", "○", "o", "red")
    """It says that it cannot work, and gets no calls."""
    FAILED = (11, "failed", "▲", "!", "bright_red")
    """The host cannot start it, or it has failed and is not started again."""
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
        self.rank: int = len(type(self).__members__)
        """Its place among all: the higher, the worse."""
        self.slug: str = word.replace(" ", "-")
        """The word where there can be no space."""

    @classmethod
    def of(cls, number: int) -> State:
        """Return the state of a `PluginState`. Raises: KeyError for one that there is not."""
        return _BY_NUMBER[number]


OF_IDENTITIES = (
    State.HEALTHY,
    State.STARTING,
    State.DRAINING,
    State.DEGRADED,
    State.UNHEALTHY,
    State.LAPSED,
)
"""The states of plugins that have an identity. The others are of those that a host runs, or that are gone."""

REPORTED = {
    HealthState.HEALTHY: State.HEALTHY,
    HealthState.DEGRADED: State.DEGRADED,
    HealthState.UNHEALTHY: State.UNHEALTHY,
}
"""The states of plugins that follow from what they report."""

_BY_NUMBER = {state.number: state for state in State}
