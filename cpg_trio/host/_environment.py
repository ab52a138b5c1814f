"""The configuration of a host, as the environment or other settings of these names say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import attrs

from cpg_trio import wire
from cpg_trio._admin_socket import OFF, socket_path
from cpg_trio._reload import reason
from cpg_trio.host._config import HostConfig
from cpg_trio.host._state import keys_of, store_of
from cpg_trio.host.access import Enrolment, Kind, Limits, Policy, Rate, RateLimits, parse_tokens
from cpg_trio.host.admin import AdminConfig, AdminTokens
from cpg_trio.host.directory import BaseUrls, LeaseConfig, Selection
from cpg_trio.host.routing import RequestHeaderRules
from cpg_trio.http import Origin, StartError
from cpg_trio.process import (
    addresses_from_environment,
    bind_from_environment,
    config_from_environment,
    flag_from_environment,
    list_from_environment,
    probe_bind_from_environment,
)
from cpg_trio.settings import Settings

DEFAULT_PORT = 8080
"""The port of a host without `PORT`."""


def from_settings(settings: Settings) -> tuple[HostConfig, list[str]]:
    """Return the configuration of a host, and the addresses that it listens on.

    Raises: StartError, which names where the setting that is wrong is written.
    """
    try:
        config = attrs.evolve(host_config(settings.environment), settings=settings.listed)
        return config, host_binds(settings.environment)
    except StartError as error:
        raise StartError(settings.explained(str(error))) from None


def host_binds(environment: Mapping[str, str]) -> list[str]:
    """Return the addresses that a host listens on. Raises: StartError."""
    return bind_from_environment("127.0.0.1", DEFAULT_PORT, environment)


def host_config(environment: Mapping[str, str]) -> HostConfig:
    """Return the configuration of the environment variables. Raises: StartError for an invalid value."""
    keys = keys_of(environment)
    return HostConfig(
        allow_plaintext=flag_from_environment("ALLOW_PLAINTEXT", environment),
        public_url=_url(environment, "PUBLIC_URL"),
        peer_url=_url(environment, "PEER_URL"),
        peer_address=_peer_address(environment),
        keys=keys,
        enrolment=_enrolment(environment),
        policy=_policy(environment),
        pass_headers=_pass_headers(environment),
        base_urls=_base_urls(environment),
        leases=_leases(environment),
        log_calls=_log_calls(environment),
        rates=_rates(environment),
        limits=_limits(environment),
        selection=_selection(environment),
        store=store_of(environment, keys),
        socket_dir=_path(environment, "SOCKET_DIR"),
        serve=config_from_environment(environment),
        probe_bind=probe_bind_from_environment(environment),
        metrics_bind=addresses_from_environment("METRICS_BIND", environment),
        admin=_admin(environment),
    )


def _enrolment(environment: Mapping[str, str]) -> Enrolment:
    with _start_errors("ENROLMENT_TOKENS"):
        if pairs := environment.get("ENROLMENT_TOKENS"):
            return Enrolment(parse_tokens(pairs))
    path = _path(environment, "ENROLMENT_TOKENS_FILE")
    with _start_errors(f"ENROLMENT_TOKENS_FILE: {path}"):
        return Enrolment(path)


def _policy(environment: Mapping[str, str]) -> Policy:
    path = _path(environment, "POLICY_FILE")
    with _start_errors(f"POLICY_FILE: {path}"):
        return Policy.from_file(path) if path else Policy()


def _pass_headers(environment: Mapping[str, str]) -> list[str] | None:
    names = list_from_environment("PASS_HEADERS", environment) or None
    with _start_errors("PASS_HEADERS"):
        RequestHeaderRules(names)
    return names


def _admin(environment: Mapping[str, str]) -> AdminConfig | None:
    """Return where operators see and steer the host."""
    named, binds = environment.get("ADMIN_SOCKET", ""), list_from_environment("ADMIN_BIND", environment)
    tokens = _admin_tokens(environment)
    if binds and tokens is None:
        raise StartError("ADMIN_BIND needs a secret that opens it: set ADMIN_TOKEN or ADMIN_TOKEN_FILE")
    if named == OFF and not binds:
        return None
    socket = Path(named) if named else socket_path("{port}", environment)
    return AdminConfig(
        socket=None if named == OFF else socket, socket_is_required=bool(named), tokens=tokens, bind=binds
    )


def _admin_tokens(environment: Mapping[str, str]) -> AdminTokens | None:
    with _start_errors("ADMIN_TOKEN"):
        if tokens := list_from_environment("ADMIN_TOKEN", environment):
            return AdminTokens(tokens)
    path = _path(environment, "ADMIN_TOKEN_FILE")
    with _start_errors(f"ADMIN_TOKEN_FILE: {path}"):
        return AdminTokens(path) if path else None


def _url(environment: Mapping[str, str], name: str) -> str:
    url = environment.get(name, "")
    with _start_errors(name):
        if url:
            Origin.parse(url)
    return url


def _peer_address(environment: Mapping[str, str]) -> str:
    address = environment.get("PEER_ADDRESS", "")
    with _start_errors("PEER_ADDRESS"):
        return str(ip_address(address)) if address else ""


def _base_urls(environment: Mapping[str, str]) -> BaseUrls | None:
    value = environment.get("BASE_URLS", "")
    try:
        return BaseUrls(value) if value else None
    except ValueError:
        known = ", ".join(policy.value for policy in BaseUrls)
        raise StartError(f"BASE_URLS must be one of {known}, not {value!r}") from None


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    return Path(environment[name]) if environment.get(name) else None


@contextmanager
def _start_errors(where: str) -> Iterator[None]:
    """Raise an error in a variable, or in its file, as a StartError with the name of the variable."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise StartError(f"{where}: {reason(error)}") from error


def _leases(environment: Mapping[str, str]) -> LeaseConfig:
    lease = environment.get("LEASE_S", "")
    try:
        return LeaseConfig(lease_s=float(lease)) if lease else LeaseConfig()
    except ValueError:
        raise StartError(f"LEASE_S must be a number of seconds above 0, not {lease!r}") from None


def _log_calls(environment: Mapping[str, str]) -> float:
    value = environment.get("LOG_CALLS") or "all"
    try:
        share = {"all": 1.0, "off": 0.0}[value] if value in {"all", "off"} else float(value)
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise StartError(f"LOG_CALLS must be 'all', 'off' or a share from 0 to 1, not {value!r}")
    return share


def _selection(environment: Mapping[str, str]) -> dict[str, Selection]:
    """Return the selection strategies by service type, of `storage=round-robin,logger=random`."""
    return dict(map(_strategy, list_from_environment("SELECTION", environment)))


def _strategy(pair: str) -> tuple[str, Selection]:
    service_type, _, name = pair.partition("=")
    try:
        wire.validate_service_type(service_type)
        return service_type, Selection(name)
    except ValueError:
        known = ", ".join(strategy.value for strategy in Selection)
        raise StartError(
            f"SELECTION must be like 'storage=round-robin', a service type and one of {known}; not {pair!r}"
        ) from None


def _rates(environment: Mapping[str, str]) -> RateLimits:
    """Return the defaults, changed by `handshake=10/20,discover=off`: a rate for each kind of call."""
    return attrs.evolve(RateLimits(), **dict(map(_rate, list_from_environment("RATE_LIMITS", environment))))


def _rate(pair: str) -> tuple[str, Rate | None]:
    name, _, rate = pair.partition("=")
    per_s, _, burst = rate.partition("/")
    try:
        kind = Kind(name).name.lower()
        return kind, None if rate == "off" else Rate(float(per_s), int(burst))
    except ValueError:
        known = ", ".join(Kind)
        raise StartError(
            "RATE_LIMITS must be like 'handshake=10/20,discover=off', a kind of call and how many a second,"
            f" and at once, or off, where kinds are {known}; not {pair!r}"
        ) from None


def _limits(environment: Mapping[str, str]) -> Limits:
    """Return the defaults, changed by `max_identities=1000,max_watches=500`."""
    limits = Limits()
    for pair in list_from_environment("LIMITS", environment):
        name, _, value = pair.partition("=")
        try:
            changes: dict[str, Any] = {name: None if value == "off" else int(value)}
            limits = attrs.evolve(limits, **changes)
        except (TypeError, ValueError):
            known = ", ".join(field.name for field in attrs.fields(Limits))
            raise StartError(
                "LIMITS must be like 'max_identities=1000,max_watches=500', a limit and a number above 0 (or"
                f" max_routed_body_bytes=off), where limits are {known}; not {pair!r}"
            ) from None
    return limits
