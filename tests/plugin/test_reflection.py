"""Who learns what of a plugin that describes its services: asked by a real gRPC client."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeAlias, cast

import grpc
import pytest
import trio

from cpg_trio.host import Host, HostConfig, PluginRules, Policy, Rules
from cpg_trio.plugin import Plugin
from cpg_trio.protos.grpc.reflection.v1 import reflection_pb2 as v1
from cpg_trio.protos.grpc.reflection.v1alpha import reflection_pb2 as v1alpha
from cpg_trio.protos.storage.v1.storage_trio import StorageService
from cpg_trio.rpc.reflection import NAMES
from tests.plugin.running import echo_plugin, hosting, is_healthy, plugged, until
from tests.rpc.echo import Echo

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
ECHO, STORAGE = "echo.v1.EchoService", "storage.v1.Storage"


def ask(address: str, prefix: str = "", pb: Any = v1, metadata: Metadata = ()) -> list[str]:
    """List the services, then ask for the file of each on the same stream: the questions follow answers."""
    waiting: SimpleQueue[Any] = SimpleQueue()

    def questions() -> Iterator[Any]:
        while (question := waiting.get()) is not None:
            yield question

    with grpc.insecure_channel(address.removeprefix("http://")) as channel:
        call: Any = channel.stream_stream(
            f"{prefix.rstrip('/')}/{pb.DESCRIPTOR.package}.ServerReflection/ServerReflectionInfo",
            request_serializer=pb.ServerReflectionRequest.SerializeToString,
            response_deserializer=pb.ServerReflectionResponse.FromString,
        )
        answers = call(questions(), metadata=metadata, timeout=10)
        try:
            waiting.put(pb.ServerReflectionRequest(list_services="*"))
            names = [each.name for each in next(answers).list_services_response.service]
            for name in names:
                waiting.put(pb.ServerReflectionRequest(file_containing_symbol=name))
                assert next(answers).file_descriptor_response.file_descriptor_proto, name
        finally:
            waiting.put(None)
        assert not list(answers)
        return names


async def asked(*args: Any) -> list[str]:
    return await trio.to_thread.run_sync(partial(ask, *args))


async def refusal(*args: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        await asked(*args)
    return cast("grpc.Call", caught.value).code()


def both(*, public: bool = False) -> Plugin:
    """Return a plugin with two services, of which the first one may be public."""
    plugin = Plugin("two", version="1.0.0")
    plugin.provide("echo", Echo(), public=public)
    plugin.provide("storage", StorageService())
    return plugin


def identity(host: Host, name: str = "caller") -> Metadata:
    caller, token = host.identities.issue(name)
    return (("x-plugin-runtime-id", caller.runtime_id), ("authorization", f"Bearer {token}"))


def endpoint(host: Host, service_type: str) -> str:
    return host.registry.discover(service_type)[0].endpoint_url


@pytest.mark.parametrize("pb", [v1, v1alpha], ids=["v1", "v1alpha"])
async def test_through_the_host_a_caller_learns_of_the_service_that_it_may_call(pb: Any) -> None:
    async with hosting() as (host, url), plugged(both(), url, reflection=True):
        await until(host, lambda: is_healthy(host, "storage"))
        caller = identity(host)
        assert await asked(url, endpoint(host, "echo"), pb, caller) == [ECHO, *NAMES]
        assert await asked(url, endpoint(host, "storage"), pb, caller) == [*NAMES, STORAGE]
        assert await refusal(url, endpoint(host, "echo"), pb) is grpc.StatusCode.UNAUTHENTICATED


async def test_the_policy_of_the_host_holds_for_reflection() -> None:
    policy = Policy(Rules(plugins={"caller": PluginRules(calls=["echo"])}))
    async with hosting(HostConfig(policy=policy)) as (host, url), plugged(both(), url, reflection=True):
        await until(host, lambda: is_healthy(host, "storage"))
        caller = identity(host)
        assert await asked(url, endpoint(host, "echo"), v1, caller) == [ECHO, *NAMES]
        refused = await refusal(url, endpoint(host, "storage"), v1, caller)
        assert refused is grpc.StatusCode.PERMISSION_DENIED


async def test_a_stranger_learns_of_public_services_only() -> None:
    async with hosting() as (_, url), plugged(both(public=True), url, reflection=True) as plugin_url:
        assert await asked(plugin_url) == [ECHO, *NAMES]
        assert await asked(plugin_url, f"/{ECHO}") == [ECHO, *NAMES]
        assert await refusal(plugin_url, f"/{STORAGE}") is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stranger_learns_nothing_of_a_plugin_without_public_services() -> None:
    async with hosting() as (_, url), plugged(both(), url, reflection=True) as plugin_url:
        for prefix in ("", f"/{ECHO}", f"/{STORAGE}"):
            assert await refusal(plugin_url, prefix) is grpc.StatusCode.UNAUTHENTICATED


async def test_whoever_may_call_unsigned_may_ask_unsigned() -> None:
    async with (
        hosting() as (host, url),
        plugged(both(), url, reflection=True, accept_unsigned=True) as its_url,
    ):
        await until(host, lambda: is_healthy(host, "storage"))
        assert await asked(its_url) == [ECHO, *NAMES, STORAGE]


async def test_nothing_is_described_by_default() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(public=True), url) as plugin_url:
        await until(host, lambda: is_healthy(host, "echo"))
        assert await refusal(plugin_url) is grpc.StatusCode.UNIMPLEMENTED
        assert await refusal(plugin_url, f"/{ECHO}") is grpc.StatusCode.UNIMPLEMENTED
        through = await refusal(url, endpoint(host, "echo"), v1, identity(host))
        assert through is grpc.StatusCode.UNIMPLEMENTED
