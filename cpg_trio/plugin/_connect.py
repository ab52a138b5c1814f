"""`connect`: a session with a host, for programs that call plugins without being one.

To its host, a session is a plugin that provides nothing. It stays known by the same tasks (`_staying`), and
calls by the same dependencies, which may be added at any time.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import attrs
import trio

from cpg_trio import wire
from cpg_trio._nursery import open_plain_nursery
from cpg_trio._version import __version__
from cpg_trio.calls import CallPolicy
from cpg_trio.http import ServeConfig, StartError
from cpg_trio.plugin._config import PluginConfig, SessionConfig
from cpg_trio.plugin._declaration import Declaration
from cpg_trio.plugin._dependencies import Dependencies
from cpg_trio.plugin._registration import Registrations
from cpg_trio.plugin._required_service import RequiredService
from cpg_trio.plugin._requiring import Requiring
from cpg_trio.plugin._serving import NOWHERE
from cpg_trio.plugin._session import CALL_TIMEOUT_S, SessionProvider
from cpg_trio.plugin._session_service import SessionService
from cpg_trio.plugin._state import PluginState
from cpg_trio.plugin._staying import own_pool, stay_registered
from cpg_trio.plugin.dependency import Dependency
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import CallError, ClientConfig, Code, Fault, Interceptor, ServiceClient
from cpg_trio.rpc.given import check_client_class
from cpg_trio.tracing import Tracing, tracing

_C = TypeVar("_C", bound=ServiceClient)


@asynccontextmanager
async def connect(
    host_url: str | None = None,
    name: str = "client",
    *,
    requires: Collection[str] | None = None,
    wait_s: float = 0.0,
    config: SessionConfig | None = None,
) -> AsyncIterator[HostSession]:
    """Be known to a host within the block, and call the plugins there.

        async with cpg_trio.connect("http://127.0.0.1:8080", name="report") as session:
            greeter = session.client("greeter", GreeterClient)
            print((await greeter.greet(GreetRequest(name="Ada"))).text)

    Without a `host_url`, that of `config` counts; without a `config`, the environment sets all (`HOST_URL`,
    `ENROLMENT_TOKEN`, `TLS_CA`, …), as for plugins. `name` is who calls: what policies and plugins know.
    `requires` are the only service types that are called, for hosts whose policy lets call only what is
    declared; with None, any may be. A host that cannot be reached is tried for `wait_s` seconds: once by
    default, `math.inf` for as long as it takes.

    The session renews its token, moves to another host if there are several, and shakes hands again with a
    host that has been restarted: clients stay valid. At the end of the block the host forgets it.

    Raises: StartError if nothing says where the host is, or for files for TLS that are of no use; ValueError
    or TypeError for an argument that is not valid; ConnectError, most often `unavailable`, if no host answers
    in time; RefusedError if the host refuses the session, also later: then the block is cancelled.
    """
    _check_arguments(host_url, name, requires, wait_s, config)
    state = _state_of(host_url, name, requires, config)
    failure: Exception | None = None
    try:
        async with (
            tracing(name, __version__, os.environ, server=()) as state.traces,
            state.pool,
            open_plain_nursery() as background,
        ):
            background.start_soon(state.pool.sweep)
            background.start_soon(state.declared.dependencies.for_each, partial(_trace, state.traces))
            if state.hosts is not None:
                background.start_soon(state.hosts.keep)
            async with _registered(state, wait_s):
                try:
                    yield HostSession(state, requires)
                except Exception as error:  # noqa: BLE001 - raised below, where no nursery wraps it
                    failure = error
            background.cancel_scope.cancel()
    finally:
        state.forget()
    if failure is not None:
        raise failure


@asynccontextmanager
async def _registered(state: PluginState, wait_s: float) -> AsyncIterator[None]:
    """Be known to the host within the block, and leave it at the end, also of a block that is cancelled."""
    registrations = Registrations(state.declared, NOWHERE)
    try:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(state.health.follow)
            nursery.start_soon(state.declared.dependencies.for_each, RequiredService.keep)
            await nursery.start(partial(stay_registered, state, NOWHERE, registrations, within_s=wait_s))
            yield
            state.declared.link.stop()
            nursery.cancel_scope.cancel()
    finally:
        state.declared.link.stop()
        with trio.CancelScope(shield=True):  # bounded by itself
            await registrations.leave(state.end_session())


async def _trace(traces: Tracing, service: RequiredService) -> None:
    """Have spans made of the calls of a dependency, until cancelled."""
    with traces.calling(service.calls, service.direct.calls):
        await trio.sleep_forever()


class DiscoveredProvider:
    """The provider of a service that the host has chosen. See `HostSession.discover`."""

    def __init__(self, provider: SessionProvider) -> None:
        self._provider = provider

    @property
    def id(self) -> str:
        """Its runtime id."""
        return self._provider.runtime_id

    @property
    def version(self) -> str:
        """The version of its service."""
        return self._provider.version

    def client(self, client_class: type[_C], config: ClientConfig | None = None) -> _C:
        """Return a client that calls this provider alone, through the host, each call once."""
        check_client_class(client_class)
        config, session = config or ClientConfig(), self._provider.session
        config = attrs.evolve(config, headers={**config.headers, **session.headers})
        return client_class(self._provider.base_url, session.calls, config)


class HostSession(Requiring):
    """A session with a host. See `connect`."""

    def __init__(self, state: PluginState, requires: Collection[str] | None) -> None:
        self._state = state
        self._may_require = None if requires is None else frozenset(requires)

    @property
    def name(self) -> str:
        """The name that plugins know the caller by."""
        return self._state.declared.self_id

    @property
    def runtime_id(self) -> str:
        """The name that the host has given the session. A host that was restarted may give another one."""
        session = self._state.last_session
        return "" if session is None else session.runtime_id

    def require(
        self,
        service_type: str,
        *,
        version: str = "",
        min_version: str = "",
        policy: CallPolicy | None = None,
        interceptors: Iterable[Interceptor] = (),
    ) -> Dependency:
        """Return a service to call: who provides it, whether it can be called, what its calls come to.

        As `Plugin.require`, but at any time within the block. The first call waits until the host has told of
        the service. That one is missing is told to those who call it, and to nobody else.

        Raises: wire.InvalidError for a type or version that is not valid; ValueError for a type that is
        required already, or is not one of `requires` of `connect`; TypeError for what is no interceptor;
        RuntimeError behind the block.
        """
        state, declared = self._state, self._state.declared
        if state.declared.link.stopping:
            raise RuntimeError(f"the session of {self.name} has ended")
        requirement = self._requirement(self.name, service_type, version, min_version, policy)
        if self._may_require is not None and service_type not in self._may_require:
            raise ValueError(f"{service_type} is not one of the services that connect(requires=…) declares")
        service = SessionService(
            declared.self_id,
            service_type,
            requirement,
            required=False,
            interceptors=interceptors,
            policy=policy,
            link=declared.link,
        )
        declared.dependencies.add(service)
        return Dependency(service)

    def _required(self) -> Dependencies:
        return self._state.declared.dependencies

    async def discover(self, service_type: str, version: str = "") -> DiscoveredProvider:
        """Return the provider of a service that the host chooses now, of a version range if one is given.

        Raises: ConnectError, `not_found` if there is none.
        """
        if (session := self._state.session) is None:
            text = f"{self.name} is registering with its host anew"
            raise CallError(Code.UNAVAILABLE, text, fault=Fault.HOST)
        request = pb.DiscoverServiceRequest(service_type=service_type, version_range=version)
        timeout_s = session.hosts.patience_s(CALL_TIMEOUT_S)
        call = partial(session.registry.discover_service, request, timeout_s=timeout_s)
        answer = await session.hosts.ask(call)
        return DiscoveredProvider(SessionProvider.at(session, answer.endpoint))


def _check_arguments(
    host_url: object, name: object, requires: object, wait_s: object, config: object
) -> None:
    """Raise TypeError or ValueError for what is no argument of `connect`."""
    for what, value in (("host_url", host_url or ""), ("name", name)):
        if not isinstance(value, str):
            raise TypeError(f"connect() takes a text as {what}, and not {value!r}")
    if isinstance(requires, str):  # whose letters would be taken for types
        raise TypeError(f"connect() takes a list of service types as requires, as in [{requires!r}]")
    if not isinstance(wait_s, int | float):
        raise TypeError(f"connect() takes seconds as wait_s, and not {wait_s!r}")
    if not wait_s >= 0:
        raise ValueError(f"wait_s is a number of seconds, and not below 0: {wait_s!r}")
    if not isinstance(config, SessionConfig | None):
        raise TypeError(f"connect() takes a SessionConfig as config, and not a {type(config).__name__}")


def _state_of(
    host_url: str | None, name: str, requires: Collection[str] | None, config: SessionConfig | None
) -> PluginState:
    """Return the state of a session that has not begun. Raises: as `connect`."""
    wire.validate_self_id(name)
    for service_type in requires or ():
        wire.validate_service_type(service_type)
    config = config or SessionConfig.from_environment()
    if host_url is not None:
        try:
            config = attrs.evolve(config, host_url=host_url)
        except ValueError as error:
            raise ValueError(f"connect({host_url!r}): {error}") from None
    if config.host_url is None and config.local is None:
        raise StartError(
            'connect() is not told where the host is: give its URL, as in "http://127.0.0.1:8080", or set'
            " HOST_URL"
        )
    runs = PluginConfig(
        host_url=config.host_url,
        local=config.local,
        socket_dir=config.socket_dir,
        enrolment_token=config.enrolment_token,
        direct_calls=config.direct_calls,
        serve=ServeConfig(tls=config.tls),
        bind=(),
    )
    state = PluginState(Declaration(name, __version__, name), runs, own_pool(config.tls))
    declared = None if requires is None else list(requires)
    state.introduction = attrs.evolve(state.introduction, requires=declared, uses=declared or ())
    return state
