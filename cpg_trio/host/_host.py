"""The host: its state, its services on their paths, and the nursery they run in."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import PluginControlClient
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import App, Receive, Scope, Send, no_websocket
from cpg_trio.calls import Calls
from cpg_trio.host.access.audit import Action, Audit
from cpg_trio.host.access.authentication import Gate
from cpg_trio.host.access.enrolment import Enrolment
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.access.keys import Keys
from cpg_trio.host.access.limits import Limits
from cpg_trio.host.access.listening import check_exposure
from cpg_trio.host.access.memory import fitted, room_for_messages
from cpg_trio.host.access.policy import Policy
from cpg_trio.host.access.rates import RateLimits, Rates
from cpg_trio.host.capabilities.broker import Broker, announced, below, by_type
from cpg_trio.host.capabilities.calls import PREFIX as CAPABILITIES
from cpg_trio.host.capabilities.calls import CapabilityCalls
from cpg_trio.host.capabilities.capability import Capability
from cpg_trio.host.capabilities.grants import Grants
from cpg_trio.host.capabilities.logger import host_logger
from cpg_trio.host.directory.base_url import knowing_base_url
from cpg_trio.host.directory.endpoint_validation import BaseUrls, EndpointValidator
from cpg_trio.host.directory.leases import LeaseConfig, Liveness
from cpg_trio.host.directory.plugin_control import ControlClients
from cpg_trio.host.directory.probe import Prober
from cpg_trio.host.directory.registry import Registry, Selection
from cpg_trio.host.directory.store import Saved, journaled, nothing_to_save
from cpg_trio.host.directory.succession import Succession
from cpg_trio.host.directory.unix_sockets import Sockets
from cpg_trio.host.directory.watch_hub import WatchHub
from cpg_trio.host.routing.admission import Admission
from cpg_trio.host.routing.call_log import CallLog
from cpg_trio.host.routing.direct_calls import DirectGrants, DirectReports, DirectStatistics, DirectTally
from cpg_trio.host.routing.gateway import Router, RouterGateway
from cpg_trio.host.routing.headers import RequestHeaderRules
from cpg_trio.host.routing.router import AsgiRouter
from cpg_trio.host.routing.routes import PREFIX, Routes
from cpg_trio.host.routing.statistics import RouterCounter, RouterStatistics
from cpg_trio.host.services.handshake import Handshake, HandshakeAdmission, TokenLifetimes, announcement
from cpg_trio.host.services.health import HostHealth
from cpg_trio.host.services.managed_plugins import Adoption
from cpg_trio.host.services.services import Lifecycle, RegistrationPermits, RegistryService
from cpg_trio.host.services.websocket import WatchSocket
from cpg_trio.http import (
    BrowserGuard,
    Origin,
    Pool,
    PoolStatistics,
    Relay,
    ServeConfig,
    fitted_to_descriptors,
    most_connections,
    serve,
)
from cpg_trio.probes import PATHS, Probes, probe_port
from cpg_trio.rpc import Code, ConnectError, application

_log = logging.getLogger("cpg_trio.host")

DEFAULT_PORT = 8080

_KEEP_S = 4.0  # an idle connection to a plugin: servers keep theirs for 5 s or more
_MAX_PER_PROVIDER = 2000  # connections of the router, of which a caller alone has half
_FOR_CONTROL = 4  # a part of all connections that go out
_CONTROL_TIMEOUT_S = 5.0  # of one call to a plugin


def _check_capabilities(_: HostConfig, __: object, capabilities: Sequence[Capability]) -> None:
    by_type(capabilities)


def _check_public_url(_: HostConfig, __: object, url: str) -> None:
    if url:
        Origin.parse(url)


@attrs.frozen(kw_only=True)
class HostConfig:
    """How a host behaves.

    Raises: ValueError for two capabilities of one type, or a `public_url` that is none.
    """

    keys: Keys = attrs.field(factory=Keys)
    """What runtime tokens are signed with; by default a key that ends with the host."""
    token_ttl_s: float = 15 * 60.0
    """How long a token is good, in seconds, of a plugin that asks for another in time."""
    unrenewed_token_ttl_s: float = 24 * 60 * 60.0
    """How long, of a plugin that does not: then its identity ends."""
    enrolment: Enrolment = attrs.field(factory=Enrolment)
    """Who gets an identity; by default everybody."""
    policy: Policy = attrs.field(factory=Policy)
    """What plugins may provide and call."""
    pass_headers: Sequence[str] = ()
    """Names of request headers that the router forwards besides `routing.headers.ALLOWED`; `x-app-*` is all
    that begin so."""
    selection: Mapping[str, Selection] = attrs.field(factory=dict)
    """The strategy that chooses among the providers of a service type, by type."""
    default_selection: Selection = Selection.FIRST
    """The strategy for every other type."""
    leases: LeaseConfig = attrs.field(factory=LeaseConfig)
    """How soon the host believes that a plugin is gone."""
    base_urls: BaseUrls = BaseUrls.CALLER
    """Where plugins may have the host send traffic."""
    state_path: Path | None = None
    """The file that identities and registrations are kept in, over a restart; without one they are not."""
    socket_dir: Path | None = None
    """A directory that the host shares with plugins, for calls by Unix sockets in it."""
    capabilities: Sequence[Capability] = attrs.field(
        factory=lambda: (host_logger(),), validator=_check_capabilities
    )
    """What the host itself offers plugins, one of each type."""
    grant_ttl_s: float = 10 * 60.0
    """How long a plugin may use a capability before it has to ask again, in seconds."""
    public_url: str = attrs.field(default="", validator=_check_public_url)
    """How plugins reach the host; empty for as each of them has just called it."""
    rates: RateLimits = attrs.field(factory=RateLimits)
    """How often who may call what."""
    limits: Limits = attrs.field(factory=Limits)
    """How much the host takes in and keeps. These and `serve.max_connections` are reduced, in proportion,
    where the memory that the host may have is too small for them."""
    serve: ServeConfig = attrs.field(factory=ServeConfig)
    """How it serves. Its `tls` is what the host calls plugins with, too."""
    allow_plaintext: bool = False
    """Whether it may listen without TLS where other machines reach it."""
    probe_bind: str | Sequence[str] | None = None
    """Where it answers probes and nothing else, without TLS; None is nowhere but beside the rest."""


@attrs.frozen
class HostStatistics:
    """What a host has done, and the connections to providers that it has."""

    router: RouterStatistics
    direct: DirectStatistics
    """What did not go through the host, as the callers report it."""
    connections: PoolStatistics
    """Those of the router."""


class Host:
    """Gives plugins an identity, a registry and a router.

    `async with host.application() as app` gives the ASGI application; `await host.serve(stop)` serves it.
    """

    def __init__(self, config: HostConfig | None = None) -> None:
        config = config or HostConfig()
        serve = fitted_to_descriptors(config.serve)
        self._fitted = fitted(config.limits, serve.max_connections)
        limits = self._fitted.limits
        serve = attrs.evolve(serve, max_connections=self._fitted.max_connections)
        self._config = attrs.evolve(config, limits=limits, serve=serve)
        self._rates = Rates(self._config.rates, most=limits.max_rate_keys)
        self._direct = DirectTally(limits.max_direct_reports)
        self.registry = Registry(
            selection=self._config.selection,
            default_selection=self._config.default_selection,
            limits=limits,
            calls_elsewhere=self._direct.in_flight,
            share_of=self._share_of,
        )
        self.audit = Audit()
        self.identities = Identities(
            self._config.keys,
            longest_s=max(self._config.token_ttl_s, self._config.unrenewed_token_ttl_s),
            limits=limits,
            in_use=self._is_in_use,
            on_expired=self._forget,
            on_accepted=lambda identity: self.audit.allowed(Action.AUTHENTICATE, identity.runtime_id),
        )
        self._grants = Grants(self.identities, self.audit, self._config.grant_ttl_s, limits.max_grants)
        self.watches = WatchHub(self.registry, limits, self._share_of)
        self.health = HostHealth(self.identities, self.registry, self._rates, limits)
        self._contexts = self._config.serve.tls.client_contexts()
        most = most_connections()
        self._pool = Pool(
            idle_expiry_s=_KEEP_S,
            ssl_context=self._contexts,
            max_per_origin=_MAX_PER_PROVIDER,
            max_total=most - most // _FOR_CONTROL,
        )
        # Probes and control calls have connections of their own, which calls cannot use up.
        self._control_pool = Pool(
            idle_expiry_s=_KEEP_S, ssl_context=self._contexts, max_total=max(1, most // _FOR_CONTROL)
        )
        self._sockets = Sockets(self._config.socket_dir, self._control_pool, self.identities)
        self._saved: Saved = nothing_to_save
        self._why_unsaved = ""
        self._probes = Probes(lambda: "stopping" if self.health.stopping else self._why_unsaved)
        self._permits = RegistrationPermits(self.identities, self.registry, self._config.policy, self.audit)
        self._liveness = Liveness(self.registry, self._config.leases, self._probe, self._end_identity)
        self._succession = Succession(self.identities, self.registry)
        self._control = ControlClients(self.identities, self.registry, self._control_pool)
        self._prober = Prober(self.identities, self.registry, self._succession, self._sockets, self._control)
        self.calls = Calls()
        self._call_log = CallLog(self.calls)
        self._counter = RouterCounter(self.calls)
        self._rules = RequestHeaderRules(self._config.pass_headers)
        self._router = Router(
            Admission(self.identities, self._rates, self._config.policy, self.audit),
            Routes(self.identities, self.registry),
            self.registry,
            self.calls,
            self._liveness.suspect,
        )

    @asynccontextmanager
    async def application(self) -> AsyncIterator[App]:
        """Yield the host as an ASGI application, which holds connections to plugins until the block ends.

        Raises: serving.StartError if it cannot keep its state where it is to, or use its files for TLS.
        """
        async with self._application(self._browsers()) as app:
            yield app

    @asynccontextmanager
    async def _application(self, browsers: BrowserGuard) -> AsyncIterator[App]:
        self._contexts.check()
        self._fitted.tell()
        async with (
            self._pool,
            self._control_pool,
            journaled(
                self._config.state_path, self.identities, self.registry, tell=self._note_unsaved
            ) as saved,
            open_plain_nursery() as nursery,
        ):
            self._config.keys.open()
            nursery.start_soon(self._pool.sweep)
            nursery.start_soon(self._control_pool.sweep)
            nursery.start_soon(self.watches.run)
            with self.identities.watched(self._end_with_identity), self._saving(saved):
                self._permits.keep()  # the rules may be others than when the state was written
                await nursery.start(self._liveness.run)
                with self.registry.watched_plugins(self._lapse_predecessors):
                    yield browsers.guarding(self._dispatch(saved))
            nursery.cancel_scope.cancel()

    def _note_unsaved(self, why: str) -> None:
        """Note why the state file cannot be written; empty if it can be."""
        self._why_unsaved = why

    @contextmanager
    def _saving(self, saved: Saved) -> Iterator[None]:
        """Within the block, wait for what is changed by the host's own methods, too."""
        self._saved = saved
        try:
            yield
        finally:
            self._saved = nothing_to_save

    def _browsers(self, binds: Sequence[str] = ()) -> BrowserGuard:
        """Return what keeps web pages away from a host that listens on `binds`."""
        url = self._config.public_url
        return BrowserGuard(self._config.serve, binds=binds, names=[Origin.parse(url)[0].host] if url else [])

    def _dispatch(self, saved: Saved) -> App:
        limits = self._config.limits
        gate = Gate(self.identities, self._config.policy, self.audit, self._rates)
        services = self._services(gate, saved)
        capability_calls = CapabilityCalls(self._grants, self._config.policy, self.audit, self._rates)
        router = AsgiRouter(self._router, self._rules, self._pool, limits.max_routed_body_bytes)
        watch = WatchSocket(gate, self.watches, limits.max_subscriptions, self.registry.id)

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await (watch if scope["path"] == wire.WATCH_PATH else no_websocket)(scope, receive, send)
            elif scope["raw_path"].startswith(PREFIX):
                await router(scope, receive, send)
            elif scope["raw_path"].startswith(CAPABILITIES):
                await capability_calls(scope, receive, send)
            elif scope["path"] in PATHS:
                await self._probes(scope, receive, send)
            else:
                await services(scope, receive, send)

        return dispatch

    def _services(self, gate: Gate, saved: Saved) -> App:
        """Return the RPC services on their paths."""
        config, policy = self._config, self._config.policy
        capabilities = by_type(config.capabilities)
        handshake = Handshake(
            self.identities,
            HandshakeAdmission(config.enrolment, policy, self.audit, self._rates),
            self._token_lives(),
            announcement(config.leases, self.registry, self._sockets),
            partial(announced, capabilities),
            saved,
        )
        reports = DirectReports(self.registry, policy, self._direct)
        permits = self._permits
        lifecycle = Lifecycle(gate, self.registry, self._liveness, reports, permits)
        registry = RegistryService(
            gate,
            self.registry,
            self.watches,
            permits,
            EndpointValidator(config.base_urls),
            self._sockets,
            saved,
        )
        direct = DirectGrants(self.identities, self.registry)
        broker = Broker(gate, policy, self.audit, capabilities, self._grants, direct)
        services = application(
            [handshake, lifecycle, registry, broker, self.health],
            max_message_bytes=config.limits.max_message_bytes,
            room=room_for_messages(),
            on_unreadable=gate.count_unreadable,
        )
        return knowing_base_url(below(wire.BROKER_PATH, services), config.public_url)

    async def serve(
        self,
        stop: trio.Event | None = None,
        *,
        bind: str | Sequence[str] = f"127.0.0.1:{DEFAULT_PORT}",
        task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stop` is set, then finish what is in flight and return.

        It listens on its socket as well, if it has a directory for it.
        `started` reports the addresses as URLs. Raises: serving.StartError, also for an address that cannot
        be had (BindError), and for one that other machines reach, without TLS.
        """
        stop = trio.Event() if stop is None else stop
        binds = [*([bind] if isinstance(bind, str) else bind), *self._sockets.binds]
        check_exposure(binds, encrypted=self._config.serve.tls.serves or self._config.allow_plaintext)
        config, browsers = self._config, self._browsers(binds)
        async with (
            self._application(browsers) as app,
            probe_port(self._probes, config.probe_bind, config.serve),
            open_plain_nursery() as nursery,
        ):
            most = self._config.limits.max_routed_body_bytes
            relay = Relay(RouterGateway(self._router, self._rules, browsers, most), self._pool)
            serve_app = partial(serve, app, bind=binds, config=self._config.serve, stop=stop, relay=relay)
            bound = await nursery.start(serve_app)
            _log.info("host listening on %s", ", ".join(bound))
            task_status.started(bound)
            await stop.wait()
            _log.info("host stopping")
            self.health.stop()
            self.watches.close()
        _log.info("host has stopped")

    def statistics(self) -> HostStatistics:
        """Return the numbers of this moment."""
        return HostStatistics(self._counter.statistics(), self._direct.statistics(), self._pool.statistics())

    def revoke_grant(self, grant_id: str, why: str = "it has been revoked") -> bool:
        """End leave to use a capability, with the calls in flight by it; return whether there was any."""
        return self._grants.revoke(grant_id, why)

    def revoke_grants(self, runtime_id: str, why: str = "they have been revoked") -> int:
        """End a plugin's leave to use any capability, until it asks anew; return how many grants it had."""
        return self._grants.revoke_all(runtime_id, why)

    async def add_plugin(self, url: str, *, host_url: str, self_id: str = "") -> str:
        """Give the plugin at `url`, which waits for its host, an identity; return its runtime id.

        `host_url` is where the plugin finds this host. It has registered all that it provides when this
        returns; how long that may take is the caller's to say, by a cancel scope. With a `self_id` the host
        proves itself by the enrolment token of that plugin, if it has one, and takes no other.
        Raises: ConnectError, also the plugin's own; and then, as when cancelled, nothing of it is left.
        """
        adoption = Adoption(
            identities=self.identities,
            registry=self.registry,
            enrolment=self._config.enrolment,
            audit=self.audit,
            pool=self._control_pool,
            lives=self._token_lives(),
            end=self._end,
        )
        return await adoption.add(url, host_url, self_id)

    def _token_lives(self) -> TokenLifetimes:
        config = self._config
        return TokenLifetimes(renewed_s=config.token_ttl_s, unrenewed_s=config.unrenewed_token_ttl_s)

    async def shut_down_plugin(self, runtime_id: str, *, grace_s: int = 30, reason: str = "") -> None:
        """Tell a plugin to stop; calls in flight to it have `grace_s` seconds to finish.

        Raises: ConnectError `not_found` for a plugin that has registered nothing; the plugin's own.
        """
        request = pb.ShutdownRequest(grace_period_seconds=grace_s, reason=reason)
        client = self._control.of(PluginControlClient, runtime_id)
        self.audit.allowed(Action.CONTROL, runtime_id, "Shutdown", reason=reason)
        await client.shutdown(request, timeout_s=_CONTROL_TIMEOUT_S)

    async def _probe(self, runtime_id: str) -> bool:
        """Ask a plugin who and how it is. See `Prober.probe`."""
        self._permits.keep()  # where nobody reports, either
        return await self._prober.probe(runtime_id)

    def _lapse_predecessors(self, runtime_id: str) -> None:
        """Send no calls to those whose place a plugin has taken, until they report their health again."""
        for predecessor in self._succession.predecessors(runtime_id):
            if self.registry.health(predecessor).callable:
                _log.info("%s has taken the place of %s", runtime_id, predecessor)
            self._liveness.lapse(predecessor)

    def revoke_identity(
        self, runtime_id: str, why: str = "it has been revoked"
    ) -> Coroutine[object, object, None]:
        """End an identity at once: its tokens prove nothing any more, what it provides is gone.

        Calls to it and of it that are in flight are cancelled. All that is done when this returns. Await the
        result: it waits until that is in the state file, if there is one. Until then, a host that is killed
        and restarted accepts the identity again. One that is not there is no error.

        Raises, when awaited: ConnectError `unavailable` if the file cannot be written. The identity has ended
        all the same, and it is written as soon as it can be.
        """
        self._end(runtime_id, why)
        return self._written(runtime_id)

    async def _written(self, runtime_id: str) -> None:
        try:
            await self._saved(lambda: None)
        except ConnectError as error:
            raise ConnectError(
                Code.UNAVAILABLE,
                f"the identity {runtime_id} has ended, but that is not in the state file yet: the host cannot"
                " write it, and tries on",
            ) from error

    def _end(self, runtime_id: str, why: str) -> None:
        """End an identity, with all that it has. One that has ended is no error."""
        self._end_identity(runtime_id, why)
        self.registry.remove_plugin(runtime_id)
        self.registry.cancel_calls(runtime_id)

    def _share_of(self, runtime_id: str) -> str:
        """Return which address a plugin counts for (see `shares`)."""
        entry = self.identities.entry(runtime_id)
        return entry.share if entry is not None else ""

    def _is_in_use(self, runtime_id: str) -> bool:
        """Whether there is something of a plugin that lasts only as long as its identity is kept."""
        return (
            self.registry.has_registered(runtime_id)
            or self.registry.has_called(runtime_id)
            or self._liveness.sees_off(runtime_id)
            or self.watches.has(runtime_id)
            or self._grants.has(runtime_id)
        )

    def _end_identity(self, runtime_id: str, why: str) -> None:
        if self.identities.revoke(runtime_id, why):
            self.audit.allowed(Action.REVOKE, runtime_id, reason=why)

    def _end_with_identity(self, runtime_id: str) -> None:
        """End what a plugin has for as long as its identity, if that has ended."""
        if self.identities.entry(runtime_id) is None:
            self._grants.revoke_all(runtime_id, "the identity of its owner has ended")
            self.registry.cancel_calls_made(runtime_id)
            self.watches.close_of(runtime_id)
            self._direct.forget(runtime_id)
            self.registry.forget_health(runtime_id)

    def _forget(self, identity: Identity) -> None:
        _log.info("the identity of %s has expired", identity.runtime_id)
        self.audit.allowed(Action.EXPIRE, identity.runtime_id)
        self.registry.remove_plugin(identity.runtime_id)
