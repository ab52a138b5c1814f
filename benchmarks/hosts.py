"""Hosts as processes: ours, of this commit or another, and the one of the Go implementation."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs

from cpg_trio import wire
from cpg_trio.http import Pool
from cpg_trio.http.tls import client_context
from cpg_trio.plugin._hosts import Hosts
from cpg_trio.plugin._session import Introduction, Session, handshake
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb

from .processes import free_port, server
from .upstream import PATH

PLUGINS = ("logger", "storage", "api")
"""Of the URL shortener, in the order in which they start."""
SERVICE_TYPE = "bench"
_LEASE_S = "3600"  # longer than the run: no heartbeats and probes
# The default rates would limit the load. The host counts calls all the same.
_RATES = ",".join(f"{kind}=1000000/1000000" for kind in ("handshake", "discover", "watch", "health-report"))


@attrs.frozen
class HostProgram:
    """A program that is a host, and the example's plugins that belong to it."""

    command: tuple[str, ...]
    plugins: Mapping[str, tuple[str, ...]]
    """The command of each of `PLUGINS`, or of none."""
    ours: bool
    env: Mapping[str, str] = attrs.field(factory=dict)

    @classmethod
    def python(
        cls, env: Mapping[str, str], interpreter: Sequence[str] = (sys.executable, "-P")
    ) -> HostProgram:
        """Return our host with these environment variables, of the package that an interpreter finds."""
        run = (*interpreter, "-m")
        plugins = {name: (*run, f"cpg_trio.demo.{name}") for name in PLUGINS}
        return cls((*run, "cpg_trio", "host"), plugins, ours=True, env=env)

    @classmethod
    def go(cls, program: Path, shortener: Path | None) -> HostProgram:
        """Return the Go implementation's host, and its plugins if their folder is given.

        Raises: ValueError if a program is not there.
        """
        plugins = {name: shortener / f"{name}-plugin" for name in PLUGINS} if shortener else {}
        for path in (program, *plugins.values()):
            if not (path.is_file() and os.access(path, os.X_OK)):
                raise ValueError(f"{path} is no program")
        commands = {name: (str(path.resolve()),) for name, path in plugins.items()}
        return cls((str(program.resolve()),), commands, ours=False)

    @asynccontextmanager
    async def running(self, folder: Path, cores: Sequence[int]) -> AsyncIterator[tuple[int, int]]:
        """Run it, with a log in a folder; yield its port and process id."""
        port = free_port()
        env = {"PORT": str(port), "LEASE_S": _LEASE_S, "RATE_LIMITS": _RATES, **self.env}
        async with server(self.command, port, cores=cores, log=folder / "log", env=env) as pid:
            yield port, pid


@attrs.frozen
class Identity:
    """The credentials of a caller, and the provider that it calls."""

    runtime_id: str
    token: str = attrs.field(repr=False)
    provider_id: str

    @property
    def headers(self) -> dict[str, str]:
        return {
            wire.RUNTIME_ID_HEADER: self.runtime_id,
            wire.AUTHORIZATION_HEADER: wire.bearer(self.token),
        }

    @property
    def path(self) -> str:
        """The path of the provider's methods at a router."""
        return f"/services/{SERVICE_TYPE}/{self.provider_id}/"


async def introduce(port: int, base_url: str, ca_file: Path | None = None) -> Identity:
    """Register the provider with a host, and get a caller its identity; with TLS if an authority is named."""
    scheme = "http" if ca_file is None else "https"
    async with Pool(ssl_context=partial(client_context, ca_file)) as http:
        hosts = Hosts([f"{scheme}://127.0.0.1:{port}"], http)
        provider = await handshake(hosts, Introduction("provider", "1.0.0"))
        await _register(provider, base_url)
        caller = await handshake(hosts, Introduction("caller", "1.0.0"))
    return Identity(caller.runtime_id, caller.token, provider.runtime_id)


async def _register(provider: Session, base_url: str) -> None:
    await provider.registry.register_service(
        pb.RegisterServiceRequest(
            service_type=SERVICE_TYPE, version="1.0.0", endpoint_path=PATH, metadata={"base_url": base_url}
        )
    )
