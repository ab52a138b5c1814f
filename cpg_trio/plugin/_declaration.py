"""What a plugin's author declares of it. Data, no tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import attrs

from cpg_trio._cell import Cell
from cpg_trio.asgi import App
from cpg_trio.call_record import Calls
from cpg_trio.plugin._dependencies import Dependencies
from cpg_trio.plugin._host_link import HostLink
from cpg_trio.plugin._used_capability import UsedCapability
from cpg_trio.states import HealthState


@attrs.frozen
class Provided:
    """A service that a plugin provides."""

    service_type: str
    version: str
    path: str
    """Where the plugin serves it: `/storage.v1.Storage/`."""
    application: App
    public: bool
    """Whether it also answers calls that do not come through the host."""
    at_once: frozenset[bytes] = frozenset()
    """The paths of methods that do not wait, and are answered without a task."""


@attrs.frozen
class Declaration:
    """A plugin: its name, what it provides, requires and uses, and the health that its author sets."""

    self_id: str
    version: str
    name: str
    provided: dict[str, Provided] = attrs.field(factory=dict)
    dependencies: Dependencies = attrs.field(factory=Dependencies)
    capabilities: list[UsedCapability] = attrs.field(factory=list)
    tasks: dict[str, Callable[[], Awaitable[object]]] = attrs.field(factory=dict)
    """The author's own tasks, by name."""
    link: HostLink = attrs.field(factory=HostLink)
    """The plugin's link to its host, of which its dependencies know."""
    served: Calls = attrs.field(factory=Calls)
    """The calls that the plugin answers. A call is recorded if somebody listens."""
    own_health: Cell[tuple[HealthState, str]] = attrs.field(factory=lambda: Cell((HealthState.HEALTHY, "")))
    """State and reason, without regard to the dependencies."""

    @property
    def missing(self) -> Mapping[str, str]:
        """The required services that have no provider, each with words for it."""
        required = [each for each in self.dependencies.values() if each.required]
        return {
            each.service_type: f"waiting for {each.service_type}" + (f": {why}" if why else "")
            for each in required
            if (why := each.missing) is not None
        }
