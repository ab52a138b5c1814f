"""The configuration of a server. No I/O."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from enum import Enum

import attrs
from attrs.validators import ge, gt
from hypercorn.config import Config

from cpg_trio.http.certificates import TlsConfig
from cpg_trio.http.messages import MAX_HEAD_BYTES
from cpg_trio.http.server.errors import logger

ANY = "*"

_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9._\[\]:-]+|null")


def _check_hosts(_: object, __: object, hosts: Sequence[str]) -> None:
    for host in hosts:
        if host != ANY and not _HOST_NAME.fullmatch(host):
            raise ValueError(f"an allowed host is a name without a port, such as app.example, not {host!r}")


def _check_origins(_: object, __: object, origins: Sequence[str]) -> None:
    for origin in origins:
        if origin != ANY and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"an origin is like https://app.example:8443, without a path, not {origin!r}")


class Http1Engine(Enum):
    """What reads and writes the bytes of HTTP/1.1."""

    OWN = "own"
    """This project's, on llhttp: the faster one."""
    HYPERCORN = "hypercorn"
    """Hypercorn's, on h11."""


@attrs.frozen(kw_only=True)
class ServeConfig:
    """How long the server waits for what, in seconds, and how much it takes in.

    Raises: `ValueError` for a time that is negative, or a limit that leaves nothing.
    """

    grace_s: float = attrs.field(default=10.0, validator=ge(0))
    """From the beginning of a stop: what calls in flight have to finish."""

    idle_timeout_s: float = attrs.field(default=120.0, validator=gt(0))
    """A kept-alive connection with nothing in flight; longer than the 90 s that Go clients keep theirs,
    so that the client is the one to let go and never sends into a connection that is closing."""

    header_timeout_s: float = attrs.field(default=10.0, validator=gt(0))
    """From the first byte of a request head (or from accept) to its end."""

    body_timeout_s: float = attrs.field(default=30.0, validator=gt(0))
    """Silence in the middle of the body of a request. A stream (a body of no declared length that is not one
    message) may be silent once its client has proved an identity."""

    min_body_bytes_per_s: float = attrs.field(default=1024.0, validator=gt(0))
    """The rate at which a message has to come: it is waited for `body_timeout_s`, and a second more for each
    so many bytes that have come."""

    send_timeout_s: float = attrs.field(default=30.0, validator=gt(0))
    """A send that makes no progress because the client does not read. What the kernel has taken already may
    lie unread as long, and 35 s at least; a machine that has vanished is noticed after the same time."""

    linger_s: float = attrs.field(default=1.0, validator=ge(0))
    """How long to read on after an early answer, so that the client sees it instead of a reset."""

    max_connections: int = attrs.field(default=10_000, validator=ge(1))
    """Connections at once, and open streams of HTTP/2. When there is hardly any room, the client that has
    most loses one to a newcomer. If none may be closed, the newcomer is answered with 503, and closed."""

    max_head_bytes: int = attrs.field(default=MAX_HEAD_BYTES, validator=ge(1))
    """The head of a request; one that is larger is answered with 431. On HTTP/2 it is the list of its fields,
    of which a larger one ends the connection."""

    backlog: int = attrs.field(default=1024, validator=ge(1))
    """Connections that the kernel holds ready for accept."""

    socket_mode: int = 0o660
    """The mode of the file of a Unix socket. To connect is to write. The group is there for programs under
    users of their own that share a directory, as containers do by the group of a volume. No other user may
    connect, whatever the umask is."""

    http1_engine: Http1Engine = Http1Engine.OWN
    """What reads and writes HTTP/1.1."""

    websocket_ping_s: float = attrs.field(default=20.0, validator=gt(0))
    """Silence of a WebSocket client until it is sent a ping, and then until it is given up, if not even a
    pong has come. Longer than a slow client takes to read what was sent before the ping."""

    tls: TlsConfig = attrs.field(factory=TlsConfig)
    """The certificate that TCP is served with, and what peers are verified by. Unix sockets are plain."""

    allowed_origins: Sequence[str] = attrs.field(default=(), validator=_check_origins)
    """Origins of web pages whose requests are taken, such as `https://app.example`; `*` is any. Requests of
    other pages are refused: programs send no `Origin`."""

    allowed_hosts: Sequence[str] = attrs.field(default=(), validator=_check_hosts)
    """Names that clients may call by, in `Host`, beside `localhost`, addresses and the server's own; `*` is
    any. With none, other names are refused only at addresses that no other machine reaches."""

    websocket_max_message_bytes: int = attrs.field(default=2**20, validator=ge(1))
    """The largest WebSocket message; one that is larger is answered with close code 1009."""


def hypercorn_config(settings: ServeConfig) -> Config:
    """Make the part of the settings that Hypercorn's protocol objects read."""
    config = Config()
    config.accesslog = None
    config.errorlog = logger  # a logger of ours, so that Hypercorn installs no handlers
    config.include_server_header = False
    config.include_date_header = False  # `dated` adds it, unless the application has
    config.h11_max_incomplete_size = settings.max_head_bytes
    config.h2_max_header_list_size = settings.max_head_bytes
    config.keep_alive_max_requests = sys.maxsize
    config.websocket_max_message_size = settings.websocket_max_message_bytes
    return config
