"""What the directory knows of a plugin: its registrations, and its health. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

import attrs

from cpg_trio import wire
from cpg_trio._health_states import health_state
from cpg_trio.calls.load import Load
from cpg_trio.errors import CpgTrioError
from cpg_trio.http import Origin
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.states import HealthState

_MAX_REASON_BYTES = 4096
_MAX_DEPENDENCIES = 100
_HEALTHY, _DEGRADED, _ = HealthState  # compared: a look-up in a dictionary hashes a member, in Python
_AVAILABLE = pb.SERVICE_STATE_AVAILABLE


class NoProviderError(CpgTrioError, LookupError):
    """No provider can be offered for a service type. The message, which the protocol fixes, says why."""


class UnknownRegistrationError(CpgTrioError, LookupError):
    """There is no such registration, or it is not the caller's."""


@attrs.frozen(eq=False)
class Registration:
    """One service of one plugin. Compared by identity."""

    id: str
    runtime_id: str
    service_type: str
    version: str
    endpoint_path: str
    metadata: Mapping[str, str]
    sequence: int
    """Grows with each registration; with the id, the order of the providers of a type."""
    addresses: tuple[str, ...] = ("",)
    """Where the host connects for `base_url`, tried in order: `unix:` and the path of a socket; last an IP
    address, or an empty string for where the URL leads. What was checked is used: a name may lead elsewhere
    by now."""
    load: Load = attrs.field(factory=Load, init=False, repr=False)
    """What routed calls have shown of it, where a choice goes by that. No part of what is stored."""

    def is_same_as(self, other: Registration) -> bool:
        """Whether all that is kept of it is the same."""
        return all(getattr(self, name) == getattr(other, name) for name in _KEPT)

    def is_older_than(self, other: Registration) -> bool:
        """Whether it was made before another one. Two hosts may give the same sequence."""
        return (self.sequence, self.id) < (other.sequence, other.id)

    @property
    def base_url(self) -> str:
        """The plugin's own URL, empty if it gave none."""
        return self.metadata.get(wire.BASE_URL_KEY, "")

    @property
    def address(self) -> str:
        """The address that is reached by TCP; empty for where the URL leads."""
        return self.addresses[-1]

    @property
    def control_url(self) -> str:
        """Where the host calls the plugin itself: a URL of its own, if it gave one."""
        return self.metadata.get(wire.CONTROL_URL_KEY, "") or self.base_url

    @property
    def control_addresses(self) -> tuple[str, ...]:
        """Where the host connects to for that. The plugin's socket, and the same name, were checked."""
        if same_host(self.control_url, self.base_url):
            return self.addresses
        return (*self.addresses[:-1], "")

    @property
    def endpoint_url(self) -> str:
        """Where callers reach it, relative to the host's URL."""
        return f"/services/{self.service_type}/{self.runtime_id}"

    @property
    def place(self) -> tuple[str, str, str] | None:
        """Where calls to it go; None if it does not say. Two processes cannot listen at one place."""
        if not self.base_url:
            return None
        return self.base_url.rstrip("/"), self.address, self.metadata.get(wire.SOCKET_KEY, "")


def same_host(url: str, other: str) -> bool:
    """Whether two URLs name the same host; what is no URL names none."""
    try:
        return Origin.parse(url)[0].host == Origin.parse(other)[0].host
    except ValueError:
        return False


_KEPT = [field.name for field in attrs.fields(Registration) if field.init]


@attrs.frozen
class Health:
    """What a plugin last reported of itself. One that has reported nothing counts as healthy."""

    state: HealthState | None = None
    """None for one that has reported nothing."""
    reason: str = ""
    unavailable_dependencies: tuple[str, ...] = ()

    @property
    def callable(self) -> bool:
        """Whether the plugin gets calls."""
        return self.state is not HealthState.UNHEALTHY

    @property
    def service_state(self) -> pb.ServiceState:
        """The state of a service of which this plugin is the provider."""
        if self.state is None or self.state is _HEALTHY:
            return _AVAILABLE
        return pb.SERVICE_STATE_DEGRADED if self.state is _DEGRADED else pb.SERVICE_STATE_UNAVAILABLE


def health_of(message: pb.ReportHealthRequest | pb.GetHealthResponse) -> Health:
    """Return the health in a message. Raises: wire.InvalidError for a state that there is not, or a limit."""
    state = health_state(message.state)
    if len(message.reason.encode()) > _MAX_REASON_BYTES:
        raise wire.InvalidError(f"reason too long (max: {_MAX_REASON_BYTES} bytes)")
    if len(message.unavailable_dependencies) > _MAX_DEPENDENCIES:
        raise wire.InvalidError(f"too many unavailable dependencies (max: {_MAX_DEPENDENCIES})")
    for dependency in message.unavailable_dependencies:
        wire.validate_service_type(dependency)
    return Health(state, message.reason, tuple(message.unavailable_dependencies))


@attrs.frozen
class ServiceStatus:
    """What a watcher of a service type is told: its state, and the provider to call, if there is one."""

    state: pb.ServiceState
    provider: Registration | None = None
    reason: str = attrs.field(default="", eq=False)
    """Why there is none, for who requires a version range."""


class ChangeKind(Enum):
    """What has changed of a provider."""

    REGISTERED = auto()
    """It is registered, anew or in place of what the plugin had registered before."""
    UNREGISTERED = auto()
    HEALTH = auto()
    """The state of its service is another, or whether it gets calls."""
    REPORT = auto()
    """Its last report is another, and the state of its service is the same."""


@attrs.frozen
class Change:
    """A change of one provider of one service type."""

    kind: ChangeKind
    registration: Registration
    """The one that has come, gone, or another health."""

    @property
    def of_registration(self) -> bool:
        """Whether a registration has come or gone."""
        return self.kind is ChangeKind.REGISTERED or self.kind is ChangeKind.UNREGISTERED
