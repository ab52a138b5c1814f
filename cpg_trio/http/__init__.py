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

from cpg_trio.http.certificates import Clients as Clients, Contexts as Contexts, TlsConfig as TlsConfig
from cpg_trio.http.channel import (
    Address as Address,
    Channel as Channel,
    ChannelStream as ChannelStream,
    PeerProcess as PeerProcess,
    SocketChannel as SocketChannel,
)
from cpg_trio.http.client.connect import connect as connect
from cpg_trio.http.client.errors import (
    BodyTooLargeError as BodyTooLargeError,
    ConnectFailedError as ConnectFailedError,
    ConnectionBrokenError as ConnectionBrokenError,
    InvalidRequestError as InvalidRequestError,
    LocalFailureError as LocalFailureError,
    NotSentError as NotSentError,
    PoolFullError as PoolFullError,
    ProtocolError as ProtocolError,
    StreamResetError as StreamResetError,
    UndeliveredError as UndeliveredError,
    UnknownNameError as UnknownNameError,
    UpstreamError as UpstreamError,
)
from cpg_trio.http.client.exchange import (
    ClientExchange as ClientExchange,
    Connection as Connection,
    Response as Response,
    Whole as Whole,
)
from cpg_trio.http.client.http2 import Http2Exchange as Http2Exchange
from cpg_trio.http.client.origin import UNIX as UNIX, Origin as Origin
from cpg_trio.http.client.pool import Pool as Pool, PoolStatistics as PoolStatistics
from cpg_trio.http.client.request import Request as Request, check_request as check_request
from cpg_trio.http.client.resolver import LookUpError as LookUpError, Resolver as Resolver
from cpg_trio.http.heads import MalformedError as MalformedError
from cpg_trio.http.outgoing import check_fields as check_fields
from cpg_trio.http.relay import (
    Failure as Failure,
    Forward as Forward,
    Gateway as Gateway,
    Relay as Relay,
    RelayCall as RelayCall,
    RequestRefusedError as RequestRefusedError,
)
from cpg_trio.http.server.asgi_exchange import AsgiExchange as AsgiExchange
from cpg_trio.http.server.browsers import BrowserGuard as BrowserGuard
from cpg_trio.http.server.capacity import (
    CONNECTION_BYTES as CONNECTION_BYTES,
    fitted_to_descriptors as fitted_to_descriptors,
    fitted_to_memory as fitted_to_memory,
    most_connections as most_connections,
    raise_descriptor_limit as raise_descriptor_limit,
)
from cpg_trio.http.server.config import Http1Engine as Http1Engine, ServeConfig as ServeConfig
from cpg_trio.http.server.connection import ServerConnection as ServerConnection
from cpg_trio.http.server.connection_limit import (
    Activity as Activity,
    ConnectionLimit as ConnectionLimit,
)
from cpg_trio.http.server.errors import BindError as BindError, StartError as StartError
from cpg_trio.http.server.exchange import ServerExchange as ServerExchange
from cpg_trio.http.server.http1 import Http1Connection as Http1Connection
from cpg_trio.http.server.listen import is_private as is_private, listening as listening
from cpg_trio.http.server.serve import serve as serve
from cpg_trio.http.tls import (
    TlsChannel as TlsChannel,
    client_context as client_context,
)
