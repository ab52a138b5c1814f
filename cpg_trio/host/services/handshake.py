"""`HandshakeService`: who gets an identity and its tokens, and what a host tells of itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import attrs

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import HandshakeService
from cpg_trio._version import __version__
from cpg_trio.host.access.audit import Action, Audit
from cpg_trio.host.access.authentication import credentials, peer_of
from cpg_trio.host.access.enrolment import Enrolment
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.access.policy import Policy
from cpg_trio.host.access.rate_limiting import charge, retry_told
from cpg_trio.host.access.rates import Kind, Rates
from cpg_trio.host.directory.leases import LeaseConfig
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.store import Saved
from cpg_trio.host.directory.unix_sockets import Sockets
from cpg_trio.host.services.errors import state_errors
from cpg_trio.rpc import Code, ConnectError, Context

_log = logging.getLogger("cpg_trio.host")


@attrs.frozen(kw_only=True)
class TokenLifetimes:
    """How long runtime tokens are good, in seconds."""

    renewed_s: float
    """Of plugins that ask for another in time."""
    unrenewed_s: float
    """Of those that do not: then they have to shake hands again."""


class Handshake(HandshakeService):
    """`HandshakeService`: versions are agreed on, and a plugin that names itself gets an identity.

    One that proves the identity that it has gets another token for it.
    """

    def __init__(
        self,
        identities: Identities,
        admission: HandshakeAdmission,
        lives: TokenLifetimes,
        announced: Mapping[str, str],
        offers: Callable[[], Sequence[pb.Capability]],
        saved: Saved,
    ) -> None:
        self._identities = identities
        self._admission = admission
        self._lives = lives
        self._announced = announced
        self._offers = offers
        self._saved = saved

    async def handshake(self, request: pb.HandshakeRequest, ctx: Context, /) -> pb.HandshakeResponse:
        """See the class. Raises: ConnectError for a foreign cookie, another version, a bad name.

        A handshake is counted before all else, whatever comes of it: for the identity or the name that it
        proves, so that nobody keeps others out by what he sends from the same address.
        """
        held = self._held(request.self_id, *credentials(ctx))
        self._admission.count(request.self_id, held, ctx)
        _check_versions(request)
        with state_errors():
            wire.validate_handshake(request.self_version, request.requested_plugins, request.client_metadata)
        response = pb.HandshakeResponse(
            core_protocol_version=wire.CORE_VERSION,
            app_protocol_version=wire.APP_VERSION,
            server_metadata=self._announced,
            host_capabilities=self._offers(),
        )
        if request.self_id:
            ttl_s = self._lives.renewed_s if _renews(request) else self._lives.unrenewed_s
            identity, token = await self._identify(request, held, ctx, ttl_s)
            response.runtime_id, response.runtime_token = identity.runtime_id, token
            response.server_metadata[wire.TOKEN_TTL_KEY] = _milliseconds(ttl_s)
        return response

    async def _identify(
        self, request: pb.HandshakeRequest, held: Identity | None, ctx: Context, ttl_s: float
    ) -> tuple[Identity, str]:
        peer = peer_of(ctx)
        with state_errors():
            wire.validate_self_id(request.self_id)
            provides, requires = _declared(request.client_metadata)
        action = Action.RENEW if held else Action.HANDSHAKE
        self._admission.check(action, request.self_id, ctx, peer)
        if held is not None:
            self._admission.admitted(action, held, peer)
            return held, self._identities.renew(
                held, ttl_s=ttl_s, address=peer.address, answers=_renews(request)
            )
        with state_errors():
            identity, token = self._identities.issue(
                request.self_id,
                ttl_s=ttl_s,
                provides=provides,
                requires=requires,
                address=peer.address,
                answers=_renews(request),
            )
        await self._saved(lambda: self._identities.forget(identity.runtime_id))
        if self._identities.entry(identity.runtime_id) is None:
            why = self._identities.why_ended(identity)
            raise ConnectError(Code.UNAVAILABLE, f"the new identity has ended already ({why}): try again")
        self._admission.admitted(action, identity, peer)
        _log.info("%s is %s", identity.self_id, identity.runtime_id)
        return identity, token

    def _held(self, self_id: str, runtime_id: str, authorization: str) -> Identity | None:
        """Return the identity that a handshake proves, if it does: who comes back with a void one is new."""
        token = wire.bearer_token(authorization)
        if not runtime_id or token is None:
            return None
        identity = self._identities.authenticate(runtime_id, token)
        return identity if identity is not None and identity.self_id == self_id else None


class HandshakeAdmission:
    """Who gets an identity: by enrolment token, and by certificate."""

    def __init__(self, enrolment: Enrolment, policy: Policy, audit: Audit, rates: Rates) -> None:
        self._enrolment = enrolment
        self._policy = policy
        self._audit = audit
        self._rates = rates

    def count(self, self_id: str, held: Identity | None, ctx: Context) -> None:
        """Count a handshake. Raises: ConnectError `resource_exhausted`.

        It counts for the identity that it proves; for the name that an enrolment token or a certificate
        proves; or else for the address that it comes from.
        """
        peer = peer_of(ctx)
        if held is not None and not self._policy.why_not_certified(peer, held.self_id):
            key = held.runtime_id
        elif self._proves(self_id, ctx, peer):
            key = f"name:{self_id}"
        else:
            key = peer.key
        with retry_told(ctx):
            charge(self._rates, Kind.HANDSHAKE, key)

    def _proves(self, self_id: str, ctx: Context, peer: Peer) -> bool:
        """Whether a handshake proves the name that it gives."""
        if not self_id or self._why_not(self_id, ctx, peer):
            return False
        return self._enrolment.digest(self_id) is not None or bool(peer.names)

    def check(self, action: Action, self_id: str, ctx: Context, peer: Peer) -> None:
        """Check a handshake. Raises: ConnectError `permission_denied`, which says why."""
        if why_not := self._why_not(self_id, ctx, peer):
            self._audit.denied(action, self_id, reason=why_not, address=peer.address)
            raise ConnectError(Code.PERMISSION_DENIED, f"{self_id} is not let in: {why_not}")

    def _why_not(self, self_id: str, ctx: Context, peer: Peer) -> str:
        shown = ctx.request_headers.get(wire.ENROLMENT_HEADER, "")
        return self._enrolment.why_not(self_id, shown) or self._policy.why_not_certified(peer, self_id)

    def admitted(self, action: Action, identity: Identity, peer: Peer) -> None:
        """Note that a plugin has been given a token."""
        self._audit.allowed(action, identity.runtime_id, identity.self_id, address=peer.address)


def announcement(leases: LeaseConfig, registry: Registry, sockets: Sockets) -> Mapping[str, str]:
    """Return what a host tells of itself in each handshake."""
    return {
        wire.SERVER_VERSION_KEY: __version__,
        wire.HEARTBEAT_KEY: _milliseconds(leases.heartbeat_s),
        wire.LEASE_KEY: _milliseconds(leases.lease_s),
        wire.HOST_ID_KEY: registry.id,
        **sockets.announced,
    }


def _renews(request: pb.HandshakeRequest) -> bool:
    """Whether a plugin asks for another token in time. One that does also serves the control services."""
    return request.client_metadata.get(wire.RENEWS_KEY) == "true"


def _declared(
    metadata: Mapping[str, str],
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Return what a plugin declares to provide and to require, None if it does not. Raises: InvalidError."""
    provides, requires = (
        wire.parse_service_types(metadata[key]) if key in metadata else None
        for key in (wire.PROVIDES_KEY, wire.REQUIRES_KEY)
    )
    return provides, requires


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
