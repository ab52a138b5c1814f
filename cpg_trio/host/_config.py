"""The configuration of a host, and its pools of connections to plugins.

Probes and control calls have a pool of their own: calls between plugins, however many there are, do not keep
the host from finding out who is alive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from attrs.validators import ge, le

from cpg_trio.host.access import Enrolment, Fitted, Keys, Limits, Policy, RateLimits, fitted
from cpg_trio.host.admin import AdminConfig, Files
from cpg_trio.host.capabilities.broker import by_type
from cpg_trio.host.capabilities.capability import Capability
from cpg_trio.host.capabilities.logger import host_logger
from cpg_trio.host.directory import BaseUrls, LeaseConfig, Selection
from cpg_trio.http import Origin, Pool, ServeConfig
from cpg_trio.http.certificates import Contexts
from cpg_trio.http.server.capacity import fitted_to_descriptors, most_connections
from cpg_trio.settings import Setting
from cpg_trio.store import Store

_KEEP_S = 4.0  # an idle connection to a plugin: servers keep theirs for 5 s or more
_MAX_PER_PROVIDER = 2000  # connections of the router, of which a caller alone has half
_FOR_CONTROL = 4  # a part of all connections that go out


def _check_capabilities(_: HostConfig, __: object, capabilities: Sequence[Capability]) -> None:
    by_type(capabilities)


def _check_url(_: HostConfig, __: object, url: str) -> None:
    if url:
        Origin.parse(url)


@attrs.frozen(kw_only=True)
class HostConfig:
    """The configuration of a host.

    Raises: ValueError for two capabilities of one type, or a URL that is none.
    """

    keys: Keys = attrs.field(factory=Keys)
    """They sign runtime tokens. By default a new key, which is lost when the host ends."""
    token_ttl_s: float = 15 * 60.0
    """Seconds that the token of a plugin is valid that renews its token."""
    unrenewed_token_ttl_s: float = 24 * 60 * 60.0
    """Seconds that the token of another plugin is valid. Then its identity ends."""
    enrolment: Enrolment = attrs.field(factory=Enrolment)
    """Which plugins get an identity; by default all."""
    policy: Policy = attrs.field(factory=Policy)
    """What plugins may provide and call."""
    pass_headers: Sequence[str] | None = None
    """Names of request headers that the router forwards besides `routing.headers.ALLOWED`, and no others;
    `x-app-*` is all that begin so. None: it forwards all that are metadata (`cpg_trio.metadata`)."""
    selection: Mapping[str, Selection] = attrs.field(factory=dict)
    """The strategy that selects one of the providers, by service type."""
    default_selection: Selection = Selection.FIRST
    """The strategy for every other type."""
    leases: LeaseConfig = attrs.field(factory=LeaseConfig)
    """After which time of silence a plugin counts as gone."""
    base_urls: BaseUrls | None = None
    """Which base URLs plugins may register. None: `PROVED` with a store that hosts share, else `CALLER`."""
    store: Store | None = None
    """Where identities and registrations are kept over a restart. None: they are not kept."""
    socket_dir: Path | None = None
    """A directory that the host shares with plugins, for Unix sockets."""
    capabilities: Sequence[Capability] = attrs.field(
        factory=lambda: (host_logger(),), validator=_check_capabilities
    )
    """The capabilities that the host offers, one of each type."""
    grant_ttl_s: float = 10 * 60.0
    """Seconds that a grant of a capability is valid."""
    public_url: str = attrs.field(default="", validator=_check_url)
    """The URL of the host for plugins. Empty: the one that a plugin has called."""
    peer_url: str = attrs.field(default="", validator=_check_url)
    """The URL of this host for the other hosts of its directory. Empty: the first that it listens on."""
    peer_address: str = ""
    """The IP address that leads to, where its name leads to several hosts. Empty: where the name leads."""
    rates: RateLimits = attrs.field(factory=RateLimits)
    """Rate limits, by kind of call."""
    limits: Limits = attrs.field(factory=Limits)
    """Limits on what the host keeps. They and `serve.max_connections` are reduced in proportion if they do
    not fit the memory of the process."""
    serve: ServeConfig = attrs.field(factory=ServeConfig)
    """The configuration of the server. Its `tls` also serves for calls to plugins."""
    allow_plaintext: bool = False
    """Whether the host may listen without TLS on an address that other machines reach."""
    log_calls: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """The share of routed calls of which the log has lines, from 0 to 1. Failed ones are always logged."""
    probe_bind: str | Sequence[str] | None = None
    """Addresses on which it answers probes only, without TLS. Probes are answered on the others, too."""
    admin: AdminConfig | None = None
    """Where operators see and steer it. None: nowhere."""
    metrics_bind: str | Sequence[str] | None = None
    """Addresses on which it answers Prometheus, and nothing else, without TLS. None: nowhere."""
    settings: Sequence[Setting] = ()
    """Where this configuration comes from, for operators to see. No secret is in it."""


def fitted_to_process(config: HostConfig) -> tuple[HostConfig, Fitted]:
    """Return a configuration whose limits fit the descriptors and the memory of this process."""
    serve = fitted_to_descriptors(config.serve)
    fit = fitted(config.limits, serve.max_connections)
    serve = attrs.evolve(serve, max_connections=fit.max_connections)
    return attrs.evolve(config, limits=fit.limits, serve=serve), fit


def reloaded_files(config: HostConfig, contexts: Contexts) -> Files:
    """Return the files that a host reads again when they change, by the variables that name them."""
    tokens = config.admin.tokens if config.admin is not None else None
    return Files(
        {
            "POLICY_FILE": lambda: config.policy.file,
            "ENROLMENT_TOKENS_FILE": lambda: config.enrolment.file,
            "CPG_HOST_KEY_FILE": lambda: config.keys.file,
            "TLS_CERT": lambda: contexts.file,
            "ADMIN_TOKEN_FILE": lambda: tokens.file if tokens is not None else None,
        }
    )


def routing_pool(contexts: Contexts) -> Pool:
    """Return the pool for calls between plugins."""
    most = most_connections()
    return Pool(
        idle_expiry_s=_KEEP_S,
        ssl_context=contexts,
        max_per_origin=_MAX_PER_PROVIDER,
        max_total=most - most // _FOR_CONTROL,
    )


def control_pool(contexts: Contexts) -> Pool:
    """Return the pool for probes and control calls."""
    most = max(1, most_connections() // _FOR_CONTROL)
    return Pool(idle_expiry_s=_KEEP_S, ssl_context=contexts, max_total=most)
