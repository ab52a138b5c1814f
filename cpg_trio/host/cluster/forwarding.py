"""A plugin calls any host: a control call is forwarded to the host that owns the plugin.

    plugin ──▶ the host that is called ──▶ the owner
               counts the rate,            checks the statement and the plugin's credentials,
               states who has called it    and takes that for the caller

The owner never forwards such a call. If it does not own the plugin any more it says so, and the host that was
called looks again. An answer comes back as it is.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import attrs
from google.protobuf.message import Message

from cpg_trio import wire
from cpg_trio._throttle import LogThrottle
from cpg_trio.host.access import Peer, RefusedError
from cpg_trio.host.cluster.host_calls import NOT_OWNER, REFUSED, HostCalls
from cpg_trio.host.cluster.others import ALONE, Others
from cpg_trio.host.cluster.owners import Member, Owners
from cpg_trio.http import NotSentError
from cpg_trio.rpc import CallOptions, Code, ConnectError, Context, Headers, ResponseMetadata, ServiceClient
from cpg_trio.store import StoreError

_log = logging.getLogger("cpg_trio.host")

_C = TypeVar("_C", bound=ServiceClient)
_R = TypeVar("_R", bound=Message)

_LONGEST_S = 12.0  # as long as a plugin waits for a registration
_TRIES = 2
_SENT = (wire.RUNTIME_ID_HEADER, wire.AUTHORIZATION_HEADER, wire.ENROLMENT_HEADER)
_RETURNED = (wire.HOST_ID_HEADER, wire.UNDELIVERED_HEADER, wire.FAULT_HEADER, "Retry-After")
_CONNECT_ERROR = "application/json"


@attrs.frozen
class Arrival:
    """How a call has come to this host."""

    peer: Peer
    """Who has called: this host, or the one that has forwarded the call."""
    forwarded_by: str = ""
    """The id of the host that has forwarded it; empty if it comes from its caller."""


class Forwarding:
    """Forwards calls to the owners of plugins."""

    def __init__(self, owners: Owners, hosts: HostCalls, others: Others = ALONE) -> None:
        self._owners = owners
        self._hosts = hosts
        self._others = others
        self._throttle = LogThrottle()
        self.forwarded = Counter[str]()
        """How many calls were forwarded, by the code of the answer; `ok` for one that is no error."""

    @property
    def sends_elsewhere(self) -> bool:
        """Whether plugins are to call another host."""
        return self._others.sends_elsewhere

    def is_cut_off_from_owner(self, plugin: str) -> bool:
        """Whether this host cannot find out who owns a plugin: the owner is gone, and the store away.

        Then it takes reports itself, so that plugins are not idle for as long as the store is away.
        """
        has_none = not self._owners.owns(plugin) and self._owners.elsewhere(plugin) is None
        return has_none and self._others.sends_elsewhere

    def arrival(self, ctx: Context, plugin: str) -> Arrival:
        """Return how a call of a plugin has come that another host says it has forwarded.

        Raises: RefusedError `permission_denied` for a statement that no other host has made of this call.
        """
        stated = self._hosts.stated(ctx, plugin)
        return Arrival(stated.peer, stated.issuer)

    async def send(
        self,
        ctx: Context,
        arrival: Arrival,
        plugin: str,
        client_class: type[_C],
        call: Callable[[_C, CallOptions], Awaitable[_R]],
        timeout_s: float = _LONGEST_S,
    ) -> _R | None:
        """Forward a call of a plugin to its owner; return the answer, None if this host is to answer it.

        The plugin is authenticated before. It may have ended meanwhile. The headers of the answer are set in
        the context. After `timeout_s`, or half of the time that the plugin has left, the owner counts as out
        of reach. Raises: ConnectError, that of the owner, or `unavailable` if there is none.
        """
        if self._others is ALONE:
            return None
        for tries_left in reversed(range(_TRIES)):
            if (owner := await self._owner(ctx, arrival, plugin)) is None:
                return None
            if not owner.url:
                raise _unavailable(f"the host that owns {plugin} does not say where others reach it")
            client = self._hosts.client(client_class, owner, plugin, arrival.peer, _credentials(ctx))
            answer = ResponseMetadata()
            try:
                response = await call(client, {"timeout_s": _bounded(timeout_s, ctx), "metadata": answer})
            except ConnectError as error:
                if tries_left and answer.headers.get(wire.FORWARDED_BY_HOST_HEADER) == NOT_OWNER:
                    await self._caught_up()
                    continue
                self.forwarded[error.code.value] += 1
                self._check_answered(owner, error, answer.headers)
                _return_headers(answer.headers, ctx)
                raise
            self.forwarded["ok"] += 1
            _return_headers(answer.headers, ctx)
            return response
        raise AssertionError  # the last try returns or raises

    async def _owner(self, ctx: Context, arrival: Arrival, plugin: str) -> Member | None:
        """Return the other host that owns a plugin, None if this one does. Raises: RefusedError."""
        if not self._others.knows(plugin):  # another host may have given it its identity a moment ago
            await self._caught_up()
        if self._owners.owns(plugin):
            return None
        if arrival.forwarded_by:
            ctx.response_headers[wire.FORWARDED_BY_HOST_HEADER] = NOT_OWNER
            raise _unavailable(f"this host does not own {plugin} any more")
        if (owner := self._owners.elsewhere(plugin)) is not None:
            return owner
        with _store_errors(f"the host that owned {plugin} is gone, and this one cannot take over"):
            if await self._others.adopt(plugin):
                return None
        if (owner := self._owners.elsewhere(plugin)) is None:
            raise _unavailable(f"the host that owned {plugin} is gone, and no other has taken over yet")
        return owner

    async def _caught_up(self) -> None:
        with _store_errors("this host does not know who owns the plugin"):
            await self._others.caught_up()

    def _check_answered(self, owner: Member, error: ConnectError, headers: Headers) -> None:
        """Raise another error for one that is not the owner's answer to the plugin."""
        if isinstance(error.__cause__, NotSentError):
            raise _unavailable(f"the host that owns the plugin cannot be reached: {error.message}") from error
        why = headers.get(wire.FORWARDED_BY_HOST_HEADER)
        if why == NOT_OWNER:
            raise _unavailable("the host that owned the plugin does not any more") from error
        if why == REFUSED and (more := self._throttle.suffix()) is not None:
            _log.error(
                "the host at %s does not accept what this host signs; they need the same keys"
                " (CPG_HOST_KEY_FILE), and clocks that agree: %s%s",
                *(owner.url, error.message, more),
            )
        if why == REFUSED:
            raise _unavailable("the host that owns the plugin does not accept this host's calls") from error
        if not headers.get("content-type", "").startswith(_CONNECT_ERROR):  # nobody's answer to a plugin
            text = f"no answer of the host that owns the plugin: {error.message}"
            raise ConnectError(Code.UNAVAILABLE, text) from error


def _bounded(timeout_s: float, ctx: Context) -> float:
    """Return a time that leaves the plugin enough of its own for another host."""
    return timeout_s if ctx.timeout_ms is None else min(timeout_s, ctx.timeout_ms / 2000)


def _credentials(ctx: Context) -> Mapping[str, str]:
    given = ctx.request_headers
    return {name: value for name in _SENT if (value := given.get(name)) is not None}


def _return_headers(headers: Headers, ctx: Context) -> None:
    for name in _RETURNED:
        if (value := headers.get(name)) is not None:
            ctx.response_headers[name.lower()] = value


@contextmanager
def _store_errors(what: str) -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise _unavailable(f"{what}: {error}") from error


def _unavailable(why: str) -> RefusedError:
    return RefusedError(Code.UNAVAILABLE, f"{why}: try again")
