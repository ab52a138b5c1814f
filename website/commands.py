"""The options of all commands, as their parsers have them."""

from __future__ import annotations

from collections.abc import Iterator

from cyclopts import App
from cyclopts.argument import Argument

from cpg_trio.cli._app import COMMANDS, Command, application
from cpg_trio.variables import HOST, SECRETS, SERVING, flag_of


def options() -> str:
    """Return a section for each command: how it is written, its arguments and options, and examples."""
    app = application()
    return "\n".join(line for command in COMMANDS for line in _section(command, app[command.name]))


def _section(command: Command, app: App) -> Iterator[str]:
    arguments = list(_arguments(app))
    by_position = [each for each in arguments if not each.name.startswith("-")]
    words = [each.name.upper() if each.required else f"[{each.name.upper()}]" for each in by_position]
    yield f"## {command.name}\n\n{command.help}\n"
    yield f"```console\n$ {' '.join(['cpg-trio', command.name, *words, '[OPTIONS]'])}\n```\n"
    if arguments:
        yield "| argument or option | what it is |\n|---|---|"
        yield from (f"| {_label(each)} | {_meaning(each)} |" for each in arguments)
        yield ""
    if command.name == "host":
        yield from _settings()
    if command.examples:
        examples = "\n".join(f"$ cpg-trio {example}" for example in command.examples)
        yield f"```console\n{examples}\n```\n"


def _arguments(app: App) -> Iterator[Argument]:
    settings = {flag_of(name) for name in SERVING | HOST}
    for each in app.assemble_argument_collection():
        if each.name != "*" and each.name not in settings:
            yield each


def _label(argument: Argument) -> str:
    if not argument.name.startswith("-"):
        return f"`{argument.name.upper()}`"
    value = "" if argument.hint is bool else f" {argument.parameter.metavar or 'VALUE'}"
    # cyclopts lists what would negate an option as well, though no command of ours takes that.
    names = [name for name in argument.names if not name.startswith(("--no-", "--empty-"))]
    return ", ".join(f"`{name}{value}`" for name in names)


def _meaning(argument: Argument) -> str:
    choices = argument.get_choices() or ()
    chosen = f" One of: {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    return f"{argument.parameter.help}{chosen}".replace("|", "\\|")


def _settings() -> Iterator[str]:
    flags = [f"`{flag_of(name)}`" for name in SERVING | HOST if name not in SECRETS]
    yield "Each [setting](variables.md) but the secrets has a flag as well, with the name of its variable:"
    yield f"{', '.join(flags)}.\n"
