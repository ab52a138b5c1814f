"""The table of commands, and what holds for all of them: help, usage errors, interruptions.

A command is a function of a module of its own. Its signature says its arguments, as cyclopts reads it
(https://cyclopts.readthedocs.io), and it returns the exit status, or raises `CommandError`. To add one:

    1. `cli/_greet.py`:
       def greet(name: Annotated[str, Parameter(help="Whom.")], /, *, loud: Annotated[bool, Parameter(help="Shout.")] = False) -> int:
           print(f"Hello, {name}!")
           return 0
    2. a line of `COMMANDS` below: Command("greet", "_greet:greet", "Greet somebody.", SEE, ("greet Ada --loud",))

At its top a module imports only what its signature and its output need: `--help` and the completion of shells
import it as well. trio, the client and other slow modules are imported where they are used.
"""  # noqa: E501 - a signature to copy

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
from cyclopts import App, CycloptsError, Group, Parameter, UnusedCliTokensError

from cpg_trio._lines import one_line
from cpg_trio._terminal import tolerant
from cpg_trio._version import __version__
from cpg_trio.cli._errors import USAGE_STATUS, CommandError
from cpg_trio.cli._help import HelpFormatter

_MOST_OF_ERROR = 4096  # characters; a host or a plugin may have said some of them
_INTERRUPTED, _BROKEN_PIPE = 128 + 2, 128 + 13  # as of a process that SIGINT or SIGPIPE has ended

RUN = Group("Run", sort_key=1)
SEE = Group("See", sort_key=2)
STEER = Group("Steer", sort_key=3)
OTHER = Group("More", sort_key=4)


@attrs.frozen
class Command:
    """One command: its name, its function, one line of help, its group, and examples of command lines."""

    name: str
    target: str
    """`module:function`, below `cpg_trio.cli`. It may be a cyclopts `App` as well, named as the command."""
    help: str
    group: Group
    examples: Sequence[str] = ()


COMMANDS: Sequence[Command] = (
    Command("host", "_host:app", "Run a host on PORT (default: 8080).", RUN),
    Command(
        "up",
        "_up:up",
        "Run a host and the plugins of a platform file.",
        RUN,
        ("up", "up shop/platform.toml --check", "up --reload", "up --schema > platform.schema.json"),
    ),
    Command(
        "run",
        "_run:run",
        "Run one Python plugin, for a host at HOST_URL.",
        RUN,
        ("run greeter.plugin:make_plugin",),
    ),
    Command(
        "check",
        "_check:check_process",
        "Check the health of the host or plugin on PORT of this machine: status 0, or 1 and a line why.",
        RUN,
        ("check", "check --live"),
    ),
    Command(
        "status",
        "_status:status",
        "Whether all is well, and if not, what is wrong: status 0, or 3.",
        SEE,
        ("status", "status --json | jq .problems", "status --admin /run/host.sock"),
    ),
    Command(
        "dashboard",
        "_dashboard:dashboard",
        "Open the dashboard of a host in a browser, until Ctrl-C.",
        SEE,
        ("dashboard", "dashboard --no-open --port 9000", "dashboard --admin https://host.example:9090"),
    ),
    Command(
        "call",
        "_call:call",
        "Call any method of any plugin, as an identity of its own.",
        STEER,
        ("call greeter", """call greeter Greet '{"name": "Ada"}'""", "call greeter Greet @request.json -v"),
    ),
    Command(
        "plugins",
        "_plugins:plugins",
        "All plugins, or the whole story of one.",
        SEE,
        ("plugins", "plugins storage", "plugins --state degraded --state lapsed", "plugins --json | jq"),
    ),
    Command(
        "services",
        "_services:services",
        "Who provides each service, and who requires it.",
        SEE,
        ("services", "services storage"),
    ),
    Command("graph", "_graph:graph", "Who requires and who calls whom.", SEE, ("graph", "graph --json")),
    Command(
        "calls",
        "_calls:calls",
        "The calls of the last minute: who calls what, what fails, what is slow.",
        SEE,
        ("calls", "calls storage", "calls --failed", "calls --slow", "calls --in-flight"),
    ),
    Command(
        "events",
        "_events:events",
        "What has happened, the newest last.",
        SEE,
        ("events --follow", "events storage", "events --kind refused", "events --follow --json"),
    ),
    Command("top", "_top:top", "Status and plugins, refreshed in place.", SEE, ("top", "top --every 5")),
    Command(
        "capabilities",
        "_capabilities:capabilities",
        "What the host offers to plugins, and the grants of it.",
        SEE,
        ("capabilities",),
    ),
    Command(
        "config",
        "_config:config",
        "The configuration that is in effect, and where each value comes from.",
        SEE,
        ("config", "config --changed"),
    ),
    Command(
        "logs",
        "_logs:logs",
        "What a plugin that the host runs has written.",
        SEE,
        ("logs storage", "logs storage --follow", "logs storage --lines 1000 --replica 2"),
    ),
    Command(
        "impact",
        "_impact:impact",
        "What would be lost without a plugin.",
        SEE,
        ("impact logger",),
    ),
    Command(
        "apply",
        "_apply:apply",
        "Have the host run what its platform file says now.",
        STEER,
        ("apply --plan", "apply", 'apply --yes --reason "new storage"'),
    ),
    Command("add", "_add:add", "Start a plugin of the platform file.", STEER, ("add thumbs",)),
    Command(
        "remove",
        "_remove:remove",
        "Stop a plugin that the host runs, for good.",
        STEER,
        ("remove thumbs", "remove logger --force --yes"),
    ),
    Command(
        "replace",
        "_replace:replace",
        "Put another run in the place of a plugin, without a call that fails.",
        STEER,
        ("replace storage", 'replace storage --yes --reason "new version"'),
    ),
    Command(
        "restart",
        "_restart:restart",
        "Stop a plugin that the host runs, and start it again.",
        STEER,
        ("restart storage",),
    ),
    Command(
        "scale",
        "_scale:scale",
        "Change how many replicas of a plugin run.",
        STEER,
        ("scale storage 3", "scale storage 1 --yes"),
    ),
    Command(
        "drain",
        "_drain:drain",
        "Give a plugin no new calls; those in flight finish.",
        STEER,
        ("drain storage", "drain storage --undo", 'drain storage-plugin-8a1b --yes --reason "new disk"'),
    ),
    Command(
        "shutdown",
        "_shutdown:shutdown",
        "Ask a plugin to stop.",
        STEER,
        ("shutdown storage", "shutdown storage --grace 5s --yes"),
    ),
    Command(
        "revoke",
        "_revoke:revoke",
        "End the identity of a plugin, or a grant, at once.",
        STEER,
        ("revoke storage --reason stolen", "revoke --grant 4f0c2a --yes"),
    ),
    Command(
        "log-level",
        "_log_level:log_level",
        "Change what the host logs, for a while.",
        STEER,
        ("log-level debug", "log-level debug cpg_trio.router --for 5m", "log-level reset"),
    ),
    Command(
        "reload",
        "_reload:reload",
        "Have the host read its policy, tokens, keys and certificates now.",
        STEER,
        ("reload",),
    ),
    Command(
        "new",
        "_new:new",
        "Write the project of a plugin, with its tests.",
        OTHER,
        ("new greeter", "new my-greeter --from cpg_trio-0.2.0-py3-none-any.whl --folder plugins/greeter"),
    ),
    Command(
        "generate",
        "_generate:generate",
        "Write the Python code for the protos of a project.",
        OTHER,
        ("generate", "generate plugins/greeter/pyproject.toml --check"),
    ),
    Command(
        "completion",
        "_completion:completion",
        "Print a script that has a shell complete command lines.",
        OTHER,
        ("completion bash > ~/.local/share/bash-completion/completions/cpg-trio", "completion fish | source"),
    ),
)


def run(words: Sequence[str]) -> int:
    """Run a command line; return the exit status.

    0, 1 for an error, 2 for a usage error, 130 after Ctrl-C, or what the command says of itself.
    """
    tolerant(sys.stdout)
    tolerant(sys.stderr)
    try:
        status = _run(words)
        sys.stdout.flush()
    except BaseExceptionGroup as group:  # of the nurseries that the error has left
        return _ended(_only_leaf(group))
    except (CommandError, CycloptsError, KeyboardInterrupt, BrokenPipeError) as error:
        return _ended(error)
    return status


def _run(words: Sequence[str]) -> int:
    done: Any = application()(
        list(words), exit_on_error=False, print_error=False, result_action="return_value"
    )
    return done if isinstance(done, int) else 0  # help and version return nothing


def application() -> App:
    """Return the parser, with all commands."""
    app = App(
        name="cpg-trio",
        help="A plugin platform on Trio: run a host, see what it does, and steer it.",
        version=f"cpg-trio {__version__}",
        help_format="plaintext",
        help_formatter=HelpFormatter(),
        default_parameter=Parameter(negative=(), show_default=False),
        group_commands=OTHER,
        group_parameters=Group("Options", sort_key=1),
    )
    for command in COMMANDS:
        options = {"help_epilogue": _examples(command)} if command.examples else {}
        app.command(
            f"{__package__}.{command.target}",
            name=command.name,
            help=command.help,
            group=command.group,
            **options,
        )
    return app


def _examples(command: Command) -> str:
    return "\n".join(["Examples:", *(f"  cpg-trio {example}" for example in command.examples)])


def _ended(error: BaseException) -> int:
    """Say why a command line has ended; return the exit status. Raises what is a fault of this program."""
    match error:
        case KeyboardInterrupt():
            return _INTERRUPTED
        case BrokenPipeError():
            # The interpreter flushes stdout once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _BROKEN_PIPE
        case CommandError():
            print(f"cpg-trio: {one_line(str(error), _MOST_OF_ERROR)}", file=sys.stderr)
            return error.status
        case CycloptsError():
            print(_usage(error), file=sys.stderr)
            return USAGE_STATUS
    raise error


def _usage(error: CycloptsError) -> str:
    """Return a usage error as one line, which ends with where to read more."""
    command = " ".join(["cpg-trio", *(error.command_chain or ())])
    if isinstance(error, UnusedCliTokensError):
        words = " ".join(error.unused_tokens or ())
        text = f"there is no place for {words!r}"
    else:
        text = " ".join(str(error).split()).removesuffix(".")
    return f"{command}: {text} (see {command} --help)"


def _only_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the exception of a group if it has one, or only equal ones in kind; otherwise the group."""
    leaves = list(_leaves(group))
    return leaves[0] if len({type(leaf) for leaf in leaves}) == 1 else group


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
