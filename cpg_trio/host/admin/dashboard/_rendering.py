"""Templates, and how values are written in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cpg_trio import _human
from cpg_trio._gen.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.states import State

_SHORT_ID = 4  # characters of the random part of a runtime id


class Renderer:
    """Renders pages, and parts of them. `wall_clock` gives seconds since 1970."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._environment = Environment(
            loader=PackageLoader(__name__.rpartition(".")[0]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "clock_time": _clock_time,
            "part": getattr,
            "stamp": lambda since_1970: f"{datetime.fromtimestamp(since_1970, UTC):%H:%M:%S}",
            "duration": _duration,
            "rate": _human.rate,
            "segment": lambda text: quote(text, safe=""),
            "short_id": short_id,
            "size": _human.size,
            "span": lambda message: _human.span(_seconds(message)),
            "state": lambda number: State.of(number) if number else None,
            "since": lambda at: _since(at, wall_clock()),
            "kind": kind_word,
        }
        self._environment.globals |= {"share": _human.share, "states": tuple(State), "now": wall_clock}
        self._environment.globals["ui"] = self._module("ui.html")
        self._rows = self._module("rows.html")

    def _module(self, name: str) -> Any:
        return self._environment.get_template(name).module

    def render(self, template: str, context: Mapping[str, object]) -> Markup:
        """Render a template."""
        return Markup(self._environment.get_template(template).render(context))  # noqa: S704 - it escapes

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


def _seconds(message: Duration) -> float:
    return message.seconds + message.nanos / 1e9


def _duration(message: Duration | float) -> str:
    return _human.duration(_seconds(message) if isinstance(message, Duration) else message)


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
