"""Who may call whom, and what of a call goes on: the policy of the router, for every way that calls come in.

It knows messages only by their header fields and paths, and does no I/O. Refusals have the words that other
implementations use; what they log has nothing in it that could pass for another line.

The usual call is to a path that was called before. What a path means is remembered until the registry
changes, so that the usual call costs a few dictionary look-ups and one comparison of digests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import TypeAlias
from urllib.parse import quote

import attrs

from cpg_trio import wire
from cpg_trio.asgi import HeaderList
from cpg_trio.http1 import Origin

from .addresses import key_of, named
from .charging import RETRY_AFTER
from .identity import Identities, Identity
from .rates import Kind, Rates
from .registry import Registration, Registry
from .tally import Tally

PREFIX = b"/services/"

_log = logging.getLogger("cpg_trio.router")

MayCall: TypeAlias = Callable[[Identity, str], bool]
Client: TypeAlias = tuple[str, int] | None
"""The address and port that a call comes from; None for a Unix socket."""

UNDELIVERED = [(wire.UNDELIVERED_HEADER.lower().encode(), b"true")]

_MOST_REMEMBERED = 10_000
_MOST_NAMES = 1000

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
# What proves the caller to the host is nobody else's business; where a request came from is not the caller's
# to say; an expectation has been met by the time the body is read.
_NOT_PASSED_ON = _HOP_BY_HOP | {
    b"authorization",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-prefix",
    b"x-forwarded-proto",
    b"x-plugin-caller-id",
    b"x-plugin-runtime-id",
    b"x-real-ip",
}
# Whether a call was delivered is the host's to say.
_NOT_PASSED_BACK = _HOP_BY_HOP | {wire.UNDELIVERED_HEADER.lower().encode()}
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
    """The kinds of header fields by name, in every spelling that has been seen."""

    def __init__(self, dropped: frozenset[bytes]) -> None:
        super().__init__()
        self._dropped = dropped

    def __missing__(self, name: bytes) -> _Kind:
        if len(self) >= _MOST_NAMES:
            self.clear()
        kind = self[name] = self._kind(name.lower())
        return kind

    def _kind(self, name: bytes) -> _Kind:
        if name in _SPECIAL:
            return _SPECIAL[name]
        # Some servers read X_Plugin_Caller_Id as X-Plugin-Caller-ID; neither is the caller's to send.
        return _Kind.DROPPED if name.replace(b"_", b"-") in self._dropped else _PASSED


class _Named(dict[bytes, frozenset[bytes]]):
    """The names that a value of Connection adds to those that never pass, by value."""

    def __missing__(self, value: bytes) -> frozenset[bytes]:
        names = {token.strip().lower() for token in value.split(b",")} - _HOP_BY_HOP
        # No name for one connection only can take what frames the message for all of them.
        names -= {b"", b"close", b"content-length"}
        if len(self) >= _MOST_NAMES:
            self.clear()
        self[value] = named = frozenset(names)
        return named


_ON = _Kinds(_NOT_PASSED_ON)
_BACK = _Kinds(_NOT_PASSED_BACK)
_NAMED = _Named()


def passed_on(fields: Iterable[tuple[bytes, bytes]]) -> tuple[HeaderList, bytes, bytes]:
    """Return the fields of a request that go on, and its credentials, which do not.

    Those are the first values of the fields with the runtime id and the authorization, empty without one.
    """
    passed, runtime_id, authorization = [], b"", b""
    named: frozenset[bytes] = frozenset()
    for field in fields:
        kind = _ON[field[0]]
        if kind is _PASSED:
            passed.append(field)
        elif kind is _Kind.RUNTIME_ID:
            runtime_id = runtime_id or field[1]
        elif kind is _Kind.AUTHORIZATION:
            authorization = authorization or field[1]
        elif kind is _Kind.CONNECTION:
            named |= _NAMED[field[1]]
    return _without(passed, named) if named else passed, runtime_id, authorization


def passed_back(fields: Iterable[tuple[bytes, bytes]]) -> HeaderList:
    """Return the fields of a response that go back."""
    passed = []
    named: frozenset[bytes] = frozenset()
    for field in fields:
        kind = _BACK[field[0]]
        if kind is _Kind.CONNECTION:
            named |= _NAMED[field[1]]
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
class _Target:
    """Where a path leads, for as long as the registry stays as it is."""

    path: _Path
    provider: Registration
    label: str
    """As the log names it, after the caller."""
    origin: Origin
    host: bytes
    target: bytes


@attrs.define
class Route:
    """A call that has been let through."""

    caller: str
    _to: _Target
    _query: bytes

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

    def identifying(self) -> HeaderList:
        """Return the fields that tell a provider whose call it is."""
        return [(_CALLER_ID, self.caller.encode())]


def everybody(_caller: Identity, _service_type: str) -> bool:
    """Let every plugin call every service."""
    return True


class Admission:
    """Lets calls through, or refuses them. `may_call` is asked at each call."""

    def __init__(
        self, identities: Identities, registry: Registry, rates: Rates, may_call: MayCall = everybody
    ) -> None:
        self._identities = identities
        self._registry = registry
        self._rates = rates
        self._may_call = may_call
        self.tally = Tally()
        self._targets: dict[bytes, _Target] = {}
        self._revision = registry.revision

    def admit(
        self, raw_path: bytes, query: bytes, runtime_id: bytes, authorization: bytes, client: Client
    ) -> Route:
        """Check a call, in the order that the protocol fixes, and count it. Raises: RefusedError."""
        target = self._remembered(raw_path)
        path = _split(raw_path) if target is None else target.path
        caller = self._authenticate(raw_path, runtime_id, authorization.decode("latin-1"), client)
        if wait_s := self._rates.take(Kind.ROUTER, caller.runtime_id):
            raise _too_often(wait_s)
        if not self._permits(caller, path.service_type):
            denied = f"{caller.runtime_id} may not call {printable(path.service_type.encode('latin-1'))}"
            raise RefusedError(403, f"permission denied: {denied}", f"Denied: {denied}")
        if target is None:
            target = self._targets[raw_path] = self._find(caller, path)
        elif not self._registry.health(path.provider_id).callable:
            raise RefusedError(503, "service unavailable (provider unhealthy)")
        return Route(caller.runtime_id, target, query)

    def note_refusal(self, refused: RefusedError) -> None:
        """Count a refusal, and write down what is worth it."""
        self.tally.refused()
        if refused.log:
            _log.warning("[ROUTER] %s", refused.log)

    def _permits(self, caller: Identity, service_type: str) -> bool:
        try:
            return self._may_call(caller, service_type)
        except Exception as error:
            _log.exception("the policy failed on a call of %s", caller.runtime_id)
            raise RefusedError(500, "failed to find out whether the call is permitted") from error

    def _remembered(self, raw_path: bytes) -> _Target | None:
        if self._revision != self._registry.revision or len(self._targets) > _MOST_REMEMBERED:
            self._revision = self._registry.revision
            self._targets.clear()
        return self._targets.get(raw_path)

    def _find(self, caller: Identity, path: _Path) -> _Target:
        provider = self._registry.provider(path.service_type, path.provider_id)
        if provider is None:
            raise RefusedError(404, f"provider not found: {path.provider_id}")
        if not self._registry.health(path.provider_id).callable:
            raise RefusedError(503, "service unavailable (provider unhealthy)")
        if not provider.base_url:
            raise RefusedError(404, f"provider endpoint not registered: {path.provider_id}")
        try:
            return _target(path, provider)
        except ValueError as error:
            log = f"{caller.runtime_id} → {provider.runtime_id} FAILED: {error}"
            raise RefusedError(500, "failed to create proxy request", log) from error

    def _authenticate(
        self, raw_path: bytes, runtime_id: bytes, authorization: str, client: Client
    ) -> Identity:
        if runtime_id and authorization.startswith(wire.BEARER_PREFIX):
            token = authorization[len(wire.BEARER_PREFIX) :]
            if (identity := self._identities.authenticate(runtime_id.decode("latin-1"), token)) is not None:
                return identity
        if wait_s := self._rates.take(Kind.FAILED_AUTHENTICATION, key_of(named(client))):
            raise _too_often(wait_s)
        raise _unauthenticated(printable(raw_path), printable(runtime_id), authorization)


def _too_often(wait_s: int) -> RefusedError:
    return RefusedError(429, "Rate limit exceeded", fields=[(RETRY_AFTER.encode(), b"%d" % wait_s)])


def _unauthenticated(path: str, runtime_id: str, authorization: str) -> RefusedError:
    if not runtime_id:
        return RefusedError(
            401,
            f"{wire.RUNTIME_ID_HEADER} header required",
            f"Missing {wire.RUNTIME_ID_HEADER} header for {path}",
        )
    if not authorization.startswith(wire.BEARER_PREFIX):
        return RefusedError(
            401,
            "Authorization: Bearer <token> required",
            f"Missing/invalid Authorization header for {path} (caller: {runtime_id})",
        )
    return RefusedError(401, "invalid token", f"Invalid token for caller: {runtime_id}")


def _split(raw_path: bytes) -> _Path:
    """Return service type, provider and method of a path; the method stays as it was encoded."""
    parts = raw_path.removeprefix(PREFIX).split(b"/", 2)
    wrong = len(parts) < 3 or not all(parts[:2]) or b"#" in raw_path  # noqa: PLR2004 - type, provider, method
    if wrong or _climbs(parts[2]):
        raise RefusedError(
            400,
            "invalid service path format, expected /services/{type}/{provider-id}/{method}",
            f"Invalid path: {printable(raw_path)} (parts: {len([p for p in parts if p])})",
        )
    return _Path(parts[0].decode("latin-1"), parts[1].decode("latin-1"), parts[2])


def _climbs(path: bytes) -> bool:
    """Whether a path has segments that leave the place it is relative to, however they are spelled."""
    return any(segment.lower().replace(b"%2e", b".") in (b".", b"..") for segment in path.split(b"/"))


def _target(path: _Path, provider: Registration) -> _Target:
    """Return where a path leads. Raises: ValueError for a base URL that is none."""
    origin, prefix = Origin.parse(provider.base_url)
    endpoint = quote(provider.endpoint_path, safe="/%:@!$&'()*+,;=~").encode()
    # A generated client asks for /package.Service/Method, and the provider's path says the service already.
    service = endpoint.strip(b"/")
    method = path.method.removeprefix(service + b"/") if service else path.method
    return _Target(
        path,
        provider,
        f"{provider.runtime_id} /{printable(method)}",
        provider.way.to(origin),
        origin.host_header,
        prefix + endpoint + (b"" if endpoint.endswith(b"/") else b"/") + method,
    )


def printable(value: bytes) -> str:
    """Return bytes from a stranger in a form that cannot break or forge a line of a log."""
    return "".join(c if c.isprintable() else "�" for c in value.decode("latin-1"))
