"""`ServiceRegistry`: what a plugin learns of others, once and in a watch."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from cpg_trio.host import HostConfig, Identity, Policy
from cpg_trio.rpc import AsgiTransport
from tests._wire import dial, request
from tests.host.calls import (
    DISCOVER,
    WATCH,
    Headers,
    running,
    runtime_id,
)
from tests.host.rpcs import ENDED, introduced, refused, renewed
from tests.plugin.running import eventually, hosting


def frame_of(service_type: str) -> bytes:
    content = json.dumps({"serviceType": service_type}).encode()
    return b"\0" + len(content).to_bytes(4, "big") + content


def streaming(headers: Headers) -> Headers:
    return {**headers, "content-type": "application/connect+json"}


@pytest.mark.parametrize(
    "body",
    [
        {"serviceType": ""},
        {"serviceType": "a/b"},
        {"serviceType": "t", "minVersion": "x"},
        {"serviceType": "t", "versionRange": "^1"},
        {"serviceType": "t", "versionRange": ">=" + "1" * 2**17},
    ],
)
async def test_a_discovery_that_makes_no_sense_is_an_invalid_argument(body: dict[str, Any]) -> None:
    async with running() as host:
        await host.provider("t")
        status, answer = await host.post(DISCOVER, body, await host.plugin("p"))
        assert (status, answer["code"]) == (400, "invalid_argument")


async def test_a_watch_that_outlives_its_caller_says_why_it_ends(autojump_clock: MockClock) -> None:
    async with running() as host:
        silent = await host.provider("t")
        *_, end = await watch(host.http, silent)
    message = ENDED.format(runtime_id(silent), "no sign of life for 30 s")
    assert end["error"] == {"code": "unauthenticated", "message": message}


async def watch(http: httpx.AsyncClient, headers: Headers) -> list[Any]:
    """Watch to the end; return what came."""
    content = b'{"serviceType": "t"}'
    frame = b"\0" + len(content).to_bytes(4, "big") + content
    response = await http.post(
        WATCH, content=frame, headers={**headers, "content-type": "application/connect+json"}
    )
    data, messages = response.content, []
    while data:
        length = int.from_bytes(data[1:5], "big")
        messages.append(json.loads(data[5 : 5 + length]))
        data = data[5 + length :]
    return messages


async def test_a_watch_ends_when_its_caller_may_not_call_the_service_any_more() -> None:
    class Changing(Policy):
        def may_call(self, _plugin: Identity, _service_type: str, /) -> bool:
            return not host.host.registry.service_types()

    async with running(HostConfig(policy=Changing())) as host, trio.open_nursery() as nursery:
        watcher = await host.plugin("p")
        messages: list[Any] = []

        async def follow() -> None:
            messages.extend(await watch(host.http, watcher))

        nursery.start_soon(follow)
        await eventually(lambda: bool(host.host.watches.watchers("t")))
        await host.provider("t")
    assert messages[0]["state"] == "SERVICE_STATE_UNAVAILABLE"
    assert [message["error"]["code"] for message in messages[1:]] == ["permission_denied"]


async def test_a_watch_ends_with_the_identity_that_opened_it() -> None:
    async with running(HostConfig(unrenewed_token_ttl_s=0.3)) as host:
        with trio.fail_after(10):
            *_, end = await watch(host.http, await host.plugin("p"))
    assert end["error"]["code"] == "unauthenticated"


async def test_a_watch_that_runs_out_of_time_ends_in_good_order() -> None:
    async with running() as host:
        with trio.fail_after(10):
            messages = await watch(host.http, {**await host.plugin("p"), "connect-timeout-ms": "1000"})
    assert messages == [{"serviceType": "t", "state": "SERVICE_STATE_UNAVAILABLE"}, {}]


async def test_a_provider_whose_identity_has_expired_is_not_offered() -> None:
    async with running(HostConfig(unrenewed_token_ttl_s=0.2)) as host:
        await host.provider("t")
        await trio.sleep(0.1)
        caller = await host.plugin("p")
        await trio.sleep(0.15)
        assert (await host.post(DISCOVER, {"serviceType": "t"}, caller))[0] in {404, 401}
        assert not host.host.registry.available("t")


@pytest.mark.parametrize("path", [DISCOVER, WATCH])
async def test_a_plugin_that_says_what_it_requires_is_told_of_nothing_else(path: str) -> None:
    async with running() as host:
        await host.provider("t")
        me = await introduced(host, "p", {"requires": "other"})
        error = await refused(host.http, path, {"serviceType": "t"}, me)
        assert error == {
            "code": "permission_denied",
            "message": f"{runtime_id(me)} may not call t",
        }


async def test_what_a_registration_says_of_where_a_plugin_is_is_told_to_nobody() -> None:
    async with running() as host:
        await host.provider("t", "http://127.0.0.1:28081")
        me = await host.plugin("p")
        _, found = await host.post(DISCOVER, {"serviceType": "t"}, me)
        assert "28081" not in json.dumps(found)
        async with host.http.stream("POST", WATCH, content=frame_of("t"), headers=streaming(me)) as response:
            first = await anext(response.aiter_bytes())
        assert b"28081" not in first


async def test_a_watch_outlives_the_token_that_it_was_begun_with_if_that_is_renewed(
    autojump_clock: MockClock,
) -> None:
    config = HostConfig(unrenewed_token_ttl_s=60, token_ttl_s=60)
    async with running(config) as host:
        me = await host.plugin("p")
        async with host.http.stream("POST", WATCH, content=frame_of("t"), headers=streaming(me)) as response:
            chunks = response.aiter_bytes()
            await anext(chunks)
            await trio.sleep(40)
            _, me = await renewed(host, me)
            await trio.sleep(40)
            await host.provider("t")
            assert b"AVAILABLE" in await anext(chunks)
            with pytest.raises(StopAsyncIteration):
                while True:
                    last = await anext(chunks)
        assert b"unauthenticated" in last


_OF_A_REACTOR = {"", "cpg_trio.http.reactor._Registered.follow"}


def _task() -> str:
    """Return the name of the task in which this is called; empty if that is none."""
    try:
        return trio.lowlevel.current_task().name
    except RuntimeError:
        return ""


GRPC_WEB = {"content-type": "application/grpc-web+json"}
PLAIN = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "body", "status", "at_once"),
    [
        (PLAIN, b'{"serviceType": "t"}', 200, True),
        (PLAIN | {"connect-timeout-ms": "5000"}, b'{"serviceType": "t"}', 200, True),
        (PLAIN | {"connect-timeout-ms": "0"}, b'{"serviceType": "t"}', 504, True),
        (PLAIN | {"content-encoding": "gzip"}, gzip.compress(b'{"serviceType": "t"}', mtime=0), 200, True),
        (PLAIN | {"accept-encoding": "gzip"}, b'{"serviceType": "t"}', 200, True),
        (PLAIN, b'{"serviceType": "nobody"}', 404, True),
        (PLAIN | {"connect-timeout-ms": "soon"}, b'{"serviceType": "t"}', 400, None),
        (PLAIN, b"{", 400, None),
        ({"content-type": "text/plain"}, b"t", 415, None),
        (GRPC_WEB, frame_of("t"), 200, False),
    ],
)
async def test_a_discovery_is_answered_without_a_task_if_it_is_plain_and_all_answers_are_the_same(
    headers: Headers, body: bytes, status: int, *, at_once: bool | None
) -> None:
    tasks: list[str] = []

    class Watched(Policy):
        def may_call(self, plugin: Identity, service_type: str, /) -> bool:
            tasks.append(_task())
            return super().may_call(plugin, service_type)

    async with (
        hosting(HostConfig(policy=Watched())) as (host, url),
        host.application() as app,
        httpx.AsyncClient(transport=AsgiTransport(app), base_url="http://localhost") as in_memory,
        dial(url) as wire,
    ):
        host.registry.register("p", "t", "1.0.0", "/x/", {"k": "v"})
        identity, token = host.identities.issue("caller")
        proof = {"x-plugin-runtime-id": identity.runtime_id, "authorization": f"Bearer {token}"}
        sent = {**proof, "accept-encoding": "identity", **headers}
        await wire.send(request("POST", DISCOVER, sent, body))
        answer = await wire.response()
        same = await in_memory.post(DISCOVER, content=body, headers=sent)
        packed = answer.header(b"content-encoding") == b"gzip"
        content = gzip.decompress(answer.body) if packed else answer.body
        assert (answer.status, content) == (status, same.content)
        for name in ("content-type", "content-encoding", "vary"):
            assert (answer.header(name.encode()) or b"").decode() == same.headers.get(name, "")
        if at_once is not None:
            assert (tasks[0] in _OF_A_REACTOR) == at_once


async def test_the_same_discovery_is_told_what_has_changed_meanwhile() -> None:
    async with running() as host:
        headers, registry = await host.plugin("caller"), host.host.registry

        async def discovered() -> tuple[str, Any, bool]:
            _, answer = await host.post(DISCOVER, {"serviceType": "t"}, headers)
            endpoint = answer["endpoint"]
            return endpoint["version"], endpoint.get("metadata"), answer.get("singleProvider", False)

        registry.register("a", "t", "1.0.0", "/x/", {"k": "v"})
        assert [await discovered() for _ in range(2)] == [("1.0.0", {"k": "v"}, True)] * 2
        registry.register("b", "t", "3.0.0", "/x/", {})
        assert await discovered() == ("1.0.0", {"k": "v"}, False)
        registry.remove_plugin("b")
        registry.register("a", "t", "2.0.0", "/x/", {"k": "w"})
        assert await discovered() == ("2.0.0", {"k": "w"}, True)
