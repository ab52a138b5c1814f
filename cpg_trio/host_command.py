"""The command `host`: a host as the environment says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import trio

from . import wire
from .host import DEFAULT_PORT, BaseUrls, Host, HostConfig, LeaseConfig, Selection
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
    plaintext = environment.get("ALLOW_PLAINTEXT") or "false"
    if plaintext not in {"true", "false"}:
        raise StartError(f"ALLOW_PLAINTEXT must be 'true' or 'false', not {plaintext!r}")
    return HostConfig(
        allow_plaintext=plaintext == "true",
        base_urls=BaseUrls(base_urls),
        leases=_leases(environment),
        selection=_selection(environment),
        state_path=Path(state) if state else None,
        socket_dir=Path(sockets) if sockets else None,
        serve=config_from_environment(environment),
    )


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
