"""`ServiceRegistry`: plugins register, discover and watch services. A plugin changes only its own."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack

import trio

from cpg_trio import wire
from cpg_trio.host.access import AccessCheck, Action, Audit, Identity, Kind, Peer, check_held_request
from cpg_trio.host.cluster import ALONE, Forwarding, Others
from cpg_trio.host.directory import (
    EndpointValidator,
    ProviderNews,
    Registration,
    RegistrationPolicy,
    Registry,
    Saved,
    ServiceStatus,
    Sockets,
    WatchHub,
)
from cpg_trio.host.services.edges import answering, authenticate, authenticate_arrival
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import ServiceRegistryClient, ServiceRegistryService
from cpg_trio.rpc import ConnectError, Context
from cpg_trio.rpc.context import local_of
from cpg_trio.versions import Requirement

_log = logging.getLogger("cpg_trio.host")

AT_ONCE = (f"/{ServiceRegistryService.service_name}/DiscoverService".encode(),)
"""The paths of the methods that never wait."""

_MOST_ANSWERS = 256  # to discoveries, that are kept
_BEFORE_DEADLINE_S = 0.02  # by which a watch ends before its caller's deadline
# Metadata that says where the plugin is. Other plugins do not get it: calls go through the host.
_HOST_ONLY_KEYS = frozenset({wire.BASE_URL_KEY, wire.SOCKET_KEY, wire.CONTROL_URL_KEY})


class RegistryService(ServiceRegistryService):
    """`ServiceRegistry`."""

    def __init__(
        self,
        access: AccessCheck,
        registry: Registry,
        hub: WatchHub,
        policy: RegistrationPolicy,
        endpoints: EndpointValidator,
        sockets: Sockets,
        audit: Audit,
        saved: Saved,
        forwarding: Forwarding,
        others: Others = ALONE,
    ) -> None:
        self._access = access
        self._registry = registry
        self._policy = policy
        self._hub = hub
        self._endpoints = endpoints
        self._sockets = sockets
        self._audit = audit
        self._saved = saved
        self._forwarding = forwarding
        self._others = others
        self._answers: dict[tuple[Registration, bool], pb.DiscoverServiceResponse] = {}
        self._answers_of = 0  # the revision of the registry

    async def register_service(
        self, request: pb.RegisterServiceRequest, ctx: Context, /
    ) -> pb.RegisterServiceResponse:
        """Register a service of the caller's, at a URL of the caller's.

        Raises: ConnectError `permission_denied` for a service that is not the caller's to provide, or a URL
        that is not its own; with `Retry-After` if that may change by itself.
        """
        with answering(ctx):
            caller, arrival = authenticate_arrival(self._access, self._forwarding, ctx, Kind.REGISTER)
            forwarded = await self._forwarding.send(
                *(ctx, arrival, caller.runtime_id, ServiceRegistryClient),
                lambda owner, options: owner.register_service(request, **options),
            )
            if forwarded is not None:
                return forwarded
            self._access.check_still_valid(caller)
            wire.validate_registration(
                request.service_type, request.version, request.endpoint_path, request.metadata
            )
            registration = await self._register(caller, request, arrival.peer, local_of(ctx))
        self._audit.allowed(Action.REGISTER, caller.runtime_id, request.service_type)
        through = "".join(f" through {socket}" for socket in registration.addresses[:-1])
        service = f"{request.service_type} v{request.version}"
        _log.info("Registered service: %s of %s%s", service, caller.runtime_id, through)
        return pb.RegisterServiceResponse(registration_id=registration.id)

    async def _register(
        self, caller: Identity, request: pb.RegisterServiceRequest, peer: Peer, local: object
    ) -> Registration:
        """Register a service. After each wait, check again that the caller is valid and may provide it."""
        service_type, runtime_id, metadata = request.service_type, caller.runtime_id, dict(request.metadata)
        self._policy.check(caller, service_type)
        address = await self._checked_address(caller, metadata, local)
        sockets = await self._sockets.accept(runtime_id, metadata, peer.address or None)
        self._access.check_still_valid(caller)
        self._policy.check(caller, service_type)
        replaced = self._registry.provider(service_type, runtime_id)
        registration = self._registry.register(
            runtime_id,
            service_type,
            request.version,
            request.endpoint_path,
            metadata,
            addresses=(*sockets, address),
        )
        await self._saved(runtime_id, lambda: self._take_back(registration, replaced))
        self._access.check_still_valid(caller)
        if self._registry.provider(service_type, runtime_id) is None:
            self._policy.check(caller, service_type)
        return registration

    async def unregister_service(
        self, request: pb.UnregisterServiceRequest, ctx: Context, /
    ) -> pb.UnregisterServiceResponse:
        """Remove a registration of the caller's.

        Raises: ConnectError `not_found` for one that is not the caller's, whether it exists or not.
        """
        with answering(ctx):
            caller, arrival = authenticate_arrival(self._access, self._forwarding, ctx, Kind.UNREGISTER)
            forwarded = await self._forwarding.send(
                *(ctx, arrival, caller.runtime_id, ServiceRegistryClient),
                lambda owner, options: owner.unregister_service(request, **options),
            )
            if forwarded is not None:
                return forwarded
            self._access.check_still_valid(caller)
            registration = self._registry.unregister(caller.runtime_id, request.registration_id)
            await self._saved(caller.runtime_id, lambda: self._put_back(caller, registration))
        self._audit.allowed(Action.UNREGISTER, caller.runtime_id, registration.service_type)
        _log.info("Unregistered service: %s of %s", registration.service_type, caller.runtime_id)
        return pb.UnregisterServiceResponse()

    async def _checked_address(self, caller: Identity, metadata: Mapping[str, str], local: object) -> str:
        base_url, control_url = (metadata.get(key, "") for key in (wire.BASE_URL_KEY, wire.CONTROL_URL_KEY))
        try:
            address = await self._endpoints.check(base_url, control_url, caller, local)
        except ConnectError as error:
            self._audit.denied(Action.REGISTER, caller.runtime_id, base_url, reason=error.message)
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
        """Undo the removal of a registration, unless its plugin may not have it any more."""
        if self._policy.may_keep(plugin, registration.service_type):
            self._registry.restore(registration)

    async def discover_service(
        self, request: pb.DiscoverServiceRequest, ctx: Context, /
    ) -> pb.DiscoverServiceResponse:
        """Return a provider that is alive, compatible and healthy enough."""
        with answering(ctx):
            caller = authenticate(self._access, ctx, Kind.DISCOVER)
            wire.validate_service_type(request.service_type)
            self._access.check_may_call(caller, request.service_type, Action.DISCOVER)
            requirement = Requirement.parse(request.min_version, request.version_range)
            registration, single = self._registry.discover(request.service_type, requirement)
        return self._discovered(registration, single=single)

    def _discovered(self, registration: Registration, *, single: bool) -> pb.DiscoverServiceResponse:
        """Return the answer that tells of a provider: the one of before, until the registry changes."""
        answers, revision = self._answers, self._registry.revision
        if revision != self._answers_of or len(answers) >= _MOST_ANSWERS:
            answers.clear()
            self._answers_of = revision
        answer = answers.get((registration, single))
        if answer is None:
            answer = pb.DiscoverServiceResponse(endpoint=_endpoint(registration), single_provider=single)
            answers[registration, single] = answer
        return answer

    async def watch_service(
        self, request: pb.WatchServiceRequest, ctx: Context, /
    ) -> AsyncIterator[pb.WatchServiceEvent]:
        """Yield the status of a service type now, then each change of it for this caller.

        Raises: ConnectError `permission_denied` also when the policy that let the caller watch has changed.
        """
        with answering(ctx), ExitStack() as stack:
            caller = authenticate(self._access, ctx, Kind.WATCH)
            own_end = _end_of_time(ctx)
            check_held_request(request)
            await self._others.known()
            self._access.check_still_valid(caller)
            watch = stack.enter_context(self._hub.watch(caller.runtime_id))
            watch.subscribe(request.service_type)
            while True:
                with trio.move_on_at(min(own_end, self._access.expires_at(caller))) as until_end:
                    update = await anext(watch, None)
                self._access.check_still_valid(caller)
                if until_end.cancelled_caught and trio.current_time() < own_end:
                    continue  # its identity has been renewed
                if until_end.cancelled_caught or update is None:
                    return
                self._access.check_may_call(caller, request.service_type, Action.DISCOVER)
                if (status := update.statuses.get(request.service_type)) is not None:
                    yield watch_event(request.service_type, status)


def _end_of_time(ctx: Context) -> float:
    """Return when to end a watch so that its caller sees it end without an error, as with other hosts."""
    if ctx.timeout_ms is None:
        return math.inf
    return trio.current_time() + ctx.timeout_ms / 1000 - _BEFORE_DEADLINE_S


def _endpoint(registration: Registration) -> pb.ServiceEndpoint:
    return pb.ServiceEndpoint(
        provider_id=registration.runtime_id,
        version=registration.version,
        endpoint_url=registration.endpoint_url,
        metadata={k: v for k, v in registration.metadata.items() if k not in _HOST_ONLY_KEYS},
    )


def provider_changes(service_type: str, news: ProviderNews) -> pb.ProviderChanges:
    """Return what tells a watcher of the providers of a service type."""
    return pb.ProviderChanges(
        service_type=service_type,
        complete=news.complete,
        changed=[
            pb.ProviderStatus(endpoint=_endpoint(registration), degraded=is_degraded)
            for registration, is_degraded in news.changed
        ],
        removed=news.removed,
        reason=news.reason,
    )


def watch_event(service_type: str, status: ServiceStatus) -> pb.WatchServiceEvent:
    """Return the event that tells a watcher the status of a service type."""
    endpoint = _endpoint(status.provider) if status.provider else None
    return pb.WatchServiceEvent(
        service_type=service_type, state=status.state, endpoint=endpoint, reason=status.reason
    )
