"""Where a path under `/services/` leads, and the statement that tells a provider who calls it. No I/O.

    /services/{type}/{provider}/{method}  ──▶  a registration  ──▶  origin, Host field and target
    /services/{type}/-/{method}           ──▶  the one that is chosen for this call

The usual call is to a path that was called before. Its route is kept, together with the statements about its
callers, for as long as the provider's registration stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from urllib.parse import quote, unquote

import attrs

from cpg_trio import wire
from cpg_trio._bounded import BoundedCache
from cpg_trio._lines import one_line
from cpg_trio._paths import has_traversal
from cpg_trio.assertions import LONGEST_S, Assertion, Purpose, path_claim, sign
from cpg_trio.host.access import Identities, Identity, RefusedError
from cpg_trio.host.directory import LocalPlugins, Registration, Registry, Selection, is_local
from cpg_trio.http import Origin
from cpg_trio.http.outgoing import field_lines
from cpg_trio.rpc import Code, Fault
from cpg_trio.rpc.app_server import AppServer

PREFIX = b"/services/"
ANY_PROVIDER = "-"
"""In place of a provider's id: the router chooses. `/services/-/-/...` leads nowhere: plugins ask for it."""

_MOST_ROUTES = 10_000
_MOST_ROUTE_BYTES = 16 * 1024 * 1024
_LONGEST_KEPT_PATH = 512  # bytes; the route of a longer path is found at each call
_ROUTE_BYTES = 2000  # of a route, beside its path
_STATEMENT_BYTES = 2000
_SIGNED_ANEW_S = LONGEST_S / 2  # the age at which a statement is replaced

_NOWHERE = Origin("http", "task.invalid", 80)  # no name ends so (RFC 6761): nothing connects to it
_CALLER = wire.CALLER_HEADER.lower().encode()
_CALLER_ID = wire.CALLER_ID_HEADER.lower().encode()
CALLER_FIELDS = (_CALLER, _CALLER_ID)
"""How the lines of a statement begin."""


@attrs.frozen
class ServicePath:
    """The parts of a path under `/services/`."""

    service_type: str
    provider_id: str
    method: bytes
    """As the caller encoded it."""

    @classmethod
    def parse(cls, raw_path: bytes) -> ServicePath:
        """Return the parts of a path. Raises: RefusedError 400."""
        path = raw_path.removeprefix(PREFIX)
        parts = path.split(b"/", 2)
        if len(parts) < 3 or _too_long(*parts[:2]) or has_traversal(path):  # noqa: PLR2004 - type, provider, method
            raise RefusedError(
                Code.INVALID_ARGUMENT,
                "invalid service path format, expected /services/{type}/{provider-id}/{method}",
                log=f"Invalid path: {one_line(raw_path)} (parts: {len([p for p in parts if p])})",
            )
        return cls(parts[0].decode("latin-1"), parts[1].decode("latin-1"), parts[2])


def _too_long(service_type: bytes, provider_id: bytes) -> bool:
    """Whether no service type, or no plugin, has such a name."""
    return len(service_type) > wire.MAX_NAME_BYTES or len(provider_id) > wire.MAX_RUNTIME_ID_BYTES


@attrs.frozen
class Statement:
    """What a provider is told of a caller, signed with a token that the provider holds."""

    lines: bytes = attrs.field(repr=False)
    """Lines of a head."""
    digest: bytes = attrs.field(repr=False)
    """Of the token. The statement is replaced when the provider has another one."""
    signed_at: float
    """In seconds since 1970. The statement is replaced when that is too long ago, or in the future."""


@attrs.frozen(eq=False)
class Route:
    """Where a path leads, for as long as its provider's registration stays as it is."""

    path: ServicePath
    provider: Registration
    method: str
    """As the log has it."""
    rpc_method: str
    """With its service: `package.Service/Method`."""
    origin: Origin
    """Where to connect."""
    host: bytes
    """For the Host field."""
    target: bytes
    """For the request line, without a query."""
    kept: bool
    """Whether it is found again at the next call; its statements are kept with it."""
    by_load: bool = False
    """Whether providers are chosen by what their calls show of them."""
    is_chosen: bool = False
    """Whether its provider was chosen by the router, and not named by the caller."""
    task: AppServer | None = attrs.field(default=None, repr=False)
    """The provider, if it runs in this process: then `origin` leads nowhere."""
    path_text: str = attrs.field(default="", repr=False)
    """The path of `target`, decoded, for a provider in this process."""
    statements: dict[str, Statement] = attrs.field(factory=dict, repr=False)
    """By the runtime ids of the callers."""


class Routes:
    """Finds routes, and keeps those that were found. Bounded in entries and in bytes."""

    def __init__(
        self,
        identities: Identities,
        registry: Registry,
        wall_clock: Callable[[], float] = time.time,
        local: LocalPlugins | None = None,
    ) -> None:
        """Take what they are found in. `local` are the plugins that run in this process."""
        self._local = local or LocalPlugins()
        self._identities = identities
        self._registry = registry
        self._wall_clock = wall_clock
        self._kept: BoundedCache[bytes, Route] = BoundedCache(_MOST_ROUTES, _MOST_ROUTE_BYTES)

    def get(self, raw_path: bytes) -> Route | None:
        """Return the route that is kept for a path, while its registration is there and gets calls."""
        route = self._kept.get(raw_path)
        if route is None or route.provider.id in self._registry.callable_ids:
            return route
        del self._kept[raw_path]
        return None

    def find(self, raw_path: bytes, path: ServicePath, caller: str) -> Route:
        """Return the route of a path, and keep it. Raises: RefusedError 404, 500 or 503."""
        if path.provider_id == ANY_PROVIDER != path.service_type:
            return self._chosen(raw_path, path, caller)
        provider = self._registry.provider(path.service_type, path.provider_id)
        if provider is None:
            raise RefusedError(Code.NOT_FOUND, f"provider not found: {path.provider_id}")
        if not provider.base_url:
            raise RefusedError(Code.NOT_FOUND, f"provider endpoint not registered: {path.provider_id}")
        if provider.id not in self._registry.callable_ids:
            text = "service unavailable (provider unhealthy)"
            raise RefusedError(Code.UNAVAILABLE, text, fault=Fault.PROVIDER)
        return self._made(raw_path, path, provider, caller, is_chosen=False)

    def other(
        self, raw_path: bytes, route: Route, tried: Collection[str], caller: str
    ) -> tuple[Route, Statement] | None:
        """Return a route of the same path to another provider with an address, and what that is told.

        None if there is none, or if the caller's identity has ended.
        """
        providers = self._registry.providers(route.path.service_type)
        here = [each.runtime_id for each in providers if is_local(each.base_url)]
        provider = self._registry.choose(route.path.service_type, [*tried, *here])
        entry = self._identities.entry(caller)
        if provider is None or entry is None:
            return None
        other = self._to_chosen(raw_path, route.path, provider, caller)
        return other, self.statement(entry.identity, other)

    def _chosen(self, raw_path: bytes, path: ServicePath, caller: str) -> Route:
        """Return the route of one call to a provider that is chosen now."""
        provider = self._registry.choose(path.service_type)
        if provider is None:
            if not self._registry.provides(path.service_type):
                raise RefusedError(Code.NOT_FOUND, f"provider not found: no {path.service_type}")
            text = "service unavailable (no provider is healthy)"
            raise RefusedError(Code.UNAVAILABLE, text, fault=Fault.PROVIDER)
        return self._to_chosen(raw_path, path, provider, caller)

    def _to_chosen(self, raw_path: bytes, path: ServicePath, provider: Registration, caller: str) -> Route:
        key = b"%b %b" % (raw_path, provider.runtime_id.encode())  # no path has a space
        if (route := self.get(key)) is not None:
            return route
        path = attrs.evolve(path, provider_id=provider.runtime_id)
        return self._made(key, path, provider, caller, is_chosen=True)

    def _made(
        self, key: bytes, path: ServicePath, provider: Registration, caller: str, *, is_chosen: bool
    ) -> Route:
        by_load = is_chosen or self._registry.selection_of(path.service_type) is Selection.LEAST_LOADED
        kept = len(key) <= _LONGEST_KEPT_PATH
        try:
            route = self._route(path, provider, kept=kept, by_load=by_load, is_chosen=is_chosen)
        except ValueError as error:
            log = f"{caller} → {provider.runtime_id} FAILED: {error}"
            text = "failed to create proxy request"
            raise RefusedError(Code.INTERNAL, text, log=log, fault=Fault.PROVIDER) from error
        if kept:
            self._kept.keep(key, route, 4 * len(key) + _ROUTE_BYTES)
        return route

    def _route(
        self, path: ServicePath, provider: Registration, *, kept: bool, by_load: bool, is_chosen: bool
    ) -> Route:
        """Return where a path leads. Raises: ValueError for a base URL that is none; RefusedError 503."""
        task = None
        if is_local(provider.base_url):
            origin, prefix, task = _NOWHERE, b"", self._local.find(provider.base_url)
            if task is None:
                text = "service unavailable (the provider's task has ended)"
                raise RefusedError(Code.UNAVAILABLE, text, fault=Fault.PROVIDER)
        else:
            origin, prefix = Origin.parse(provider.base_url)
        endpoint = encoded_endpoint(provider).encode()
        # A generated client asks for /package.Service/Method, and the provider's path has the service.
        service = endpoint.strip(b"/")
        method = path.method.removeprefix(service + b"/") if service else path.method
        target = prefix + endpoint + (b"" if endpoint.endswith(b"/") else b"/") + method
        return Route(
            path,
            provider,
            one_line(method),
            one_line(b"%b/%b" % (service, method) if service else method),
            origin.at(provider.addresses),
            origin.host_header,
            target,
            kept,
            by_load,
            is_chosen,
            task,
            unquote(target.decode("latin-1")),
        )

    def statement(self, caller: Identity, route: Route) -> Statement:
        """Return the statement about a caller for the route's provider, replaced when it is time for that."""
        entry, now = self._identities.entry(route.provider.runtime_id), self._wall_clock()
        if entry is None:  # the provider has no identity, so nothing can be signed for it
            return Statement(field_lines([(_CALLER_ID, caller.runtime_id.encode())]), b"", now)
        known = route.statements.get(caller.runtime_id)
        if known is None or known.digest != entry.digest or not 0 <= now - known.signed_at < _SIGNED_ANEW_S:
            if known is None and route.kept:
                self._kept.take(_STATEMENT_BYTES)
            known = route.statements[caller.runtime_id] = _signed(caller, route, entry.digest, now)
        return known


def encoded_endpoint(provider: Registration) -> str:
    """Return the path of a service on its plugin as it stands in a URL."""
    return quote(provider.endpoint_path, safe="/%:@!$&'()*+,;=~")


def _signed(caller: Identity, route: Route, digest: bytes, now: float) -> Statement:
    assertion = Assertion(
        caller.runtime_id,
        caller.self_id,
        route.provider.runtime_id,
        path_claim(route.target),
        now + LONGEST_S,
    )
    signed = sign(digest, Purpose.CALLER, assertion).encode()
    return Statement(field_lines([(_CALLER_ID, caller.runtime_id.encode()), (_CALLER, signed)]), digest, now)
