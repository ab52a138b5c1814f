"""A websocket that leaves nothing open.

trio-websocket closes its connection only after a closing handshake. Here the connection is ours, and is
closed however the websocket ends.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import h11
import trio
import wsproto
from trio_websocket import WebSocketConnection, wrap_client_stream

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.http import ChannelStream, Origin, Resolver, client_context, connect


class GarbledError(Exception):
    """What the server sends is no websocket."""


@asynccontextmanager
async def open_websocket(
    url: str,
    headers: Mapping[str, str],
    subprotocols: Sequence[str],
    *,
    addresses: tuple[str, ...] = ("",),
    ssl_context: Callable[[], ssl.SSLContext] = client_context,
    timeout_s: float = 5.0,
    resolver: Resolver | None = None,
) -> AsyncIterator[WebSocketConnection]:
    """Open a websocket at an http or https URL, and close it without a goodbye when the block ends.

    `addresses` are where to connect, if not where the URL says; `ssl_context`, whom to trust with https;
    `resolver`, what looks the name up.

    Raises: http1.NotSentError; trio_websocket.ConnectionRejected if the server answers with another
    status; GarbledError; trio.TooSlowError if it does not answer within `timeout_s`; ValueError for what is
    no such URL.
    """
    origin, path = Origin.parse(url)
    channel = await connect(origin.at(addresses), ssl_context, timeout_s=timeout_s, resolver=resolver)
    async with ChannelStream(channel) as stream, _reader_nursery() as nursery:
        with trio.fail_after(timeout_s):
            socket = await wrap_client_stream(
                nursery,
                stream,  # type: ignore[arg-type] # any stream will do
                origin.host_header.decode(),
                path.decode(),
                subprotocols=subprotocols,
                extra_headers=[(name.encode(), value.encode()) for name, value in headers.items()],
            )
        yield socket


@asynccontextmanager
async def _reader_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery for the reader of a websocket, which ends with the block."""
    try:
        async with open_plain_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    except (h11.ProtocolError, wsproto.utilities.ProtocolError, UnicodeError) as error:
        raise GarbledError(f"not a websocket: {error}") from error
