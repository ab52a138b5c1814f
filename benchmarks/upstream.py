"""The provider behind every proxy: nginx with one worker, which answers from memory.

It is fast enough to be no bottleneck, and the same for all. Its methods: `Small` answers 64 bytes, `Fresh`
the same with a new head each time, `Large` 1 MiB, and `Upload` reads the whole request and answers 64 bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from .certificates import Certificate
from .processes import free_port, server, which

PATH = "/bench.v1.BenchService/"
SMALL = b"x" * 64
LARGE = b"x" * 2**20

# Folders that nginx would otherwise use where it was built for.
NGINX_FOLDERS = "\n".join(
    f"  {kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)
# nginx serves no static file for POST, so the file is the error page. Only `mirror` makes it read a body to
# its end before it answers.
_CONFIG = f"""
daemon off;
master_process off;
pid provider.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
{NGINX_FOLDERS}
  access_log off;
  default_type application/proto;
  keepalive_timeout 600s;
  keepalive_requests 100000000;
  client_max_body_size 0;
  client_body_buffer_size 2m;
  sendfile on;
  server {{
    listen 127.0.0.1:%s backlog=4096;
    %s
    location = {PATH}Small {{ return 200 "{SMALL.decode()}"; }}
    location = {PATH}Fresh {{ add_header X-Request-Id $request_id; return 200 "{SMALL.decode()}"; }}
    location = {PATH}Large {{ alias %s/large; error_page 405 =200 $uri; }}
    location = {PATH}Upload {{ mirror /sink; alias %s/small; error_page 405 =200 $uri; }}
    location = /sink {{ internal; return 204; }}
    location / {{ return 404; }}
  }}
}}
"""

_TLS = "ssl_certificate %s; ssl_certificate_key %s;"


@asynccontextmanager
async def upstream(folder: Path, core: int, certificate: Certificate | None = None) -> AsyncIterator[int]:
    """Run the provider on a core; yield its port."""
    async with provider(folder, [core], certificate) as (port, _):
        yield port


@asynccontextmanager
async def provider(
    folder: Path, cores: Sequence[int], certificate: Certificate | None = None
) -> AsyncIterator[tuple[int, int]]:
    """Run the provider on some cores, with TLS if it has a certificate; yield its port and process id."""
    (folder / "small").write_bytes(SMALL)
    (folder / "large").write_bytes(LARGE)
    port = free_port()
    listen = str(port) if certificate is None else f"{port} ssl"
    tls = "" if certificate is None else _TLS % (certificate.file, certificate.file)
    (folder / "nginx.conf").write_text(_CONFIG % (listen, tls, folder, folder))
    async with server(nginx(folder), port, cores=cores, log=folder / "log") as pid:
        yield port, pid


def nginx(folder: Path) -> list[str]:
    """Return the command that runs nginx with the configuration in a folder."""
    return [
        which("nginx"),
        "-p",
        str(folder),
        "-c",
        str(folder / "nginx.conf"),
        "-e",
        "stderr",
    ]
