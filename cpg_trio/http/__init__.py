"""HTTP on Trio sockets, for both sides. Knows nothing of plugins.

Both sides stand on these:

    errors (of `client`)  what can go wrong on the way to a peer, and by whose fault
    channel, tls          a connection's bytes, without and with TLS
    certificates          certificates, and the contexts that are made of them
    reactor               calls back when a socket has something
    timeouts              timeouts that many connections share
    outgoing, heads       heads that go out; heads that come in, read strictly
    messages              where a message's head and body end
    schemes               clients that speak TLS where plain HTTP is spoken, or the other way round
    background            a task beside a block

`client` has the pool of connections, `server` what a listener does; `relay` passes calls from one to another.

What holds for every connection:

- An error ends one connection at most, and is logged as `cpg_trio.http`.
- A client that does not read, does not finish what it began, or says nothing is let go after a time that
  `ServeConfig` names. A request in flight whose body is complete is never timed out, and neither is a
  WebSocket whose client answers pings.
- With TLS (`ServeConfig.tls`), a client has the time of a head for its handshake, and what is no handshake is
  ended without a word in the log. The application is told what the client has proved: `scope["scheme"]`, the
  extension `tls`, and `scope["state"]["peer_names"]`, the URIs and DNS names of its certificate. Through a
  Unix socket `scope["state"]["peer_process"]` is the client's process.
- A client that speaks plain HTTP where TLS is spoken, or the other way round, is told so, as is the log.
- A client whose machine has vanished is noticed by the kernel, within a minute unless `ServeConfig` gives it
  longer to read.
- Nothing that a client does holds up the end of the grace, or a cancellation, by more than a moment.
- Not a word of an exception reaches a client.
- A client that closes its sending side has left: the application gets `http.disconnect`.

The ASGI lifespan is never spoken: what an application needs while it is served lives in the nursery that
serves it, and is there before and after. A WebSocket is offered on HTTP/1.1 only, and without compression,
which would let a few bytes grow past every limit before anything could count them.
"""

from cpg_trio.http.certificates import Clients, TlsConfig
from cpg_trio.http.client.errors import (
    BodyTooLargeError,
    ConnectFailedError,
    ConnectionBrokenError,
    InvalidRequestError,
    LocalFailureError,
    NotSentError,
    PoolFullError,
    ProtocolError,
    StreamResetError,
    UndeliveredError,
    UnknownNameError,
    UpstreamError,
)
from cpg_trio.http.client.exchange import ClientExchange, Response, Whole
from cpg_trio.http.client.origin import Origin
from cpg_trio.http.client.pool import Pool, PoolStatistics
from cpg_trio.http.client.request import Request
from cpg_trio.http.client.resolver import Resolver
from cpg_trio.http.server.config import Http1Engine, ServeConfig
from cpg_trio.http.server.errors import BindError, StartError
from cpg_trio.http.server.serve import serve

__all__ = [
    "BindError",
    "BodyTooLargeError",
    "ClientExchange",
    "Clients",
    "ConnectFailedError",
    "ConnectionBrokenError",
    "Http1Engine",
    "InvalidRequestError",
    "LocalFailureError",
    "NotSentError",
    "Origin",
    "Pool",
    "PoolFullError",
    "PoolStatistics",
    "ProtocolError",
    "Request",
    "Resolver",
    "Response",
    "ServeConfig",
    "StartError",
    "StreamResetError",
    "TlsConfig",
    "UndeliveredError",
    "UnknownNameError",
    "UpstreamError",
    "Whole",
    "serve",
]
