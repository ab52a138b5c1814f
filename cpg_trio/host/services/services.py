"""The RPC services of plugins' lives and of the registry: thin, and each call is checked first.

What they know is in the identities, the registry and the watch hub; here is only what travels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack

import trio

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import PluginLifecycleService, ServiceRegistryService
from cpg_trio._lines import one_line
from cpg_trio._throttle import LogThrottle
from cpg_trio.host.access.audit import Action, Audit
from cpg_trio.host.access.authentication import Gate, peer_of
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.access.limits import check_held_request
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.access.policy import Policy, Rules
from cpg_trio.host.access.rate_limiting import TryAgainError, retry_told
from cpg_trio.host.access.rates import Kind
from cpg_trio.host.directory.endpoint_validation import EndpointValidator
from cpg_trio.host.directory.leases import Liveness
from cpg_trio.host.directory.registry import Registration, Registry, ServiceStatus, health_of
from cpg_trio.host.directory.store import Saved
from cpg_trio.host.directory.unix_sockets import Sockets
from cpg_trio.host.directory.watch_hub import WatchHub
from cpg_trio.host.routing.direct_statistics import DirectReports
from cpg_trio.host.services.errors import state_errors
from cpg_trio.rpc import Code, ConnectError, Context

_log = logging.getLogger("cpg_trio.host")

_MOST_OF_A_REASON = 256  # characters, in the log
_OTHERS_S = 1  # after which those who provide a service may have gone
_MOMENT_S = 0.02  # by which a watch ends before its caller's time is up
# What a registration says of where the plugin is, which is no other plugin's business: the host goes there.
_FOR_THE_HOST = frozenset({wire.BASE_URL_KEY, wire.SOCKET_KEY, wire.CONTROL_URL_KEY})


class Lifecycle(PluginLifecycleService):
    """`PluginLifecycle`: what plugins say of their own health. Each report is a heartbeat."""

    def __init__(
        self,
        gate: Gate,
        registry: Registry,
        liveness: Liveness,
        direct: DirectReports,
        permits: RegistrationPermits,
    ) -> None:
        self._gate = gate
        self._permits = permits
        self._registry = registry
        self._liveness = liveness
        self._direct = direct

    async def report_health(
        self, request: pb.ReportHealthRequest, ctx: Context, /
    ) -> pb.ReportHealthResponse:
        """Note the caller's health.

        Raises: ConnectError for a state that there is not, and for a plugin that has moved.
        """
        caller = self._gate.caller(ctx, Kind.HEALTH_REPORT)
        self._check_place(caller, peer_of(ctx))
        self._permits.keep()  # of all plugins, as some report is never far
        with state_errors():
            health = health_of(request)
            self._direct.take(caller, request.direct_calls)
        before = self._registry.health(caller.runtime_id)
        self._registry.report_health(caller.runtime_id, health)
        if self._registry.last_report(caller.runtime_id) != before:  # there may be no room for the reason
            name = pb.HealthState.Name(health.state).removeprefix("HEALTH_STATE_")
            reason = f": {one_line(health.reason, _MOST_OF_A_REASON)}" if health.reason else ""
            _log.info("%s reports %s%s", caller.runtime_id, name, reason)
        self._liveness.beat(caller.runtime_id)
        ctx.response_headers[wire.HOST_ID_HEADER] = self._registry.id
        return pb.ReportHealthResponse()

    def _check_place(self, caller: Identity, peer: Peer) -> None:
        """Check that a plugin that cannot be reached is still where the host looks for it.

        Its name leads elsewhere by now if it calls from elsewhere, and it has to register to be found there.
        Raises: ConnectError `unauthenticated`, upon which it shakes hands, and keeps its identity.
        """
        runtime_id = caller.runtime_id
        if not self._registry.has_lapsed(runtime_id) or peer.address in ("", caller.address):
            return
        if any(registration.address for registration in self._registry.registrations(runtime_id)):
            raise ConnectError(
                Code.UNAUTHENTICATED,
                f"{runtime_id} does not answer at {caller.address}, and calls from {peer.address}:"
                " shake hands again",
            )


class RegistrationPermits:
    """Whose a service is to provide."""

    def __init__(self, identities: Identities, registry: Registry, policy: Policy, audit: Audit) -> None:
        self._identities = identities
        self._registry = registry
        self._policy = policy
        self._audit = audit
        self._rules: Rules | None = None
        self._failures = LogThrottle()

    def keep(self) -> None:
        """Take out of the registry what the policy has come to deny since this was last asked."""
        if self._rules is (rules := self._policy.rules):
            return
        try:
            for plugin in self._registry.plugins():
                if (entry := self._identities.entry(plugin)) is not None:
                    self._keep_of(entry.identity)
        except Exception:  # noqa: BLE001 - a policy may be somebody's own class
            self._note_failure("on what plugins provide, and is asked again")
        else:
            self._rules = rules

    def _keep_of(self, plugin: Identity) -> None:
        for registration in self._registry.registrations(plugin.runtime_id):
            if not self._policy.may_provide(plugin, registration.service_type):
                self._registry.unregister(plugin.runtime_id, registration.id)
                reason = f"{plugin.self_id} may not provide {registration.service_type} any more"
                self.refused(plugin, registration.service_type, reason)
                _log.warning("%s: %s", plugin.runtime_id, reason)

    def may_keep(self, plugin: Identity, service_type: str) -> bool:
        """Whether a plugin may still provide what it has provided; not if the policy fails to say."""
        try:
            return self._identities.holds(plugin) and self._policy.may_provide(plugin, service_type)
        except Exception:  # noqa: BLE001 - a policy may be somebody's own class
            self._note_failure(f"on what {plugin.runtime_id} has provided")
            return False

    def _note_failure(self, what: str) -> None:
        if (more := self._failures.suffix()) is not None:
            _log.exception("the policy failed %s%s", what, more)

    def check(self, plugin: Identity, service_type: str) -> None:
        """Check that a plugin may provide a service.

        Raises: ConnectError `permission_denied`, with the time after which to try again while others do.
        """
        if not self._policy.may_provide(plugin, service_type):
            error = ConnectError(Code.PERMISSION_DENIED, f"{plugin.self_id} may not provide {service_type}")
        elif not self._policy.may_join(plugin, service_type, holders := self._holders(service_type)):
            others = ", ".join(sorted(set(holders) - {plugin.self_id}))
            error = TryAgainError(
                Code.PERMISSION_DENIED,
                f"{service_type} is provided by {others}, and no policy says that {plugin.self_id} may, too",
                _OTHERS_S,
            )
        else:
            return
        self.refused(plugin, service_type, error.message)
        raise error

    def refused(self, plugin: Identity, target: str, reason: str) -> None:
        """Note that a registration was refused."""
        self._audit.denied(Action.REGISTER, plugin.runtime_id, target, reason=reason)

    def permitted(self, action: Action, plugin: Identity, service_type: str) -> None:
        """Note that a service has been registered, or is no more."""
        self._audit.allowed(action, plugin.runtime_id, service_type)

    def _holders(self, service_type: str) -> list[str]:
        entries = [self._identities.entry(r.runtime_id) for r in self._registry.providers(service_type)]
        return [entry.identity.self_id for entry in entries if entry is not None]


class RegistryService(ServiceRegistryService):
    """`ServiceRegistry`: the registry as plugins see it. A plugin changes only what is its own."""

    def __init__(
        self,
        gate: Gate,
        registry: Registry,
        hub: WatchHub,
        permits: RegistrationPermits,
        egress: EndpointValidator,
        sockets: Sockets,
        saved: Saved,
    ) -> None:
        self._gate = gate
        self._registry = registry
        self._permits = permits
        self._hub = hub
        self._egress = egress
        self._sockets = sockets
        self._saved = saved

    async def register_service(
        self, request: pb.RegisterServiceRequest, ctx: Context, /
    ) -> pb.RegisterServiceResponse:
        """Register a service of the caller's, at a URL of the caller's.

        Raises: ConnectError `permission_denied` for a service that is not the caller's to provide, or a URL
        that is not its own; with `Retry-After` if that may change by itself.
        """
        caller = self._gate.caller(ctx, Kind.REGISTER)
        metadata = dict(request.metadata)
        said = (request.service_type, request.version, request.endpoint_path, metadata)
        with state_errors():
            wire.validate_registration(*said)
        with retry_told(ctx):
            self._permits.check(caller, request.service_type)
            address = await self._checked_address(caller, metadata)
            socket_path = await self._sockets.accept(caller.runtime_id, metadata, ctx.client_address)
            if not socket_path:
                metadata.pop(wire.SOCKET_KEY, None)  # what is kept is what counts
            self._gate.still(caller)  # that took a while
            self._permits.check(caller, request.service_type)
        replaced = self._registry.provider(request.service_type, caller.runtime_id)
        with state_errors():
            registration = self._registry.register(
                caller.runtime_id, *said, address=address, socket_path=socket_path
            )
        await self._saved(lambda: self._take_back(registration, replaced))
        self._gate.still(caller)
        if self._registry.provider(request.service_type, caller.runtime_id) is None:
            self._permits.check(caller, request.service_type)
        self._permits.permitted(Action.REGISTER, caller, request.service_type)
        through = f" through unix:{socket_path}" if socket_path else ""
        service = f"{request.service_type} v{request.version}"
        _log.info("Registered service: %s of %s%s", service, caller.runtime_id, through)
        return pb.RegisterServiceResponse(registration_id=registration.id)

    async def unregister_service(
        self, request: pb.UnregisterServiceRequest, ctx: Context, /
    ) -> pb.UnregisterServiceResponse:
        """Remove a registration of the caller's; another's is as unknown to it as one that never was."""
        caller = self._gate.caller(ctx, Kind.UNREGISTER)
        with state_errors():
            registration = self._registry.unregister(caller.runtime_id, request.registration_id)
        await self._saved(lambda: self._put_back(caller, registration))
        self._permits.permitted(Action.UNREGISTER, caller, registration.service_type)
        _log.info("Unregistered service: %s of %s", registration.service_type, caller.runtime_id)
        return pb.UnregisterServiceResponse()

    async def _checked_address(self, caller: Identity, metadata: Mapping[str, str]) -> str:
        base_url, control_url = (metadata.get(key, "") for key in (wire.BASE_URL_KEY, wire.CONTROL_URL_KEY))
        try:
            address = await self._egress.check_base_url(base_url, caller)
            if control_url:
                await self._egress.check_control_url(control_url, base_url, caller)
        except ConnectError as error:
            self._permits.refused(caller, base_url, error.message)
            raise
        return address

    def _take_back(self, registration: Registration, replaced: Registration | None) -> None:
        """Undo a registration, unless it is gone already."""
        plugin, service_type = registration.runtime_id, registration.service_type
        if self._registry.provider(service_type, plugin) is not registration:
            return
        if replaced is None:
            self._registry.unregister(plugin, registration.id)
        else:
            self._registry.restore(replaced)

    def _put_back(self, plugin: Identity, registration: Registration) -> None:
        """Undo that a registration was removed, unless its plugin may not have it any more."""
        if self._permits.may_keep(plugin, registration.service_type):
            self._registry.restore(registration)

    async def discover_service(
        self, request: pb.DiscoverServiceRequest, ctx: Context, /
    ) -> pb.DiscoverServiceResponse:
        """Return a provider that is alive, compatible and healthy enough."""
        caller = self._gate.caller(ctx, Kind.DISCOVER)
        with state_errors():
            wire.validate_service_type(request.service_type)
            self._gate.check_may_call(caller, request.service_type, Action.DISCOVER)
            registration, single = self._registry.discover(request.service_type, request.min_version)
        return pb.DiscoverServiceResponse(endpoint=_endpoint(registration), single_provider=single)

    async def watch_service(
        self, request: pb.WatchServiceRequest, ctx: Context, /
    ) -> AsyncIterator[pb.WatchServiceEvent]:
        """Yield the status of a service type now, then each change of it for this caller.

        Raises: ConnectError `permission_denied` also when the policy that let the caller watch has changed.
        """
        caller = self._gate.caller(ctx, Kind.WATCH)
        own_end = _end_of_time(ctx)
        with ExitStack() as stack:
            with state_errors():
                check_held_request(request)
                watch = stack.enter_context(self._hub.watch(caller.runtime_id))
                watch.subscribe(request.service_type)
            while True:
                with trio.move_on_at(min(own_end, self._gate.ends_at(caller))) as patience:
                    news = await anext(watch, None)
                self._gate.still(caller)
                if patience.cancelled_caught and trio.current_time() < own_end:
                    continue  # its identity has been renewed
                if patience.cancelled_caught or news is None:
                    return
                self._gate.check_may_call(caller, request.service_type, Action.DISCOVER)
                if (status := news.statuses.get(request.service_type)) is not None:
                    yield watch_event(request.service_type, status)


def _end_of_time(ctx: Context) -> float:
    """Return when to end a watch so that its caller sees it end in good order, as other hosts let it."""
    if ctx.timeout_ms is None:
        return math.inf
    return trio.current_time() + ctx.timeout_ms / 1000 - _MOMENT_S


def _endpoint(registration: Registration) -> pb.ServiceEndpoint:
    return pb.ServiceEndpoint(
        provider_id=registration.runtime_id,
        version=registration.version,
        endpoint_url=registration.endpoint_url,
        metadata={k: v for k, v in registration.metadata.items() if k not in _FOR_THE_HOST},
    )


def watch_event(service_type: str, status: ServiceStatus) -> pb.WatchServiceEvent:
    """Return what a watcher is told of a service type."""
    endpoint = _endpoint(status.provider) if status.provider else None
    return pb.WatchServiceEvent(service_type=service_type, state=status.state, endpoint=endpoint)
