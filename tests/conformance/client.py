"""The client: makes each call that the runner asks for with the generated client, and tells how it ended.

With the argument `httpx` it does so over httpx instead of a pool.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import trio
from conformance_stubs.connectrpc.conformance.v1 import client_compat_pb2, config_pb2, service_pb2
from conformance_stubs.connectrpc.conformance.v1.service_trio import ConformanceServiceClient
from google.protobuf.message import Message
from trio.lowlevel import FdStream

from cpg_trio import http, rpc
from cpg_trio.http.certificates import Contexts
from tests.conformance.messages import add_headers, error_of, framed, headers_of, received, written

_CALLS_AT_ONCE = 16
_METHODS: dict[str, tuple[str, Callable[[], Message]]] = {
    "Unary": ("unary", service_pb2.UnaryRequest),
    "IdempotentUnary": ("idempotent_unary", service_pb2.IdempotentUnaryRequest),
    "Unimplemented": ("unimplemented", service_pb2.UnimplementedRequest),
    "ClientStream": ("client_stream", service_pb2.ClientStreamRequest),
    "ServerStream": ("server_stream", service_pb2.ServerStreamRequest),
    "BidiStream": ("bidi_stream", service_pb2.BidiStreamRequest),
}


class Call:
    """One call, and what is known of it so far."""

    def __init__(self, asked: Any, client: ConformanceServiceClient) -> None:
        name, request = _METHODS[asked.method]
        self._asked = asked
        self._method = getattr(client, name)
        self._requests = [request() for _ in asked.request_messages]
        for packed, message in zip(asked.request_messages, self._requests, strict=True):
            packed.Unpack(message)
        self._unsent = len(self._requests)
        self._answers, self._answered = trio.open_memory_channel[None](len(self._requests))
        self._scope = trio.CancelScope()
        self._metadata = rpc.ResponseMetadata()
        self._result = client_compat_pb2.ClientResponseResult()
        self._options: rpc.CallOptions = {
            "headers": add_headers(asked.request_headers, rpc.Headers()),
            "metadata": self._metadata,
        }
        if asked.HasField("timeout_ms"):
            self._options["timeout_s"] = asked.timeout_ms / 1000

    async def run(self) -> Any:
        """Make the call, and cancel it if that is asked for. Return its result."""
        result = self._result
        try:
            async with trio.open_nursery() as nursery:
                with self._scope:
                    await self._make(nursery)
                nursery.cancel_scope.cancel()
        except* rpc.ConnectError as errors:
            result.error.CopyFrom(error_of(_only(errors)))
        if self._scope.cancelled_caught:
            result.error.code = config_pb2.CODE_CANCELED
        result.response_headers.extend(headers_of(self._metadata.headers))
        result.response_trailers.extend(headers_of(self._metadata.trailers))
        result.num_unsent_requests = self._unsent
        return result

    async def _make(self, nursery: trio.Nursery) -> None:
        match self._asked.method:
            case "ClientStream":
                self._take(await self._method(self._messages(nursery), **self._options))
            case "BidiStream":
                await self._read(self._method(self._messages(nursery), **self._options))
            case "ServerStream":
                self._sent(nursery)
                await self._read(self._method(self._requests[0], **self._options))
            case _:
                self._sent(nursery)
                self._take(await self._method(self._requests[0], **self._options))

    async def _messages(self, nursery: trio.Nursery) -> AsyncIterator[Message]:
        """Yield the requests; of a call that is full duplex, each after the answer to the one before."""
        in_turn = self._asked.stream_type == config_pb2.STREAM_TYPE_FULL_DUPLEX_BIDI_STREAM
        for message in self._requests:
            await trio.sleep(self._asked.request_delay_ms / 1000)
            self._unsent -= 1
            yield message
            if in_turn:
                await self._answered.receive()
        if self._cancels("before_close_send"):
            self._scope.cancel()
            await trio.sleep_forever()
        self._sent(nursery)

    def _sent(self, nursery: trio.Nursery) -> None:
        """Note that all requests are sent, or are as good as sent."""
        self._unsent = 0
        if self._asked.HasField("cancel") and self._cancels("after_close_send_ms", None):
            nursery.start_soon(self._cancel_after, self._asked.cancel.after_close_send_ms / 1000)

    async def _cancel_after(self, seconds: float) -> None:
        await trio.sleep(seconds)  # no deadline of the scope, as the server would be told of that
        self._scope.cancel()

    def _cancels(self, *timings: str | None) -> bool:
        return self._asked.cancel.WhichOneof("cancel_timing") in timings

    async def _read(self, responses: Any) -> None:
        async with responses as stream:
            async for response in stream:
                self._take(response)
                if self._cancels("after_num_responses") and (
                    len(self._result.payloads) == self._asked.cancel.after_num_responses
                ):
                    self._scope.cancel()

    def _take(self, response: Any) -> None:
        self._result.payloads.add().CopyFrom(response.payload)
        if len(self._result.payloads) <= len(self._requests):
            self._answers.send_nowait(None)


def _only(errors: BaseExceptionGroup[rpc.ConnectError]) -> rpc.ConnectError:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        (found,) = found.exceptions
    assert isinstance(found, rpc.ConnectError)
    return found


class Clients:
    """The clients that calls are made with: over pools, or over clients of httpx if `over_httpx`."""

    def __init__(self, folder: Path, stack: AsyncExitStack, *, over_httpx: bool) -> None:
        self._folder = folder
        self._stack = stack
        self._over_httpx = over_httpx
        self._opened: dict[tuple[bytes, bytes, bool], rpc.HttpClient] = {}
        self._opening = trio.Lock()

    async def get(self, asked: Any) -> ConformanceServiceClient:
        """Return a client that speaks what is asked for. Those with the same certificates share a pool."""
        is_gzip = asked.compression == config_pb2.COMPRESSION_GZIP
        config = rpc.ClientConfig(
            codec="json" if asked.codec == config_pb2.CODEC_JSON else "proto",
            max_message_bytes=asked.message_receive_limit or rpc.MAX_MESSAGE_BYTES,
            gzip_from_bytes=0 if is_gzip else None,
        )
        scheme = "https" if asked.server_tls_cert else "http"
        address = f"{scheme}://{asked.host}:{asked.port}"
        http2 = asked.http_version == config_pb2.HTTP_VERSION_2
        key = asked.server_tls_cert, asked.client_tls_creds.cert, http2
        async with self._opening:
            if key not in self._opened:
                self._opened[key] = await self._open(self._contexts(asked), http2=http2)
        return ConformanceServiceClient(address, self._opened[key], config)

    def _contexts(self, asked: Any) -> Contexts:
        folder = self._folder / str(len(self._opened))
        folder.mkdir()
        tls = http.TlsConfig(
            cert_file=written(folder / "cert.pem", asked.client_tls_creds.cert),
            key_file=written(folder / "key.pem", asked.client_tls_creds.key),
            ca_file=written(folder / "ca.pem", asked.server_tls_cert),
        )
        return tls.client_contexts()

    async def _open(self, contexts: Contexts, *, http2: bool) -> rpc.HttpClient:
        if self._over_httpx:
            client = httpx.AsyncClient(verify=contexts(), trust_env=False)
            return rpc.HttpxClient(await self._stack.enter_async_context(client))
        pool = await self._stack.enter_async_context(http.Pool(ssl_context=contexts))
        return rpc.PoolClient(pool, http2=http2)


async def main() -> None:
    """Make the calls that are asked for, several at once."""
    output, writing, limit = FdStream(os.dup(1)), trio.Lock(), trio.CapacityLimiter(_CALLS_AT_ONCE)

    async def answer(asked: Any, clients: Clients) -> None:
        async with limit:
            found = client_compat_pb2.ClientCompatResponse(test_name=asked.test_name)
            try:
                found.response.CopyFrom(await Call(asked, await clients.get(asked)).run())
            except Exception as error:  # noqa: BLE001 - the runner shows it beside the case
                found.error.message = repr(error)
        async with writing:
            await output.send_all(framed(found))

    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        clients = Clients(Path(folder), stack, over_httpx="httpx" in sys.argv)
        async with trio.open_nursery() as nursery:
            async for asked in received(client_compat_pb2.ClientCompatRequest, FdStream(os.dup(0))):
                nursery.start_soon(answer, asked, clients)


if __name__ == "__main__":
    trio.run(main)
