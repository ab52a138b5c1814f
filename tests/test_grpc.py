"""A real gRPC client, which needs HTTP/2 and trailers: at a plugin itself, and through the host's router."""

from __future__ import annotations

from functools import partial
from typing import TypeAlias, cast

import grpc
import pytest
import trio

from tests._gen.echo.v1 import echo_pb2 as pb
from tests.plugin.running import echo_plugin, hosting, is_healthy, plugged, until

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]


def call(address: str, prefix: str, text: str, metadata: Metadata) -> str:
    with grpc.insecure_channel(address.removeprefix("http://")) as channel:
        echo = channel.unary_unary(
            f"{prefix}/echo.v1.EchoService/Echo",
            request_serializer=pb.EchoRequest.SerializeToString,
            response_deserializer=pb.EchoResponse.FromString,
        )
        return str(echo(pb.EchoRequest(text=text), metadata=metadata, timeout=10).text)


def count(address: str, prefix: str, to: int, metadata: Metadata) -> list[int]:
    with grpc.insecure_channel(address.removeprefix("http://")) as channel:
        numbers = channel.unary_stream(
            f"{prefix}/echo.v1.EchoService/Count",
            request_serializer=pb.CountRequest.SerializeToString,
            response_deserializer=pb.CountResponse.FromString,
        )
        return [m.number for m in numbers(pb.CountRequest(to=to), metadata=metadata, timeout=10)]


@pytest.mark.parametrize("through_the_router", [False, True])
async def test_grpc_calls_streams_and_errors(through_the_router: bool) -> None:  # noqa: FBT001
    async with hosting() as (host, host_url), plugged(echo_plugin(public=True), host_url) as plugin_url:
        await until(host, lambda: is_healthy(host, "echo"))
        address, prefix = plugin_url, ""
        metadata: Metadata = ()
        if through_the_router:
            caller, token = host.identities.issue("caller")
            address, prefix = host_url, host.registry.discover("echo")[0].endpoint_url
            metadata = (("x-plugin-runtime-id", caller.runtime_id), ("authorization", f"Bearer {token}"))
        assert await trio.to_thread.run_sync(partial(call, address, prefix, "✓", metadata)) == "✓"
        assert await trio.to_thread.run_sync(partial(count, address, prefix, 3, metadata)) == [0, 1, 2]
        with pytest.raises(grpc.RpcError) as caught:
            await trio.to_thread.run_sync(partial(call, address, prefix, "fail", metadata))
        error = cast("grpc.Call", caught.value)
        assert (error.code(), error.details()) == (grpc.StatusCode.ALREADY_EXISTS, "there it is")
