"""The capability broker: plugins ask for leave, to use what the host offers or to call each other directly.

What they are given is in `grants` and `direct`; here is who gets it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import CapabilityBrokerService
from cpg_trio.asgi import App, Receive, Scope, Send
from cpg_trio.host.access.audit import Action, Audit
from cpg_trio.host.access.authentication import Gate
from cpg_trio.host.access.identity import Identity
from cpg_trio.host.access.policy import Permitted, Policy
from cpg_trio.host.access.rates import Kind
from cpg_trio.host.capabilities.capability import Capability
from cpg_trio.host.capabilities.grants import Grants, random_id
from cpg_trio.host.directory.base_url import base_url
from cpg_trio.host.routing.direct_grants import GRANT_S, DirectGrants, NotDirectlyError
from cpg_trio.host.services.errors import state_errors
from cpg_trio.rpc import Code, ConnectError, Context

_MAX_REASON_BYTES = 4096
_MAX_TYPE_BYTES = wire.MAX_NAME_BYTES + len(wire.DIRECT_PREFIX)


def by_type(capabilities: Sequence[Capability]) -> Mapping[str, Capability]:
    """Return capabilities by their types. Raises: ValueError for two of one type."""
    found = {capability.type: capability for capability in capabilities}
    if len(found) < len(capabilities):
        raise ValueError("a host has one capability of each type")
    return found


def announced(capabilities: Mapping[str, Capability]) -> list[pb.Capability]:
    """Return capabilities as a handshake tells of them."""
    endpoint = base_url() + wire.BROKER_PATH
    return [pb.Capability(type=c.type, version=c.version, endpoint=endpoint) for c in capabilities.values()]


def below(prefix: str, app: App) -> App:
    """Return an application that has the broker below a prefix as well, where handshakes announce it."""
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
        gate: Gate,
        policy: Policy,
        audit: Audit,
        capabilities: Mapping[str, Capability],
        grants: Grants,
        direct: DirectGrants,
    ) -> None:
        self._gate = gate
        self._policy = policy
        self._audit = audit
        self._capabilities = capabilities
        self._grants = grants
        self._direct = direct
        self._given = Permitted(policy)

    async def request_capability(
        self, request: pb.RequestCapabilityRequest, ctx: Context, /
    ) -> pb.RequestCapabilityResponse:
        """Give leave to use a capability, or to call a service directly.

        Raises: ConnectError `not_found` for what there is not, or not so new; `permission_denied` for what is
        not the caller's to have; `failed_precondition` for a service that cannot be called directly now.
        """
        caller = self._gate.caller(ctx, Kind.CAPABILITY_REQUEST)
        _check_lengths(request)
        wanted = request.capability_type
        is_service = wanted.startswith(wire.DIRECT_PREFIX)
        with state_errors():
            try:
                grant = (self._grant_service if is_service else self._grant_capability)(caller, request)
            except ConnectError as error:
                if error.code != Code.FAILED_PRECONDITION:  # which is nobody's decision
                    self._audit.denied(Action.GRANT, caller.runtime_id, wanted, reason=error.message)
                raise
        self._note(caller, f"{wanted} {grant.provider_id}".rstrip(), request.reason, renewed=is_service)
        return pb.RequestCapabilityResponse(grant=grant)

    def _note(self, caller: Identity, target: str, reason: str, *, renewed: bool) -> None:
        """Note what has been given; what is given anew each minute, once for as long as the rules hold."""
        if renewed:
            if (caller.runtime_id, target) in self._given:
                return
            self._given.add((caller.runtime_id, target))
        self._audit.allowed(Action.GRANT, caller.runtime_id, target, reason=reason)

    def _grant_capability(self, caller: Identity, request: pb.RequestCapabilityRequest) -> pb.CapabilityGrant:
        wanted = request.capability_type
        if not self._policy.may_use(caller, wanted):
            raise ConnectError(Code.PERMISSION_DENIED, f"{caller.runtime_id} may not use {wanted}")
        capability = self._capabilities.get(wanted)
        if capability is None:
            raise ConnectError(Code.NOT_FOUND, f'capability "{wanted}" not available')
        if not wire.satisfies(capability.version, request.min_version):
            has = f"this host has version {capability.version}, older than {request.min_version}"
            raise ConnectError(Code.NOT_FOUND, f'capability "{wanted}" not available: {has}')
        with state_errors():
            grant, token = self._grants.issue(caller, capability)
        return pb.CapabilityGrant(
            grant_id=grant.id,
            endpoint_url=f"{base_url()}/capabilities/{capability.type}/{grant.id}",
            bearer_token=token,
            capability_type=capability.type,
            version=capability.version,
            expires_in_ms=int(1000 * grant.left_s),
        )

    def _grant_service(self, caller: Identity, request: pb.RequestCapabilityRequest) -> pb.CapabilityGrant:
        service_type = request.capability_type.removeprefix(wire.DIRECT_PREFIX)
        wire.validate_service_type(service_type)
        if not self._policy.may_call_directly(caller, service_type):
            reason = f"{caller.runtime_id} may not call {service_type} directly"
            raise ConnectError(Code.PERMISSION_DENIED, reason)
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
            raise ConnectError(Code.INVALID_ARGUMENT, f"{name} too long (max: {most} bytes)")
