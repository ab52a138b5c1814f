"""How `--help` looks: two aligned columns under a title, without boxes and colours."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a third of the time in which a command starts
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

_WIDEST_LABEL = 26  # a wider one has a line of its own
_GAP = "  "


class HelpFormatter:
    """Prints the parts of a help text as cyclopts has them."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print one group of commands or of parameters."""
        rows = [(_label(entry), _meaning(entry, console)) for entry in panel.entries]
        if not rows:
            return
        indent = max(len(label) for label, _ in rows if len(label) <= _WIDEST_LABEL) + 2 * len(_GAP)
        _print(console, f"{panel.title}:")
        for label, meaning in rows:
            lines = wrap(meaning, max(options.max_width - indent, 30)) or [""]
            if len(label) > _WIDEST_LABEL:
                lines.insert(0, "")
            _print(console, f"{_GAP}{label}".ljust(indent) + lines[0])
            for line in lines[1:]:
                _print(console, " " * indent + line)
        _print(console, "")

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print the line that says in which order the words of a command line come."""
        del options
        if usage:
            _print(console, f"usage: {_plain(console, usage).removeprefix('Usage: ')}")
            _print(console, "")


def _label(entry: HelpEntry) -> str:
    names = ", ".join(entry.display_labels)
    return f"{names} {entry.metavar}" if entry.metavar and names.startswith("-") else names


def _meaning(entry: HelpEntry, console: Console) -> str:
    text = "" if entry.description is None else _plain(console, entry.description)
    return f"{text} [{', '.join(entry.choices)}]" if entry.choices else text


def _plain(console: Console, text: Any) -> str:
    return " ".join("".join(segment.text for segment in console.render(text)).split())


def _print(console: Console, line: str) -> None:
    console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
