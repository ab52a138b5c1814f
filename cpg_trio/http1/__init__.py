"""HTTP/1.1 on Trio sockets, for both sides: what a router needs, and what a service is called by.

What stands on what:

    messages    what comes in: heads and bodies, read strictly
    fields      what goes out: header lines
    channel     a way to the other side, without detours
    patience    how long the other side may take
    hangups     who has left
    asgi_call   one call of an ASGI application
    server      a client's connection, seen from the server
    connection  a connection, seen from its client
    pool        the connections of a client

Nothing here knows of plugins.
"""

from cpg_trio.http1.asgi_call import unwrapped as unwrapped
from cpg_trio.http1.channel import Channel as Channel
from cpg_trio.http1.channel import SocketChannel as SocketChannel
from cpg_trio.http1.connection import ConnectFailedError as ConnectFailedError
from cpg_trio.http1.connection import ConnectionBrokenError as ConnectionBrokenError
from cpg_trio.http1.connection import InvalidRequestError as InvalidRequestError
from cpg_trio.http1.connection import ProtocolError as ProtocolError
from cpg_trio.http1.connection import Request as Request
from cpg_trio.http1.connection import Response as Response
from cpg_trio.http1.connection import UpstreamError as UpstreamError
from cpg_trio.http1.hangups import HANGUPS_AVAILABLE as HANGUPS_AVAILABLE
from cpg_trio.http1.messages import MAX_HEAD_BYTES as MAX_HEAD_BYTES
from cpg_trio.http1.messages import IncomingRequest as IncomingRequest
from cpg_trio.http1.messages import MalformedError as MalformedError
from cpg_trio.http1.pool import Origin as Origin
from cpg_trio.http1.pool import Pool as Pool
from cpg_trio.http1.pool import PoolStatistics as PoolStatistics
from cpg_trio.http1.pool import connect as connect
from cpg_trio.http1.server import Connection as Connection
from cpg_trio.http1.server import Limits as Limits
from cpg_trio.http1.server import Relay as Relay
from cpg_trio.http1.server import Service as Service
