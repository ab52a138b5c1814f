"""HTTP/1.1 on Trio sockets, for both sides: what a router needs, and what a service is called by.

What stands on what:

    errors      what can go wrong on the way to a peer, and by whose fault
    fields      what goes out: header lines
    heads       heads of what comes in, read strictly
    messages    what comes in: where its head and its body end
    readiness   whose socket has something
    channel     a way to the other side, without detours
    schemes     who takes TLS for plain HTTP, or the other way round
    tls         a channel with TLS
    _origin     where a request goes
    _names      names looked up, in threads for nothing else
    _connect    from an origin to a channel
    connection  a connection, seen from its client
    pool        the connections of a client
    patience    timeouts that many connections share
    pace        how slowly the body of a request may come in
    activity    what a client's connection is busy with
    asgi_call   one call of an ASGI application
    server      a client's connection, seen from the server
    relay       from the one to the other, byte for byte

Nothing here knows of plugins.
"""

from cpg_trio.http1._connect import connect as connect
from cpg_trio.http1._names import LookUpError as LookUpError
from cpg_trio.http1._names import Resolver as Resolver
from cpg_trio.http1._origin import Origin as Origin
from cpg_trio.http1._origin import Way as Way
from cpg_trio.http1._request import Request as Request
from cpg_trio.http1.activity import Activity as Activity
from cpg_trio.http1.asgi_call import unwrapped as unwrapped
from cpg_trio.http1.channel import Address as Address
from cpg_trio.http1.channel import Channel as Channel
from cpg_trio.http1.channel import ChannelStream as ChannelStream
from cpg_trio.http1.channel import SocketChannel as SocketChannel
from cpg_trio.http1.connection import Connection as Connection
from cpg_trio.http1.connection import Response as Response
from cpg_trio.http1.connection import Whole as Whole
from cpg_trio.http1.errors import BodyTooLargeError as BodyTooLargeError
from cpg_trio.http1.errors import ConnectFailedError as ConnectFailedError
from cpg_trio.http1.errors import ConnectionBrokenError as ConnectionBrokenError
from cpg_trio.http1.errors import InvalidRequestError as InvalidRequestError
from cpg_trio.http1.errors import LocalFailureError as LocalFailureError
from cpg_trio.http1.errors import NotSentError as NotSentError
from cpg_trio.http1.errors import PoolFullError as PoolFullError
from cpg_trio.http1.errors import ProtocolError as ProtocolError
from cpg_trio.http1.errors import UndeliveredError as UndeliveredError
from cpg_trio.http1.errors import UpstreamError as UpstreamError
from cpg_trio.http1.heads import MalformedError as MalformedError
from cpg_trio.http1.messages import MAX_HEAD_BYTES as MAX_HEAD_BYTES
from cpg_trio.http1.messages import IncomingRequest as IncomingRequest
from cpg_trio.http1.messages import body_too_large as body_too_large
from cpg_trio.http1.pace import BodyPace as BodyPace
from cpg_trio.http1.pool import Pool as Pool
from cpg_trio.http1.pool import PoolStatistics as PoolStatistics
from cpg_trio.http1.readiness import READINESS_AVAILABLE as READINESS_AVAILABLE
from cpg_trio.http1.relay import Failure as Failure
from cpg_trio.http1.relay import Forward as Forward
from cpg_trio.http1.relay import Gateway as Gateway
from cpg_trio.http1.relay import RefusedError as RefusedError
from cpg_trio.http1.relay import Relay as Relay
from cpg_trio.http1.relay import RelayCall as RelayCall
from cpg_trio.http1.schemes import PLAIN_IS_SPOKEN as PLAIN_IS_SPOKEN
from cpg_trio.http1.schemes import TLS_IS_SPOKEN as TLS_IS_SPOKEN
from cpg_trio.http1.schemes import WrongSchemes as WrongSchemes
from cpg_trio.http1.schemes import is_tls as is_tls
from cpg_trio.http1.server import Limits as Limits
from cpg_trio.http1.server import RequestTaker as RequestTaker
from cpg_trio.http1.server import ServerConnection as ServerConnection
from cpg_trio.http1.server import Service as Service
from cpg_trio.http1.tls import NotTlsError as NotTlsError
from cpg_trio.http1.tls import TlsChannel as TlsChannel
from cpg_trio.http1.tls import client_context as client_context
