"""Specs of plugins that are not started."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

import attrs

from cpg_trio.host.supervision import Assignment, PluginSpec, RestartPolicy, Running


@attrs.frozen
class NoLauncher:
    """Starts nothing."""

    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def kind(self) -> str:
        return "none"

    def launch(self, assignment: Assignment, /) -> AbstractAsyncContextManager[Running]:
        raise NotImplementedError


def spec(
    name: str,
    provides: str | None = "",
    requires: str | None = "",
    after: str = "",
    *,
    uses: str = "",
    replicas: int = 1,
    self_id: str = "",
    line: int = 0,
    launcher: NoLauncher | None = None,
    restart: RestartPolicy | None = None,
    stop_s: float = 10.0,
) -> PluginSpec:
    """Return a spec; names are separated by blanks."""
    return PluginSpec(
        name=name,
        launcher=launcher or NoLauncher(),
        self_id=self_id or name,
        provides=None if provides is None else tuple(provides.split()),
        requires=None if requires is None else tuple(requires.split()),
        uses=tuple(uses.split()),
        after=tuple(after.split()),
        replicas=replicas,
        restart=restart or RestartPolicy(),
        stop_s=stop_s,
        source=f"platform.toml:{line}" if line else "",
    )
