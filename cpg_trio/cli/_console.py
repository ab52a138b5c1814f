"""The console of rich, as the commands use it."""

from __future__ import annotations

from rich.console import Console


class CommandConsole(Console):
    """A console that leaves it to the command line what happens when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        """Raise the error. rich would end the process with status 1."""
        raise BrokenPipeError
