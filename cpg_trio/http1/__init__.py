"""An HTTP/1.1 client for a router: requests and responses pass byte for byte, and both ways at once.

`pool` stands on `connection`, and `connection` on h11 and Trio's streams. Nothing here knows of plugins.
"""

from cpg_trio.http1.connection import ConnectFailedError as ConnectFailedError
from cpg_trio.http1.connection import ConnectionBrokenError as ConnectionBrokenError
from cpg_trio.http1.connection import InvalidRequestError as InvalidRequestError
from cpg_trio.http1.connection import ProtocolError as ProtocolError
from cpg_trio.http1.connection import Request as Request
from cpg_trio.http1.connection import Response as Response
from cpg_trio.http1.connection import UpstreamError as UpstreamError
from cpg_trio.http1.pool import Origin as Origin
from cpg_trio.http1.pool import Pool as Pool
from cpg_trio.http1.pool import PoolStatistics as PoolStatistics
from cpg_trio.http1.pool import connect as connect
