"""The host's RPC services: thin, each call checked against its caller's token before anything else.

What they know is in the identities, the registry and the watch hub; here is only what travels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import trio

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import (
    HandshakeService,
    PluginLifecycleService,
    ServiceRegistryService,
)
from cpg_trio._version import __version__
from cpg_trio.rpc import Code, ConnectError, Context

from .addresses import key_of
from .charging import charge, retry_told
from .egress import BaseUrls, check_base_url
from .identity import Identities, Identity
from .limits import LimitError
from .liveness import LeaseConfig, Liveness
from .rates import Kind, Rates
from .registry import Health, NoProviderError, Registration, Registry, ServiceStatus, UnknownRegistrationError
from .sockets import Sockets
from .store import Saved
from .watch import WatchHub

_log = logging.getLogger("cpg_trio.host")

_MAX_REASON_BYTES = 4096
_MOMENT_S = 0.02  # by which a watch ends before its caller's time is up
_MAX_DEPENDENCIES = 100


class Gate:
    """Tells who is calling, or refuses."""

    def __init__(self, identities: Identities, rates: Rates) -> None:
        self._identities = identities
        self._rates = rates

    def caller(self, ctx: Context, kind: Kind) -> Identity:
        """Return the identity that a call's headers prove, and count the call as one of its kind.

        Raises: ConnectError `invalid_argument` without a runtime id, as other hosts answer; `unauthenticated`
        without a token, or with one that does not prove that id; `resource_exhausted` for one call too many.
        """
        headers = ctx.request_headers
        proof = headers.get(wire.RUNTIME_ID_HEADER, ""), headers.get(wire.AUTHORIZATION_HEADER, "")
        with retry_told(ctx):
            return self.admit(*proof, ctx.client_address, kind)

    def admit(self, runtime_id: str, authorization: str, client: str | None, kind: Kind) -> Identity:
        """Return the identity that two headers prove, empty where they are missing; see `caller`.

        A call that proves none is counted for the address that it comes from.
        """
        try:
            identity = self.prove(runtime_id, authorization)
        except ConnectError:
            charge(self._rates, Kind.FAILED_AUTHENTICATION, key_of(client))
            raise
        charge(self._rates, kind, identity.runtime_id)
        return identity

    def prove(self, runtime_id: str, authorization: str) -> Identity:
        """Return the identity that two headers prove. Raises: as `caller`, but counts nothing."""
        if not runtime_id:
            raise ConnectError(Code.INVALID_ARGUMENT, f"{wire.RUNTIME_ID_HEADER} header required")
        if not authorization.startswith(wire.BEARER_PREFIX):
            raise ConnectError(Code.UNAUTHENTICATED, "Authorization: Bearer <token> required")
        token = authorization.removeprefix(wire.BEARER_PREFIX)
        identity = self._identities.authenticate(runtime_id, token)
        if identity is None:
            raise self._refusal(self._identities.former(runtime_id, token))
        return identity

    def still(self, identity: Identity) -> None:
        """Check that an identity has not ended since. Raises: ConnectError `unauthenticated`."""
        if not self._identities.holds(identity):
            raise self._refusal(identity)

    def _refusal(self, proved: Identity | None) -> ConnectError:
        """Return the error for a caller that holds no identity; one that proved a former is told its end."""
        message = "invalid token"
        if proved is not None and (why := self._identities.why_ended(proved)):
            message = f"the identity {proved.runtime_id} has ended ({why}): shake hands again"
        return ConnectError(Code.UNAUTHENTICATED, message)


@contextmanager
def _codes() -> Iterator[None]:
    """Give the errors of the state their codes."""
    try:
        yield
    except wire.InvalidError as error:
        raise ConnectError(Code.INVALID_ARGUMENT, str(error)) from error
    except (NoProviderError, UnknownRegistrationError) as error:
        raise ConnectError(Code.NOT_FOUND, str(error)) from error
    except LimitError as error:
        raise ConnectError(Code.RESOURCE_EXHAUSTED, str(error)) from error


class Handshake(HandshakeService):
    """`HandshakeService`: versions are agreed on, and a plugin that names itself gets an identity."""

    def __init__(
        self, identities: Identities, leases: LeaseConfig, sockets: Sockets, saved: Saved, rates: Rates
    ) -> None:
        self._identities = identities
        self._rates = rates
        self._saved = saved
        self._server_metadata = {
            wire.SERVER_VERSION_KEY: __version__,
            wire.HEARTBEAT_KEY: _milliseconds(leases.heartbeat_s),
            wire.LEASE_KEY: _milliseconds(leases.lease_s),
            **sockets.announced,
        }

    async def handshake(self, request: pb.HandshakeRequest, ctx: Context, /) -> pb.HandshakeResponse:
        """See the class. Raises: ConnectError for a foreign cookie, another version, a bad name.

        A handshake is counted before all else, whatever comes of it.
        """
        with retry_told(ctx):
            charge(self._rates, Kind.HANDSHAKE, key_of(ctx.client_address))
        _check_versions(request)
        with _codes():
            wire.validate_handshake(request.self_version, request.requested_plugins, request.client_metadata)
        response = pb.HandshakeResponse(
            core_protocol_version=wire.CORE_VERSION,
            app_protocol_version=wire.APP_VERSION,
            server_metadata=self._server_metadata,
        )
        if request.self_id:
            with _codes():
                wire.validate_self_id(request.self_id)
                identity, token = self._identities.issue(request.self_id)
            await self._saved(lambda: self._identities.revoke(identity.runtime_id))
            response.runtime_id, response.runtime_token = identity.runtime_id, token
            _log.info("%s is %s", identity.self_id, identity.runtime_id)
        return response


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


def _check_versions(request: pb.HandshakeRequest) -> None:
    if (request.magic_cookie_key, request.magic_cookie_value) != (wire.COOKIE_KEY, wire.COOKIE_VALUE):
        raise ConnectError(
            Code.INVALID_ARGUMENT, "invalid magic cookie - this may not be a connect-plugin server"
        )
    if request.core_protocol_version != wire.CORE_VERSION:
        raise ConnectError(
            Code.INVALID_ARGUMENT,
            f"unsupported core protocol version: {request.core_protocol_version}"
            f" (server supports: {wire.CORE_VERSION})",
        )
    if request.app_protocol_version != wire.APP_VERSION:
        raise ConnectError(
            Code.FAILED_PRECONDITION,
            f"version mismatch: client={request.app_protocol_version}, server={wire.APP_VERSION}",
        )


class Lifecycle(PluginLifecycleService):
    """`PluginLifecycle`: what plugins say of their own health. Each report is a heartbeat."""

    def __init__(self, gate: Gate, registry: Registry, liveness: Liveness) -> None:
        self._gate = gate
        self._registry = registry
        self._liveness = liveness

    async def report_health(
        self, request: pb.ReportHealthRequest, ctx: Context, /
    ) -> pb.ReportHealthResponse:
        """Note the caller's health. Raises: ConnectError for a state that there is not."""
        caller = self._gate.caller(ctx, Kind.HEALTH_REPORT)
        health = _health(request)
        if health != self._registry.health(caller.runtime_id):
            name = pb.HealthState.Name(health.state).removeprefix("HEALTH_STATE_")
            _log.info(
                "%s reports %s%s", caller.runtime_id, name, f": {health.reason}" if health.reason else ""
            )
        self._registry.report_health(caller.runtime_id, health)
        self._liveness.beat(caller.runtime_id)
        return pb.ReportHealthResponse()


def _health(request: pb.ReportHealthRequest) -> Health:
    if request.state not in pb.HealthState.values():
        raise ConnectError(Code.INVALID_ARGUMENT, f"unknown health state: {request.state}")
    if len(request.reason.encode()) > _MAX_REASON_BYTES:
        raise ConnectError(Code.INVALID_ARGUMENT, f"reason too long (max: {_MAX_REASON_BYTES} bytes)")
    if len(request.unavailable_dependencies) > _MAX_DEPENDENCIES:
        raise ConnectError(
            Code.INVALID_ARGUMENT, f"too many unavailable dependencies (max: {_MAX_DEPENDENCIES})"
        )
    with _codes():
        for dependency in request.unavailable_dependencies:
            wire.validate_service_type(dependency)
    return Health(request.state, request.reason, tuple(request.unavailable_dependencies))


class RegistryService(ServiceRegistryService):
    """`ServiceRegistry`: the registry as plugins see it. A plugin changes only what is its own."""

    def __init__(
        self,
        gate: Gate,
        registry: Registry,
        hub: WatchHub,
        base_urls: BaseUrls,
        sockets: Sockets,
        saved: Saved,
    ) -> None:
        self._gate = gate
        self._registry = registry
        self._hub = hub
        self._base_urls = base_urls
        self._sockets = sockets
        self._saved = saved

    async def register_service(
        self, request: pb.RegisterServiceRequest, ctx: Context, /
    ) -> pb.RegisterServiceResponse:
        """Register a service of the caller's, at a URL of the caller's."""
        caller = self._gate.caller(ctx, Kind.REGISTER)
        metadata = dict(request.metadata)
        said = (request.service_type, request.version, request.endpoint_path, metadata)
        with _codes():
            wire.validate_registration(*said)
        base_url = metadata.get(wire.BASE_URL_KEY, "")
        address = await check_base_url(base_url, ctx.client_address, self._base_urls)
        socket_path = await self._sockets.accept(caller.runtime_id, metadata, ctx.client_address)
        if not socket_path:
            metadata.pop(wire.SOCKET_KEY, None)  # what is kept is what counts
        self._gate.still(caller)  # that took a while
        replaced = self._registry.provider(request.service_type, caller.runtime_id)
        with _codes():
            registration = self._registry.register(
                caller.runtime_id, *said, address=address, socket_path=socket_path
            )
        await self._saved(lambda: self._take_back(registration, replaced))
        through = f" through unix:{socket_path}" if socket_path else ""
        _log.info("%s provides %s v%s%s", caller.runtime_id, request.service_type, request.version, through)
        return pb.RegisterServiceResponse(registration_id=registration.id)

    async def unregister_service(
        self, request: pb.UnregisterServiceRequest, ctx: Context, /
    ) -> pb.UnregisterServiceResponse:
        """Remove a registration of the caller's; another's is as unknown to it as one that never was."""
        caller = self._gate.caller(ctx, Kind.UNREGISTER)
        with _codes():
            registration = self._registry.unregister(caller.runtime_id, request.registration_id)
        await self._saved(lambda: self._registry.restore(registration))
        _log.info("%s no longer provides %s", caller.runtime_id, registration.service_type)
        return pb.UnregisterServiceResponse()

    def _take_back(self, registration: Registration, replaced: Registration | None) -> None:
        """Undo a registration, unless it is gone already."""
        plugin, service_type = registration.runtime_id, registration.service_type
        if self._registry.provider(service_type, plugin) is not registration:
            return
        if replaced is None:
            self._registry.unregister(plugin, registration.id)
        else:
            self._registry.restore(replaced)

    async def discover_service(
        self, request: pb.DiscoverServiceRequest, ctx: Context, /
    ) -> pb.DiscoverServiceResponse:
        """Return a provider that is alive, compatible and healthy enough."""
        self._gate.caller(ctx, Kind.DISCOVER)
        with _codes():
            wire.validate_service_type(request.service_type)
            registration, single = self._registry.discover(request.service_type, request.min_version)
        return pb.DiscoverServiceResponse(endpoint=_endpoint(registration), single_provider=single)

    async def watch_service(
        self, request: pb.WatchServiceRequest, ctx: Context, /
    ) -> AsyncIterator[pb.WatchServiceEvent]:
        """Yield the status of a service type now, then each change of it for this caller."""
        caller = self._gate.caller(ctx, Kind.WATCH)
        own_end = _end_of_time(ctx)
        with ExitStack() as stack:
            with _codes():
                watch = stack.enter_context(self._hub.watch(caller.runtime_id))
                watch.subscribe(request.service_type)
            while True:
                with trio.move_on_at(min(own_end, caller.expires_at)) as patience:
                    news = await anext(watch, None)
                self._gate.still(caller)
                if patience.cancelled_caught or news is None:
                    return
                yield watch_event(request.service_type, news.statuses[request.service_type])


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
        metadata=dict(registration.metadata),
    )


def watch_event(service_type: str, status: ServiceStatus) -> pb.WatchServiceEvent:
    """Return what a watcher is told of a service type."""
    endpoint = _endpoint(status.provider) if status.provider else None
    return pb.WatchServiceEvent(service_type=service_type, state=status.state, endpoint=endpoint)
