"""An HTTP/1.1 client and the messages it reads: both ways at once, and byte for byte where it matters.

`pool` stands on `connection`, that on `channel` (a socket, or any stream) and `messages` (what comes in), and
those on nothing but Trio and httptools. Nothing here knows of plugins.
"""

from cpg_trio.http1._origin import Origin as Origin
from cpg_trio.http1._request import Request as Request
from cpg_trio.http1.connection import Connection as Connection
from cpg_trio.http1.connection import Response as Response
from cpg_trio.http1.errors import BodyTooLargeError as BodyTooLargeError
from cpg_trio.http1.errors import ConnectFailedError as ConnectFailedError
from cpg_trio.http1.errors import ConnectionBrokenError as ConnectionBrokenError
from cpg_trio.http1.errors import InvalidRequestError as InvalidRequestError
from cpg_trio.http1.errors import ProtocolError as ProtocolError
from cpg_trio.http1.errors import UpstreamError as UpstreamError
from cpg_trio.http1.pool import Pool as Pool
from cpg_trio.http1.pool import PoolStatistics as PoolStatistics
from cpg_trio.http1.pool import Whole as Whole
from cpg_trio.http1.pool import connect as connect
