"""What is known of a plugin before it is started."""

from __future__ import annotations

from enum import Enum

import attrs
from attrs.validators import ge, gt

from cpg_trio import wire
from cpg_trio.host.supervision.launcher import Launcher


class Restart(Enum):
    """When a plugin that has ended by itself is started again."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


class Ready(Enum):
    """What a plugin has to be before those are started that wait for it."""

    HEALTHY = "healthy"
    """Registered, if it provides something, and HEALTHY by its own report."""
    RUNNING = "running"
    """Started: for programs that are no plugins, and never register."""


class Enrol(Enum):
    """How the host knows a run that it has started, when it comes for its identity."""

    TOKEN = "token"  # noqa: S105 - a word of the platform file
    """By the token of this run. Nobody else gets an identity of this name."""
    NAME = "name"
    """By its name: for plugins of other SDKs, which show no token."""


@attrs.frozen(kw_only=True)
class RestartPolicy:
    """When a plugin is started again, and how long the host waits before that.

    The wait doubles with each run that ends before it has been ready for `reset_s` seconds, up to `most_s`,
    and half of it is random.
    """

    when: Restart = Restart.ALWAYS
    first_s: float = attrs.field(default=0.5, validator=gt(0))
    most_s: float = attrs.field(default=60.0, validator=gt(0))
    reset_s: float = attrs.field(default=60.0, validator=gt(0))
    loop_after: int = attrs.field(default=5, validator=ge(1))
    """After so many of them in a row it is a crash loop, which is said, and does not stop the others."""


def _check_name(_: object, __: object, name: str) -> None:
    wire.validate_self_id(name)


def _default_self_id(spec: PluginSpec) -> str:
    return spec.name


@attrs.frozen(kw_only=True)
class PluginSpec:
    """A plugin that a host starts. Two that are equal are the same: nothing has to be done between them."""

    name: str = attrs.field(validator=_check_name)
    """Its name on the platform, one of its own."""
    launcher: Launcher
    self_id: str = attrs.field(
        default=attrs.Factory(_default_self_id, takes_self=True), validator=_check_name
    )
    """The name that the plugin tells the host. By default the same."""
    provides: tuple[str, ...] | None = None
    """The types of its services. None: not known before it has come."""
    requires: tuple[str, ...] | None = None
    """The types of the services without which it is not HEALTHY. None: not known before it has come."""
    uses: tuple[str, ...] = ()
    """Types of services that it does without, if it has to."""
    after: tuple[str, ...] = ()
    """Names of plugins that have to be ready before it is started."""
    replicas: int = attrs.field(default=1, validator=ge(0))
    restart: RestartPolicy = attrs.field(factory=RestartPolicy)
    ready: Ready = Ready.HEALTHY
    enrol: Enrol = Enrol.TOKEN
    start_s: float = attrs.field(default=30.0, validator=gt(0))
    """Seconds from its start until it must be ready; then the run is ended, and counts as failed."""
    stop_s: float = attrs.field(default=10.0, validator=ge(0))
    """Seconds that its calls in flight have to finish, then that it has to end after SIGTERM."""
    source: str = attrs.field(default="", eq=False)
    """Where it is written, as in `platform.toml:12`."""
