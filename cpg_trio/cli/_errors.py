"""What ends a command with one line on standard error."""

from __future__ import annotations


class CommandError(Exception):
    """A command cannot do what it is asked to.

    The message is one line that says what is wrong and what to do. The exit status is 1, or 2 for a usage
    error, which a parser alone could not find.
    """

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
