"""The check of who calls a plugin. It comes before everything that the plugin serves.

    a service            X-Plugin-Caller: the host states who calls this method through it
                         Authorization and X-Plugin-Runtime-ID: a grant of the host, for direct calls
                         `asgi.LOCAL` in the scope: the host calls in memory, and says who calls
    a public service     the same, or none of these
    a control service    Authorization, or `asgi.LOCAL`: the host itself calls

A refused call gets an answer that Connect, gRPC and plain HTTP clients understand, and that says that the
call was not delivered. An accepted call is the application's: the guard does not handle what it raises.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter
from typing import Protocol

import attrs

from cpg_trio import _clock, wire
from cpg_trio._addresses import is_loopback
from cpg_trio._bounded import BoundedCache
from cpg_trio._lines import one_line
from cpg_trio._paths import has_traversal
from cpg_trio._throttle import LogThrottle
from cpg_trio.asgi import (
    FROM_HOST,
    App,
    HeaderList,
    Message,
    Receive,
    Scope,
    Send,
    header,
    local_caller,
    note_proved,
    refuse_websocket,
    send_response,
    server_address,
)
from cpg_trio.assertions import (
    LEEWAY_S,
    Assertion,
    ClocksDifferError,
    InvalidAssertionError,
    Purpose,
    path_claim,
    verify,
)
from cpg_trio.call_context import current
from cpg_trio.call_record import Call, CallKind, Calls
from cpg_trio.http.outgoing import USUAL_NAMES, spellings
from cpg_trio.metadata import folded, is_claim
from cpg_trio.rpc import Caller, Code
from cpg_trio.rpc.recording import RecordedCall

_log = logging.getLogger("cpg_trio.plugin")

_UNAUTHENTICATED = 401
_MAX_VERIFIED = 10_000
_MAX_VERIFIED_BYTES = 8 * 1024 * 1024
_VERIFIED_BYTES = 500  # of one entry, beside its texts

_CALLER = wire.CALLER_HEADER.lower().encode()
_CALLER_ID = wire.CALLER_ID_HEADER.lower().encode()
_RUNTIME_ID = wire.RUNTIME_ID_HEADER.lower().encode()
_AUTHORIZATION = wire.AUTHORIZATION_HEADER.lower().encode()
_BEARER = wire.bearer("").encode()
_CLOCK = wire.CLOCK_HEADER.lower().encode()
_UNDELIVERED = wire.UNDELIVERED_HEADER.lower().encode(), b"true"
_HOST = "the host"  # the identity of the host's connections; no runtime id is the same
_NO_CALLER = frozenset({"", _HOST})  # identities of connections of no direct caller
_IDENTITY = "/connectplugin.v1.PluginIdentity/"
_OPEN_TO_MANAGERS = frozenset({f"{_IDENTITY}GetPluginInfo", f"{_IDENTITY}SetRuntimeIdentity"})

_CHECKED = frozenset({_CALLER, _CALLER_ID, _RUNTIME_ID, _AUTHORIZATION})
_OF_THE_PLATFORM, _CLAIM = b"x-plugin-", b"a claim"


class _Checked(dict[bytes, bytes]):
    """The name under which the guard checks a field: `_CLAIM` for other claims, empty for what is none.

    Some applications read X_Plugin_Caller_Id as X-Plugin-Caller-ID, so the guard does. Only usual names are
    kept, so that nobody makes it grow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.update({name: self[name] for name in spellings(USUAL_NAMES)})

    def __missing__(self, name: bytes) -> bytes:
        if not is_claim(name):
            return b""
        plain = folded(name)
        return plain if plain in _CHECKED or plain.startswith(_OF_THE_PLATFORM) else _CLAIM


_CHECKED_NAMES = _Checked()
# What of these names the application gets. Claims of a stranger's proxy are the author's to judge.
_PASSED = frozenset({b"", _CLAIM, _CALLER_ID, _AUTHORIZATION})
_PASSED_OF_GRANT = frozenset({b"", _CALLER_ID})
_MOST_PLANS, _MOST_PLAN_BYTES = 256, 256 * 1024
_PLAN_BYTES = 1000  # of one, beside the names
_name_of = itemgetter(0)


class _Plan:
    """What of a call's fields is checked and what the application gets: the same for the same names."""

    __slots__ = ("checked", "passed", "passed_of_grant", "twice")

    def __init__(self, names: Sequence[bytes]) -> None:
        known = [_CHECKED_NAMES[name] for name in names]
        found = [(each, at) for at, each in enumerate(known) if each and each is not _CLAIM]
        self.checked: dict[bytes, int] = dict(found)
        """Where the fields are that are checked."""
        counts = Counter(each for each, _ in found if each in _CHECKED)
        self.twice: bytes = next((each for each, count in counts.items() if count > 1), b"")
        """One that may come once and comes more often; empty if there is none."""
        self.passed = self._among(known, _PASSED)
        self.passed_of_grant = self._among(known, _PASSED_OF_GRANT)

    @staticmethod
    def _among(known: Sequence[bytes], passed: Collection[bytes]) -> Sequence[int] | None:
        """Return where the fields are that are passed on; None if all are."""
        places = [at for at, each in enumerate(known) if each in passed]
        return places if len(places) < len(known) else None


_UNCHECKED = _Plan(())  # of a call that has nothing to be checked


def _chosen(headers: HeaderList, places: Sequence[int] | None) -> HeaderList:
    return headers if places is None else [headers[at] for at in places]


def _without_claims(send: Send) -> Send:
    """Return what sends an answer to a direct caller without the fields that the host drops from answers.

    The caller believes `X-Plugin-Undelivered`, as only the guard sends it.
    """

    async def send_metadata(message: Message) -> None:
        fields = message.get("headers")
        if fields and any(_CHECKED_NAMES[name] for name, _ in fields):
            message = {**message, "headers": [field for field in fields if not _CHECKED_NAMES[field[0]]]}
        await send(message)

    return send_metadata


class RefusedCallError(Exception):
    """A call is refused. The message says why and what to do, and has no secret in it.

    `clock` is the plugin's time in seconds since 1970, if the clocks of host and plugin differ.
    """

    def __init__(self, text: str, clock: float | None = None) -> None:
        super().__init__(text)
        self.clock = clock


class OwnIdentity(Protocol):
    """The plugin's identity on its host, as far as the guard needs it."""

    runtime_id: str
    digests: Sequence[bytes]
    """Of the plugin's tokens. The host signs with one of them."""


@attrs.frozen
class Managers:
    """Which managing hosts may call a plugin that has no host yet."""

    self_id: str
    enrolment_digest: bytes | None = attrs.field(repr=False)
    """Of the enrolment token that they prove; None accepts every host on this machine."""
    wanted: Callable[[], bool]
    """Whether the plugin waits for a managing host."""


@attrs.frozen
class _Verified:
    """An assertion whose signature is right."""

    caller: Caller
    path: str
    """Of the one method, in the form of `path_claim`; of a grant, the beginning of paths."""
    until: float
    """The end of its validity, on the clock of the cache."""


class _VerifiedCache:
    """The assertions that were verified: checking a signature costs more than the rest of the check.

    Times are measured by a clock that nobody sets. Another identity of the plugin empties it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: BoundedCache[bytes, _Verified] = BoundedCache(_MAX_VERIFIED, _MAX_VERIFIED_BYTES)
        self._identity: OwnIdentity | None = None

    def get(self, token: bytes, identity: OwnIdentity | None) -> _Verified | None:
        """Return what was verified for this identity of the plugin, if it is still valid."""
        if identity is not self._identity:
            self._entries.clear()
            self._identity = identity
        known = self._entries.get(token)
        return known if known is not None and self._clock() < known.until else None

    def add(self, token: bytes, assertion: Assertion, valid_s: float) -> _Verified:
        """Keep what was verified, for `valid_s` seconds."""
        caller = Caller(assertion.subject, assertion.name)
        verified = _Verified(caller, assertion.path, self._clock() + valid_s)
        self._entries.keep(token, verified, 2 * len(token) + _VERIFIED_BYTES)
        return verified


class Guard:
    """Checks calls before applications. `identity` returns the plugin's own, None before the first one.

    `calls` is told of the calls of services, if anybody listens. With `accept_unsigned`, services also
    accept calls without any proof, as a host sends them that signs nothing. `clock` and `wall_clock` return
    seconds; the latter since 1970, by the host's clock.
    """

    def __init__(
        self,
        identity: Callable[[], OwnIdentity | None],
        managers: Managers,
        *,
        accept_unsigned: bool = False,
        calls: Calls | None = None,
        clock: Callable[[], float] = _clock.current_time,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._managers = managers
        self._accept_unsigned = accept_unsigned
        self._calls = calls or Calls()
        self._wall_clock = wall_clock
        self._callers = _VerifiedCache(clock)
        self._grants = _VerifiedCache(clock)
        # By the names of fields: the calls of a method mostly have the same ones.
        self._plans: BoundedCache[tuple[bytes, ...], _Plan] = BoundedCache(_MOST_PLANS, _MOST_PLAN_BYTES)
        self._throttle = LogThrottle()

    def service(self, app: App, *, public: bool, service_type: str = "") -> App:
        """Return the application behind the check of a service; a public one also answers strangers.

        Without a `service_type` nothing is recorded of its calls.
        """

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                headers, caller, connection_of = self._check_caller(scope, public=public)
            except RefusedCallError as refused:
                if service_type:
                    self._tell_refused(refused)
                await self._refuse(refused, scope, receive, send)
                return
            if connection_of:
                note_proved(scope, connection_of)
            state = {**scope.get("state", {}), "caller": caller}
            passed = {**scope, "headers": headers, "state": state}
            if connection_of not in _NO_CALLER:
                send = _without_claims(send)
            if service_type and self._calls.ended and scope["type"] == "http":
                kind = CallKind.ROUTED if connection_of == _HOST else CallKind.DIRECT
                record = self._record(kind, scope, caller, service_type)
                await self._recorded(record, app, passed, receive, send)
            else:
                await app(passed, receive, send)

        return guarded

    def control(self, app: App) -> App:
        """Return the application behind the check of a control service."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                self._check_host(scope)
            except RefusedCallError as refused:
                await self._refuse(refused, scope, receive, send)
                return
            note_proved(scope, _HOST)
            await app(scope, receive, send)

        return guarded

    # Records

    def _record(self, kind: CallKind, scope: Scope, caller: Caller | None, service_type: str) -> Call:
        identity, context = self._identity(), current()
        if (tracer := self._calls.tracer) is not None:
            context = tracer.enter(context, one_line(scope["raw_path"][1:]), server_address(scope))
        return Call(
            kind,
            caller.id if caller is not None else "",
            identity.runtime_id if identity is not None else "",
            service_type,
            one_line(scope["raw_path"].rpartition(b"/")[2]),
            scope["http_version"],
            context,
        )

    async def _recorded(self, record: Call, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        self._calls.begun.tell(record)
        recorded = RecordedCall(record, receive, send)
        try:
            with self._calls.serving(record.context):
                await app(scope, recorded.receive, recorded.send)
        finally:
            self._calls.end(record)

    def _tell_refused(self, refused: RefusedCallError) -> None:
        call = Call(CallKind.ROUTED, context=current())
        call.status, call.code = _UNAUTHENTICATED, Code.UNAUTHENTICATED.value
        call.failure, call.undelivered = str(refused), True
        self._calls.refused.tell(call)

    # Services

    def _check_caller(self, scope: Scope, *, public: bool) -> tuple[HeaderList, Caller | None, str]:
        """Return the header fields for the application, the caller, and the identity of the connection.

        The connection is the host's for a call through it, and nobody's for a stranger's.
        Raises: RefusedCallError.
        """
        headers: HeaderList = scope["headers"]
        if isinstance(local := local_caller(scope), Caller):
            return headers, local, _HOST  # the host has routed it, and has dropped every claim
        names = tuple(map(_name_of, headers))
        plan = known = self._plans.get(names)
        if plan is None:
            plan = _Plan(names) if any(map(_CHECKED_NAMES.__getitem__, names)) else _UNCHECKED
        if plan.twice:
            raise RefusedCallError(f"there are two fields {plan.twice.decode()}")
        fields = {name: headers[at][1] for name, at in plan.checked.items()}
        caller = self._verified_caller(scope["raw_path"], fields) if fields else None
        if caller is None:
            if not public and not (self._accept_unsigned and self._identity() is not None):
                raise RefusedCallError("call it through its host, which says who calls")
            connection_of = "" if public else _HOST
        else:
            connection_of = caller.id if _RUNTIME_ID in fields else _HOST
            if known is None:
                self._plans.keep(names, plan, _PLAN_BYTES + sum(map(len, names)))
        if fields:
            passed = plan.passed_of_grant if _RUNTIME_ID in fields else plan.passed
            headers = _chosen(headers, passed)
        return headers, caller, connection_of

    def _verified_caller(self, raw_path: bytes, fields: Mapping[bytes, bytes]) -> Caller | None:
        """Return the caller that is proved, None if nothing claims one. Raises: RefusedCallError."""
        caller = None
        if (token := fields.get(_CALLER)) is not None:
            caller = self._called_through_host(token, raw_path)
            if _RUNTIME_ID in fields:
                raise RefusedCallError("a call comes through the host or directly, not both")
        elif _RUNTIME_ID in fields:
            caller = self._called_directly(fields, raw_path)
        claimed = fields.get(_CALLER_ID)
        if claimed is not None and (caller is None or claimed != caller.id.encode()):
            raise RefusedCallError(f"{wire.CALLER_ID_HEADER} is not proved")
        return caller

    def _called_through_host(self, token: bytes, raw_path: bytes) -> Caller:
        known = self._callers.get(token, self._identity())
        known = known or self._callers.add(token, *self._verify(token, Purpose.CALLER))
        if known.path != path_claim(raw_path):
            raise RefusedCallError(f"{wire.CALLER_HEADER} is for another method")
        return known.caller

    def _called_directly(self, fields: Mapping[bytes, bytes], raw_path: bytes) -> Caller:
        shown = fields.get(_AUTHORIZATION, b"")
        if not shown.startswith(_BEARER):
            raise RefusedCallError("a direct call needs a grant: Authorization: Bearer <grant>")
        known = self._grants.get(shown, self._identity())
        known = known or self._grants.add(shown, *self._verify(shown[len(_BEARER) :], Purpose.DIRECT))
        if fields[_RUNTIME_ID] != known.caller.id.encode():
            raise RefusedCallError(f"the grant is not for this {wire.RUNTIME_ID_HEADER}")
        if not _is_below(raw_path, known.path):
            raise RefusedCallError("the grant is for another service")
        return known.caller

    def _verify(self, token: bytes, purpose: Purpose) -> tuple[Assertion, float]:
        """Return an assertion of the plugin's host, and for how many seconds it is valid.

        Raises: RefusedCallError.
        """
        if (identity := self._identity()) is None:
            raise RefusedCallError("this plugin has not registered with a host yet")
        now = self._wall_clock()
        try:
            assertion = verify(token.decode("latin-1"), identity.digests, purpose, identity.runtime_id, now)
        except ClocksDifferError as error:
            raise RefusedCallError(f"the assertion is {error}: clocks differ", clock=now) from None
        except InvalidAssertionError as error:
            raise RefusedCallError(f"the assertion is {error}") from None
        return assertion, assertion.expires_at + LEEWAY_S - now

    # Control

    def _check_host(self, scope: Scope) -> None:
        """Raise RefusedCallError unless the plugin's host calls, or a managing host that it may accept."""
        if local_caller(scope) is FROM_HOST:
            return
        token = (header(scope, _AUTHORIZATION) or b"").removeprefix(_BEARER)
        path = path_claim(scope["raw_path"])
        if self._managers.wanted() and scope["path"] in _OPEN_TO_MANAGERS:
            self._check_manager(scope, token, path)
        elif not token:
            raise RefusedCallError("only the plugin's own host may do this")
        elif self._verify(token, Purpose.CONTROL)[0].path != path:
            raise RefusedCallError("the assertion is for another method")

    def _check_manager(self, scope: Scope, token: bytes, path: str) -> None:
        managers = self._managers
        if managers.enrolment_digest is None:
            client = scope.get("client")  # None for a Unix socket
            if client is not None and not is_loopback(client[0]):
                raise RefusedCallError(
                    "this plugin takes a host from another machine only with an ENROLMENT_TOKEN"
                )
            return
        digests = [managers.enrolment_digest]
        try:
            assertion = verify(
                token.decode("latin-1"), digests, Purpose.ENROL, managers.self_id, self._wall_clock()
            )
        except InvalidAssertionError as error:
            raise RefusedCallError(
                f"a managing host proves the ENROLMENT_TOKEN that both have: the assertion is {error}"
            ) from None
        if assertion.path != path:
            raise RefusedCallError("the assertion is for another method")

    # Refusals

    async def _refuse(self, refused: RefusedCallError, scope: Scope, receive: Receive, send: Send) -> None:
        if (more := self._throttle.suffix()) is not None:
            client = scope.get("client")
            source = client[0] if client else "a Unix socket"
            _log.warning("refused a call of %r from %s: %s%s", one_line(scope["path"]), source, refused, more)
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
            await refuse_websocket(send, _UNAUTHENTICATED, str(refused))
            return
        body = json.dumps({"code": Code.UNAUTHENTICATED.value, "message": str(refused)}).encode()
        fields = [(b"content-type", b"application/json"), _UNDELIVERED]
        if refused.clock is not None:
            fields.append((_CLOCK, b"%d" % refused.clock))
        await send_response(send, _UNAUTHENTICATED, body, fields)


def _is_below(raw_path: bytes, prefix: str) -> bool:
    """Whether a path is that of a grant or below it, to every reader."""
    place = prefix.encode("latin-1")
    if not place.startswith(b"/"):
        return False
    if raw_path == place:
        return True
    below = place.rstrip(b"/") + b"/"
    return raw_path.startswith(below) and not has_traversal(raw_path[len(below) :])
