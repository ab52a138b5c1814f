"""`HandshakeService`: a plugin gets an identity and its tokens, and learns about its host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from cpg_trio import wire
from cpg_trio._handshake import check_versions
from cpg_trio._version import __version__
from cpg_trio.host.access import AccessCheck, Action, Audit, Identities, Identity, TokenLifetimes
from cpg_trio.host.cluster import Arrival, Forwarding
from cpg_trio.host.directory import LeaseConfig, Registry, Saved, Sockets
from cpg_trio.host.services.edges import answering, arrival_of, credentials
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import HandshakeService, HandshakeServiceClient
from cpg_trio.rpc import Code, ConnectError, Context

_log = logging.getLogger("cpg_trio.host")

_Declared: TypeAlias = tuple[tuple[str, ...] | None, tuple[str, ...] | None, tuple[str, ...]]


class Handshake(HandshakeService):
    """`HandshakeService`: host and plugin agree on versions, and a plugin that names itself gets an identity.

    A plugin that proves the identity that it has gets another token for it.
    """

    def __init__(
        self,
        access: AccessCheck,
        identities: Identities,
        audit: Audit,
        lifetimes: TokenLifetimes,
        announced: Mapping[str, str],
        offers: Callable[[], Sequence[pb.Capability]],
        saved: Saved,
        forwarding: Forwarding,
    ) -> None:
        self._access = access
        self._identities = identities
        self._audit = audit
        self._lifetimes = lifetimes
        self._announced = announced
        self._offers = offers
        self._saved = saved
        self._forwarding = forwarding

    async def handshake(self, request: pb.HandshakeRequest, ctx: Context, /) -> pb.HandshakeResponse:
        """See the class. A handshake is counted before all else, also if it is refused.

        Raises: ConnectError `invalid_argument` for a foreign cookie, another core version or a bad name;
        `failed_precondition` for another version; `permission_denied` for a plugin that is not let in.
        """
        enrolment_token = ctx.request_headers.get(wire.ENROLMENT_HEADER, "")
        with answering(ctx):
            arrival = arrival_of(self._access, self._forwarding, ctx)
            peer, proof = arrival.peer, credentials(ctx)
            if arrival.forwarded_by:
                held = self._access.held(request.self_id, *proof, peer)
            else:
                held = self._access.count_handshake(request.self_id, *proof, enrolment_token, peer)
            check_versions(request)
            wire.validate_handshake(request.self_version, request.requested_plugins, request.client_metadata)
            if held is not None:
                if (
                    not arrival.forwarded_by
                ):  # the host that owns it may not know by which token it was started
                    self._access.check_enrolled(Action.RENEW, request.self_id, enrolment_token, peer)
                renewed = await self._renewed_elsewhere(held, request, arrival, ctx)
                if renewed is not None:
                    return renewed
            response = pb.HandshakeResponse(
                core_protocol_version=wire.CORE_VERSION,
                app_protocol_version=wire.APP_VERSION,
                server_metadata=self._announced,
                host_capabilities=self._offers(),
            )
            if request.self_id:
                wire.validate_self_id(request.self_id)
                provides, requires, uses = _declared(request.client_metadata)
                renews = request.client_metadata.get(wire.RENEWS_KEY) == "true"
                action = Action.RENEW if held else Action.HANDSHAKE
                if held is None or not arrival.forwarded_by:
                    self._access.check_enrolled(action, request.self_id, enrolment_token, peer)
                ttl_s = self._lifetimes.of(renews=renews)
                if held is None:
                    identity, token = self._identities.issue(
                        request.self_id,
                        ttl_s=ttl_s,
                        provides=provides,
                        requires=requires,
                        uses=uses,
                        address=peer.address,
                        answers=renews,  # a plugin that renews its token serves the control services, too
                    )
                    self._access.issued(identity, enrolment_token)
                    await self._save(identity)
                else:
                    identity = held
                    token = self._identities.renew(held, ttl_s=ttl_s, address=peer.address, answers=renews)
                self._audit.allowed(action, identity.runtime_id, identity.self_id, address=peer.address)
                response.runtime_id, response.runtime_token = identity.runtime_id, token
                response.server_metadata[wire.TOKEN_TTL_KEY] = _milliseconds(ttl_s)
        return response

    async def _renewed_elsewhere(
        self, held: Identity, request: pb.HandshakeRequest, arrival: Arrival, ctx: Context
    ) -> pb.HandshakeResponse | None:
        """Return the answer of the host that owns the plugin, None if this one does. Raises: ConnectError."""
        forwarded = await self._forwarding.send(
            *(ctx, arrival, held.runtime_id, HandshakeServiceClient),
            lambda owner, options: owner.handshake(request, **options),
        )
        if forwarded is None:
            self._access.check_still_valid(held)
            return None
        del forwarded.host_capabilities[:]  # they are at the URL of the host that is called
        forwarded.host_capabilities.extend(self._offers())
        return forwarded

    async def _save(self, identity: Identity) -> None:
        """Wait until a new identity is in the state file. Raises: ConnectError `unavailable`."""
        await self._saved(identity.runtime_id, lambda: self._identities.forget(identity.runtime_id))
        if self._identities.entry(identity.runtime_id) is None:
            why = self._identities.why_ended(identity)
            raise ConnectError(Code.UNAVAILABLE, f"the new identity has ended already ({why}): try again")
        _log.info("%s is %s", identity.self_id, identity.runtime_id)


def announcement(leases: LeaseConfig, registry: Registry, sockets: Sockets) -> Mapping[str, str]:
    """Return the metadata of a host in each handshake."""
    return {
        wire.SERVER_VERSION_KEY: __version__,
        wire.HEARTBEAT_KEY: _milliseconds(leases.heartbeat_s),
        wire.LEASE_KEY: _milliseconds(leases.lease_s),
        wire.HOST_ID_KEY: registry.id,
        **sockets.announced,
    }


def _declared(metadata: Mapping[str, str]) -> _Declared:
    """Return what a plugin declares to provide and to require, None if it does not, and to do without.

    Raises: InvalidError.
    """
    provides, requires, uses = (
        wire.parse_service_types(metadata[key]) if key in metadata else None
        for key in (wire.PROVIDES_KEY, wire.REQUIRES_KEY, wire.USES_KEY)
    )
    return provides, requires, tuple(each for each in uses or () if each in (requires or ()))


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
