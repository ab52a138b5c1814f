"""The server: the suite's service on `rpc.application`, served on a free port as the runner asks.

With the argument `hypercorn` the engine of HTTP/1.1 is Hypercorn's.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio
from conformance_stubs.connectrpc.conformance.v1 import server_compat_pb2, service_pb2
from conformance_stubs.connectrpc.conformance.v1.service_trio import ConformanceService
from google.protobuf.message import Message
from trio.lowlevel import FdStream

from cpg_trio import http, rpc
from tests.conformance.messages import add_headers, framed, headers_of, raised, received, written


class Conformance(ConformanceService):
    """Answers as each request says, and tells what it has received. `Unimplemented` stays so."""

    async def unary(self, request: Any, ctx: rpc.Context, /) -> Any:
        return service_pb2.UnaryResponse(payload=await _payload(request.response_definition, [request], ctx))

    async def idempotent_unary(self, request: Any, ctx: rpc.Context, /) -> Any:
        payload = await _payload(request.response_definition, [request], ctx)
        return service_pb2.IdempotentUnaryResponse(payload=payload)

    async def client_stream(self, requests: AsyncIterator[Any], ctx: rpc.Context, /) -> Any:
        given = [request async for request in requests]
        definition = (given[0] if given else service_pb2.ClientStreamRequest()).response_definition
        return service_pb2.ClientStreamResponse(payload=await _payload(definition, given, ctx))

    async def server_stream(self, request: Any, ctx: rpc.Context, /) -> AsyncIterator[Any]:
        definition, info = request.response_definition, _info([request], ctx)
        _set_metadata(definition, ctx)
        for number, data in enumerate(definition.response_data):
            await trio.sleep(definition.response_delay_ms / 1000)
            yield service_pb2.ServerStreamResponse(payload=_part(data, None if number else info))
        _raise_error_of(definition, info)

    async def bidi_stream(self, requests: AsyncIterator[Any], ctx: rpc.Context, /) -> AsyncIterator[Any]:
        definition, given, number = service_pb2.StreamResponseDefinition(), list[Message](), 0
        is_first = True
        async for request in requests:
            given.append(request)
            if is_first:
                is_first, definition, full_duplex = False, request.response_definition, request.full_duplex
                _set_metadata(definition, ctx)
            if not full_duplex:
                continue
            if number == len(definition.response_data):
                break
            await trio.sleep(definition.response_delay_ms / 1000)
            info = _info([], None) if number else _info([], ctx)
            info.requests.extend(_packed(given))
            yield service_pb2.BidiStreamResponse(payload=_part(definition.response_data[number], info))
            given, number = [], number + 1
        for later, data in enumerate(definition.response_data[number:], number):
            await trio.sleep(definition.response_delay_ms / 1000)
            yield service_pb2.BidiStreamResponse(payload=_part(data, None if later else _info(given, ctx)))
        _raise_error_of(definition, _info(given, ctx))


async def _payload(definition: Any, requests: Sequence[Message], ctx: rpc.Context) -> Any:
    """Return the only response of a call. Raises: ConnectError if that is what the call asks for."""
    info = _info(requests, ctx)
    _set_metadata(definition, ctx)
    await trio.sleep(definition.response_delay_ms / 1000)
    if definition.HasField("error"):
        raise raised(definition.error, info)
    return _part(definition.response_data, info)


def _part(data: bytes, info: Any) -> Any:
    return service_pb2.ConformancePayload(data=data, request_info=info)


def _raise_error_of(definition: Any, info: Any) -> None:
    """Raise the error at the end of a stream, which has `info` if there was no response before."""
    if definition.HasField("error"):
        raise raised(definition.error, *([] if definition.response_data else [info]))


def _set_metadata(definition: Any, ctx: rpc.Context) -> None:
    add_headers(definition.response_headers, ctx.response_headers)
    add_headers(definition.response_trailers, ctx.response_trailers)


def _info(requests: Sequence[Message], ctx: rpc.Context | None) -> Any:
    info = service_pb2.ConformancePayload.RequestInfo(requests=_packed(requests))
    if ctx is not None:
        info.request_headers.extend(headers_of(ctx.request_headers))
        if ctx.timeout_ms is not None:
            info.timeout_ms = int(ctx.timeout_ms)
        if ctx.http_method == "GET":
            info.connect_get_info.SetInParent()  # methods are not told of the query
    return info


def _packed(requests: Sequence[Message]) -> list[Any]:
    info = service_pb2.ConformancePayload.RequestInfo()
    for request in requests:
        info.requests.add().Pack(request)
    return list(info.requests)


async def main() -> None:
    """Read what is asked for, serve it, tell where, and go on until SIGTERM."""
    async for asked in received(server_compat_pb2.ServerCompatRequest, FdStream(os.dup(0))):
        with tempfile.TemporaryDirectory() as folder, trio.open_signal_receiver(signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                await _serve(asked, Path(folder), nursery)
                await anext(signals)
                nursery.cancel_scope.cancel()
        return


async def _serve(asked: Any, folder: Path, nursery: trio.Nursery) -> None:
    authorities = written(folder / "clients.pem", asked.client_tls_cert)
    tls = http.TlsConfig(
        cert_file=written(folder / "cert.pem", asked.server_creds.cert if asked.use_tls else b""),
        key_file=written(folder / "key.pem", asked.server_creds.key if asked.use_tls else b""),
        ca_file=authorities,
        clients=http.Clients.REQUIRED if authorities else http.Clients.NONE,
    )
    app = rpc.application(
        [Conformance()], max_message_bytes=asked.message_receive_limit or rpc.MAX_MESSAGE_BYTES
    )

    engine = http.Http1Engine.HYPERCORN if "hypercorn" in sys.argv else http.Http1Engine.OWN
    config = http.ServeConfig(tls=tls, http1_engine=engine)

    async def serve(*, task_status: trio.TaskStatus[tuple[str, ...]]) -> None:
        await http.serve(app, config=config, task_status=task_status)

    url = urlsplit((await nursery.start(serve))[0])
    answer = server_compat_pb2.ServerCompatResponse(host=url.hostname, port=url.port)
    if asked.use_tls:
        answer.pem_cert = asked.server_creds.cert
    await FdStream(os.dup(1)).send_all(framed(answer))


if __name__ == "__main__":
    trio.run(main)
