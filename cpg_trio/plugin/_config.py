"""Where a plugin runs and how, and what the environment says of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from cpg_trio._addresses import is_loopback
from cpg_trio.http import Origin, ServeConfig, StartError
from cpg_trio.process import (
    bind_from_environment,
    config_from_environment,
    flag_from_environment,
    probe_bind_from_environment,
    secret_from_environment,
)
from cpg_trio.variables import misspelt

_log = logging.getLogger("cpg_trio.plugin")

_LOCALHOST = "localhost"
_LOOPBACK = frozenset({_LOCALHOST, "127.0.0.1", "::1"})


def _check_host_url(_: object, __: object, url: str | None) -> None:
    if url is not None:
        Origin.parse(url)


@attrs.frozen(kw_only=True)
class PluginConfig:
    """Where a plugin runs and how. Raises: ValueError for a `host_url` that is none."""

    bind: str | Sequence[str] = "127.0.0.1:0"
    """What it listens on."""
    host_url: str | None = attrs.field(default=None, validator=_check_host_url)
    """Its host; None waits for a managing host to call."""
    hostname: str = "localhost"
    """Its own name, as the host resolves it."""
    socket_dir: Path | None = None
    """A directory that it shares with its host, for calls by Unix sockets in it."""
    enrolment_token: str = attrs.field(default="", repr=False)
    """What lets it in, where its host asks for that."""
    accept_unsigned: bool = False
    """Whether its services take calls of which nobody says who makes them: for a host that signs nothing."""
    control_bind: str | Sequence[str] | None = None
    """What its control services listen on, and nothing else; without it they are beside the others."""
    probe_bind: str | Sequence[str] | None = None
    """Where it answers probes and nothing else, without TLS; None is nowhere but beside the rest."""
    heartbeat_s: float | None = None
    """Seconds from one health report to the next; None is what the host asks for."""
    grace_s: float = 10.0
    """Seconds that calls in flight may take to finish once a stop begins."""
    direct_calls: bool = False
    """Whether it calls those whom it requires without the host in between, where the host gives leave."""
    serve: ServeConfig = attrs.field(factory=ServeConfig)
    """How it serves. Its `tls` is what the plugin calls its host with, too."""

    @classmethod
    def from_environment(
        cls, default_port: int, environment: Mapping[str, str] | None = None
    ) -> PluginConfig:
        """Return what `PORT`, `HOST_URL`, `HOSTNAME`, `ENROLMENT_TOKEN` and the other variables say.

        The others are those of `config_from_environment`. Raises: StartError for what makes no sense.
        """
        environment = os.environ if environment is None else environment
        for sentence in misspelt(environment):
            _log.warning("%s", sentence)
        host_url, hostname = environment.get("HOST_URL", ""), environment.get("HOSTNAME") or "localhost"
        try:
            Origin("http", hostname, 80)
        except ValueError as error:
            raise StartError(f"HOSTNAME must be a host name or an address, not {hostname!r}") from error
        sockets = environment.get("SOCKET_DIR")
        serve = config_from_environment(environment)
        # Its host may be anywhere. If it is on this machine, nobody else has to get to what is in plaintext.
        is_local = not environment.get("BIND") and not serve.tls.serves and _is_local(host_url)
        if is_local and hostname not in _LOOPBACK:
            _log.warning(
                "HOSTNAME=%s is not used: the host at %s is on this machine, and so the plugin listens here"
                " only; BIND=:: has it listen on all addresses",
                hostname,
                host_url,
            )
            hostname = _LOCALHOST
        try:
            return cls(
                bind=bind_from_environment(_LOCALHOST if is_local else "::", default_port, environment),
                host_url=host_url.rstrip("/") or None,
                hostname=hostname,
                socket_dir=Path(sockets) if sockets else None,
                enrolment_token=secret_from_environment("ENROLMENT_TOKEN", environment),
                accept_unsigned=flag_from_environment("ACCEPT_UNSIGNED", environment),
                control_bind=_control_bind(environment),
                probe_bind=probe_bind_from_environment(environment),
                direct_calls=flag_from_environment("DIRECT_CALLS", environment),
                serve=serve,
            )
        except ValueError as error:
            raise StartError(f"HOST_URL: {error}") from error


def _is_local(host_url: str) -> bool:
    """Whether a host is on this machine, as its URL says it."""
    try:
        host = Origin.parse(host_url)[0].host.removesuffix(".")
    except ValueError:
        return False
    return host == _LOCALHOST or host.endswith(f".{_LOCALHOST}") or is_loopback(host)


def _control_bind(environment: Mapping[str, str]) -> Sequence[str] | None:
    """Return what `CONTROL_PORT` and `CONTROL_BIND` say; without an address only this machine gets there."""
    if not environment.get("CONTROL_PORT"):
        return None
    return bind_from_environment(_LOCALHOST, 0, environment, prefix="CONTROL_")
