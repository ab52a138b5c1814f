"""The host: how its parts are wired, and the nursery that they run in. Each part has its own module."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import TypeVar

import attrs
import trio
from prometheus_client.registry import Collector

from cpg_trio import wire
from cpg_trio._nursery import open_plain_nursery
from cpg_trio._version import __version__
from cpg_trio.asgi import App
from cpg_trio.call_record import Calls
from cpg_trio.calls import CallPolicy
from cpg_trio.host._cluster_metrics import ClusterMetrics
from cpg_trio.host._config import HostConfig, control_pool, fitted_to_process, reloaded_files, routing_pool
from cpg_trio.host._dependency import HostDependencies, HostDependency
from cpg_trio.host._dispatch import Dispatch, LocalDispatch
from cpg_trio.host._environment import DEFAULT_PORT
from cpg_trio.host._lifetimes import Lifetimes
from cpg_trio.host._metrics import HostMetrics, Refusals
from cpg_trio.host.access import (
    AccessCheck,
    Action,
    Audit,
    Identities,
    Identity,
    RateLimiter,
    StartedRuns,
    TokenLifetimes,
    check_listening,
    room_for_messages,
)
from cpg_trio.host.admin import Admin, Parts, serve_admin
from cpg_trio.host.capabilities.broker import Broker, announced, below, by_type
from cpg_trio.host.capabilities.calls import CapabilityCalls
from cpg_trio.host.capabilities.grants import Grants
from cpg_trio.host.capabilities.shared_ends import PREFIXES as ENDED_PREFIXES, SharedEnds
from cpg_trio.host.cluster import (
    Cluster,
    Forwarding,
    HostCalls,
    Local,
    Stand,
    Suspicions,
    membership,
    others_of,
    peer_url,
)
from cpg_trio.host.directory import (
    AddressProof,
    BaseUrls,
    CallsInFlight,
    ControlClients,
    EndpointValidator,
    Journal,
    Liveness,
    LocalPlugins,
    Prober,
    RegistrationPolicy,
    Registry,
    Sockets,
    Succession,
    WatchHub,
    is_local,
    knowing_base_url,
)
from cpg_trio.host.routing import (
    CallLog,
    DirectCounter,
    DirectGrants,
    DirectReports,
    DirectStatistics,
    OwnCalls,
    RequestHeaderRules,
    Router,
    RouterApp,
    RouterStatistics,
    Routes,
    SharedRoom,
    router_statistics,
)
from cpg_trio.host.services.edges import count_unreadable
from cpg_trio.host.services.handshake import Handshake, announcement
from cpg_trio.host.services.health import HostHealth
from cpg_trio.host.services.hosts import HostsOfDirectory
from cpg_trio.host.services.lifecycle import Lifecycle
from cpg_trio.host.services.managed_plugins import Adoption
from cpg_trio.host.services.service_registry import AT_ONCE, RegistryService
from cpg_trio.host.services.websocket import WatchSocket
from cpg_trio.host.supervision import ManagedPlugins, Surroundings, local_url
from cpg_trio.http import Origin, PoolStatistics, serve
from cpg_trio.http.client.origin import UNIX
from cpg_trio.http.relay import Relay
from cpg_trio.http.server.browsers import BrowserGuard
from cpg_trio.http.server.connection_limit import ConnectionLimit
from cpg_trio.logs import log_source
from cpg_trio.metrics import CallMetrics, ProcessMetrics, Side, metrics_port
from cpg_trio.probes import Probes, probe_port
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import PluginControlClient
from cpg_trio.rpc import Interceptor, ServiceClient, application
from cpg_trio.rpc.app_server import serving_app
from cpg_trio.rpc.given import check_service_type
from cpg_trio.statistics import CallTable
from cpg_trio.store import CountedStore
from cpg_trio.tracing import tracing
from cpg_trio.versions import Requirement

_log = logging.getLogger("cpg_trio.host")
_C = TypeVar("_C", bound=ServiceClient)

_CONTROL_TIMEOUT_S = 5.0  # of one call to a plugin


@attrs.frozen
class HostStatistics:
    """What a host has done, and the connections to providers that it has."""

    router: RouterStatistics
    direct: DirectStatistics
    """What did not go through the host, as the callers report it."""
    connections: PoolStatistics
    """Those of the router."""


class Host:
    """A host: it gives plugins identities, a registry and a router.

    `await host.serve(stop)` runs it. `async with host.application() as app` gives its services alone, as an
    ASGI application. `local` are the plugins in this process that a host before it has left behind.
    """

    def __init__(self, config: HostConfig | None = None, *, local: LocalPlugins | None = None) -> None:
        self._config, self._fitted = config, _ = fitted_to_process(config or HostConfig())
        limits, policy = config.limits, config.policy
        self.audit: Audit = Audit()
        self.admin_addresses: tuple[str, ...] = ()
        """Where operators see and steer it: URLs, and `unix:` with a path. None before it serves."""
        self.calls: Calls = Calls()
        is_shared = config.store is not None and config.store.shared
        self._shared = CountedStore(config.store) if config.store is not None and is_shared else None
        self.owners, self.standing = membership(self._shared)
        # Access: identities, and what they may do
        self._started = StartedRuns()
        self.identities: Identities = Identities(
            config.keys,
            longest_s=max(config.token_ttl_s, config.unrenewed_token_ttl_s),
            limits=limits,
            in_use=lambda runtime_id: self._lifetimes.is_in_use(runtime_id),  # noqa: PLW0108 - it is made below
            owns=self.owners.owns,
            on_expired=lambda identity: self._lifetimes.expired(identity),  # noqa: PLW0108 - it is made below
            on_accepted=lambda identity: self.audit.allowed(Action.AUTHENTICATE, identity.runtime_id),
            # Another host of the directory may have started a plugin of a name that this one starts.
            may_return=lambda self_id: is_shared or not self._started.is_reserved(self_id),
        )
        self._access = AccessCheck(
            self.identities,
            enrolment=config.enrolment,
            policy=policy,
            audit=self.audit,
            limiter=RateLimiter(config.rates, most=limits.max_rate_keys),
            started=self._started,
        )
        self._token_lifetimes = TokenLifetimes(
            renewed_s=config.token_ttl_s, unrenewed_s=config.unrenewed_token_ttl_s
        )
        # Connections of clients, and to plugins
        self._connections = ConnectionLimit(config.serve.max_connections)
        self._contexts = config.serve.tls.client_contexts()
        self._pool = routing_pool(self._contexts)
        self._control_pool = control_pool(self._contexts)
        self.local: LocalPlugins = local or LocalPlugins(shared=is_shared)
        """The plugins that run as tasks in this process. They reach the host while it serves."""
        # Directory: registrations, leases, watches
        self._direct = DirectCounter(limits.max_direct_reports)
        self.registry: Registry = Registry(
            selection=config.selection,
            default_selection=config.default_selection,
            limits=limits,
            calls=CallsInFlight(self._direct.in_flight),
            share_of=self.identities.share_of,
            name_of=self.identities.name_of,
        )
        self.watches: WatchHub = WatchHub(self.registry, limits, self.identities.share_of)
        self._registration_policy = RegistrationPolicy(
            self._access, self.identities, self.registry, policy, self.audit, self.owners.owns
        )
        self._control = ControlClients(self.identities, self.registry, self._control_pool, self.local)
        self._sockets = Sockets(config.socket_dir, self._control, shared=is_shared)
        self._succession = Succession(self.identities, self.registry)
        self._prober = Prober(
            self.identities,
            self.registry,
            self._succession,
            self._sockets,
            self._control,
            before=self._registration_policy.enforce,
        )
        self._liveness = Liveness(
            self.registry,
            config.leases,
            self._prober.probe,
            lambda runtime_id, why: self._lifetimes.end_identity(runtime_id, why, by_owner=True),
            self.owners.owns,
        )
        # Routing and capabilities
        self._call_log = CallLog(self.calls, config.log_calls)
        self.call_table: CallTable = CallTable(
            self.calls,
            name_of=self.identities.name_of,
            share_of=self.identities.share_of,
            room=partial(SharedRoom, limits.max_call_series),
        )
        self._journal = Journal(
            self._shared or config.store,
            self.identities,
            self.registry,
            self._registration_policy,
            owner=self.owners.own_id,
            owns=self.owners.owns,
            fence=self.standing.fence,
        )
        self._grants = Grants(
            config.keys,
            self.identities,
            self.audit,
            by_type(config.capabilities),
            config.grant_ttl_s,
            limits.max_grants,
        )
        self._ends = SharedEnds(self._grants)
        self._lifetimes = Lifetimes(
            identities=self.identities,
            registry=self.registry,
            liveness=self._liveness,
            watches=self.watches,
            grants=self._grants,
            direct=self._direct,
            journal=self._journal,
            started=self._started,
            audit=self.audit,
        )
        # Other hosts with the same directory
        self.cluster = self._cluster()
        """The other hosts of the directory; None for one that shares it with nobody."""
        self._others = others_of(self.cluster, self._shared)
        self._hosts = HostCalls(self.owners, config.keys, self._control_pool)
        self._forwarding = Forwarding(self.owners, self._hosts, self._others)
        self._suspicions = Suspicions(self.owners, self._hosts, self._liveness.suspect)
        self.plugins: ManagedPlugins = ManagedPlugins(self._surroundings())
        """The plugins that this host starts. None at first."""
        self.admin: Admin = Admin(
            Parts(
                identities=self.identities,
                registry=self.registry,
                liveness=self._liveness,
                watches=self.watches,
                grants=self._grants,
                journal=self._journal,
                pool=self._pool,
                connections=self._connections,
                capabilities=config.capabilities,
                settings=config.settings,
                managed=self.plugins,
                files=reloaded_files(config, self._contexts),
                call_table=self.call_table,
                direct=self._direct,
                cluster=self.cluster,
                store=str(self._shared),
            ),
            self.audit,
            self,
            limits,
        )
        # The host as a caller
        self._routes = Routes(self.identities, self.registry, local=self.local)
        self._own_calls = OwnCalls(self.local, self.registry.calls, self._own_id)
        self._dependencies = HostDependencies(
            self.watches, lambda provider: self._own_calls.to(provider.endpoint_url)
        )
        self.metrics_urls: tuple[str, ...] = ()
        """Where its metrics are answered while it is served, without the path."""
        self.health: HostHealth = HostHealth(self._access, self.registry, limits)
        self._probes = Probes(self._why_not_ready)

    def _cluster(self) -> Cluster | None:
        """Return this host as one of several; None for one that shares its directory with nobody."""
        if (store := self._shared) is None:
            return None
        cluster = Cluster(
            store,
            self.owners,
            self.standing,
            Local(
                keys=self._config.keys,
                identities=self.identities,
                registry=self.registry,
                liveness=self._liveness,
                journal=self._journal,
                policy=self._registration_policy,
                end=self._lifetimes.ended_elsewhere,
                in_use=self._lifetimes.is_in_use,
            ),
            lease_s=self._config.leases.lease_s,
        )
        for prefix in ENDED_PREFIXES:
            cluster.on(prefix, partial(self._ends.apply, prefix))
        return cluster

    def _surroundings(self) -> Surroundings:
        """Return what the supervision of plugins works on."""
        return Surroundings(
            identities=self.identities,
            registry=self.registry,
            watches=self.watches,
            started=self._started,
            audit=self.audit,
            lease_s=self._config.leases.lease_s,
            shared=self.cluster is not None,
            is_up_to_date=lambda: self.cluster is None or self.standing.stand is Stand.READY,
            end=self._lifetimes.end,
            probe=self._prober.probe,
            shut_down=self.shut_down_plugin,
            adopt=self._adopt,
            local=self.local.at,
            socket_dir=self._config.socket_dir,
            may_share=lambda self_id, service_type: self._access.may_join(
                Identity("", self_id), service_type, [""]
            ),
        )

    def _own_id(self) -> str:
        return self.owners.own_id or self.registry.id

    def _why_not_ready(self) -> str:
        if self.health.stopping:
            return "stopping"
        why = self.standing.why_not_ready if self.cluster is not None else ""
        return why or self._journal.why_unsaved

    @asynccontextmanager
    async def application(self) -> AsyncIterator[App]:
        """Yield the host as an ASGI application, for as long as the block lasts. It routes no calls.

        Of a directory that hosts share it is one, which the others reach at `peer_url`, if that is given.
        Raises: http.StartError if the store or the files for TLS cannot be used.
        """
        async with self._application(self._browsers()) as app, self._joined(self._config.peer_url):
            yield app

    def _opened(self) -> AbstractAsyncContextManager[None]:
        """Return a block in which the directory is kept in the store."""
        return self.cluster.opened() if self.cluster is not None else self._journal.opened()

    def _joined(self, url: str) -> AbstractAsyncContextManager[None]:
        """Return a block in which this is one of the hosts of its directory, which others reach at `url`."""
        if self.cluster is None:
            return nullcontext()
        return self.cluster.joined(url, self._config.peer_address)

    @asynccontextmanager
    async def _application(self, browsers: BrowserGuard) -> AsyncIterator[App]:
        self._contexts.check()
        self._fitted.tell()
        async with (
            self._pool,
            self._control_pool,
            self._opened(),
            open_plain_nursery() as nursery,
        ):
            self._config.keys.open()
            nursery.start_soon(self._pool.sweep)
            nursery.start_soon(self._control_pool.sweep)
            nursery.start_soon(self.watches.run)
            nursery.start_soon(self.call_table.run)
            if self.cluster is not None:
                self._grants.share(self.registry.id)
                nursery.start_soon(self._ends.run, self.cluster.store)
                nursery.start_soon(self._suspicions.run)
            with self.identities.watched(self._lifetimes.identity_changed):
                self._end_former_tasks()
                self._registration_policy.enforce()  # the policy may have changed since the state was written
                await nursery.start(self._liveness.run)
                async with (
                    self._reached_in_memory(browsers),
                    self.admin.running(),
                    self._dependencies.running(),
                ):
                    with self.registry.changes.added(self._succession.lapsing(self._liveness.lapse)):
                        yield browsers.guarding(self._dispatch())
            nursery.cancel_scope.cancel()

    def _end_former_tasks(self) -> None:
        """End what the store still has of plugins that were tasks of an earlier process of this host."""
        for runtime_id in list(self.registry.plugins()):
            registered = self.registry.registrations(runtime_id)
            if any(is_local(each.base_url) and self.local.find(each.base_url) is None for each in registered):
                self._lifetimes.end(runtime_id, "its task has ended with its host")

    def _browsers(self, binds: Sequence[str] = ()) -> BrowserGuard:
        """Return the guard against web pages for a host that listens on `binds`."""
        urls = filter(None, (self._config.public_url, self._config.peer_url))
        names = [Origin.parse(url)[0].host for url in urls]
        return BrowserGuard(self._config.serve, binds=binds, names=names)

    def _dispatch(self) -> App:
        most = self._config.limits.max_subscriptions
        return Dispatch(
            watch=WatchSocket(self._access, self.watches, most, self.registry.id, self._others),
            capabilities=CapabilityCalls(self._grants, self._access, self.calls),
            probes=self._probes,
            services=self._services(),
        )

    def _router(self, browsers: BrowserGuard) -> Router:
        return Router(
            self._access,
            self._routes,
            self.registry,
            self.calls,
            self._suspicions.suspect,
            browsers,
            RequestHeaderRules(self._config.pass_headers),
            self._config.limits.max_routed_body_bytes,
        )

    def _services(self) -> App:
        """Return the RPC services on their paths."""
        config = self._config
        capabilities = by_type(config.capabilities)
        handshake = Handshake(
            self._access,
            self.identities,
            self.audit,
            self._token_lifetimes,
            announcement(config.leases, self.registry, self._sockets),
            partial(announced, capabilities),
            self._journal.saved,
            self._forwarding,
        )
        reports = DirectReports(self.registry, self._access, self._direct)
        lifecycle = Lifecycle(
            self._access,
            self.registry,
            self._liveness,
            reports,
            self._registration_policy,
            self.identities.forget,
            self._forwarding,
        )
        registry = RegistryService(
            self._access,
            self.registry,
            self.watches,
            self._registration_policy,
            self._endpoints(),
            self._sockets,
            self.audit,
            self._journal.saved,
            self._forwarding,
            self._others,
        )
        hosts = [HostsOfDirectory(self._access, self._hosts, self._liveness.ask)] if self.cluster else []
        direct = DirectGrants(self.identities, self.registry)
        broker = Broker(self._access, self.audit, capabilities, self._grants, direct)
        services = application(
            [handshake, lifecycle, registry, broker, self.health, *hosts],
            max_message_bytes=config.limits.max_message_bytes,
            room=room_for_messages(),
            on_unreadable=partial(count_unreadable, self._access),
        )
        return knowing_base_url(below(wire.BROKER_PATH, services), config.public_url)

    def _endpoints(self) -> EndpointValidator:
        """Return what checks the URLs that plugins register."""
        is_shared = self.cluster is not None
        policy = self._config.base_urls or (BaseUrls.PROVED if is_shared else BaseUrls.CALLER)
        return EndpointValidator(policy, AddressProof(self._control), shared=is_shared)

    async def serve(
        self,
        stop: trio.Event | None = None,
        *,
        bind: str | Sequence[str] = f"127.0.0.1:{DEFAULT_PORT}",
        task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stop` is set, then stop `plugins`, finish the calls in flight and return.

        With a `socket_dir` it listens on a Unix socket, too. `started` reports the addresses as URLs.
        Raises: http.StartError, also for an address that is in use (BindError), and for one without TLS that
        other machines reach.
        """
        stop, plugins_stopped = trio.Event() if stop is None else stop, trio.Event()
        binds = [*([bind] if isinstance(bind, str) else bind), *self._sockets.binds]
        check_listening(binds, encrypted=self._config.serve.tls.serves or self._config.allow_plaintext)
        config, browsers, drained = self._config, self._browsers(binds), trio.Event()
        with log_source("host"):
            async with (
                tracing("cpg-trio-host", __version__, os.environ, server=[self.calls]) as traces,
                self._application(browsers) as app,
                probe_port(self._probes, config.probe_bind, config.serve),
                metrics_port(config.metrics_bind, config.serve, self._collectors) as self.metrics_urls,
                open_plain_nursery() as admin,
            ):
                async with open_plain_nursery() as nursery:
                    relay = Relay(self._router(browsers), self._pool)
                    serve_app = partial(
                        serve,
                        app,
                        bind=binds,
                        config=config.serve,
                        stop=plugins_stopped,
                        relay=relay,
                        connections=self._connections,
                        at_once=AT_ONCE,
                    )
                    bound = await nursery.start(serve_app)
                    _log.info("host listening on %s", ", ".join(bound))
                    traces.identify(self.registry.id)
                    self.admin.listening(bound)
                    self.admin_addresses = await admin.start(self._serve_admin, bound, drained)
                    url = local_url(bound, config.public_url)
                    async with self._joined(self._peer_url(bound)), self.plugins.running(url):
                        task_status.started(bound)
                        await stop.wait()
                        _log.info("host stopping")
                        self.health.stop()
                        await self.plugins.stop()
                        plugins_stopped.set()
                        self.watches.close()
                        self._dependencies.stop()
                        self.admin.stopping()
                        await self._own_calls.finish(config.serve.grace_s)
                drained.set()
            _log.info("host has stopped")

    @asynccontextmanager
    async def _reached_in_memory(self, browsers: BrowserGuard) -> AsyncIterator[None]:
        """Take the calls of plugins that run in this process, and those of the host itself."""
        router = RouterApp(self._router(browsers), self._pool)
        async with serving_app(self._dispatch(), "the host") as services:
            with self.local.reaching(LocalDispatch(router, services)):
                yield
            services.cancel()

    def _peer_url(self, bound: Sequence[str]) -> str:
        if self.cluster is None:
            return ""
        is_one_machine = self._config.base_urls is BaseUrls.ANY
        return peer_url(self._config.peer_url, bound, one_machine=is_one_machine)

    async def _serve_admin(
        self, bound: Sequence[str], stop: trio.Event, *, task_status: trio.TaskStatus[tuple[str, ...]]
    ) -> None:
        """Serve operators until `stop`, which comes when the calls in flight have ended."""
        config = self._config
        if config.admin is None:
            task_status.started(())
            return
        await serve_admin(
            self.admin.application(),
            config.admin,
            access=self._access,
            audit=self.audit,
            serving=config.serve,
            port=_port_of(bound),
            stop=stop,
            allow_plaintext=config.allow_plaintext,
            task_status=task_status,
        )

    def _collectors(self) -> Iterable[Collector]:
        """Return what is asked at each scrape of the metrics."""
        collectors = [
            CallMetrics(self.call_table, Side.HOST),
            HostMetrics(
                self.admin.parts,
                self.admin.plugins,
                self._direct,
                Refusals(self.audit),
                self.admin.managed,
            ),
            ProcessMetrics(self.admin.loop_lag, {"routing": self._pool, "control": self._control_pool}),
        ]
        if (hosts := self.admin.hosts) is not None and self._shared is not None:
            forwarded = self._forwarding.forwarded
            collectors.append(ClusterMetrics(hosts, self.admin.plugins, self._shared, forwarded))
        return collectors

    # Calls of the host itself

    def require(
        self,
        service_type: str,
        *,
        version: str = "",
        min_version: str = "",
        policy: CallPolicy | None = None,
    ) -> HostDependency:
        """Return a service that this host calls itself, as `Plugin.require` does for a plugin.

        It may be asked for at any time, also before the host runs. What is equal gives the same object, with
        one set of breakers and statistics. A missing provider leaves the host's health as it is.
        Raises: wire.InvalidError for a type or version that is not valid.
        """
        check_service_type("require", service_type)
        return self._dependencies.of(service_type, Requirement.parse(min_version, version), policy)

    def client(
        self,
        service_type: str,
        client_class: type[_C],
        *,
        version: str = "",
        policy: CallPolicy | None = None,
        interceptors: Iterable[Interceptor] = (),
    ) -> _C:
        """Return a typed client of a service that plugins provide: `require` and its `client` in one.

        The plugins see the host as the caller. No policy bounds what the host calls.
        """
        dependency = self.require(service_type, version=version, policy=policy)
        return dependency.client(client_class, interceptors=interceptors)

    def statistics(self) -> HostStatistics:
        """Return the numbers of this moment."""
        return HostStatistics(
            router_statistics(self.call_table), self._direct.statistics(), self._pool.statistics()
        )

    def revoke_grant(self, grant_id: str, why: str = "it has been revoked", *, actor: str = "") -> bool:
        """End a grant of a capability, and the calls that use it; return whether there was one.

        Where hosts share a directory it ends at all of them, within a second at those that reach the store.
        One that this host has not seen may be another's, so any that can be one ends.
        `actor` is who has done it, for the audit trail, here and below.
        """
        return self._grants.revoke(grant_id, why, actor)

    def revoke_grants(self, runtime_id: str, why: str = "they have been revoked") -> int:
        """End all grants that a plugin has, until it asks again; return how many this host has held."""
        return self._grants.revoke_all(runtime_id, why)

    async def grants_ended(self) -> None:
        """Wait until the other hosts of the directory can know which grants have been revoked here.

        Raises: ConnectError `unavailable` while the store cannot be written. They have ended here, and the
        host goes on trying to write that.
        """
        await self._ends.written()

    def enforce_policy(self) -> None:
        """Remove the registrations that the rules of now do not permit."""
        self._registration_policy.enforce()

    async def add_plugin(self, url: str, *, host_url: str, self_id: str = "") -> str:
        """Give an identity to the plugin at `url`, which waits for a host; return its runtime id.

        `host_url` is the URL of this host for the plugin. This returns when the plugin has registered all
        that it provides; use a cancel scope to limit the time. With a `self_id` the host proves itself by the
        enrolment token of that plugin, if there is one, and accepts no other plugin.
        Raises: ConnectError, also the plugin's own. After an error or a cancellation the plugin has neither
        identity nor registration.
        """
        return await self._adopt(url, host_url, self_id)

    async def _adopt(
        self,
        url: str,
        host_url: str,
        self_id: str,
        token: str = "",
        issued: Callable[[Identity], object] = lambda _: None,
    ) -> str:
        adoption = Adoption(
            identities=self.identities,
            registry=self.registry,
            policy=self._registration_policy,
            enrolment=self._config.enrolment,
            started=self._started,
            audit=self.audit,
            pool=self._control_pool,
            lifetimes=self._token_lifetimes,
            saved=self._journal.saved,
            probe=self._liveness.ask,
            end=self._lifetimes.end,
            token=token,
            issued=issued,
        )
        return await adoption.add(url, host_url, self_id)

    async def shut_down_plugin(
        self, runtime_id: str, *, grace_s: int = 30, reason: str = "", actor: str = ""
    ) -> None:
        """Tell a plugin to stop. The calls to it that are in flight have `grace_s` seconds to finish.

        Raises: ConnectError `not_found` for a plugin that has registered nothing; the plugin's own.
        """
        request = pb.ShutdownRequest(grace_period_seconds=grace_s, reason=reason)
        client = self._control.of(PluginControlClient, runtime_id)
        self.audit.allowed(Action.CONTROL, runtime_id, "Shutdown", reason=reason, actor=actor)
        await client.shutdown(request, timeout_s=_CONTROL_TIMEOUT_S)

    def revoke_identity(
        self, runtime_id: str, why: str = "it has been revoked", *, actor: str = ""
    ) -> Coroutine[object, object, None]:
        """End an identity: its tokens are invalid, its registrations are gone, its calls are cancelled.

        That has happened when this returns. The result waits until it is in the state file, if there is one:
        await it, as a host that is killed before and restarted accepts the identity again. An identity that
        does not exist is no error.

        Raises, when awaited: ConnectError `unavailable` if the file cannot be written. The identity has
        ended, and the host goes on trying to write that.
        """
        self._lifetimes.end(runtime_id, why, actor)
        return self._lifetimes.written(runtime_id)


def _port_of(bound: Sequence[str]) -> int:
    """Return the first port of some addresses; 0 if they are Unix sockets."""
    ports = (url.rpartition(":")[2] for url in bound if not url.startswith(UNIX))
    return int(next(ports, 0))
