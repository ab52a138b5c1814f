"""Services behind one application: errors that say nothing, and answers to requests that reach no method."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import pytest
import trio

from cpg_trio.rpc import Code, ConnectError, application
from tests._gen.echo.v1 import echo_pb2 as pb
from tests.rpc.echo import ADDRESS, Echo, echo_client, in_process

ECHO = f"{ADDRESS}/echo.v1.EchoService/Echo"
JSON = {"content-type": "application/json"}


async def post(url: str, body: bytes, **headers: str) -> tuple[int, object]:
    async with in_process(application([Echo()])) as http:
        response = await http.post(
            url, content=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        try:
            return response.status_code, response.json()
        except ValueError:
            return response.status_code, response.text


@pytest.mark.parametrize("text", ["explode", "groups", "wrong type"])
async def test_what_an_unexpected_exception_says_is_logged_and_never_sent(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, body = await post(ECHO, json.dumps({"text": text}).encode(), content_type="application/json")
    assert (status, body) == (500, {"code": "internal", "message": "internal error"})
    assert "unexpected exception in echo.v1.EchoService/Echo" in caplog.text
    assert caplog.records[0].exc_info


async def test_an_exception_in_a_stream_says_nothing_either(caplog: pytest.LogCaptureFixture) -> None:
    async def thirteen() -> AsyncIterator[pb.SumRequest]:
        yield pb.SumRequest(number=13)

    async with echo_client() as client:
        seen: list[int] = []
        with pytest.raises(ConnectError) as caught:
            async with client.count(pb.CountRequest(to=-2)) as stream:
                async for message in stream:
                    seen.append(message.number)
        assert seen == [0, 1]
        assert (caught.value.code, caught.value.message) == (Code.INTERNAL, "internal error")
        with pytest.raises(ConnectError) as caught:
            await client.sum(thirteen())
        assert (caught.value.code, caught.value.message) == (Code.INTERNAL, "internal error")
    assert len(caplog.records) == 2


async def test_an_exception_in_a_stream_of_both_ways_says_nothing_either(
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = pb.HTTPChatRequest(text="hello").SerializeToString()
    bad = pb.HTTPChatRequest(text="explode").SerializeToString()
    body = b"".join(b"\0" + len(c).to_bytes(4, "big") + c for c in (content, bad))
    async with in_process(application([Echo()])) as http:
        response = await http.post(
            f"{ADDRESS}/echo.v1.EchoService/HTTPChat",
            content=body,
            headers={"content-type": "application/connect+proto"},
        )
    assert b"hello" in response.content
    assert b"internal error" in response.content
    assert b"secret" not in response.content
    assert len(caplog.records) == 1


async def test_a_connect_error_alone_in_a_group_is_what_the_client_gets() -> None:
    async with echo_client() as client:
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest(text="group"))
    assert (caught.value.code, caught.value.message) == (Code.ABORTED, "from a task")


@pytest.mark.parametrize("path", ["/echo.v1.EchoService/Nope", "/nope.v1.Nope/Nope", "/"])
async def test_an_unknown_method_or_path_is_404_in_text(path: str) -> None:
    assert await post(ADDRESS + path, b"{}", content_type="application/json") == (404, "404 page not found\n")


async def test_get_is_refused_with_the_method_that_works() -> None:
    async with in_process(application([Echo()])) as http:
        response = await http.get(ECHO)
    assert (response.status_code, response.headers["allow"], response.content) == (405, "POST", b"")


async def test_another_content_type_is_refused_with_those_that_work() -> None:
    async with in_process(application([Echo()])) as http:
        response = await http.post(ECHO, content=b"{}", headers={"content-type": "text/plain"})
    assert (response.status_code, response.content) == (415, b"")
    assert "application/json" in response.headers["accept-post"]


async def test_another_protocol_version_is_refused_in_the_protocols_words() -> None:
    assert await post(ECHO, b"{}", content_type="application/json", connect_protocol_version="2") == (
        400,
        {"code": "invalid_argument", "message": 'Connect-Protocol-Version must be "1": got "2"'},
    )


@pytest.mark.parametrize("body", [b"", b"{", b'{"text": 1}'])
async def test_a_body_that_is_no_message_is_an_invalid_argument(body: bytes) -> None:
    status, answer = await post(ECHO, body, content_type="application/json")
    assert status == 400
    assert isinstance(answer, dict)
    assert answer["code"] == "invalid_argument"


async def test_headers_that_are_no_text_are_an_invalid_argument() -> None:
    async with in_process(application([Echo()])) as http:
        response = await http.post(
            ECHO, content=b"{}", headers=[(b"content-type", b"application/json"), (b"x", b"\xff")]
        )
    assert response.status_code == 400
    assert response.json()["code"] == "invalid_argument"


async def test_an_unknown_compression_is_unimplemented() -> None:
    status, answer = await post(ECHO, b"{}", content_type="application/json", content_encoding="br")
    assert status == 501
    assert isinstance(answer, dict)
    assert answer["code"] == "unimplemented"


async def test_a_timeout_that_is_no_number_is_an_invalid_argument() -> None:
    status, answer = await post(ECHO, b"{}", content_type="application/json", connect_timeout_ms="abc")
    assert status == 400
    assert isinstance(answer, dict)
    assert answer["code"] == "invalid_argument"


async def test_a_request_larger_than_the_limit_is_refused() -> None:
    status, answer = await post(ECHO, bytes(5 * 1024 * 1024), content_type="application/proto")
    assert status == 429
    assert isinstance(answer, dict)
    assert answer["code"] == "resource_exhausted"


async def test_unknown_json_fields_and_proto_names_are_understood() -> None:
    status, answer = await post(
        ECHO, b'{"text": "a", "bogus": 1}', content_type="application/json; charset=utf-8"
    )
    assert (status, answer) == (200, {"text": "a"})


async def test_a_clients_timeout_cancels_the_handler(autojump_clock: object) -> None:
    echo = Echo()
    async with in_process(application([echo])) as http:
        response = await http.post(
            ECHO, content=b'{"text": "hang"}', headers={**JSON, "connect-timeout-ms": "20"}
        )
        with trio.fail_after(5):
            await echo.cancelled.wait()
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")


async def test_a_cancelled_handler_is_no_news_for_the_log(
    caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    caplog.set_level(logging.WARNING)
    echo = Echo()
    async with echo_client(None, echo) as client:
        with trio.move_on_after(0.02):
            await client.echo(pb.EchoRequest(text="hang"))
        with trio.fail_after(5):
            await echo.cancelled.wait()
    assert caplog.records == []


@pytest.mark.parametrize(
    "content_type", ["application/grpc", "application/grpc+proto", "application/grpc; x=y"]
)
async def test_grpc_without_trailers_is_refused_and_no_news(
    content_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with in_process(application([Echo()])) as http:
        response = await http.post(ECHO, content=b"", headers={"content-type": content_type})
    assert (response.status_code, response.content) == (415, b"")
    assert caplog.records == []
