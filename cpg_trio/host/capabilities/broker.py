"""The capability broker: a plugin asks for a grant, to use a capability or to call a service directly.

Grants of capabilities are kept in `grants`; those of direct calls are signed in `routing.direct_grants`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cpg_trio import wire
from cpg_trio.asgi import App, Receive, Scope, Send
from cpg_trio.host.access import AccessCheck, Action, Audit, Identity, Kind, LimitError, RefusedError
from cpg_trio.host.capabilities.capability import Capability
from cpg_trio.host.capabilities.grants import Grants, random_id
from cpg_trio.host.directory import base_url
from cpg_trio.host.routing import GRANT_S, DirectGrants, NotDirectlyError
from cpg_trio.host.services.edges import answering, authenticate
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import CapabilityBrokerService
from cpg_trio.rpc import Code, ConnectError, Context
from cpg_trio.versions import satisfies

_MAX_REASON_BYTES = 4096
_MAX_TYPE_BYTES = wire.MAX_NAME_BYTES + len(wire.DIRECT_PREFIX)


def by_type(capabilities: Sequence[Capability]) -> Mapping[str, Capability]:
    """Return capabilities by their types. Raises: ValueError for two of one type."""
    found = {capability.type: capability for capability in capabilities}
    if len(found) < len(capabilities):
        raise ValueError("a host has one capability of each type")
    return found


def announced(capabilities: Mapping[str, Capability]) -> list[pb.Capability]:
    """Return capabilities as a handshake announces them."""
    endpoint = base_url() + wire.BROKER_PATH
    return [pb.Capability(type=c.type, version=c.version, endpoint=endpoint) for c in capabilities.values()]


def below(prefix: str, app: App) -> App:
    """Return an application that answers for the broker also below the prefix that handshakes announce."""
    brokered = f"{prefix}/{Broker.service_name}/".encode()

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["raw_path"].startswith(brokered):
            cut = {name: scope[name][len(prefix) :] for name in ("path", "raw_path")}
            scope = {**scope, **cut}
        await app(scope, receive, send)

    return both


class Broker(CapabilityBrokerService):
    """`CapabilityBroker`. Each decision is in the audit trail."""

    def __init__(
        self,
        access: AccessCheck,
        audit: Audit,
        capabilities: Mapping[str, Capability],
        grants: Grants,
        direct: DirectGrants,
    ) -> None:
        self._access = access
        self._audit = audit
        self._capabilities = capabilities
        self._grants = grants
        self._direct = direct

    async def request_capability(
        self, request: pb.RequestCapabilityRequest, ctx: Context, /
    ) -> pb.RequestCapabilityResponse:
        """Grant the use of a capability, or direct calls of a service.

        Raises: ConnectError `not_found` for a capability that is missing or too old; `permission_denied` for
        what the caller may not have; `failed_precondition` for a service that cannot be called directly now.
        """
        wanted = request.capability_type
        is_service = wanted.startswith(wire.DIRECT_PREFIX)
        with answering(ctx):
            caller = authenticate(self._access, ctx, Kind.CAPABILITY_REQUEST)
            _check_lengths(request)
            grant = (self._grant_service if is_service else self._grant_capability)(caller, request)
        if is_service:  # such grants are renewed each minute
            target = f"{wanted} {grant.provider_id}"
            self._access.record_once(Action.GRANT, caller, target, request.reason)
        else:
            self._audit.allowed(Action.GRANT, caller.runtime_id, wanted, reason=request.reason)
        return pb.RequestCapabilityResponse(grant=grant)

    def _grant_capability(self, caller: Identity, request: pb.RequestCapabilityRequest) -> pb.CapabilityGrant:
        wanted = request.capability_type
        self._access.check_may_use(caller, wanted, Action.GRANT)
        try:
            capability = self._capability(wanted, request.min_version)
            grant, token = self._grants.issue(caller, capability)
        except (RefusedError, LimitError) as refused:
            self._audit.denied(Action.GRANT, caller.runtime_id, wanted, reason=str(refused))
            raise
        return pb.CapabilityGrant(
            grant_id=grant.id,
            endpoint_url=f"{base_url()}/capabilities/{capability.type}/{grant.id}",
            bearer_token=token,
            capability_type=capability.type,
            version=capability.version,
            expires_in_ms=int(1000 * grant.left_s),
        )

    def _capability(self, wanted: str, min_version: str) -> Capability:
        """Return the capability of a type. Raises: RefusedError `not_found`; wire.InvalidError."""
        capability = self._capabilities.get(wanted)
        if capability is None:
            raise RefusedError(Code.NOT_FOUND, f'capability "{wanted}" not available')
        if not satisfies(capability.version, min_version):
            has = f"this host has version {capability.version}, older than {min_version}"
            raise RefusedError(Code.NOT_FOUND, f'capability "{wanted}" not available: {has}')
        return capability

    def _grant_service(self, caller: Identity, request: pb.RequestCapabilityRequest) -> pb.CapabilityGrant:
        service_type = request.capability_type.removeprefix(wire.DIRECT_PREFIX)
        wire.validate_service_type(service_type)
        self._access.check_may_call_directly(caller, service_type, Action.GRANT)
        try:
            grant = self._direct.issue(caller, service_type, request.min_version, request.provider_id)
        except NotDirectlyError as error:
            raise ConnectError(Code.FAILED_PRECONDITION, str(error)) from None
        return pb.CapabilityGrant(
            grant_id=random_id(),
            endpoint_url=grant.endpoint_url,
            bearer_token=grant.token,
            capability_type=request.capability_type,
            version=grant.provider.version,
            expires_in_ms=int(1000 * GRANT_S),
            provider_id=grant.provider.runtime_id,
        )


def _check_lengths(request: pb.RequestCapabilityRequest) -> None:
    for name, value, most in (
        ("capability_type", request.capability_type, _MAX_TYPE_BYTES),
        ("reason", request.reason, _MAX_REASON_BYTES),
        ("provider_id", request.provider_id, 2 * wire.MAX_NAME_BYTES),
    ):
        if len(value.encode()) > most:
            raise wire.InvalidError(f"{name} too long (max: {most} bytes)")
