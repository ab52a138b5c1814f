"""When a run is ready: it has registered all that it says it provides, and reports that it is HEALTHY.

No I/O.
"""

from __future__ import annotations

import attrs

from cpg_trio._lines import one_line
from cpg_trio.host.access import Identity
from cpg_trio.host.directory import Registry
from cpg_trio.host.supervision.spec import Enrol, PluginSpec, Ready
from cpg_trio.states import HealthState


@attrs.frozen
class NotReady:
    """Why a run is not ready."""

    why: str
    waits: bool = False
    """Whether it only waits for services of others, which does not count against it."""


def why_not_ready(
    spec: PluginSpec, identity: Identity | None, registry: Registry, *, has_answered: bool
) -> NotReady | None:
    """Return what a run has to do before it is ready, None if it is.

    `has_answered` tells whether it has answered the host: one of another SDK may register before it listens.
    """
    if spec.ready is Ready.RUNNING:
        return None
    if identity is None:
        return NotReady("it has not come for its identity")
    runtime_id = identity.runtime_id
    if registry.has_lapsed(runtime_id):
        return NotReady(f"lapsed: {registry.why_lapsed(runtime_id)}")
    registered = {each.service_type for each in registry.registrations(runtime_id)}
    if missing := _missing(spec, identity, registered):
        return NotReady(f"it has not registered {missing}")
    if registered and spec.enrol is Enrol.NAME and not has_answered:
        return NotReady("it does not answer where it has registered")
    return _why_not_healthy(identity, registry, may_be_silent=bool(registered))


def _missing(spec: PluginSpec, identity: Identity, registered: set[str]) -> str:
    provides = identity.provides if spec.provides is None else spec.provides
    if provides is None:
        return "" if registered else "anything"
    return ", ".join(sorted(set(provides) - registered))


def _why_not_healthy(identity: Identity, registry: Registry, *, may_be_silent: bool) -> NotReady | None:
    report = registry.last_report(identity.runtime_id)
    if report is None or report.state is None:
        # One that knows only the wire protocol may report nothing.
        is_silent = may_be_silent and not identity.answers
        return None if is_silent else NotReady("it has not reported its health")
    if report.state is HealthState.HEALTHY:
        return None
    if report.unavailable_dependencies:
        return NotReady(f"waits for {', '.join(report.unavailable_dependencies)}", waits=True)
    word = report.state.value
    return NotReady(f"{word}: {one_line(report.reason)}" if report.reason else word)
