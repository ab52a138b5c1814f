"""One way to serve an ASGI application in a nursery: bind, started, drain, stop.

`serve` runs the server, `run` is the whole of a container's `__main__`, and `stop_on_signals` is the part
between them for programs that have a `__main__` of their own. The package knows nothing about plugins; it
may touch sockets, signals, files of certificates and the log, and of this project only `asgi`, `logs`,
`http1`, and modules that stand alone (`_reload`, `_sockets`, `_addresses`, `_memory`, `_lines`, `_throttle`).

Hypercorn parses and writes HTTP/1.1, HTTP/2 and WebSocket here; its Trio transport is not used. What
stands around its protocol objects, from the socket to the application:

    _listen            addresses to listen on
    _server            the nursery of all connections: accept, drain, stop
    _connection_limit  whose the connections are, and who makes room for others
    _crowd             connections above `max_connections`
    _descriptors       how many connections there are file descriptors for
    _memory            how many connections there is memory for
    _browsers          requests of web pages, which are refused unless the page is listed
    _tls               certificates, and the contexts that are made of them
    _handshake         a connection, as long as its TLS handshake takes
    _connection        one connection: the task that reads, bounded writes, the end
    _http1             the protocols: what is refused, what the client owes us,
    _http2             how a connection drains, how a response is broken off
    _http2_connection  what of HTTP/2 ends a stream, and what the connection
    _streams           one request or WebSocket: trailers, close codes, the end of the application
    _calls             one run of the application: its bounded inbox and its task
    _process           environment, signals, exit status
    _garbage           garbage, collected when memory has grown

What holds for every connection:

- An error ends one connection at most, and is logged as `cpg_trio.serving`.
- A client that does not read, does not finish what it began, or says nothing is let go after a time that
  `ServeConfig` names. A request in flight whose body is complete is never timed out, and neither is a
  WebSocket whose client answers pings.
- With TLS (`ServeConfig.tls`), a client has the time of a head for its handshake, and what is no handshake is
  ended without a word in the log. The application is told what the client has proved: `scope["scheme"]`, the
  extension `tls`, and `scope["state"]["peer_names"]`, the URIs and DNS names of its certificate.
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

from cpg_trio.serving._browsers import FORBIDDEN as FORBIDDEN
from cpg_trio.serving._browsers import BrowserGuard as BrowserGuard
from cpg_trio.serving._config import ServeConfig as ServeConfig
from cpg_trio.serving._descriptors import fitted_to_descriptors as fitted_to_descriptors
from cpg_trio.serving._descriptors import most_connections as most_connections
from cpg_trio.serving._errors import BindError as BindError
from cpg_trio.serving._errors import StartError as StartError
from cpg_trio.serving._listen import is_private as is_private
from cpg_trio.serving._memory import CONNECTION_BYTES as CONNECTION_BYTES
from cpg_trio.serving._memory import fitted_to_memory as fitted_to_memory
from cpg_trio.serving._process import bind_from_environment as bind_from_environment
from cpg_trio.serving._process import config_from_environment as config_from_environment
from cpg_trio.serving._process import flag_from_environment as flag_from_environment
from cpg_trio.serving._process import list_from_environment as list_from_environment
from cpg_trio.serving._process import probe_bind_from_environment as probe_bind_from_environment
from cpg_trio.serving._process import run as run
from cpg_trio.serving._process import secret_from_environment as secret_from_environment
from cpg_trio.serving._process import stop_on_signals as stop_on_signals
from cpg_trio.serving._server import serve as serve
from cpg_trio.serving._tls import Clients as Clients
from cpg_trio.serving._tls import Contexts as Contexts
from cpg_trio.serving._tls import TlsConfig as TlsConfig
