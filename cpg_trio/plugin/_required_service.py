"""A service that a plugin requires: who provides it, whether it can be called, and why not."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import TypeVar

import httpx
import trio

from cpg_trio import wire
from cpg_trio._lines import one_line
from cpg_trio.call_record import Calls
from cpg_trio.calls import CallPolicy
from cpg_trio.calls.called_service import CalledService
from cpg_trio.calls.reason_log import Lack, ReasonLog
from cpg_trio.errors import CpgTrioError
from cpg_trio.http import Pool
from cpg_trio.plugin._calling import ToProvider
from cpg_trio.plugin._host_link import HostLink
from cpg_trio.plugin._session import CALL_TIMEOUT_S, ProviderSet, Session, SessionProvider
from cpg_trio.plugin.direct import Direct
from cpg_trio.rpc import CallError, ClientConfig, Code, Fault, HttpClient, Interceptor, ServiceClient
from cpg_trio.rpc.http_client import http_client_of
from cpg_trio.versions import ANY_VERSION, Requirement

_C = TypeVar("_C", bound=ServiceClient)
_log = logging.getLogger("cpg_trio.plugin")


class PluginStoppedError(CpgTrioError):
    """The plugin has stopped, or is stopping and knows no provider that a call could go to.

    Raised by `Dependency.wait_available`. It is no ConnectError: a loop that goes on after those ends by it.
    """


class RequiredService(CalledService[SessionProvider]):
    """A service that a plugin or a session requires, as its tasks know it.

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
        self._owner = owner
        self.required = required
        self.link = link or HostLink()
        """The plugin's link to its host. All its dependencies have the same."""
        self.calls = Calls()
        """The calls through the host. A call is recorded if somebody listens."""
        self._told_in: Session | None = None
        log = ReasonLog(_log, owner, service_type, required=required)
        super().__init__(owner, service_type, requirement, policy=policy, interceptors=interceptors, log=log)
        self.direct = Direct(owner, service_type)
        self.link.changes.add(self._look)

    # What is known

    @property
    def unexplained(self) -> bool:
        """Whether the host has told that there is no provider, and not why."""
        return self._told_in is self.link.session is not None and not (self.providers.value or self._reason)

    @property
    def _stopping(self) -> bool:
        return self.link.stopping

    @property
    def _ended(self) -> bool:
        return self.link.ended

    @property
    def _told(self) -> bool:
        return self._told_in is not None

    @property
    def _holds_s(self) -> float:
        return self.link.holds_s

    def _stopped_error(self) -> Exception:
        return PluginStoppedError(f"{self._owner} has stopped: {self.service_type} cannot be called")

    def _owner_lacks(self) -> tuple[Lack, str]:
        link, session = self.link, self.link.session
        if link.ended:
            return Lack.CALLER, f"{self._owner} has stopped"
        if trouble := link.trouble:
            return Lack.HOST, f"the host cannot be reached: {trouble}"
        if session is None or session.void.is_set():
            return Lack.CALLER, f"{self._owner} is not registered with its host"
        if self._told_in is not session:
            return Lack.CALLER, "the host has not told of it yet"
        return Lack.NOTHING, ""

    # Calls

    def client(
        self,
        client_class: type[_C],
        config: ClientConfig | None = None,
        *,
        http: httpx.AsyncClient | Pool | HttpClient | None = None,
        interceptors: Iterable[Interceptor] = (),
    ) -> _C:
        """See `Dependency.client`."""
        send_to = partial(ToProvider, self, None if http is None else http_client_of(http))
        return self._client(client_class, config, send_to, interceptors)

    def check_callable(self) -> None:
        """Raise ConnectError `unavailable` if no call can be sent: nobody is known to whom.

        A host that cannot be reached is no such case: a call is how it may turn out that it is back.
        """
        # All are of one session, so that any of them tells.
        if (provider := next(iter(self.providers.value.values()), None)) is None:
            raise self._nobody()
        if provider.session.void.is_set():
            text = "the plugin is registering with its host anew"
            raise CallError(Code.UNAVAILABLE, text, fault=Fault.HOST)

    async def wait_told(self) -> None:
        """Wait until the host has told of it, at most for as long as a call to the host may take."""
        with trio.move_on_after(CALL_TIMEOUT_S):
            while not (self._told or self.link.trouble or self._ended):
                await self.wait_changed()

    # What the plugin tells it

    def suits(self, provider: SessionProvider) -> bool:
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
            self._told_in = session
            self._set(told.providers)

    def settle(self, session: Session) -> None:
        """Drop the providers of a session before this one. Called after a while."""
        if self._is_of_former_session(session):
            self._told_in = session
            self._set({})

    def forget(self) -> None:
        """Have no providers any more. Called when the plugin has ended."""
        self._reason = ""
        self._pace.answered()
        self._told_in = None
        self._set({})

    def _is_of_former_session(self, session: Session) -> bool:
        return bool(self.providers.value) and self._told_in is not session
