"""How slowly the body of a request may come in. No I/O.

A message is to come at a minimum rate, whoever sends it. A stream may take its time, but it may be silent for
as long as it likes only once its client has proved an identity: strangers could hold a server with bodies
that never come.
"""

from __future__ import annotations

import attrs


@attrs.define
class BodyRate:
    """The body of one request: how long it has been waited for, and how much of it has come."""

    limit_s: float
    """Seconds that may be waited for it, beside those that `min_bytes_per_s` gives for what has come."""
    min_bytes_per_s: float
    is_message: bool
    """Whether it is one message: its length is declared, or who reads it says so."""
    is_proved: bool = False
    """Whether its client has proved an identity."""
    _waited_s: float = 0.0
    _bytes: int = 0

    @property
    def timed(self) -> bool:
        """Whether silence has a limit."""
        return self.is_message or not self.is_proved

    def came(self, size: int) -> None:
        """Note what has come."""
        self._bytes += size

    def waited(self, seconds: float) -> None:
        """Note for how long it has been waited for."""
        self._waited_s += seconds

    @property
    def too_slow(self) -> bool:
        """Whether it is a message that has been waited for longer than what has come is worth."""
        return self.is_message and self._waited_s > self.limit_s + self._bytes / self.min_bytes_per_s
