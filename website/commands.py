"""The options of all commands, as their parsers have them, and all settings in one table."""

from __future__ import annotations

from collections.abc import Iterator

from cyclopts import App
from cyclopts.argument import Argument

from cpg_trio import variables
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


_MANY = 6  # commands that a table lists

OF_OTHERS = {
    "NO_COLOR": "commands: no colours and signs ([no-color.org](https://no-color.org))",
    "PATH": "where commands of a platform file are looked for",
    "PYTHONBREAKPOINT": "`up`: whether `breakpoint()` is to have the terminal, as that of pdb has",
    "PYTHONPATH": "where Python plugins of a platform file are looked for, after the directory of the file",
    "VIRTUAL_ENV": "`new`: whether to say how the environment is activated",
    "XDG_RUNTIME_DIR": "directory of the admin sockets",
}
"""Variables of others that are read as well."""

_READERS = {
    "hosts and plugins": variables.SERVING,
    "hosts": variables.HOST,
    "plugins": variables.PLUGIN,
    "hosts and plugins with traces": variables.TRACING,
    "the example": variables.EXAMPLE,
    "commands": variables.COMMANDS,
}


def settings() -> str:
    """Return every environment variable and every flag as one table, in the order of the alphabet."""
    rows = [_variable_row(name, text) for name, text in _texts().items()]
    rows += [f"| `{name}` | | {meaning} |" for name, meaning in OF_OTHERS.items()]
    app = application()
    flags: dict[tuple[str, str], list[str]] = {}
    for command in COMMANDS:
        for argument in _arguments(app[command.name]):
            if argument.name.startswith("-"):
                flags.setdefault((_label(argument), _meaning(argument)), []).append(command.name)
    rows += [f"| {label} | {_where(commands)} | {meaning} |" for (label, meaning), commands in flags.items()]
    rows.sort(key=lambda row: row.lower().strip("| `-"))
    return "\n".join(["| variable or flag | of | meaning |", "|---|---|---|", *rows])


def _variable_row(name: str, text: str) -> str:
    reader = next(reader for reader, group in _READERS.items() if name in group)
    has_flag = name in SERVING | HOST and name not in SECRETS
    label = f"`{name}`, `{flag_of(name)}`" if has_flag else f"`{name}`"
    return f"| {label} | {reader} | {variables.meaning_of(text)} |"


def _where(commands: list[str]) -> str:
    if len(commands) > _MANY:
        return f"[{len(commands)} commands](options.md)"
    return ", ".join(f"[`{name}`](options.md#{name})" for name in commands)


def _texts() -> dict[str, str]:
    return {name: text for group in _READERS.values() for name, text in group.items()}
