"""Why a service has no provider that gets calls, and since when. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from cpg_trio._human import span
from cpg_trio.host.admin.plugins import Plugins, Record
from cpg_trio.host.directory import Registry
from cpg_trio.states import State

_LEFT = (State.GONE, State.DRAINING)


@attrs.frozen
class Missing:
    """Nobody provides a service who gets calls."""

    reason: str
    since: float = 0.0
    """In seconds since 1970; 0 if nobody has provided it since the host began."""
    runtime_id: str = ""
    """The plugin that provided it last."""
    plugin: str = ""
    """The name of the plugin that is to provide it, if the host runs it."""


class Dependencies:
    """Says of service types why they are missing. Made for one answer: it remembers what it has found."""

    def __init__(
        self, plugins: Plugins, registry: Registry, now: float, to_come: Mapping[str, Missing]
    ) -> None:
        """Take also, by service type, why it is missing that a plugin of the host is to provide."""
        self._to_come = to_come
        self._plugins = plugins
        self._registry = registry
        self._now = now
        self._found: dict[str, Missing | None] = {}

    def missing(self, service_type: str) -> Missing | None:
        """Return why nobody provides a service who gets calls; None if somebody does."""
        if service_type not in self._found:
            available = self._registry.available(service_type)
            self._found[service_type] = None if available else self._why(service_type)
        return self._found[service_type]

    def lacking(self, record: Record) -> Sequence[str]:
        """Return the services that a plugin waits for.

        A plugin that reports knows best: it may do without some that it has declared. Of others, those that
        are missing.
        """
        if self._registry.last_report(record.runtime_id) is not None:
            return self.reported(record)
        return [t for t in self.required(record) if self.missing(t) is not None]

    def required(self, record: Record) -> Sequence[str]:
        """Return the services that a plugin requires: those that it has declared, or says it lacks."""
        return list(dict.fromkeys([*(record.identity.requires or ()), *self.reported(record)]))

    def reported(self, record: Record) -> Sequence[str]:
        """Return the services that a plugin itself says it lacks."""
        report = self._registry.last_report(record.runtime_id)
        return report.unavailable_dependencies if report is not None else ()

    def _why(self, service_type: str) -> Missing:
        found = (self._plugins.get(r.runtime_id) for r in self._registry.providers(service_type))
        providers = [record for record in found if record is not None]
        if len(providers) == 1:
            return self._of_one(providers[0])
        if providers:
            words = [record.state.word for record in providers]
            counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
            latest = max(providers, key=lambda record: record.state_since)
            reason = f"none of its {len(providers)} providers gets calls: {counts}"
            return Missing(reason, latest.state_since, latest.runtime_id)
        return self._of_nobody(service_type)

    def _of_one(self, record: Record) -> Missing:
        ago, why = span(self._now - record.state_since), f": {record.reason}" if record.reason else ""
        reason = f"its only provider, {record.name}, is {record.state.word} for {ago}{why}"
        return Missing(reason, record.state_since, record.runtime_id)

    def _of_nobody(self, service_type: str) -> Missing:
        if (to_come := self._to_come.get(service_type)) is not None:
            return to_come
        former = self._plugins.former(service_type)
        if former is None:
            return Missing("nobody provides it, and nobody has since the host began")
        record, since, verb = self._plugins.get(former.runtime_id), former.until, "left"
        if record is not None and record.was_lost:
            since, verb = record.lapsed_at, "lapsed"
        elif record is not None and record.state not in _LEFT:
            verb = "stopped providing it"
        ago = span(self._now - since)
        reason = f"nobody provides it; the last one, {former.name}, {verb} {ago} ago"
        return Missing(reason, since, former.runtime_id)
