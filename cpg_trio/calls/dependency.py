"""A service that is called, as its author sees it. What the platform does with it is in `called_service`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

from cpg_trio.calls.called_service import CalledService, DependencyState, Provider, public_provider
from cpg_trio.calls.policy import CallPolicy
from cpg_trio.calls.statistics import DependencyStatistics

S = TypeVar("S", bound=CalledService[Any])


class AnyDependency(Generic[S]):
    """What the dependency of a plugin and that of a host have in common."""

    def __init__(self, service: S) -> None:
        self._service = service

    @property
    def service_type(self) -> str:
        """The type of the service."""
        return self._service.service_type

    @property
    def policy(self) -> CallPolicy:
        """How its calls are balanced, bounded, and treated when they fail."""
        return self._service.policy

    @property
    def available(self) -> bool:
        """Whether a call would be sent at once.

        False while there is nobody to call (nobody provides it, or calls to all who do have failed), while as
        many calls are in flight as the policy allows, and from a lease after the host has gone without a sign
        at the latest. Calls are tried while the host cannot be reached, too: it may be back.
        """
        return self._service.available

    @property
    def degraded(self) -> bool:
        """Whether there are providers, and all report that they are degraded."""
        return self._service.degraded

    async def wait_available(self) -> Provider:
        """Wait until the service can be called; return a provider of it.

        After failed calls it waits, the longer the more have failed in a row. So a loop that waits and calls
        does not spin, whatever fails.

        Raises: PluginStoppedError, of a host HostStoppedError, if the owner has stopped, or stops while there
        is nobody to call.
        """
        return public_provider(await self._service.wait_available())

    def changes(self) -> AsyncIterator[DependencyState]:
        """Return an iterator over the states: first the one of now, then each newer one, until a stop.

        States that pass while its reader does not read are skipped. It ends when the owner stops.
        """
        return self._service.changes()

    def statistics(self) -> DependencyStatistics:
        """Return what its calls have come to, in all and by provider."""
        return self._service.statistics()
