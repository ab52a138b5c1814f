"""A websocket client whose connection is closed with its block.

trio-websocket closes a connection only after a closing handshake. Here the connection belongs to the block,
which closes it however the websocket ends.
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
from cpg_trio.http import Origin, Resolver
from cpg_trio.http.channel import ChannelStream
from cpg_trio.http.client.connect import connect
from cpg_trio.http.tls import client_context


class GarbledError(Exception):
    """What the server sends is not a websocket."""


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
    """Open a websocket at an http or https URL. When the block ends, close it without a closing handshake.

    `addresses` are those of `Origin`; `ssl_context` is for https; `resolver` looks names up.

    Raises: NotSentError; trio_websocket.ConnectionRejected if the server answers with another status than
    101; GarbledError; trio.TooSlowError if it does not answer within `timeout_s` seconds; ValueError for a
    URL of another kind.
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
