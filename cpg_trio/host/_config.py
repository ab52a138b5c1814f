"""How a host behaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from cpg_trio.host.access.enrolment import Enrolment
from cpg_trio.host.access.keys import Keys
from cpg_trio.host.access.limits import Limits
from cpg_trio.host.access.memory import Fitted, fitted
from cpg_trio.host.access.policy import Policy
from cpg_trio.host.access.rate_limiting import RateLimits
from cpg_trio.host.capabilities.broker import by_type
from cpg_trio.host.capabilities.capability import Capability
from cpg_trio.host.capabilities.logger import host_logger
from cpg_trio.host.directory.endpoint_validation import BaseUrls
from cpg_trio.host.directory.leases import LeaseConfig
from cpg_trio.host.directory.selection import Selection
from cpg_trio.http import Origin, ServeConfig, fitted_to_descriptors


def _check_capabilities(_: HostConfig, __: object, capabilities: Sequence[Capability]) -> None:
    by_type(capabilities)


def _check_public_url(_: HostConfig, __: object, url: str) -> None:
    if url:
        Origin.parse(url)


@attrs.frozen(kw_only=True)
class HostConfig:
    """How a host behaves.

    Raises: ValueError for two capabilities of one type, or a `public_url` that is none.
    """

    keys: Keys = attrs.field(factory=Keys)
    """What runtime tokens are signed with; by default a key that ends with the host."""
    token_ttl_s: float = 15 * 60.0
    """How long a token is good, in seconds, of a plugin that asks for another in time."""
    unrenewed_token_ttl_s: float = 24 * 60 * 60.0
    """How long, of a plugin that does not: then its identity ends."""
    enrolment: Enrolment = attrs.field(factory=Enrolment)
    """Who gets an identity; by default everybody."""
    policy: Policy = attrs.field(factory=Policy)
    """What plugins may provide and call."""
    pass_headers: Sequence[str] = ()
    """Names of request headers that the router forwards besides `routing.headers.ALLOWED`; `x-app-*` is all
    that begin so."""
    selection: Mapping[str, Selection] = attrs.field(factory=dict)
    """The strategy that chooses among the providers of a service type, by type."""
    default_selection: Selection = Selection.FIRST
    """The strategy for every other type."""
    leases: LeaseConfig = attrs.field(factory=LeaseConfig)
    """How soon the host believes that a plugin is gone."""
    base_urls: BaseUrls = BaseUrls.CALLER
    """Where plugins may have the host send traffic."""
    state_path: Path | None = None
    """The file that identities and registrations are kept in, over a restart; without one they are not."""
    socket_dir: Path | None = None
    """A directory that the host shares with plugins, for calls by Unix sockets in it."""
    capabilities: Sequence[Capability] = attrs.field(
        factory=lambda: (host_logger(),), validator=_check_capabilities
    )
    """What the host itself offers plugins, one of each type."""
    grant_ttl_s: float = 10 * 60.0
    """How long a plugin may use a capability before it has to ask again, in seconds."""
    public_url: str = attrs.field(default="", validator=_check_public_url)
    """How plugins reach the host; empty for as each of them has just called it."""
    rates: RateLimits = attrs.field(factory=RateLimits)
    """How often who may call what."""
    limits: Limits = attrs.field(factory=Limits)
    """How much the host takes in and keeps. These and `serve.max_connections` are reduced, in proportion,
    where the memory that the host may have is too small for them."""
    serve: ServeConfig = attrs.field(factory=ServeConfig)
    """How it serves. Its `tls` is what the host calls plugins with, too."""
    allow_plaintext: bool = False
    """Whether it may listen without TLS where other machines reach it."""
    probe_bind: str | Sequence[str] | None = None
    """Where it answers probes and nothing else, without TLS; None is nowhere but beside the rest."""


def fitted_to_process(config: HostConfig) -> tuple[HostConfig, Fitted]:
    """Return a configuration whose limits fit the descriptors and the memory of this process."""
    serve = fitted_to_descriptors(config.serve)
    fit = fitted(config.limits, serve.max_connections)
    serve = attrs.evolve(serve, max_connections=fit.max_connections)
    return attrs.evolve(config, limits=fit.limits, serve=serve), fit
