"""What the end of a call says of its provider."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """What the end of a call says of its provider."""

    SUCCESS = "success"
    """It has answered, with an error that is the caller's own or with none."""
    FAILURE = "failure"
    """It has not answered, or with an error that is its own."""
    NOTHING = "nothing"
    """The call was cancelled, or it failed for what is not the provider's fault."""
