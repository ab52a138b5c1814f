"""What a host does as a caller: its own clients of the services that plugins provide.

    registry ──▶ watch hub ──▶ HostDependency ──▶ balanced client ──▶ ToPlugin ──▶ router ──▶ plugin

A program that embeds a host calls services as a plugin calls its dependencies, and by the same parts.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

import attrs
import trio

from cpg_trio import wire
from cpg_trio._listeners import Listeners
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.calls import CallPolicy
from cpg_trio.calls.called_service import CalledService
from cpg_trio.calls.dependency import AnyDependency
from cpg_trio.calls.reason_log import Lack, ReasonLog
from cpg_trio.errors import CpgTrioError
from cpg_trio.host.directory import ProviderView, WatchHub
from cpg_trio.rpc import CallError, ClientConfig, Code, Fault, HttpClient, Interceptor, ServiceClient
from cpg_trio.states import HealthState
from cpg_trio.versions import Requirement

_C = TypeVar("_C", bound=ServiceClient)
_log = logging.getLogger("cpg_trio.host")

_OWNER = "the host"
_MOST_PROVIDERS = 20  # that it chooses from, as many as a plugin


class HostStoppedError(CpgTrioError):
    """The host has stopped, or is stopping and knows no provider that a call could go to.

    Raised by `HostDependency.wait_available`. It is no ConnectError: a loop that goes on after those ends by
    it.
    """


@attrs.frozen
class PluginProvider:
    """A provider of a service, as the host's own directory has it."""

    runtime_id: str
    version: str
    health: HealthState
    """What it reports of itself."""
    endpoint_url: str
    """The path of the service on the host."""


SendTo = Callable[[PluginProvider], HttpClient]


class HostLife:
    """Whether a host makes calls. No tasks, no I/O."""

    def __init__(self) -> None:
        self.running: bool = False
        self.stopping: bool = False
        """It takes nothing new. Its calls in flight finish."""
        self.ended: bool = False
        self.changes: Listeners[None] = Listeners[None]("the life of the host")

    def start(self) -> None:
        """Note that calls can be made from now on."""
        self.running, self.stopping, self.ended = True, False, False
        self.changes.tell(None)

    def stop(self) -> None:
        """Note that the host has begun to stop."""
        self.stopping = True
        self.changes.tell(None)

    def end(self) -> None:
        """Note that the host has stopped."""
        self.running, self.stopping, self.ended = False, True, True
        self.changes.tell(None)


class HostService(CalledService[PluginProvider]):
    """A service that a host calls, as the host knows it.

    It knows all that the host knows, at once: which providers there are, and which of them get calls.
    """

    def __init__(
        self,
        service_type: str,
        requirement: Requirement,
        policy: CallPolicy,
        life: HostLife,
        watches: WatchHub,
        send_to: SendTo,
    ) -> None:
        self._life = life
        self._send_to = send_to
        log = ReasonLog(_log, _OWNER, service_type, required=False)
        super().__init__(_OWNER, service_type, requirement, policy=policy, interceptors=(), log=log)
        self._view: ProviderView = watches.follow_several(
            self, service_type, requirement, _MOST_PROVIDERS, watcher=wire.HOST_NAME
        )
        self.look()
        life.changes.add(self._look)

    def client(
        self,
        client_class: type[_C],
        config: ClientConfig | None = None,
        *,
        interceptors: Iterable[Interceptor] = (),
    ) -> _C:
        """See `HostDependency.client`."""
        return self._client(client_class, config, self._send_to, interceptors)

    # What the watch hub tells it

    def note_changed(self, service_type: str) -> None:
        """Note that the providers have to be looked at, which is next. See `directory.Follower`."""

    def look(self) -> None:
        """Take what has changed of the providers. See `directory.Follower`."""
        self._view.look()
        if not self._view.has_news:
            return
        news = self._view.take(sys.maxsize)
        providers = dict(self.providers.value)
        for runtime_id in news.removed:
            providers.pop(runtime_id, None)
        for registration, is_degraded in news.changed:
            runtime_id, version = registration.runtime_id, registration.version
            health = HealthState.DEGRADED if is_degraded else HealthState.HEALTHY
            providers[runtime_id] = PluginProvider(runtime_id, version, health, registration.endpoint_url)
        self._reason = news.reason
        self._set(providers)

    # What the host is

    @property
    def _stopping(self) -> bool:
        return self._life.stopping

    @property
    def _ended(self) -> bool:
        return self._life.ended

    @property
    def _told(self) -> bool:
        return self._life.running

    def _stopped_error(self) -> Exception:
        return HostStoppedError(f"the host has stopped: {self.service_type} cannot be called")

    def _owner_lacks(self) -> tuple[Lack, str]:
        if self._life.ended:
            return Lack.CALLER, "the host has stopped"
        return (Lack.NOTHING, "") if self._life.running else (Lack.CALLER, "the host does not run yet")

    def check_callable(self) -> None:
        """Raise ConnectError `unavailable` if no call can be sent: nobody is known to whom."""
        lack, reason = self._owner_lacks()
        if lack is not Lack.NOTHING:
            text = f"{self.service_type} cannot be called: {reason}"
            raise CallError(Code.UNAVAILABLE, text, fault=Fault.HOST)
        if not self.providers.value:
            raise self._nobody()


class HostDependency(AnyDependency[HostService]):
    """A service that a host calls. Made by `Host.require`.

    It knows all that the host knows, at once: which providers there are, and which of them get calls.
    """

    def client(
        self,
        client_class: type[_C],
        config: ClientConfig | None = None,
        *,
        interceptors: Iterable[Interceptor] = (),
    ) -> _C:
        """Return a typed client that calls the provider at the time of each call.

        Its calls pass the interceptors, before a provider is chosen. They raise CallError `unavailable` at
        once while there is no provider, and while the host does not run.
        """
        return self._service.client(client_class, config, interceptors=interceptors)


class HostDependencies:
    """All services that a host calls, one object for each set of what is said of one.

    `send_to` returns what sends requests to a provider.
    """

    def __init__(self, watches: WatchHub, send_to: SendTo) -> None:
        self._watches = watches
        self._send_to = send_to
        self._life = HostLife()
        self.stop = self._life.stop
        self._known: dict[tuple[str, Requirement, CallPolicy], HostDependency] = {}
        self._services: list[HostService] = []
        self._nursery: trio.Nursery | None = None

    def of(self, service_type: str, requirement: Requirement, policy: CallPolicy | None) -> HostDependency:
        """Return the dependency on a service: the same one each time for what is equal.

        Raises: wire.InvalidError for a service type that is not valid.
        """
        policy = policy or CallPolicy()
        known = self._known.get((service_type, requirement, policy))
        if known is None:
            service = HostService(service_type, requirement, policy, self._life, self._watches, self._send_to)
            self._services.append(service)
            known = self._known[service_type, requirement, policy] = HostDependency(service)
            if self._nursery is not None:
                self._nursery.start_soon(service.keep)
        return known

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within the block, calls can be made."""
        async with open_plain_nursery() as nursery:
            self._nursery = nursery
            for service in self._services:
                nursery.start_soon(service.keep)
            self._life.start()
            try:
                yield
            finally:
                self._nursery = None
                self._life.end()
                nursery.cancel_scope.cancel()
