"""Calls that stream both ways: over HTTP/2 with a pool, and over httpx as far as that goes."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import trio

from cpg_trio.http import Pool
from cpg_trio.rpc import ClientConfig, Code, ConnectError, PoolClient, ResponseMetadata, application
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.http.apps import served
from tests.rpc.echo import Echo, canned, echo_client


class Chat:
    """Requests that a test makes one by one."""

    def __init__(self) -> None:
        self._say, self._said = trio.open_memory_channel[pb.HTTPChatRequest](0)
        self.left = trio.Event()

    async def requests(self) -> AsyncGenerator[pb.HTTPChatRequest, None]:
        try:
            async for request in self._said:
                yield request
        finally:
            self.left.set()

    async def say(self, text: str) -> None:
        await self._say.send(pb.HTTPChatRequest(text=text))

    def end(self) -> None:
        self._say.close()


async def texts(*words: str) -> AsyncGenerator[pb.HTTPChatRequest, None]:
    for word in words:
        yield pb.HTTPChatRequest(text=word)


@pytest.mark.parametrize("codec", ["proto", "json"])
async def test_each_message_is_answered_before_the_next_one(codec: str) -> None:
    config = ClientConfig(codec="json" if codec == "json" else "proto")
    async with served(application([Echo()])) as url, Pool() as pool:
        chat, metadata = Chat(), ResponseMetadata()
        client = EchoServiceClient(url, pool, config)
        with trio.fail_after(10):
            async with client.http_chat(chat.requests(), metadata=metadata) as answers:
                for text in ("a", "b", "c" * 100_000):
                    await chat.say(text)
                    assert (await anext(aiter(answers))).text == text
                chat.end()
                assert [each async for each in answers] == []
        assert metadata.headers["content-type"] == f"application/connect+{codec}"


async def test_a_call_that_is_left_stops_the_method_and_its_requests() -> None:
    async with served(application([Echo()])) as url, Pool() as pool:
        client = EchoServiceClient(url, pool)
        chat = Chat()
        async with client.http_chat(chat.requests()) as answers:
            await chat.say("a")
            await anext(aiter(answers))
        assert chat.left.is_set()
        async with client.http_chat(texts("c")) as answers:
            assert [each.text async for each in answers] == ["c"]
        assert pool.statistics().opened == 1


async def test_an_error_comes_behind_the_answers_before_it() -> None:
    async with served(application([Echo()])) as url, Pool() as pool:
        answers: list[str] = []
        with pytest.raises(ConnectError, match="internal error") as caught:
            async with EchoServiceClient(url, pool).http_chat(texts("a", "explode", "b")) as stream:
                async for each in stream:
                    answers.append(each.text)
        assert caught.value.code is Code.INTERNAL
        assert answers == ["a"]


async def test_its_own_deadline_is_an_error_and_an_enclosing_one_a_cancellation() -> None:
    async with served(application([Echo()])) as url, Pool() as pool:
        client = EchoServiceClient(url, pool)
        with pytest.raises(ConnectError) as caught:
            async with client.http_chat(Chat().requests(), timeout_s=0.05) as stream:
                await anext(aiter(stream))
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        with trio.move_on_after(0.05) as scope:
            async with client.http_chat(Chat().requests()) as stream:
                await anext(aiter(stream))
        assert scope.cancelled_caught


async def test_what_does_not_answer_a_stream_is_an_error() -> None:
    async with served(canned(404, b"nobody here", content_type="text/plain")) as url, Pool() as pool:
        with pytest.raises(ConnectError, match="nobody here"):
            async with EchoServiceClient(url, pool).http_chat(texts()) as stream:
                await anext(aiter(stream))
    async with Pool() as pool:
        with pytest.raises(ConnectError) as caught:
            async with EchoServiceClient(url, pool).http_chat(texts()):
                pass
    assert caught.value.code is Code.UNAVAILABLE


async def test_over_http1_if_that_is_asked_for() -> None:
    async with served(application([Echo()])) as url, Pool() as pool:
        client = EchoServiceClient(url, PoolClient(pool, http2=False))
        async with client.http_chat(texts("a", "b")) as stream:
            assert [each.text async for each in stream] == ["a", "b"]
        assert pool.statistics().idle == 1  # an HTTP/2 connection counts as active


async def test_over_httpx_the_answers_follow_the_requests() -> None:
    async with echo_client() as client, client.http_chat(texts("a", "b")) as stream:
        assert [each.text async for each in stream] == ["a", "b"]
