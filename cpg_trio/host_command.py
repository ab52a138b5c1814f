"""The command `host`: a host as the environment says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio

from . import wire
from .host import (
    DEFAULT_PORT,
    BaseUrls,
    Enrolment,
    Host,
    HostConfig,
    Keys,
    LeaseConfig,
    Policy,
    Rate,
    RateLimits,
    Selection,
)
from .host.admission import PassedOn
from .host.enrolment import parse_tokens
from .host.rates import Kind
from .http1 import Origin
from .serving import StartError, bind_from_environment, config_from_environment


async def host(stop: trio.Event) -> None:
    """Run a host until `stop` is set."""
    await Host(host_config(os.environ)).serve(stop, bind=bind_from_environment("127.0.0.1", DEFAULT_PORT))


def host_config(environment: Mapping[str, str]) -> HostConfig:
    """Return what the environment says of a host. Raises: StartError for what makes no sense."""
    allowed = [policy.value for policy in BaseUrls]
    base_urls = environment.get("BASE_URLS") or BaseUrls.CALLER.value
    if base_urls not in allowed:
        raise StartError(f"BASE_URLS must be one of {', '.join(allowed)}, not {base_urls!r}")
    state, sockets = environment.get("STATE_PATH"), environment.get("SOCKET_DIR")
    with _start_errors("PASS_HEADERS"):
        PassedOn(passed := _list(environment, "PASS_HEADERS"))
    public_url = environment.get("PUBLIC_URL", "")
    with _start_errors("PUBLIC_URL"):
        if public_url:
            Origin.parse(public_url)
    plaintext = environment.get("ALLOW_PLAINTEXT") or "false"
    if plaintext not in {"true", "false"}:
        raise StartError(f"ALLOW_PLAINTEXT must be 'true' or 'false', not {plaintext!r}")
    return HostConfig(
        allow_plaintext=plaintext == "true",
        public_url=public_url,
        keys=_keys(environment),
        enrolment=_enrolment(environment),
        policy=_policy(environment),
        pass_headers=passed,
        base_urls=BaseUrls(base_urls),
        leases=_leases(environment),
        rates=_rates(environment),
        selection=_selection(environment),
        state_path=Path(state) if state else None,
        socket_dir=Path(sockets) if sockets else None,
        serve=config_from_environment(environment),
    )


def _keys(environment: Mapping[str, str]) -> Keys:
    """Return the keys of `CPG_HOST_KEY`, of `CPG_HOST_KEY_FILE`, or of the file beside the state file."""
    with _start_errors("CPG_HOST_KEY"):
        if keys := _list(environment, "CPG_HOST_KEY"):
            return Keys(keys)
    path = environment.get("CPG_HOST_KEY_FILE")
    if not path and (state := environment.get("STATE_PATH")):
        path = f"{state}.key"
    return Keys(path=Path(path) if path else None)


def _enrolment(environment: Mapping[str, str]) -> Enrolment:
    with _start_errors("ENROLMENT_TOKENS"):
        if pairs := environment.get("ENROLMENT_TOKENS"):
            return Enrolment(parse_tokens(pairs))
    with _start_errors("ENROLMENT_TOKENS_FILE"):
        path = environment.get("ENROLMENT_TOKENS_FILE")
        return Enrolment(Path(path) if path else None)


def _policy(environment: Mapping[str, str]) -> Policy:
    with _start_errors("POLICY_FILE"):
        path = environment.get("POLICY_FILE")
        return Policy.from_file(Path(path)) if path else Policy()


def _list(environment: Mapping[str, str], name: str) -> list[str]:
    return [part for part in map(str.strip, environment.get(name, "").split(",")) if part]


@contextmanager
def _start_errors(name: str) -> Iterator[None]:
    """Raise what is wrong with a variable, or the file that it names, as a StartError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise StartError(f"{name}: {error}") from error


def _leases(environment: Mapping[str, str]) -> LeaseConfig:
    lease = environment.get("LEASE_S", "")
    try:
        return LeaseConfig(lease_s=float(lease)) if lease else LeaseConfig()
    except ValueError:
        raise StartError(f"LEASE_S must be a number of seconds above 0, not {lease!r}") from None


def _selection(environment: Mapping[str, str]) -> dict[str, Selection]:
    """Return the strategies of `storage=round-robin,logger=random`, by service type."""
    pairs = filter(None, map(str.strip, environment.get("SELECTION", "").split(",")))
    return dict(_strategy(pair) for pair in pairs)


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
    """Return the rates of `handshake=10/20,discover=off`, by kind of call, beside those that are usual."""
    pairs = filter(None, map(str.strip, environment.get("RATE_LIMITS", "").split(",")))
    return attrs.evolve(RateLimits(), **dict(_rate(pair) for pair in pairs))


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
