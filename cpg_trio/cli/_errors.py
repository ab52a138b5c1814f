"""What ends a command with one line on standard error."""

from __future__ import annotations

USAGE_STATUS = 2
"""The exit status of a command line that is wrong."""


class CommandError(Exception):
    """A command cannot do what it is asked to.

    The message is one line that says what is wrong and what to do.
    """

    status = 1
    """The exit status."""


class UsageError(CommandError):
    """A command line is wrong in a way that its parser does not see."""

    status = USAGE_STATUS
