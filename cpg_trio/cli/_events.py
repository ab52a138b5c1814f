"""The command `events`: what has happened, one line an event, and what happens now."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cpg_trio.cli._admin import HERE, AdminOptions
from cpg_trio.cli._errors import UsageError
from cpg_trio.cli._names import PluginName
from cpg_trio.cli._output import Output, as_json
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from rich.text import Text

_PREFIX = "EVENT_KIND_"
_WORDS = {number: name.removeprefix(_PREFIX).lower() for name, number in pb.EventKind.items() if number > 0}
KINDS = tuple(_WORDS.values())
_COLOURS = {
    "healthy": "green",
    "returned": "green",
    "ready": "green",
    "ended": "yellow",
    "looping": "red",
    "degraded": "yellow",
    "unhealthy": "red",
    "refused": "red",
    "revoked": "red",
    "lapsed": "magenta",
    "action": "cyan",
}
_WIDEST_KIND = max(map(len, KINDS))


def events(
    plugin: PluginName = "",
    /,
    *,
    follow: Annotated[
        bool, Parameter(name=("--follow", "-f"), help="Go on with new events until Ctrl-C.")
    ] = False,
    kind: Annotated[
        list[str],
        Parameter(
            help=f"Only these; may be given several times: {', '.join(KINDS)}.",
            metavar="KIND",
            show_choices=False,
        ),
    ] = [],  # noqa: B006 - the parser copies it
    json: Annotated[bool, Parameter(help="One JSON document a line, for programs.")] = False,
    options: AdminOptions = HERE,
) -> int:
    """Show the events that the host has kept, the newest last."""
    from cpg_trio.cli._event_stream import show_events  # noqa: PLC0415 - help and completion need none of it

    request = pb.WatchEventsRequest(follow=follow, plugin=plugin, kinds=map(_kind, kind))
    show_events(options, request, _json_line if json else partial(_line, out=Output()))
    return 0


def _json_line(event: pb.Event) -> None:
    print(as_json(event))


def _line(event: pb.Event, out: Output) -> None:
    out.line(event_line(event, out))


def event_line(event: pb.Event, out: Output) -> Text:
    """Return an event as one line."""
    from rich.text import Text  # noqa: PLC0415 - JSON does not need it

    word = _WORDS.get(event.kind, str(event.kind))
    line = Text(f"{out.when(event.at)}  ")
    line.append(word.ljust(_WIDEST_KIND), style=_COLOURS.get(word, ""))
    who = event.name if out.is_terminal else event.runtime_id or event.name
    text = f"  {who}: {event.text}" if who else f"  {event.text}"
    if event.kind == pb.EVENT_KIND_REFUSED and event.address:
        text += f" (from {event.address})"
    if event.count > 1:
        text += f" ({event.count} times)"
    return line.append(text)


def _kind(word: str) -> str:
    if word.lower() not in KINDS:
        raise UsageError(f"there is no kind of event {word!r}: it is one of {', '.join(KINDS)}")
    return f"{_PREFIX}{word.upper()}"
