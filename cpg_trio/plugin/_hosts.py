"""Which host of a directory a plugin uses, and when it moves to another one.

    HOST_URL ─▶ URLs ─▶ addresses of their names ─▶ one of them: `Hosts.current`
                                                       ▲  │ it cannot be reached, is silent, stops,
                                                       └──┘ or sends its plugins elsewhere

Hosts of one directory know the same plugins, so that a plugin stays who it is when it moves. It stays with a
host for as long as that answers. A URL whose name has one address is connected to as its name says at that
time; of a name with several addresses, each is a host.

A plugin that every host has turned away stays where it is for a while: moving would help nobody.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TypeAlias, TypeVar

import attrs
import trio

from cpg_trio._listeners import Listeners
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.http import ConnectionBrokenError, NotSentError, Origin, Pool
from cpg_trio.http.client.origin import UNIX
from cpg_trio.http.client.resolver import LookUpError
from cpg_trio.plugin._host_link import HostLink
from cpg_trio.plugin._redirecting import Discard, RedirectingClient, ResponseT, Send
from cpg_trio.rpc import Code, ConnectError, Duplex, Fault, HttpClient, HttpRequest, LocalHost, PoolClient
from cpg_trio.rpc.http_client import send_duplex

_log = logging.getLogger("cpg_trio.plugin")

_T = TypeVar("_T")
_Key: TypeAlias = tuple[str, tuple[str, ...]]

LOCAL_HOST_URL = "http://host.invalid"
"""Of a host in the plugin's process. No name ends so (RFC 6761), and nothing connects to it."""

BY_URL = ("",)  # the addresses of a host that is called where its URL says

_CALLS = "calls"  # the share of the pool for calls to other plugins: half, beside the plugin's own
_CONNECT_S = 2.0  # for a connection, where there are other hosts: two packets may be lost
_ANSWER_S = 2.0  # for an answer, where there are other hosts, if nothing else bounds it
_LOOK_UP_S = 3.0  # for looking a name up
_LOOK_AGAIN_S = 1.0  # between two look-ups
_ALIVE_S = 1.0  # in which a host that was left has to answer: otherwise what is in flight there ends
_MAX_ADDRESSES = 64  # of a name
_RESPITE_S = 30.0  # for which a host that was left is not as good as another one
_LONGEST_RESPITE_S = 120.0
_SPREAD = 0.1  # of a heartbeat: over this time plugins arrive at another host
_LONGEST_SPREAD_S = 0.5
_ALIVE_PATH = "/healthz"
_SHORT = 1024  # bytes of an answer
_ELSEWHERE = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED})  # another host may do better


def parse_host_urls(text: str) -> tuple[str, ...]:
    """Return the URLs of hosts in a list with commas between. Raises: ValueError."""
    urls = tuple(dict.fromkeys(part.strip().rstrip("/") for part in text.split(",")))
    for url in urls:
        Origin.parse(url)
    return urls


class HostAddress:
    """A host, and how it is reached. Another object for each time that a plugin moves there."""

    http: HttpClient
    """For the plugin's own calls to the host."""
    calls: HttpClient
    """For calls to other plugins through the host. They never take all connections to it."""

    def __init__(self, hosts: Hosts, url: str, addresses: tuple[str, ...], *, alone: bool) -> None:
        self._hosts = hosts
        self.url = url
        self.addresses = addresses
        """Where to connect, in the order in which it is tried. See `Origin.addresses`."""
        pool, limit = hosts.pool, None if alone else _CONNECT_S
        self.local: LocalHost | None = hosts.local
        """The host, if it is in this process: then its URL and its addresses are not used."""
        if self.local is not None:
            self.http, self.calls = self.local.http, self.local.http
            return
        self.http = PoolClient(pool, addresses, "", Fault.HOST, limit, self.failed)
        self.calls = PoolClient(pool, addresses, _CALLS, Fault.HOST, limit, self.failed)

    def __str__(self) -> str:
        if self.local is not None:
            return "the host of this process"
        return self.url if self.addresses == BY_URL else f"{self.url} through {self.addresses[0]}"

    @property
    def key(self) -> _Key:
        """What tells it from other hosts: not whether it has a socket here."""
        return self.url, tuple(each for each in self.addresses if not each.startswith(UNIX))

    @property
    def has_socket(self) -> bool:
        """Whether it is called at its Unix socket."""
        return self.addresses[0].startswith(UNIX)

    @cached_property
    def origin(self) -> Origin:
        """What the connections to it belong to."""
        return Origin.parse(self.url)[0].at(self.addresses)

    def failed(self, why: str) -> None:
        """Note that nothing can be sent to it."""
        self._hosts.failed(self, why)

    def silent(self, why: str) -> None:
        """Note that it does not answer. It may be slow, so that this counts where there are others."""
        if self._hosts.several:
            self._hosts.failed(self, why)

    def dismissed(self, why: str, *, anew: bool = False) -> None:
        """Note that it wants its plugins to go elsewhere; `anew`: by another connection, if it is alone."""
        self._hosts.dismissed(self, why, anew=anew)

    def answered(self, *, welcome: bool = False) -> None:
        """Note that something has come from it; `welcome`: that it takes what plugins tell it."""
        self._hosts.answered(self, welcome=welcome)


@attrs.frozen
class _Left:
    """That a host has failed, or was left."""

    at: float
    dismissed: bool
    """Whether it has asked for that."""


class Hosts:
    """The hosts that a plugin may use, and the one that it uses.

    `urls` are tried in random order, so that plugins spread. Changed between checkpoints only. `keep` runs
    beside it, and looks names up again.
    """

    def __init__(
        self,
        urls: Sequence[str],
        pool: Pool,
        link: HostLink | None = None,
        owner: str = "the plugin",
        local: LocalHost | None = None,
    ) -> None:
        """Take where they are. `local` is the only one, if that is in this process."""
        self.local = local
        self.urls: tuple[str, ...] = tuple(urls)
        self.pool = pool
        self.link: HostLink = link or HostLink()
        """The plugin's, which is told if no host can be reached."""
        self.moves: Listeners[HostAddress] = Listeners[HostAddress]("moves to another host")
        """Told the host that is used from now on."""
        self.moved: int = 0
        """How often the plugin has moved."""
        self.http: HttpClient = _AnyHost(self, lambda at: at.http)
        """For the plugin's own calls. A call that could not be sent goes to another host. Its URLs begin with
        a path, or with the URL of any of the hosts."""
        self.calls: HttpClient = _AnyHost(self, lambda at: at.calls)
        """The same for calls to other plugins and to capabilities."""
        self._owner = owner
        self._known: list[_Key] = [(url, BY_URL) for url in self.urls]
        random.shuffle(self._known)
        self._left: dict[_Key, _Left] = {}
        self._respite_s = _RESPITE_S
        self._is_confirmed = False  # that the current one answers
        self._has_left = trio.Event()
        self._suspects: list[HostAddress] = []
        self._woken = trio.Event()
        self.current: HostAddress = self._at(self._known[0])
        """The host that is used."""

    def __str__(self) -> str:
        return f"the host at {' or '.join(self.urls)}" if self.local is None else str(self.current)

    @property
    def several(self) -> bool:
        """Whether there is another one."""
        return len(self._known) > 1

    @property
    def promising(self) -> bool:
        """Whether the current one has not failed lately: it is called at once, and not after a wait."""
        return self._is_fresh(self.current.key)

    def arrival_s(self, heartbeat_s: float) -> float:
        """Return how long to wait before a host is called after a move: plugins move together."""
        return random.uniform(0.0, min(_SPREAD * heartbeat_s, _LONGEST_SPREAD_S))  # noqa: S311 - no secret

    def patience_s(self, usual_s: float, within_s: float = math.inf) -> float:
        """Return how many seconds to wait for an answer of one host.

        That is `usual_s`, or less if there are several, so that all can be asked `within_s` seconds.
        """
        if not self.several:
            return usual_s
        return min(usual_s, max(_ANSWER_S / 8, min(_ANSWER_S, within_s / len(self._known))))

    async def ask(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Have the current host called; if it does not answer, the others, each once.

        Raises: ConnectError of the last one.
        """
        for _ in range(len(self._known) - 1):
            at = self.current
            try:
                return await call()
            except ConnectError as error:
                if error.code not in _ELSEWHERE:
                    raise
                at.failed(error.message)
        return await call()

    async def wait_left(self, at: HostAddress) -> None:
        """Wait until the plugin has left a host."""
        while self.current is at:
            await self._has_left.wait()

    # What is found of the current one

    def answered(self, at: HostAddress, *, welcome: bool) -> None:
        """See `HostAddress.answered`."""
        if at is not self.current:
            return
        self._is_confirmed = True
        left = self._left.get(at.key)
        if left is not None and (welcome or not left.dismissed):
            del self._left[at.key]
        if welcome:
            self._respite_s = _RESPITE_S

    def failed(self, at: HostAddress, why: str) -> None:
        """See `HostAddress.failed`."""
        if at is not self.current:
            return
        self._left[at.key] = _Left(trio.current_time(), dismissed=False)
        self._wake()
        if others := self._others(at.key):
            self._suspects.append(at)
            self._move(min(others, key=self._left_at), why)
        if not any(map(self._is_fresh, self._known)):
            self.link.unreachable(why)

    def dismissed(self, at: HostAddress, why: str, *, anew: bool) -> None:
        """See `HostAddress.dismissed`. One that is alone may be one of several behind a balancer."""
        key = at.key
        if at is not self.current or not self._is_fresh(key):
            return
        self._left[key] = _Left(trio.current_time(), dismissed=True)
        self._wake()
        if fresh := list(filter(self._is_fresh, self._others(key))):
            self._move(fresh[0], why)
            return
        if anew and not self.several and at.addresses == BY_URL:
            self.pool.close_idle(at.origin)
            self._move(key, why)
        self._respite_s = min(2 * self._respite_s, _LONGEST_RESPITE_S)

    def use_socket(self, address: str | None) -> None:
        """Call the current one at its Unix socket, or by the network alone."""
        url, addresses = self.current.key
        addresses = addresses if address is None else (address, *addresses)
        if addresses != self.current.addresses:
            self.current = HostAddress(self, url, addresses, alone=not self.several)

    def _move(self, key: _Key, why: str) -> None:
        before, self.current = self.current, self._at(key)
        self._is_confirmed = False
        self.moved += 1
        if key == before.key:
            _log.info("%s connects anew to %s: %s", self._owner, before, why)
        else:
            level = logging.INFO if self.promising else logging.DEBUG
            _log.log(level, "%s moves from %s to %s: %s", self._owner, before, self.current, why)
        self._has_left.set()
        self._has_left = trio.Event()
        self.moves.tell(self.current)

    def _at(self, key: _Key) -> HostAddress:
        return HostAddress(self, *key, alone=not self.several)

    def _others(self, key: _Key) -> list[_Key]:
        return [each for each in self._known if each != key]

    def _left_at(self, key: _Key) -> float:
        return left.at if (left := self._left.get(key)) is not None else -math.inf

    def _is_fresh(self, key: _Key) -> bool:
        return key not in self._left or trio.current_time() > self._left_at(key) + self._respite_s

    # Names, and what is in flight at a host that was left

    async def keep(self) -> None:
        """Look names up again when a host was left, until cancelled, and end calls that nobody answers."""
        async with open_plain_nursery() as nursery:
            while True:
                await self._woken.wait()
                self._woken = trio.Event()
                suspects, self._suspects = self._suspects, []
                for each in suspects:
                    nursery.start_soon(self._break_off_unless_alive, each)
                await self.look_up()
                await trio.sleep(_LOOK_AGAIN_S)

    async def look_up(self) -> None:
        """Look up which addresses the names of the hosts have. Those of one that fails stay."""
        found: dict[str, list[_Key]] = {}
        async with open_plain_nursery() as nursery:
            for url in self.urls:
                nursery.start_soon(self._look_up, url, found)
        known = [key for url in self.urls for key in found[url]]
        if sorted(known) == sorted(self._known):
            return
        self._known = random.sample(known, len(known))
        self._left = {key: left for key, left in self._left.items() if key in known}
        if self._is_confirmed or self.current.key in known:
            return
        target = min(self._known, key=self._left_at)
        if self.moved:
            self._move(target, "its name leads elsewhere")
        else:
            self.current = self._at(target)

    async def _look_up(self, url: str, found: dict[str, list[_Key]]) -> None:
        origin, _ = Origin.parse(url)
        found[url] = [key for key in self._known if key[0] == url] or [(url, BY_URL)]
        if self.local is not None or not _is_name(origin.host):
            return
        with trio.move_on_after(_LOOK_UP_S):
            try:
                addresses = await self.pool.resolver.addresses(origin.host, origin.port)
            except LookUpError as error:
                _log.debug("%s cannot be looked up: %s", origin.host, error)
                return
            several: list[_Key] = [(url, (each,)) for each in addresses[:_MAX_ADDRESSES]]
            found[url] = several if len(several) > 1 else [(url, BY_URL)]

    async def _break_off_unless_alive(self, at: HostAddress) -> None:
        """End what is in flight at a host that was left if that is dead: its callers would wait in vain."""
        asking = PoolClient(self.pool, at.addresses)
        with trio.move_on_after(_ALIVE_S):
            try:
                await asking.unary(HttpRequest("GET", at.url + _ALIVE_PATH, [], b""), _SHORT)
            except ConnectError as error:
                _log.debug("%s does not answer: %s", at, error.message)
            else:
                return
        self.pool.break_off(at.origin)

    def _wake(self) -> None:
        self._woken.set()


class _AnyHost(RedirectingClient):
    """An `HttpClient` that sends to the current host.

    What could not be sent goes to the next one at once. So does a call that may run twice, once, if the
    connection broke.
    """

    def __init__(self, hosts: Hosts, client: Callable[[HostAddress], HttpClient]) -> None:
        self._hosts = hosts
        self._client = client

    @asynccontextmanager
    async def duplex(self, request: HttpRequest) -> AsyncIterator[Duplex]:
        """See `DuplexClient.duplex`."""
        at = self._hosts.current
        async with send_duplex(self._client(at), self._to(at, request)) as duplex:
            yield duplex

    async def _send(
        self,
        request: HttpRequest,
        send: Send[ResponseT],
        discard: Discard,  # noqa: ARG002 - each response counts
    ) -> ResponseT:
        may_run_again = request.call.idempotent
        while True:
            at = self._hosts.current
            try:
                return await send(self._client(at), self._to(at, request))
            except ConnectError as error:
                if isinstance(error.__cause__, NotSentError):
                    if self._hosts.current is at or not self._hosts.promising:
                        raise
                elif may_run_again and isinstance(error.__cause__, ConnectionBrokenError):
                    may_run_again = False
                else:
                    raise

    def _to(self, at: HostAddress, request: HttpRequest) -> HttpRequest:
        url = request.url
        known = next((each for each in ("", *self._hosts.urls) if url.startswith(f"{each}/")), None)
        return request if known is None else attrs.evolve(request, url=at.url + url.removeprefix(known))


def _is_name(host: str) -> bool:
    """Whether a host has to be looked up. The addresses of `localhost` are one machine's."""
    if host.removesuffix(".") == "localhost":
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False
