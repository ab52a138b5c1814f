"""Where and how a plugin or a session runs, and the environment variables that set it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from cpg_trio._addresses import is_loopback
from cpg_trio.http import Origin, ServeConfig, StartError, TlsConfig
from cpg_trio.http.certificates import tls_from_environment
from cpg_trio.plugin._hosts import parse_host_urls
from cpg_trio.process import (
    addresses_from_environment,
    bind_from_environment,
    config_from_environment,
    flag_from_environment,
    probe_bind_from_environment,
    secret_from_environment,
)
from cpg_trio.rpc import LocalHost
from cpg_trio.variables import misspelt

_log = logging.getLogger("cpg_trio.plugin")

_LOCALHOST = "localhost"
_LOOPBACK = frozenset({_LOCALHOST, "127.0.0.1", "::1"})


def _check_host_url(_: object, __: object, url: Any) -> None:
    if not isinstance(url, str | None):
        raise TypeError(f"host_url is a text, and not {url!r}")
    if url is not None:
        parse_host_urls(url)


@attrs.frozen(kw_only=True)
class PluginConfig:
    """Where and how a plugin runs. Raises: ValueError for a `host_url` that is not a URL."""

    bind: str | Sequence[str] = "127.0.0.1:0"
    """The address that it listens on, or several; none for a plugin whose host is in its process."""
    host_url: str | None = attrs.field(default=None, validator=_check_host_url)
    """The URL of its host, or several with commas between, of hosts that share a directory: it uses one of
    them at a time. With None it waits for a managing host to call."""
    hostname: str = "localhost"
    """Its own name, which the host can resolve."""
    local: LocalHost | None = attrs.field(default=None, repr=False)
    """Its host, if that is in the same process. Then there is no `host_url`, and with no `bind`, nothing
    listens: an address of its own is for other clients, which call what is public."""
    socket_dir: Path | None = None
    """A directory that it shares with its host, for Unix sockets."""
    enrolment_token: str = attrs.field(default="", repr=False)
    """The token that its host may ask for in the handshake."""
    accept_unsigned: bool = False
    """Whether its services accept calls without a proof of the caller: for a host that signs nothing."""
    control_bind: str | Sequence[str] | None = None
    """The address of the control services alone. With None they are beside the other services."""
    probe_bind: str | Sequence[str] | None = None
    """An address for probes alone, without TLS. With None they are answered beside the services only."""
    metrics_bind: str | Sequence[str] | None = None
    """Addresses that answer Prometheus, and nothing else, without TLS. None: nowhere."""
    heartbeat_s: float | None = None
    """Seconds from one health report to the next. None is what the host asks for."""
    grace_s: float = 10.0
    """Seconds that calls in flight have to finish when it stops."""
    direct_calls: bool = False
    """Whether it calls its dependencies without the host in between, where the host grants that."""
    reflection: bool = False
    """Whether it describes its services to those who may call them, by gRPC server reflection."""
    handshake_clients: bool = False
    """Whether it answers handshakes and `HealthService` to clients without a host, which get no identity."""
    serve: ServeConfig = attrs.field(factory=ServeConfig)
    """How it serves. Its `tls` is also for the calls to the host."""

    @property
    def host_urls(self) -> tuple[str, ...]:
        """The URLs of its hosts."""
        return () if self.host_url is None else parse_host_urls(self.host_url)

    @classmethod
    def from_environment(
        cls, default_port: int, environment: Mapping[str, str] | None = None
    ) -> PluginConfig:
        """Return the configuration that `PORT`, `HOST_URL`, `HOSTNAME` and the other variables set.

        Raises: StartError for a value that is not valid.
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
        # Without TLS, a plugin whose host is on this machine listens on this machine only.
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
                metrics_bind=addresses_from_environment("METRICS_BIND", environment),
                direct_calls=flag_from_environment("DIRECT_CALLS", environment),
                reflection=flag_from_environment("REFLECTION", environment),
                handshake_clients=flag_from_environment("HANDSHAKE_CLIENTS", environment),
                serve=serve,
            )
        except ValueError as error:
            raise StartError(f"HOST_URL: {error}") from error


@attrs.frozen(kw_only=True)
class SessionConfig:
    """Where the host of a session is, and how it is called. See `connect`.

    Raises: ValueError for a `host_url` that is not a URL.
    """

    host_url: str | None = attrs.field(default=None, validator=_check_host_url)
    """The URL of the host, or several with commas between, of hosts that share a directory: the session uses
    one of them at a time, and moves to another one if it has to."""
    local: LocalHost | None = attrs.field(default=None, repr=False)
    """The host, if that is in the same process. Then there is no `host_url`."""
    socket_dir: Path | None = None
    """A directory that is shared with the host, for Unix sockets."""
    enrolment_token: str = attrs.field(default="", repr=False)
    """The token that the host may ask for in the handshake."""
    direct_calls: bool = False
    """Whether plugins are called without the host in between, where the host grants that."""
    tls: TlsConfig = attrs.field(factory=TlsConfig)
    """Which servers are trusted, and the own certificate, if the host asks for one."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> SessionConfig:
        """Return what `HOST_URL`, `SOCKET_DIR`, `ENROLMENT_TOKEN`, `DIRECT_CALLS` and `TLS_…` set.

        Raises: StartError for a value that is not valid.
        """
        environment = os.environ if environment is None else environment
        for sentence in misspelt(environment):
            _log.warning("%s", sentence)
        sockets = environment.get("SOCKET_DIR")
        try:
            return cls(
                host_url=environment.get("HOST_URL", "").rstrip("/") or None,
                socket_dir=Path(sockets) if sockets else None,
                enrolment_token=secret_from_environment("ENROLMENT_TOKEN", environment),
                direct_calls=flag_from_environment("DIRECT_CALLS", environment),
                tls=tls_from_environment(environment),
            )
        except ValueError as error:
            raise StartError(f"HOST_URL: {error}") from error


def _is_local(host_url: str) -> bool:
    """Whether the URLs of the hosts are all those of this machine."""
    try:
        hosts = [Origin.parse(url)[0].host.removesuffix(".") for url in parse_host_urls(host_url)]
    except ValueError:
        return False
    return all(host == _LOCALHOST or host.endswith(f".{_LOCALHOST}") or is_loopback(host) for host in hosts)


def _control_bind(environment: Mapping[str, str]) -> Sequence[str] | None:
    """Return what `CONTROL_PORT` and `CONTROL_BIND` set; without an address, listen on this machine only."""
    if not environment.get("CONTROL_PORT"):
        return None
    return bind_from_environment(_LOCALHOST, 0, environment, prefix="CONTROL_")
