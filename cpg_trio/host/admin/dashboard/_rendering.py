"""Templates, and how values are written in them.

The first page loads them, and what compiles them: a host starts without, as many a host is never looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from markupsafe import Markup

from cpg_trio import _human, wire
from cpg_trio.host.supervision import Phase
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.states import State

if TYPE_CHECKING:
    from jinja2 import Environment

_PHASES = {getattr(pb, f"REPLICA_PHASE_{phase.name}"): phase for phase in Phase}
_SHORT_ID = 4  # characters of the random part of a runtime id


@lru_cache(maxsize=2)
def _environment(wall_clock: Callable[[], float]) -> Environment:
    """Return the templates, which are compiled once in a process."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - a host needs none to start

    environment = Environment(
        loader=PackageLoader(__name__.rpartition(".")[0]),
        autoescape=True,
        auto_reload=False,  # no page waits for the disk to say that templates are as they were
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clock_time": _clock_time,
        "duration": _duration,
        "kind": kind_word,
        "part": getattr,
        "rate": _human.rate,
        "segment": lambda text: quote(text, safe=""),
        "short_id": short_id,
        "since": lambda at: _since(at, wall_clock()),
        "size": _human.size,
        "span": lambda message: _human.span(_human.seconds_of(message)),
        "stamp": lambda since_1970: f"{datetime.fromtimestamp(since_1970, UTC):%H:%M:%S}",
        "phase": _PHASES.__getitem__,
        "state": lambda number: State.of(number) if number else None,
    }
    environment.globals |= {
        "host_caller": wire.HOST_NAME,
        "ready": pb.REPLICA_PHASE_READY,
        "share": _human.share,
        "states": tuple(State),
        "now": wall_clock,
    }
    environment.globals["ui"] = environment.get_template("ui.html").module
    return environment


class Renderer:
    """Renders pages, and parts of them. `wall_clock` gives seconds since 1970."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock

    @cached_property
    def _templates(self) -> Environment:
        return _environment(self._wall_clock)

    @cached_property
    def _rows(self) -> Any:
        return self._templates.get_template("rows.html").module

    def render(self, template: str, context: Mapping[str, object]) -> Markup:
        """Render a template."""
        return Markup(self._templates.get_template(template).render(context))  # noqa: S704 - it escapes

    def row(self, kind: str, item: object, key: str) -> Markup:
        """Render a row of a table or a list. `key` names it there."""
        return Markup(getattr(self._rows, kind)(item, key))  # noqa: S704 - it escapes


def short_id(runtime_id: str) -> str:
    """Return a runtime id with only the beginning of its random part: `storage-plugin-8a1b`."""
    name, dash, rest = runtime_id.rpartition("-")
    return f"{name}{dash}{rest[:_SHORT_ID]}"


def kind_word(kind: pb.EventKind) -> str:
    """Return the word for a kind of event: `lapsed`."""
    return pb.EventKind.Name(kind).removeprefix("EVENT_KIND_").lower()


def _duration(message: Duration | float) -> str:
    return _human.duration(_human.seconds_of(message) if isinstance(message, Duration) else message)


def _utc(at: Timestamp) -> datetime:
    return datetime.fromtimestamp(at.seconds, UTC)


def _since(at: Timestamp, now: float) -> Markup:
    """Return how long something has lasted. The page goes on counting."""
    moment = _utc(at)
    return Markup('<time datetime="{}" title="{}" data-since>{}</time>').format(
        f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        f"since {moment:%Y-%m-%d %H:%M:%S} UTC",
        _human.span(now - at.seconds),
    )


def _clock_time(at: Timestamp) -> Markup:
    """Return a time of the day in UTC, with the date for those who ask."""
    moment = _utc(at)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        f"{moment:%Y-%m-%dT%H:%M:%SZ}", f"{moment:%Y-%m-%d %H:%M:%S} UTC", f"{moment:%H:%M:%S}"
    )
