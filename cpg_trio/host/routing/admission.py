"""Who may call whom, and what of a call goes on: the policy of the router, for every way that calls come in.

It knows messages only by their header fields and paths, and does no I/O. Refusals have the words that other
implementations use; what they log has nothing in it that could pass for another line.

The usual call is to a path that was called before. What a path means is remembered until the registry
changes, so that the usual call costs a few dictionary look-ups and one comparison of digests.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from urllib.parse import quote

import attrs

from cpg_trio import wire
from cpg_trio._bounded import BoundedCache
from cpg_trio._lines import one_line
from cpg_trio._paths import has_traversal
from cpg_trio._throttle import LogThrottle
from cpg_trio.asgi import HeaderList
from cpg_trio.assertions import LONGEST_S, Assertion, Purpose, path_claim, sign
from cpg_trio.host.access.audit import Action, Audit
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.access.policy import Permitted, Policy
from cpg_trio.host.access.rate_limiting import retry_after
from cpg_trio.host.access.rates import Kind, RateLimits, Rates
from cpg_trio.host.directory.registry import Registration, Registry
from cpg_trio.host.routing.statistics import Tally
from cpg_trio.http import Origin
from cpg_trio.http.fields import USUAL_NAMES, spellings

PREFIX = b"/services/"

_log = logging.getLogger("cpg_trio.router")

# On each answer that is the host's own: whether nobody has seen the call, so that it can be sent again.
UNDELIVERED = [(wire.UNDELIVERED_HEADER.lower().encode(), b"true")]
PERHAPS_DELIVERED = [(wire.UNDELIVERED_HEADER.lower().encode(), b"false")]

_MOST_TARGETS = 10_000
_MOST_TARGET_BYTES = 16 * 1024 * 1024
_LONGEST_KEPT_PATH = 512  # bytes; where a longer path leads is found out at each call
_TARGET_BYTES = 2000  # that a target takes, beside what is written in it
_STATEMENT_BYTES = 2000
_SIGNED_ANEW_S = LONGEST_S / 2  # after which a statement is made anew
_FIELD_NAME = re.compile(r"[a-z0-9][a-z0-9-]*\*?")

# RFC 9110, section 7.6.1, and older names for the same.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# What goes on, besides what an operator adds: what requests and calls are made of, and what ties a call to
# others in a trace. Headers that name the caller or its origin never do: a caller could forge them.
PASSED_ON = (
    "accept",
    "accept-*",
    "b3",
    "baggage",
    "cache-control",
    "connect-*",
    "content-*",
    "date",
    "grpc-*",
    "idempotency-key",
    "if-*",
    "pragma",
    "prefer",
    "range",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-b3-*",
    "x-correlation-id",
    "x-request-id",
)
_NEVER_PASSED_ON = ("cookie", "forwarded", "host", "x-forwarded-*", "x-plugin-*", "x-real-ip")

# Whether a call was delivered is the host's to say.
_NOT_PASSED_BACK = _HOP_BY_HOP | {b"set-cookie"}
_OURS = b"x-plugin-"
_CALLER = wire.CALLER_HEADER.lower().encode()
_CALLER_ID = wire.CALLER_ID_HEADER.lower().encode()


class RefusedError(Exception):
    """A call that goes nowhere: the answer to it, and what the log says of it (nothing, if empty)."""

    def __init__(self, status: int, text: str, log: str = "", fields: HeaderList | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.log = log
        self.fields = [*UNDELIVERED, *(fields or ())]
        """The header fields beside the answer."""


class _Kind(IntEnum):
    """What a header field is to the router."""

    PASSED = 0
    DROPPED = 1
    CONNECTION = 2
    """Its value names others that are for one connection only."""
    RUNTIME_ID = 3
    AUTHORIZATION = 4


_SPECIAL = {
    b"connection": _Kind.CONNECTION,
    wire.RUNTIME_ID_HEADER.lower().encode(): _Kind.RUNTIME_ID,
    wire.AUTHORIZATION_HEADER.lower().encode(): _Kind.AUTHORIZATION,
}
_PASSED = _Kind.PASSED


class _Kinds(dict[bytes, _Kind]):
    """The kinds of header fields by name: in it are those of usual names, and it grows no more."""

    def __init__(self) -> None:
        super().__init__()
        self.update({name: self[name] for name in spellings(USUAL_NAMES)})

    def __missing__(self, name: bytes) -> _Kind:
        lowered = name.lower()
        # Some servers read X_Plugin_Caller_Id as X-Plugin-Caller-ID; neither is the caller's to send.
        return _SPECIAL.get(lowered) or self._kind(lowered.replace(b"_", b"-"))

    def _kind(self, name: bytes) -> _Kind:
        raise NotImplementedError


class _Back(_Kinds):
    def _kind(self, name: bytes) -> _Kind:
        dropped = name in _NOT_PASSED_BACK or name.startswith(_OURS)
        return _Kind.DROPPED if dropped else _PASSED


class PassedOn(_Kinds):
    """Which fields of a request go on: those whose names are in a list, or begin as it says (`x-app-*`)."""

    def __init__(self, added: Sequence[str] = ()) -> None:
        """Add names to those that always go on. Raises: ValueError for one that cannot."""
        names = [name.lower().encode() for name in (*PASSED_ON, *added)]
        self._names = frozenset(names)
        self._prefixes = tuple(name[:-1] for name in names if name.endswith(b"*"))
        for name in added:
            _check_added(name)
        super().__init__()

    def _kind(self, name: bytes) -> _Kind:
        passed = name in self._names or name.startswith(self._prefixes)
        return _PASSED if passed and name not in _HOP_BY_HOP else _Kind.DROPPED


def _check_added(name: str) -> None:
    """Check that a name may be passed on: that nobody passes for another by it. Raises: ValueError."""
    lowered = name.lower()
    if not _FIELD_NAME.fullmatch(lowered):
        raise ValueError(f"{name!r} is not the name of a header, nor the beginning of one and a *")
    begins = lowered.removesuffix("*")
    for never in (*_NEVER_PASSED_ON, *(each.decode() for each in _HOP_BY_HOP), "authorization"):
        stem = never.removesuffix("*")
        clash = stem.startswith(begins) if "*" in lowered else lowered == never
        if clash or (never.endswith("*") and lowered.startswith(stem)):
            raise ValueError(f"{name!r} would pass on {never}, which no caller may set")


def _named(value: bytes) -> frozenset[bytes]:
    """Return the names that a value of Connection adds to those that never pass."""
    names = {token.strip().lower() for token in value.split(b",")} - _HOP_BY_HOP
    # No name for one connection only can take what frames the message for all of them.
    return frozenset(names - {b"", b"close", b"content-length"})


_BACK = _Back()


def passed_on(fields: Iterable[tuple[bytes, bytes]], kinds: PassedOn) -> tuple[HeaderList, bytes, bytes]:
    """Return the fields of a request that go on, and its credentials, which do not.

    Those are the first values of the fields with the runtime id and the authorization, empty without one.
    """
    passed, runtime_id, authorization = [], b"", b""
    named: frozenset[bytes] = frozenset()
    for field in fields:
        kind = kinds[field[0]]
        if kind is _PASSED:
            passed.append(field)
        elif kind is _Kind.RUNTIME_ID:
            runtime_id = runtime_id or field[1]
        elif kind is _Kind.AUTHORIZATION:
            authorization = authorization or field[1]
        elif kind is _Kind.CONNECTION:
            named |= _named(field[1])
    return _without(passed, named) if named else passed, runtime_id, authorization


def passed_back(fields: Iterable[tuple[bytes, bytes]]) -> HeaderList:
    """Return the fields of a response that go back."""
    passed = []
    named: frozenset[bytes] = frozenset()
    for field in fields:
        kind = _BACK[field[0]]
        if kind is _Kind.CONNECTION:
            named |= _named(field[1])
        elif kind is not _Kind.DROPPED:
            passed.append(field)
    return _without(passed, named) if named else passed


def _without(fields: HeaderList, names: frozenset[bytes]) -> HeaderList:
    return [field for field in fields if field[0].lower() not in names]


@attrs.frozen
class _Path:
    """What a path asks for."""

    service_type: str
    provider_id: str
    method: bytes
    """As it was encoded."""


@attrs.frozen
class _Statement:
    """What a provider is told of a caller, signed for it with a token of its own."""

    fields: HeaderList = attrs.field(repr=False)
    digest: bytes = attrs.field(repr=False)
    signed_at: float
    """In seconds since 1970. It is made anew when that is too long ago, or is still to come."""


@attrs.frozen(eq=False)
class _Target:
    """Where a path leads, for as long as the registry stays as it is."""

    path: _Path
    provider: Registration
    label: str
    """As the log names it, after the caller."""
    origin: Origin
    host: bytes
    target: bytes
    kept: bool
    """Whether it is found again at the next call; its statements are kept with it."""
    statements: dict[str, _Statement] = attrs.field(factory=dict, repr=False)
    """What its provider is told of its callers, by their runtime ids."""


@attrs.define
class Route:
    """A call that has been let through."""

    caller: str
    _to: _Target
    _query: bytes
    identifying: HeaderList = attrs.field(repr=False)
    """The fields that tell the provider whose call it is. They are shared: not to be changed."""

    @property
    def provider(self) -> Registration:
        """Whom it is for."""
        return self._to.provider

    @property
    def label(self) -> str:
        """As the log names it: `{caller} → {provider} /{method}`."""
        return f"{self.caller} → {self._to.label}"

    @property
    def origin(self) -> Origin:
        """Where to connect."""
        return self._to.origin

    @property
    def host(self) -> bytes:
        """For the Host header."""
        return self._to.host

    @property
    def target(self) -> bytes:
        """For the request line."""
        return self._to.target + b"?" + self._query if self._query else self._to.target


class Admission:
    """Lets calls through, or refuses them. What the policy says is asked for each call, and told once."""

    def __init__(
        self,
        identities: Identities,
        registry: Registry,
        rates: Rates | None = None,
        policy: Policy | None = None,
        audit: Audit | None = None,
        passed_on: PassedOn | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._identities = identities
        self._registry = registry
        self._rates = rates or Rates(RateLimits())
        self._policy = policy or Policy()
        self._audit = audit or Audit()
        self.passed_on = PassedOn() if passed_on is None else passed_on
        self._wall_clock = wall_clock
        self.tally = Tally()
        self._targets: BoundedCache[bytes, _Target] = BoundedCache(_MOST_TARGETS, _MOST_TARGET_BYTES)
        self._revision = registry.registrations_revision
        self._permitted = Permitted(self._policy)
        self._failures = LogThrottle()

    def admit(
        self, raw_path: bytes, query: bytes, runtime_id: bytes, authorization: bytes, peer: Peer
    ) -> Route:
        """Check a call, in the order that the protocol fixes, and count it. Raises: RefusedError."""
        target = self._remembered(raw_path)
        path = self._split(raw_path, peer) if target is None else target.path
        caller = self._authenticate(raw_path, runtime_id, authorization.decode("latin-1"), peer)
        if wait_s := self._rates.take(Kind.ROUTER, caller.runtime_id):
            raise _too_often(wait_s)
        self._check_permitted(caller, path.service_type)
        if target is None:
            target = self._find(caller, path, kept=len(raw_path) <= _LONGEST_KEPT_PATH)
            if target.kept:
                self._targets.keep(raw_path, target, 4 * len(raw_path) + _TARGET_BYTES)
        elif not self._registry.health(path.provider_id).callable:
            raise RefusedError(503, "service unavailable (provider unhealthy)")
        return Route(caller.runtime_id, target, query, self._identifying(caller, target))

    def still(self, route: Route) -> bool:
        """Whether the caller of a call that was let through is still who it was."""
        return self._identities.entry(route.caller) is not None

    def holds(self, route: Route) -> bool:
        """Whether both sides of a call that was let through are still there."""
        provider = route.provider
        is_there = self._registry.provider(provider.service_type, provider.runtime_id) is not None
        return is_there and self.still(route)

    def note_refusal(self, refused: RefusedError) -> None:
        """Count a refusal, and write down what is worth it."""
        self.tally.refused()
        if refused.log:
            _log.warning("[ROUTER] %s", refused.log)

    def _identifying(self, caller: Identity, target: _Target) -> HeaderList:
        """Return the fields that tell a provider whose call it is, signed anew when it is time for that."""
        entry, now = self._identities.entry(target.provider.runtime_id), self._wall_clock()
        said = target.statements.get(caller.runtime_id)
        if entry is None:
            return [(_CALLER_ID, caller.runtime_id.encode())]
        if said is None or said.digest != entry.digest or not 0 <= now - said.signed_at < _SIGNED_ANEW_S:
            if said is None and target.kept:
                self._targets.take(_STATEMENT_BYTES)
            said = target.statements[caller.runtime_id] = _statement(caller, target, entry.digest, now)
        return said.fields

    def _check_permitted(self, caller: Identity, service_type: str) -> None:
        """Check that a plugin may call a service; what has been found out holds while the rules do."""
        was_permitted = (caller.runtime_id, service_type) in self._permitted
        if was_permitted and self._policy.decides_by_rules:
            return
        if not self._permits(caller, service_type):
            if was_permitted:
                self._permitted.forget()
            denied = f"{caller.runtime_id} may not call {one_line(service_type)}"
            self._audit.denied(Action.CALL, caller.runtime_id, service_type, reason="the policy")
            raise RefusedError(403, f"permission denied: {denied}", f"Denied: {denied}")
        if not was_permitted:
            self._permitted.add((caller.runtime_id, service_type))
            self._audit.allowed(Action.CALL, caller.runtime_id, service_type)

    def _permits(self, caller: Identity, service_type: str) -> bool:
        try:
            return self._policy.may_call(caller, service_type)
        except Exception as error:
            if (more := self._failures.suffix()) is not None:
                _log.exception("the policy failed on a call of %s%s", caller.runtime_id, more)
            raise RefusedError(500, "failed to find out whether the call is permitted") from error

    def _remembered(self, raw_path: bytes) -> _Target | None:
        if self._revision != self._registry.registrations_revision:
            self._revision = self._registry.registrations_revision
            self._targets.clear()
        return self._targets.get(raw_path)

    def _split(self, raw_path: bytes, peer: Peer) -> _Path:
        """Take a path apart; one that is none is counted like a call that proves no identity."""
        try:
            return _split(raw_path)
        except RefusedError as refused:
            if wait_s := self._rates.take(Kind.FAILED_AUTHENTICATION, peer.key):
                raise _too_often(wait_s) from refused
            raise

    def _find(self, caller: Identity, path: _Path, *, kept: bool) -> _Target:
        provider = self._registry.provider(path.service_type, path.provider_id)
        if provider is None:
            raise RefusedError(404, f"provider not found: {path.provider_id}")
        if not self._registry.health(path.provider_id).callable:
            raise RefusedError(503, "service unavailable (provider unhealthy)")
        if not provider.base_url:
            raise RefusedError(404, f"provider endpoint not registered: {path.provider_id}")
        try:
            return _target(path, provider, kept=kept)
        except ValueError as error:
            log = f"{caller.runtime_id} → {provider.runtime_id} FAILED: {error}"
            raise RefusedError(500, "failed to create proxy request", log) from error

    def _authenticate(self, raw_path: bytes, runtime_id: bytes, authorization: str, peer: Peer) -> Identity:
        token = wire.bearer_token(authorization)
        if runtime_id and token is not None:
            identity = self._identities.authenticate(runtime_id.decode("latin-1"), token)
            if identity is not None and not self._policy.why_not_certified(peer, identity.self_id):
                return identity
        name = runtime_id.decode("latin-1")
        former = self._identities.former(name, token) if token is not None else None
        if wait_s := self._rates.take(Kind.FAILED_AUTHENTICATION, former.runtime_id if former else peer.key):
            raise _too_often(wait_s)
        refused = _unauthenticated(one_line(raw_path), one_line(runtime_id), authorization)
        self._audit.denied(Action.AUTHENTICATE, name, reason=refused.text, address=peer.address)
        raise refused


def _statement(caller: Identity, target: _Target, digest: bytes, now: float) -> _Statement:
    assertion = Assertion(
        caller.runtime_id,
        caller.self_id,
        target.provider.runtime_id,
        path_claim(target.target),
        now + LONGEST_S,
    )
    signed = sign(digest, Purpose.CALLER, assertion).encode()
    fields = [(_CALLER_ID, caller.runtime_id.encode()), (_CALLER, signed)]
    return _Statement(fields, digest, now)


def _too_often(wait_s: int) -> RefusedError:
    return RefusedError(429, "Rate limit exceeded", fields=[retry_after(wait_s)])


def _unauthenticated(path: str, runtime_id: str, authorization: str) -> RefusedError:
    if not runtime_id:
        return RefusedError(
            401,
            f"{wire.RUNTIME_ID_HEADER} header required",
            f"Missing {wire.RUNTIME_ID_HEADER} header for {path}",
        )
    if wire.bearer_token(authorization) is None:
        return RefusedError(
            401,
            "Authorization: Bearer <token> required",
            f"Missing/invalid Authorization header for {path} (caller: {runtime_id})",
        )
    return RefusedError(401, "invalid token", f"Invalid token for caller: {runtime_id}")


def _split(raw_path: bytes) -> _Path:
    """Return service type, provider and method of a path; the method stays as it was encoded."""
    path = raw_path.removeprefix(PREFIX)
    parts = path.split(b"/", 2)
    if len(parts) < 3 or _too_long(*parts[:2]) or has_traversal(path):  # noqa: PLR2004 - type, provider, method
        raise RefusedError(
            400,
            "invalid service path format, expected /services/{type}/{provider-id}/{method}",
            f"Invalid path: {one_line(raw_path)} (parts: {len([p for p in parts if p])})",
        )
    return _Path(parts[0].decode("latin-1"), parts[1].decode("latin-1"), parts[2])


def _too_long(service_type: bytes, provider_id: bytes) -> bool:
    """Whether no service type, or no plugin, has such a name."""
    return len(service_type) > wire.MAX_NAME_BYTES or len(provider_id) > wire.MAX_RUNTIME_ID_BYTES


def _target(path: _Path, provider: Registration, *, kept: bool) -> _Target:
    """Return where a path leads. Raises: ValueError for a base URL that is none."""
    origin, prefix = Origin.parse(provider.base_url)
    endpoint = encoded_endpoint(provider).encode()
    # A generated client asks for /package.Service/Method, and the provider's path says the service already.
    service = endpoint.strip(b"/")
    method = path.method.removeprefix(service + b"/") if service else path.method
    return _Target(
        path,
        provider,
        f"{provider.runtime_id} /{one_line(method)}",
        provider.way.to(origin),
        origin.host_header,
        prefix + endpoint + (b"" if endpoint.endswith(b"/") else b"/") + method,
        kept,
    )


def encoded_endpoint(provider: Registration) -> str:
    """Return the path of a service on its plugin as it stands in a URL."""
    return quote(provider.endpoint_path, safe="/%:@!$&'()*+,;=~")
