"""An application's own metadata, as clients of gRPC and Connect exchange it, through a host and directly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest
import trio

from cpg_trio.plugin import Plugin
from cpg_trio.rpc import Code, ConnectError, Context, ResponseMetadata
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.metadata import CLAIMS
from tests.plugin.running import echo_plugin, eventually, hosting, is_healthy, plugged, until
from tests.rpc.echo import Echo

IN_BASE64 = "AAEC/w"
SENT = {"x-tenant": "a", "my_key": "b", "my-key-bin": IN_BASE64}


class Mirror(Echo):
    """Answers with what it is sent, as headers and as trailers."""

    async def echo(self, request: pb.EchoRequest, ctx: Context, /) -> pb.EchoResponse:
        self._mirror(ctx)
        if request.text == "fail":
            raise ConnectError(Code.ABORTED, "no")
        return pb.EchoResponse(text=request.text)

    async def count(self, request: pb.CountRequest, ctx: Context, /) -> AsyncIterator[pb.CountResponse]:
        self._mirror(ctx)
        for number in range(request.to):
            yield pb.CountResponse(number=number)

    def _mirror(self, ctx: Context) -> None:
        self.contexts.append(ctx)
        for name in SENT:
            for value in ctx.request_headers.getall(name):
                ctx.response_headers.add(f"h-{name}", value)
                ctx.response_trailers.add(f"t-{name}", value)
        for headers in (ctx.response_headers, ctx.response_trailers):
            headers["x-plugin-undelivered"] = "true"
            headers["set-cookie"] = "a=b"


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_a_grpc_client_exchanges_metadata_through_the_router(kind: str) -> None:
    mirror = Mirror()
    async with hosting() as (host, host_url), plugged(echo_plugin(service=mirror), host_url):
        await until(host, lambda: is_healthy(host, "echo"))
        caller, token = host.identities.issue("caller")
        proof = (("x-plugin-runtime-id", caller.runtime_id), ("authorization", f"Bearer {token}"))
        repeated = (("x-tenant", "a"), ("my-key-bin", b"\0\1\2\xff"), ("x-tenant", "b"), ("my_key", "1"))
        claims = tuple((name, "x") for name in CLAIMS[1:])
        path = host.registry.discover("echo")[0].endpoint_url
        asked = partial(_ask_grpc, host_url, path, kind, (*proof, *repeated, *claims))
        headers, trailers = await trio.to_thread.run_sync(asked)
    expected = {("x-tenant", "a"), ("my-key-bin", b"\0\1\2\xff"), ("x-tenant", "b"), ("my_key", "1")}
    assert {(name[2:], value) for name, value in headers if name.startswith("h-")} == expected
    assert [value for name, value in headers if name == "h-x-tenant"] == ["a", "b"]
    assert {(name[2:], value) for name, value in trailers if name.startswith("t-")} == expected
    assert not {"x-plugin-undelivered", "set-cookie"} & {name for name, _ in (*headers, *trailers)}
    (ctx,) = mirror.contexts
    assert not set(CLAIMS) - {"x-plugin-caller-id"} & set(ctx.request_headers)
    assert ctx.request_headers.getall("x-plugin-caller-id") == [caller.runtime_id]


def _ask_grpc(address: str, path: str, kind: str, metadata: Any) -> tuple[Any, Any]:
    with grpc.insecure_channel(address.removeprefix("http://")) as channel:
        method = f"{path}/echo.v1.EchoService/"
        if kind == "unary":
            echo = channel.unary_unary(
                f"{method}Echo", pb.EchoRequest.SerializeToString, pb.EchoResponse.FromString
            )
            _, call = echo.with_call(pb.EchoRequest(text="hi"), metadata=metadata, timeout=10)
        else:
            count = channel.unary_stream(
                f"{method}Count", pb.CountRequest.SerializeToString, pb.CountResponse.FromString
            )
            call = count(pb.CountRequest(to=3), metadata=metadata, timeout=10)
            assert len(list(call)) == 3
        return call.initial_metadata(), call.trailing_metadata()


@pytest.mark.parametrize("direct_calls", [False, True])
async def test_a_connect_client_exchanges_metadata_routed_and_directly(direct_calls: bool) -> None:  # noqa: FBT001
    consumer, mirror = _consumer(), Mirror()
    client = consumer.require("echo").client(EchoServiceClient)
    dependency = consumer._declared.dependencies["echo"]
    async with (
        hosting() as (_, host_url),
        plugged(echo_plugin(service=mirror), host_url),
        plugged(consumer, host_url, direct_calls=direct_calls),
    ):
        provider = await dependency.wait_available()
        await eventually(lambda: not direct_calls or dependency.direct.grant_for(provider))
        claims = dict.fromkeys(CLAIMS, "x")
        metadata = ResponseMetadata()
        await client.echo(pb.EchoRequest(text="hi"), headers={**SENT, **claims}, metadata=metadata)
        _check_mirrored(metadata)
        failed = ResponseMetadata()
        with pytest.raises(ConnectError):
            await client.echo(pb.EchoRequest(text="fail"), headers=SENT, metadata=failed)
        _check_mirrored(failed)
        async with client.count(pb.CountRequest(to=2), headers={**SENT, **claims}) as responses:
            assert len([response async for response in responses]) == 2
        _check_mirrored(responses.metadata)
    allowed = set() if direct_calls else {"x-plugin-caller-id"}
    for ctx in mirror.contexts:
        assert set(CLAIMS) & set(ctx.request_headers) == allowed
        assert ctx.caller is not None


def _consumer() -> Plugin:
    return Plugin("consumer", version="1.0.0")


def _check_mirrored(metadata: ResponseMetadata) -> None:
    assert {name[2:]: value for name, value in metadata.headers.items() if name.startswith("h-")} == SENT
    assert {name[2:]: value for name, value in metadata.trailers.items() if name.startswith("t-")} == SENT
