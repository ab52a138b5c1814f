"""Who calls a plugin: decided before anything else runs, by what the plugin's host has signed.

    a service            X-Plugin-Caller: the host says who calls this method through it
                         Authorization and X-Plugin-Runtime-ID: the host has granted somebody direct calls
    a public service     the same, or no claim at all
    a control service    Authorization: the host itself calls

What has been refused gets an answer that reads the same in Connect, gRPC and plain HTTP, and nothing of the
plugin has run. What has been let through is the application's: whatever it raises is no matter of the guard.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs

from cpg_trio import _clock, wire
from cpg_trio._addresses import is_loopback
from cpg_trio._bounded import BoundedCache
from cpg_trio._lines import one_line
from cpg_trio._paths import has_traversal
from cpg_trio._throttle import LogThrottle
from cpg_trio.asgi import (
    App,
    HeaderList,
    Receive,
    Scope,
    Send,
    header,
    note_proved,
    refuse_websocket,
    send_response,
)
from cpg_trio.assertions import (
    LEEWAY_S,
    Assertion,
    ClocksDifferError,
    InvalidAssertionError,
    Purpose,
    path_claim,
    read,
)
from cpg_trio.rpc import Caller, Code

_log = logging.getLogger("cpg_trio.plugin")

_UNAUTHENTICATED = 401
_MOST_REMEMBERED = 10_000
_MOST_REMEMBERED_BYTES = 8 * 1024 * 1024
_PROVED_BYTES = 500  # that what was proved takes, beside what is written in it

_CALLER = wire.CALLER_HEADER.lower().encode()
_CALLER_ID = wire.CALLER_ID_HEADER.lower().encode()
_RUNTIME_ID = wire.RUNTIME_ID_HEADER.lower().encode()
_AUTHORIZATION = wire.AUTHORIZATION_HEADER.lower().encode()
_BEARER = wire.bearer("").encode()
_CLOCK = wire.CLOCK_HEADER.lower().encode()
_UNDELIVERED = wire.UNDELIVERED_HEADER.lower().encode(), b"true"
_THE_HOST = "the host"  # as whom its connections count; no runtime id is the same
_HIDDEN = frozenset({_CALLER, _RUNTIME_ID})
_HIDDEN_OF_GRANT = _HIDDEN | {_AUTHORIZATION}
_IDENTITY = "/connectplugin.v1.PluginIdentity/"
_OPEN_TO_MANAGERS = frozenset({f"{_IDENTITY}GetPluginInfo", f"{_IDENTITY}SetRuntimeIdentity"})


_OURS = frozenset({_CALLER, _CALLER_ID, _RUNTIME_ID, _AUTHORIZATION})
_LENGTHS_OF_OURS = frozenset(len(name) for name in _OURS)


def _meaning(name: bytes) -> bytes:
    """Return the name of a field that means something to the guard, in lower case; empty for any other.

    Some applications read X_Plugin_Caller_Id as X-Plugin-Caller-ID, so the guard does.
    """
    if len(name) not in _LENGTHS_OF_OURS:
        return b""
    known = name.lower().replace(b"_", b"-")
    return known if known in _OURS else b""


class RefusedCallError(Exception):
    """A call that is not let in; the message, which has nothing secret in it, says why and what to do.

    `clock` is what time it is to the plugin, in seconds since 1970, if that is why.
    """

    def __init__(self, text: str, clock: float | None = None) -> None:
        super().__init__(text)
        self.clock = clock


class Standing(Protocol):
    """What an identity on a host is to the guard."""

    @property
    def runtime_id(self) -> str:
        """As whom the host knows the plugin."""
        ...

    @property
    def digests(self) -> Sequence[bytes]:
        """The digests of the plugin's tokens."""
        ...


@attrs.frozen
class Managers:
    """Whose word a plugin takes that has no host yet."""

    self_id: str
    enrolment_digest: bytes | None = attrs.field(repr=False)
    """Of its enrolment token; None for a plugin that believes who is on its own machine."""
    wanted: Callable[[], bool]
    """Whether it waits for one."""


@attrs.frozen
class _Proved:
    """What a header has proved, and for how long it does."""

    caller: Caller
    path: str
    """Of the one method, as `path_claim` says it; of a grant, what paths begin with."""
    until: float
    """On the clock of the memory."""


class _Memory:
    """What has been proved: a signature is looked at once, as that costs more than all else together.

    How long something is remembered is measured by a clock that nobody sets.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._proved: BoundedCache[bytes, _Proved] = BoundedCache(_MOST_REMEMBERED, _MOST_REMEMBERED_BYTES)
        self._standing: Standing | None = None

    def get(self, shown: bytes, standing: Standing | None) -> _Proved | None:
        """Return what has been proved to this standing of the plugin, if it still holds."""
        if standing is not self._standing:
            self._proved.clear()
            self._standing = standing
        known = self._proved.get(shown)
        return known if known is not None and self._clock() < known.until else None

    def add(self, shown: bytes, assertion: Assertion, good_s: float) -> _Proved:
        """Remember what has been proved, for `good_s` seconds."""
        caller = Caller(assertion.subject, assertion.name)
        proved = _Proved(caller, assertion.path, self._clock() + good_s)
        self._proved.keep(shown, proved, 2 * len(shown) + _PROVED_BYTES)
        return proved


class Guard:
    """Stands before all that a plugin serves. `standing` gives its identity, None before the first one.

    With `accept_unsigned` a service takes calls that claim nothing, as a host that signs nothing sends them.
    """

    def __init__(
        self,
        standing: Callable[[], Standing | None],
        managers: Managers,
        *,
        accept_unsigned: bool = False,
        clock: Callable[[], float] = _clock.current_time,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._standing = standing
        self._managers = managers
        self._accept_unsigned = accept_unsigned
        self._wall_clock = wall_clock
        self._callers = _Memory(clock)
        self._grants = _Memory(clock)
        self._refusals = _Refusals()

    def service(self, app: App, *, public: bool) -> App:
        """Return an application before which is decided who calls; a public one is for everybody."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                headers, caller, identity = self._caller(scope, public=public)
            except RefusedCallError as refused:
                await self._refuse(refused, scope, receive, send)
                return
            if identity:
                note_proved(scope, identity)
            state = {**scope.get("state", {}), "caller": caller}
            await app({**scope, "headers": headers, "state": state}, receive, send)

        return guarded

    def control(self, app: App) -> App:
        """Return an application that answers nobody but the plugin's own host."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                self._check_host(scope)
            except RefusedCallError as refused:
                await self._refuse(refused, scope, receive, send)
                return
            note_proved(scope, _THE_HOST)
            await app(scope, receive, send)

        return guarded

    # Services

    def _caller(self, scope: Scope, *, public: bool) -> tuple[HeaderList, Caller | None, str]:
        """Return the header fields that are the application's, who calls, and whose connection it is.

        That is the host's for a call that comes through it; empty for a stranger's. Raises: RefusedCallError.
        """
        headers: HeaderList = scope["headers"]
        claims: dict[bytes, bytes] = {}
        for name, value in headers:
            if known := _meaning(name):
                if known in claims:
                    raise RefusedCallError(f"there are two fields {known.decode()}")
                claims[known] = value
        caller = self._proven(scope["raw_path"], claims) if claims else None
        if caller is None and not public and not self._accepts_unsigned():
            raise RefusedCallError("call it through its host, which says who calls")
        if caller is not None and _RUNTIME_ID in claims:
            identity = caller.id
        else:
            identity = "" if caller is None and public else _THE_HOST
        hidden = _HIDDEN_OF_GRANT if _RUNTIME_ID in claims else _HIDDEN
        passed = [field for field in headers if _meaning(field[0]) not in hidden] if claims else headers
        return passed, caller, identity

    def _accepts_unsigned(self) -> bool:
        return self._accept_unsigned and self._standing() is not None

    def _proven(self, raw_path: bytes, claims: Mapping[bytes, bytes]) -> Caller | None:
        """Return the caller that is proved, None if nothing is claimed. Raises: RefusedCallError."""
        caller = None
        if (shown := claims.get(_CALLER)) is not None:
            caller = self._called_through_host(shown, raw_path)
            if _RUNTIME_ID in claims:
                raise RefusedCallError("a call comes through the host or directly, not both")
        elif _RUNTIME_ID in claims:
            caller = self._called_directly(claims, raw_path)
        said = claims.get(_CALLER_ID)
        if said is not None and (caller is None or said != caller.id.encode()):
            raise RefusedCallError(f"{wire.CALLER_ID_HEADER} is not proved")
        return caller

    def _called_through_host(self, shown: bytes, raw_path: bytes) -> Caller:
        known = self._callers.get(shown, self._standing())
        known = known or self._callers.add(shown, *self._read(shown, Purpose.CALLER))
        if known.path != path_claim(raw_path):
            raise RefusedCallError(f"{wire.CALLER_HEADER} is for another method")
        return known.caller

    def _called_directly(self, claims: Mapping[bytes, bytes], raw_path: bytes) -> Caller:
        shown = claims.get(_AUTHORIZATION, b"")
        if not shown.startswith(_BEARER):
            raise RefusedCallError("who calls directly shows a grant: Authorization: Bearer <grant>")
        known = self._grants.get(shown, self._standing())
        known = known or self._grants.add(shown, *self._read(shown[len(_BEARER) :], Purpose.DIRECT))
        if claims[_RUNTIME_ID] != known.caller.id.encode():
            raise RefusedCallError(f"the grant is not for this {wire.RUNTIME_ID_HEADER}")
        if not _is_below(raw_path, known.path):
            raise RefusedCallError("the grant is for another service")
        return known.caller

    def _read(self, shown: bytes, purpose: Purpose) -> tuple[Assertion, float]:
        """Return what the plugin's host has signed for it, and for how long that is good, in seconds.

        Raises: RefusedCallError.
        """
        standing = self._standing()
        if standing is None:
            raise RefusedCallError("this plugin has not registered with a host yet")
        now = self._wall_clock()
        try:
            said = read(shown.decode("latin-1"), standing.digests, purpose, standing.runtime_id, now)
        except ClocksDifferError as error:
            raise RefusedCallError(f"what was shown is {error}: clocks differ", clock=now) from None
        except InvalidAssertionError as error:
            raise RefusedCallError(f"what was shown is {error}") from None
        return said, said.expires_at + LEEWAY_S - now

    # Control

    def _check_host(self, scope: Scope) -> None:
        """Raise RefusedCallError unless the plugin's own host calls, or one that it may take for it."""
        shown = (header(scope, _AUTHORIZATION) or b"").removeprefix(_BEARER)
        path = path_claim(scope["raw_path"])
        if self._managers.wanted() and scope["path"] in _OPEN_TO_MANAGERS:
            self._check_manager(scope, shown)
        elif not shown:
            raise RefusedCallError("only the plugin's own host may do this")
        elif self._read(shown, Purpose.CONTROL)[0].path != path:
            raise RefusedCallError("what was shown is for another method")

    def _check_manager(self, scope: Scope, shown: bytes) -> None:
        digest = self._managers.enrolment_digest
        if digest is None:
            if not _is_local(scope):
                raise RefusedCallError(
                    "this plugin takes a host from another machine only with an ENROLMENT_TOKEN"
                )
            return
        try:
            said = read(
                shown.decode("latin-1"), [digest], Purpose.ENROL, self._managers.self_id, self._wall_clock()
            )
        except InvalidAssertionError as error:
            raise RefusedCallError(
                f"a host that this plugin is to take proves the ENROLMENT_TOKEN of both: this is {error}"
            ) from None
        if said.path != path_claim(scope["raw_path"]):
            raise RefusedCallError("what was shown is for another method")

    async def _refuse(self, refused: RefusedCallError, scope: Scope, receive: Receive, send: Send) -> None:
        self._refusals.note(refused, scope)
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
            await refuse_websocket(send, _UNAUTHENTICATED, str(refused))
            return
        body = json.dumps({"code": Code.UNAUTHENTICATED.value, "message": str(refused)}).encode()
        fields = [(b"content-type", b"application/json"), _UNDELIVERED]
        if refused.clock is not None:
            fields.append((_CLOCK, b"%d" % refused.clock))
        await send_response(send, _UNAUTHENTICATED, body, fields)


class _Refusals:
    """Writes of refused calls, once in a while: who is refused is not to fill the log."""

    def __init__(self) -> None:
        self._throttle = LogThrottle()

    def note(self, refused: RefusedCallError, scope: Scope) -> None:
        if (more := self._throttle.suffix()) is None:
            return
        client = scope.get("client")
        _log.warning(
            "refused a call of %r from %s: %s%s",
            one_line(scope["path"]),
            client[0] if client else "a Unix socket",
            refused,
            more,
        )


def _is_below(raw_path: bytes, prefix: str) -> bool:
    """Whether a path is that of a grant or below it, to every reader."""
    place = prefix.encode("latin-1")
    if not place.startswith(b"/"):
        return False
    if raw_path == place:
        return True
    below = place.rstrip(b"/") + b"/"
    return raw_path.startswith(below) and not has_traversal(raw_path[len(below) :])


def _is_local(scope: Scope) -> bool:
    """Whether a call comes from the plugin's own machine, as the connection tells."""
    client = scope.get("client")  # None for a Unix socket
    return client is None or is_loopback(client[0])
