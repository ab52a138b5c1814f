"""A service that is called: who provides it, whether it can be called, why not, and how its calls do.

What the dependency of a plugin and that of a host share. They differ in how they learn of providers, in how a
call reaches one, and in what else a call needs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

import attrs
import trio

from cpg_trio import wire
from cpg_trio._cell import Cell
from cpg_trio.calls.breaker import BreakerLog, BreakerState
from cpg_trio.calls.budget import RetryBudget
from cpg_trio.calls.client import BalancedClient
from cpg_trio.calls.concurrency import InFlight
from cpg_trio.calls.group import Group
from cpg_trio.calls.pace import Pace
from cpg_trio.calls.policy import CallPolicy
from cpg_trio.calls.reason_log import Lack, ReasonLog
from cpg_trio.calls.statistics import CallCounts, DependencyStatistics, statistics_of
from cpg_trio.rpc import CallError, ClientConfig, Code, Fault, HttpClient, Interceptor, ServiceClient
from cpg_trio.rpc.given import check_client_class
from cpg_trio.rpc.interceptors import checked_interceptors
from cpg_trio.states import HealthState
from cpg_trio.versions import ANY_VERSION, Requirement

NOBODY = "the host knows no provider that gets calls"  # what it means if the host does not say why

_ONE_FAILS = "calls to its only provider fail"
_FULL_S = 0.05  # between two looks whether there is room for another call
_LEAST_S = 0.01  # between two looks at what time changes
_LOOK_S = 60.0  # between two looks at what does not seem to change, for the log


class ProviderOf(Protocol):
    """A provider of a service, as far as its callers have to know it."""

    @property
    def runtime_id(self) -> str:
        """Its id, which no other one has."""
        ...

    @property
    def version(self) -> str:
        """The version of its service."""
        ...

    @property
    def health(self) -> HealthState:
        """What it reports of itself."""
        ...


P = TypeVar("P", bound=ProviderOf)
_C = TypeVar("_C", bound=ServiceClient)


@attrs.frozen
class Provider:
    """A provider of a service, as the host tells of it."""

    id: str
    """Its runtime id."""
    version: str
    health: HealthState
    """What it reports of itself. One that is DEGRADED is called while all others are, too."""


@attrs.frozen
class DependencyState:
    """What is known of a dependency at one moment."""

    available: bool
    """Whether a call would be sent at once."""
    degraded: bool
    """Whether all providers report that they are degraded."""
    providers: tuple[Provider, ...]
    """Those that the host has told of last. They are kept while it cannot be reached."""
    reason: str
    """Why it is not available, in words; empty if it is."""


class CalledService(ABC, Generic[P]):
    """A service that somebody calls.

    `owner` is who calls, as the log has it.
    """

    def __init__(
        self,
        owner: str,
        service_type: str,
        requirement: Requirement = ANY_VERSION,
        *,
        policy: CallPolicy | None,
        interceptors: Iterable[Interceptor],
        log: ReasonLog,
    ) -> None:
        wire.validate_service_type(service_type)
        self.service_type = service_type
        self.requirement = requirement
        """Which versions count."""
        self.policy: CallPolicy = policy or CallPolicy()
        self.interceptors: tuple[Interceptor, ...] = checked_interceptors(interceptors)
        """Those of all its clients, outside of each client's own."""
        self.group: Group[P] = Group(service_type, self.policy)
        """The providers, and how calls to them have ended."""
        self.in_flight: InFlight = InFlight(service_type, self.policy.concurrency)
        self.budget: RetryBudget = RetryBudget(self.policy.retry.budget)
        self.counts: CallCounts = CallCounts()
        self.providers: Cell[Mapping[str, P]] = Cell({})
        """The providers that the host tells of, by runtime id, for tasks to wait on."""
        self._reason = ""
        self._pace = Pace()
        self._log = log
        self._looked = trio.Event()
        self.states: Cell[DependencyState] = Cell(self._state())
        """Its states, for tasks to wait on. Closed when the owner stops; another one when it runs again."""
        self.group.ejections.changes.add(BreakerLog(owner, service_type))
        self.group.ejections.changes.add(self._look)

    # What an owner is

    @property
    @abstractmethod
    def _stopping(self) -> bool:
        """Whether the owner learns nothing more. Its calls in flight finish, and may make calls."""

    @property
    @abstractmethod
    def _ended(self) -> bool:
        """Whether the owner makes no calls any more."""

    @property
    @abstractmethod
    def _told(self) -> bool:
        """Whether it is known by now who provides the service."""

    @abstractmethod
    def _owner_lacks(self) -> tuple[Lack, str]:
        """Return what the owner lacks to call anybody, and that in words."""

    @abstractmethod
    def _stopped_error(self) -> Exception:
        """Return what is raised to who waits for a service when the owner has stopped."""

    @property
    def _holds_s(self) -> float:
        """In how many seconds what the owner lacks may be otherwise by itself; infinite if it will not."""
        return math.inf

    # What is known

    @property
    def provider(self) -> P | None:
        """The first provider, of those that are not degraded if there is one; None if there is none."""
        providers = self.providers.value.values()
        return next((p for p in providers if not _is_degraded(p)), None) or next(iter(providers), None)

    @property
    def available(self) -> bool:
        """Whether a call would be sent at once.

        False while there is nobody to call (nobody provides it, or calls to all who do have failed), while as
        many calls are in flight as the policy allows, and from a lease after the host has gone without a sign
        at the latest. Calls are tried while the host cannot be reached, too: it may be back.
        """
        return self._lack()[0] is Lack.NOTHING and not self.in_flight.full

    @property
    def degraded(self) -> bool:
        """Whether there are providers, and all report that they are degraded."""
        return (provider := self.provider) is not None and _is_degraded(provider)

    @property
    def missing(self) -> str | None:
        """Why there is no provider that answers, empty if that is not known; None if there is one.

        That the host cannot be reached is no reason: the providers that it has told of may be there.
        """
        if self.providers.value:
            return self._failing
        return self._reason or (NOBODY if self._told else "")

    @property
    def _failing(self) -> str | None:
        """That calls to all providers fail; None if they do not. It stays until one has answered."""
        members = self.group.members
        if not members or any(member.breaker.state is BreakerState.CLOSED for member in members):
            return None
        return f"calls to all {len(members)} providers fail" if len(members) > 1 else _ONE_FAILS

    async def wait_available(self) -> P:
        """Wait until the service can be called; return a provider of it.

        After failed calls it waits, the longer the more have failed in a row. So a loop that waits and calls
        does not spin, whatever fails.

        Raises: PluginStoppedError, of a host HostStoppedError, if the owner has stopped, or stops while there
        is nobody to call.
        """
        await trio.lowlevel.checkpoint()
        while not self._ended:
            looked, wait_s = self._looked, self._pace.wait_s()
            if wait_s <= 0:
                if self.available and (provider := self.provider) is not None:
                    return provider
                if self._stopping:
                    break
                wait_s = _FULL_S if self.in_flight.full else math.inf
            with trio.move_on_after(wait_s):
                await looked.wait()
        raise self._stopped_error()

    def changes(self) -> AsyncIterator[DependencyState]:
        """Return an iterator over the states: first the one of now, then each newer one, until a stop.

        States that pass while its reader does not read are skipped. It ends when the owner stops.
        """
        self._look()
        return self.states.reader()

    def statistics(self) -> DependencyStatistics:
        """Return what its calls have come to, in all and by provider."""
        return statistics_of(self.group, self.counts, self.budget, self.in_flight)

    # Calls

    def _client(
        self,
        client_class: type[_C],
        config: ClientConfig | None,
        send_to: Callable[[P], HttpClient],
        interceptors: Iterable[Interceptor],
    ) -> _C:
        """Return a typed client whose calls are balanced. `send_to` returns what reaches a provider."""
        check_client_class(client_class)
        config = config or ClientConfig()
        if config.answer_timeout_s is None:
            config = attrs.evolve(config, answer_timeout_s=self.policy.timeout_s)
        calling = self._balanced(send_to)
        return client_class("", calling, config, interceptors=(*self.interceptors, *interceptors))

    def _balanced(self, send_to: Callable[[P], HttpClient]) -> HttpClient:
        """Return what sends each call to one of the providers."""
        return BalancedClient(self, send_to)

    def check_callable(self) -> None:
        """Raise ConnectError `unavailable` if no call can be sent: nobody is known to whom."""
        if not self.providers.value:
            raise self._nobody()

    def _nobody(self) -> CallError:
        why = f": {reason}" if (reason := self.missing or self._owner_lacks()[1]) else ""
        text = f"no provider of {self.service_type} is available{why}"
        return CallError(Code.UNAVAILABLE, text, fault=Fault.PROVIDER)

    def note_failed(self) -> None:
        """Note that a call has ended without an answer of its provider, or with a failure of that."""
        self._pace.failed()

    def note_answered(self) -> None:
        """Note that a provider has answered a call."""
        self._pace.answered()

    async def wait_changed(self) -> None:
        """Wait until something is otherwise: the providers, the host, or a breaker."""
        await self._looked.wait()

    # What its owner tells it

    async def keep(self) -> None:
        """Keep the state up to date with the time that passes, until cancelled."""
        while True:
            looked = self._looked
            with trio.move_on_after(max(_LEAST_S, min(self._holds_s, self._admits_s(), _LOOK_S))):
                await looked.wait()
                continue
            self._look()

    def _admits_s(self) -> float:
        """Return in how many seconds one of its providers may be called; infinite if now or never."""
        admits_at = self.group.admits_at
        if admits_at is None or self.group.available:
            return math.inf
        wait_s = admits_at - trio.current_time()
        return wait_s if wait_s > 0 else math.inf

    def _set(self, providers: Mapping[str, P]) -> None:
        """Take the providers that there are now."""
        self.group.update(providers, [name for name, each in providers.items() if _is_degraded(each)])
        self.providers.set(providers)
        self._look()

    def _look(self, _: object = None) -> None:
        """Bring the state up to date, and wake who waits for it."""
        lack, reason = self._lack()
        if lack is Lack.NOTHING and (failing := self._failing) is not None:
            lack, reason = Lack.PROVIDER, failing  # one call is tried, and it has not answered
        self._log.note(lack, reason, list(self.providers.value))
        if self.states.closed and not self._stopping:
            self.states = Cell(self._state())
        self.states.set(self._state())
        if self._stopping:
            self.states.close()
        self._looked.set()
        self._looked = trio.Event()

    def _state(self) -> DependencyState:
        lack, reason = self._lack()
        providers = tuple(public_provider(provider) for provider in self.providers.value.values())
        return DependencyState(lack is Lack.NOTHING, self.degraded, providers, reason)

    def _lack(self) -> tuple[Lack, str]:
        """Return what it lacks to be called, and that in words."""
        lack, reason = self._owner_lacks()
        if lack is Lack.NOTHING and not self.group.available:
            return Lack.PROVIDER, self.missing or NOBODY
        return lack, reason


def public_provider(provider: ProviderOf) -> Provider:
    """Return what an author sees of a provider."""
    return Provider(provider.runtime_id, provider.version, provider.health)


def _is_degraded(provider: ProviderOf) -> bool:
    return provider.health is HealthState.DEGRADED
