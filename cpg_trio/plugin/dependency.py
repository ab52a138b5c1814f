"""A dependency: which providers of a required service there are, whether it can be called, and why not."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from typing import TypeVar

import attrs
import httpx
import trio

from cpg_trio import wire
from cpg_trio._cell import Cell
from cpg_trio._lines import one_line
from cpg_trio.call_record import Calls
from cpg_trio.calls import (
    BalancedClient,
    BreakerLog,
    BreakerState,
    CallCounts,
    CallPolicy,
    DependencyStatistics,
    Group,
    InFlight,
    RetryBudget,
    statistics_of,
)
from cpg_trio.http import Pool
from cpg_trio.plugin._calling import ToProvider
from cpg_trio.plugin._host_link import HostLink
from cpg_trio.plugin._pace import Pace
from cpg_trio.plugin._reason_log import Lack, ReasonLog
from cpg_trio.plugin._session import Provider, ProviderSet, Session
from cpg_trio.plugin.direct import Direct
from cpg_trio.rpc import (
    ClientConfig,
    Code,
    ConnectError,
    HttpClient,
    Interceptor,
    ServiceClient,
    check_client_class,
    checked_interceptors,
    http_client_of,
)
from cpg_trio.versions import ANY_VERSION, Requirement

_C = TypeVar("_C", bound=ServiceClient)
_NOBODY = "the host knows no provider that gets calls"  # what it has meant if it does not say why
_ONE_FAILS = "calls to its only provider fail"
_FULL_S = 0.05  # between two looks whether there is room for another call
_LEAST_S = 0.01  # between two looks at what time changes
_LOOK_S = 60.0  # between two looks at what does not seem to change, for the log


class PluginStoppedError(Exception):
    """The plugin has stopped, or is stopping and knows no provider that a call could go to.

    Raised by `Dependency.wait_available`. It is no ConnectError: a loop that goes on after those ends by it.
    """


@attrs.frozen
class ProviderState:
    """A provider of a dependency, as the host tells of it."""

    id: str
    """Its runtime id."""
    version: str
    degraded: bool
    """Whether it reports that it is degraded. It is called while all others are, too."""


@attrs.frozen
class DependencyState:
    """What is known of a dependency at one moment."""

    available: bool
    """Whether a call would be sent at once."""
    degraded: bool
    """Whether all providers report that they are degraded."""
    providers: tuple[ProviderState, ...]
    """Those that the host has told of last. They are kept while it cannot be reached."""
    reason: str
    """Why it is not available, in words; empty if it is."""


class Dependency:
    """A service that a plugin requires.

    It has what the host has told last, and keeps that while the host cannot be reached.
    """

    def __init__(
        self,
        owner: str,
        service_type: str,
        requirement: Requirement = ANY_VERSION,
        *,
        required: bool = True,
        interceptors: Iterable[Interceptor] = (),
        policy: CallPolicy | None = None,
        link: HostLink | None = None,
    ) -> None:
        wire.validate_service_type(service_type)
        self._owner = owner
        self.service_type = service_type
        self.requirement = requirement
        """Which versions count."""
        self.required = required
        self.policy = policy or CallPolicy()
        self.interceptors = checked_interceptors(interceptors)
        """Those of all its clients, outside of each client's own."""
        self.link = link or HostLink()
        """The plugin's link to its host. All its dependencies have the same."""
        self.group: Group[Provider] = Group(service_type, self.policy)
        """The providers, and how calls to them have ended."""
        self.in_flight = InFlight(service_type, self.policy.concurrency)
        self.budget = RetryBudget(self.policy.retry.budget)
        self.counts = CallCounts()
        self.providers: Cell[Mapping[str, Provider]] = Cell({})
        """The providers that the host tells of, by runtime id, for tasks to wait on."""
        self.calls = Calls()
        """The calls through the host. A call is recorded if somebody listens."""
        self.direct = Direct(owner, service_type)
        self._told_in: Session | None = None
        self._reason = ""
        self._pace = Pace()
        self._log = ReasonLog(owner, service_type, required=required)
        self._looked = trio.Event()
        self.states: Cell[DependencyState] = Cell(self._state())
        """Its states, for tasks to wait on. Closed when the plugin stops; another one when it runs again."""
        self.link.changes.add(self._look)
        self.group.ejections.changes.add(BreakerLog(owner, service_type))
        self.group.ejections.changes.add(self._look)

    # What is known

    @property
    def provider(self) -> Provider | None:
        """The first provider, of those that are not degraded if there is one; None if there is none."""
        providers = self.providers.value.values()
        return next((p for p in providers if not p.degraded), None) or next(iter(providers), None)

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
        return (provider := self.provider) is not None and provider.degraded

    @property
    def missing(self) -> str | None:
        """Why there is no provider that answers, empty if that is not known; None if there is one.

        That the host cannot be reached is no reason: the providers that it has told of may be there.
        """
        if self.providers.value:
            return self._failing
        return self._reason or (_NOBODY if self._told_in is not None else "")

    @property
    def _failing(self) -> str | None:
        """That calls to all providers fail; None if they do not. It stays until one has answered."""
        members = self.group.members
        if not members or any(member.breaker.state is BreakerState.CLOSED for member in members):
            return None
        return f"calls to all {len(members)} providers fail" if len(members) > 1 else _ONE_FAILS

    @property
    def unexplained(self) -> bool:
        """Whether the host has told that there is no provider, and not why."""
        return self._told_in is self.link.session is not None and not (self.providers.value or self._reason)

    async def wait_available(self) -> Provider:
        """Wait until the service can be called; return a provider of it.

        After failed calls it waits, the longer the more have failed in a row. So a loop that waits and calls
        does not spin, whatever fails.

        Raises: PluginStoppedError if the plugin has stopped, or stops while there is nobody to call.
        """
        await trio.lowlevel.checkpoint()
        while not self.link.ended:
            looked, wait_s = self._looked, self._pace.wait_s()
            if wait_s <= 0:
                if self.available and (provider := self.provider) is not None:
                    return provider
                if self.link.stopping:
                    break
                wait_s = _FULL_S if self.in_flight.full else math.inf
            with trio.move_on_after(wait_s):
                await looked.wait()
        raise PluginStoppedError(f"{self._owner} has stopped: {self.service_type} cannot be called")

    def changes(self) -> AsyncIterator[DependencyState]:
        """Return an iterator over the states: first the one of now, then each newer one, until a stop.

        States that pass while its reader does not read are skipped. It ends when the plugin stops.
        """
        self._look()
        return self.states.reader()

    def statistics(self) -> DependencyStatistics:
        """Return what its calls have come to, in all and by provider."""
        return statistics_of(self.group, self.counts, self.budget, self.in_flight)

    # Calls

    def client(
        self,
        client_class: type[_C],
        config: ClientConfig | None = None,
        *,
        http: httpx.AsyncClient | Pool | HttpClient | None = None,
        interceptors: Iterable[Interceptor] = (),
    ) -> _C:
        """Return a typed client that calls the provider at the time of each call.

        Its calls pass the dependency's interceptors and then these, before a provider is chosen.

        Its calls go through the host, or directly if the plugin's configuration allows that and the host
        grants it. They raise ConnectError `unavailable` at once while there is no provider. With `http`, that
        sends the calls, always through the host, in place of the plugin's own connections.
        """
        check_client_class(client_class)
        send_to = partial(ToProvider, self, None if http is None else http_client_of(http))
        config = config or ClientConfig()
        if config.answer_timeout_s is None:
            config = attrs.evolve(config, answer_timeout_s=self.policy.timeout_s)
        calling = BalancedClient(self, send_to)
        return client_class("", calling, config, interceptors=(*self.interceptors, *interceptors))

    def check_callable(self) -> None:
        """Raise ConnectError `unavailable` if no call can be sent: nobody is known to whom.

        A host that cannot be reached is no such case: a call is how it may turn out that it is back.
        """
        # All are of one session, so that any of them tells.
        if (provider := next(iter(self.providers.value.values()), None)) is None:
            why = f": {missing}" if (missing := self.missing) else ""
            raise ConnectError(Code.UNAVAILABLE, f"no provider of {self.service_type} is available{why}")
        if provider.session.void.is_set():
            raise ConnectError(Code.UNAVAILABLE, "the plugin is registering with its host anew")

    def note_failed(self) -> None:
        """Note that a call has ended without an answer of its provider, or with a failure of that."""
        self._pace.failed()

    def note_answered(self) -> None:
        """Note that a provider has answered a call."""
        self._pace.answered()

    async def wait_changed(self) -> None:
        """Wait until something is otherwise: the providers, the host, or a breaker."""
        await self._looked.wait()

    # What the plugin tells it

    def suits(self, provider: Provider) -> bool:
        """Whether the version of a provider counts."""
        try:
            return self.requirement.admits(provider.version)
        except wire.InvalidError:
            return False

    def update(self, session: Session, told: ProviderSet) -> None:
        """Take the providers that the host tells of: all that there are now.

        A host that has just started may not know all plugins yet. So the providers of a session before stay
        until the new host tells of one, or until `settle`. They are not called meanwhile.
        """
        self._reason = one_line(told.reason)
        if told.providers or not self._is_of_former_session(session):
            self._set(session, told.providers)

    def settle(self, session: Session) -> None:
        """Drop the providers of a session before this one. Called after a while."""
        if self._is_of_former_session(session):
            self._set(session, {})

    def forget(self) -> None:
        """Have no providers any more. Called when the plugin has ended."""
        self._reason = ""
        self._pace.answered()
        self._set(None, {})

    async def keep(self) -> None:
        """Keep the state up to date with the time that passes, until cancelled."""
        while True:
            looked = self._looked
            with trio.move_on_after(max(_LEAST_S, min(self.link.holds_s, self._admits_s(), _LOOK_S))):
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

    def _is_of_former_session(self, session: Session) -> bool:
        return bool(self.providers.value) and self._told_in is not session

    def _set(self, session: Session | None, providers: Mapping[str, Provider]) -> None:
        self._told_in = session
        self.group.update(providers, [name for name, each in providers.items() if each.degraded])
        self.providers.set(providers)
        self._look()

    def _look(self, _: object = None) -> None:
        """Bring the state up to date, and wake who waits for it."""
        lack, reason = self._lack()
        if lack is Lack.NOTHING and (failing := self._failing) is not None:
            lack, reason = Lack.PROVIDER, failing  # one call is tried, and it has not answered
        self._log.note(lack, reason, list(self.providers.value))
        if self.states.closed and not self.link.stopping:
            self.states = Cell(self._state())
        self.states.set(self._state())
        if self.link.stopping:
            self.states.close()
        self._looked.set()
        self._looked = trio.Event()

    def _state(self) -> DependencyState:
        lack, reason = self._lack()
        providers = tuple(
            ProviderState(provider.runtime_id, provider.version, provider.degraded)
            for provider in self.providers.value.values()
        )
        return DependencyState(lack is Lack.NOTHING, self.degraded, providers, reason)

    def _lack(self) -> tuple[Lack, str]:
        """Return what it lacks to be called, and that in words."""
        link, session = self.link, self.link.session
        if link.ended:
            return Lack.PLUGIN, "the plugin has stopped"
        if trouble := link.trouble:
            return Lack.HOST, f"the host cannot be reached: {trouble}"
        if session is None or session.void.is_set():
            return Lack.PLUGIN, "the plugin is not registered with its host"
        if self._told_in is not session:
            return Lack.PLUGIN, "the host has not told of it yet"
        if not self.group.available:
            return Lack.PROVIDER, self.missing or _NOBODY
        return Lack.NOTHING, ""
