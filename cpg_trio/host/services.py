"""The host's RPC services: thin, each call checked against its caller's token before anything else.

What they know is in the identities, the registry and the watch hub; here is only what travels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import attrs
import trio

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._gen.connectplugin.v1.connectplugin_trio import (
    HandshakeService,
    PluginLifecycleService,
    ServiceRegistryService,
)
from cpg_trio._lines import one_line
from cpg_trio._version import __version__
from cpg_trio.rpc import Code, ConnectError, Context

from .audit import Action, Audit
from .charging import TryAgainError, charge, retry_told
from .direct import DirectReports
from .egress import Egress
from .enrolment import Enrolment
from .identity import Identities, Identity
from .limits import LimitError, check_held_request
from .liveness import LeaseConfig, Liveness
from .peers import Peer
from .policy import Policy, Rules
from .rates import Kind, Rates
from .registry import (
    NoProviderError,
    Registration,
    Registry,
    ServiceStatus,
    UnknownRegistrationError,
    health_of,
)
from .sockets import Sockets
from .store import Saved
from .watch import WatchHub

_log = logging.getLogger("cpg_trio.host")

_MOST_OF_A_REASON = 256  # characters, in the log
_OTHERS_S = 1  # after which those who provide a service may have gone
_MOMENT_S = 0.02  # by which a watch ends before its caller's time is up
# What a registration says of where the plugin is, which is no other plugin's business: the host goes there.
_FOR_THE_HOST = frozenset({wire.BASE_URL_KEY, wire.SOCKET_KEY, wire.CONTROL_URL_KEY})


class Gate:
    """Tells who is calling, and whether it may, or refuses. Each refusal is in the audit trail."""

    def __init__(self, identities: Identities, policy: Policy, audit: Audit, rates: Rates) -> None:
        self._identities = identities
        self._policy = policy
        self._audit = audit
        self._rates = rates

    def caller(self, ctx: Context, kind: Kind) -> Identity:
        """Return the identity that a call's headers prove, and count the call as one of its kind.

        Raises: ConnectError `invalid_argument` without a runtime id, as other hosts answer; `unauthenticated`
        without a token, or with one that does not prove that id; `resource_exhausted` for one call too many.
        """
        with retry_told(ctx):
            identity = self.admit(*_credentials(ctx), _peer(ctx), kind)
        ctx.note_proved(identity.runtime_id)
        return identity

    def admit(self, runtime_id: str, authorization: str, peer: Peer, kind: Kind) -> Identity:
        """Return the identity that two headers prove, empty where they are missing; see `caller`.

        A call that proves none is counted for the address that it comes from; for its identity, if that has
        ended, so that it hears of it whatever others do at its address.
        """
        try:
            identity = self._prove(runtime_id, authorization, peer)
        except ConnectError as error:
            former = self._former(runtime_id, authorization)
            charge(self._rates, Kind.FAILED_AUTHENTICATION, former.runtime_id if former else peer.key)
            self._audit.denied(Action.AUTHENTICATE, runtime_id, reason=error.message, address=peer.address)
            raise
        charge(self._rates, kind, identity.runtime_id)
        return identity

    def _prove(self, runtime_id: str, authorization: str, peer: Peer) -> Identity:
        if not runtime_id:
            raise ConnectError(Code.INVALID_ARGUMENT, f"{wire.RUNTIME_ID_HEADER} header required")
        if (token := wire.bearer_token(authorization)) is None:
            raise ConnectError(Code.UNAUTHENTICATED, "Authorization: Bearer <token> required")
        identity = self._identities.authenticate(runtime_id, token)
        if identity is None:
            raise self._refusal(self._former(runtime_id, authorization))
        if why_not := self._policy.why_not_certified(peer, identity.self_id):
            raise ConnectError(Code.UNAUTHENTICATED, why_not)
        return identity

    def _former(self, runtime_id: str, authorization: str) -> Identity | None:
        """Return the identity that two headers proved until it ended."""
        token = wire.bearer_token(authorization)
        return self._identities.former(runtime_id, token) if token is not None else None

    def count_unreadable(self, ctx: Context) -> None:
        """Count a message that cannot be read for where it comes from. Raises: RateExceededError."""
        with retry_told(ctx):
            charge(self._rates, Kind.FAILED_AUTHENTICATION, _peer(ctx).key)

    def still(self, identity: Identity) -> None:
        """Check that an identity has not ended since. Raises: ConnectError `unauthenticated`."""
        if not self._identities.holds(identity):
            raise self._refusal(identity)

    def seconds_to_wait(self, identity: Identity, kibibytes: int) -> int:
        """Count a request of so many kibibytes on a watch; return 0, or how long it has to wait."""
        return self._rates.take(Kind.SUBSCRIBE, Peer(identity.address).key, 1 + kibibytes)

    def ends_at(self, identity: Identity) -> float:
        """Return when an identity ends unless it is renewed, on Trio's clock."""
        return trio.current_time() + self._identities.left_s(identity)

    def check_may_call(self, caller: Identity, service_type: str, action: Action) -> None:
        """Check that a plugin may be told of a service.

        Raises: ConnectError `permission_denied`; `resource_exhausted` to who has heard that too often, of
        which nothing is written down.
        """
        if not self._policy.may_call(caller, service_type):
            charge(self._rates, Kind.FAILED_AUTHENTICATION, caller.runtime_id)
            reason = f"{caller.runtime_id} may not call {service_type}"
            self._audit.denied(action, caller.runtime_id, service_type, reason=reason)
            raise ConnectError(Code.PERMISSION_DENIED, reason)

    def _refusal(self, proved: Identity | None) -> ConnectError:
        """Return the error for a caller that holds no identity; one that proved a former is told its end."""
        message = "invalid token"
        if proved is not None and (why := self._identities.why_ended(proved)):
            message = f"the identity {proved.runtime_id} has ended ({why}): shake hands again"
        return ConnectError(Code.UNAUTHENTICATED, message)


def _credentials(ctx: Context) -> tuple[str, str]:
    headers = ctx.request_headers
    return headers.get(wire.RUNTIME_ID_HEADER, ""), headers.get(wire.AUTHORIZATION_HEADER, "")


def _peer(ctx: Context) -> Peer:
    return Peer.at(ctx.client_address, ctx.peer_names)


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


@attrs.frozen(kw_only=True)
class TokenLives:
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
        lives: TokenLives,
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
        held = self._held(request.self_id, *_credentials(ctx))
        self._admission.count(request.self_id, held, ctx)
        _check_versions(request)
        with _codes():
            wire.validate_handshake(request.self_version, request.requested_plugins, request.client_metadata)
        response = pb.HandshakeResponse(
            core_protocol_version=wire.CORE_VERSION,
            app_protocol_version=wire.APP_VERSION,
            server_metadata=self._announced,
            host_capabilities=self._offers(),
        )
        if request.self_id:
            renews = request.client_metadata.get(wire.RENEWS_KEY) == "true"
            ttl_s = self._lives.renewed_s if renews else self._lives.unrenewed_s
            identity, token = await self._identify(request, held, ctx, ttl_s)
            response.runtime_id, response.runtime_token = identity.runtime_id, token
            response.server_metadata[wire.TOKEN_TTL_KEY] = _milliseconds(ttl_s)
        return response

    async def _identify(
        self, request: pb.HandshakeRequest, held: Identity | None, ctx: Context, ttl_s: float
    ) -> tuple[Identity, str]:
        peer = _peer(ctx)
        with _codes():
            wire.validate_self_id(request.self_id)
            provides, requires = _declared(request.client_metadata)
        action = Action.RENEW if held else Action.HANDSHAKE
        self._admission.check(action, request.self_id, ctx, peer)
        if held is not None:
            self._admission.admitted(action, held, peer)
            return held, self._identities.renew(held, ttl_s=ttl_s, address=peer.address)
        with _codes():
            identity, token = self._identities.issue(
                request.self_id, ttl_s=ttl_s, provides=provides, requires=requires, address=peer.address
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
        peer = _peer(ctx)
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
        self._check_place(caller, _peer(ctx))
        self._permits.keep()  # of all plugins, as some report is never far
        with _codes():
            health = health_of(request)
            self._direct.take(caller, request.direct_calls)
        before = self._registry.health(caller.runtime_id)
        self._registry.report_health(caller.runtime_id, health)
        if (
            self._registry.last_report(caller.runtime_id) != before
        ):  # of which there may be no room for a reason
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

    def keep(self) -> None:
        """Take out of the registry what the policy has come to deny since this was last asked."""
        if self._rules is (rules := self._policy.rules):
            return
        try:
            for plugin in self._registry.plugins():
                if (entry := self._identities.entry(plugin)) is not None:
                    self._keep_of(entry.identity)
        except Exception:  # noqa: BLE001 - a policy may be somebody's own class
            _log.exception("the policy failed, and is asked again")
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
            _log.exception("the policy failed on what %s has provided", plugin.runtime_id)
            return False

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
        egress: Egress,
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
        with _codes():
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
        with _codes():
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
        with _codes():
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
        with _codes():
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
            with _codes():
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
