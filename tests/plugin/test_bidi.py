"""Calls to other plugins that stream both ways."""

from __future__ import annotations

import pytest
import trio

from cpg_trio.host import Host
from cpg_trio.plugin import Plugin
from cpg_trio.rpc import Code, ConnectError
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import echo_plugin, eventually, hosting, plugged
from tests.rpc.test_bidi import Chat, texts


async def chat_with(client: EchoServiceClient) -> None:
    chat = Chat()
    with trio.fail_after(10):
        async with client.http_chat(chat.requests()) as answers:
            for text in ("a", "b"):
                await chat.say(text)
                assert (await anext(aiter(answers))).text == text
            chat.end()
            assert [each async for each in answers] == []


def routed(host: Host) -> int:
    return sum(tally.calls for tally in host.call_table.window().by("method").values())


@pytest.mark.parametrize("direct_calls", [False, True])
async def test_a_dependency_is_talked_to_through_the_host_or_directly(direct_calls: bool) -> None:  # noqa: FBT001
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    with pytest.raises(ConnectError) as caught:
        async with client.http_chat(texts("a")):
            pass
    assert caught.value.code is Code.UNAVAILABLE
    async with (
        hosting() as (host, url),
        plugged(echo_plugin(), url),
        plugged(caller, url, direct_calls=direct_calls),
    ):
        provider = await echo._service.wait_available()
        if direct_calls:
            await eventually(lambda: echo._service.direct.grant_for(provider))
        await chat_with(client)
        assert routed(host) == (0 if direct_calls else 1)


async def test_a_provider_that_leaves_ends_the_talk() -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    stop = trio.Event()
    async with hosting() as (_, url), plugged(caller, url), trio.open_nursery() as nursery:

        async def provide(task_status: trio.TaskStatus[None]) -> None:
            async with plugged(echo_plugin(), url, stop=stop, grace_s=0.1):
                task_status.started()
                await stop.wait()

        await nursery.start(provide)
        await echo.wait_available()
        chat = Chat()
        with trio.fail_after(10), pytest.raises(ConnectError):
            async with echo.client(EchoServiceClient).http_chat(chat.requests()) as answers:
                await chat.say("a")
                await anext(aiter(answers))
                stop.set()
                await anext(aiter(answers))
