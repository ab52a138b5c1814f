"""Plain HTTP where TLS is spoken, and TLS where plain HTTP is: both sides say so, and what to do about it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from cpg_trio.asgi import Receive, Scope, Send, send_text
from cpg_trio.http import Origin, Pool, Request, ServeConfig, TlsConfig, UpstreamError, serve
from cpg_trio.http.server.config import Http1Engine
from tests._wire import connect
from tests.certificates import Files
from tests.http.peers import Peer, serving

USE_HTTPS = "TLS is spoken here, not plain HTTP: use https://"
USE_HTTP = "plain HTTP is spoken here, not TLS: use http://"


async def hello(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send_text(send, 200, "hello")


@pytest.fixture(params=Http1Engine, ids=lambda engine: engine.value)
def config(request: pytest.FixtureRequest) -> Callable[..., ServeConfig]:
    return partial(ServeConfig, http1_engine=request.param, grace_s=0)


@asynccontextmanager
async def served(config: ServeConfig) -> AsyncIterator[str]:
    stop = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(partial(serve, hello, config=config, stop=stop))
            yield url
            stop.set()


async def ask(url: str, context: ssl.SSLContext, method: bytes = b"GET") -> str:
    """Return what a client makes of a URL: the answer, or the error."""
    origin, _ = Origin.parse(url)
    try:
        async with Pool(ssl_context=lambda: context) as pool:
            answer = await pool.fetch(origin, Request(method, b"/", []))
    except UpstreamError as error:
        return str(error)
    return f"{answer.status} {answer.body.decode()}"


@pytest.mark.parametrize("method", [b"GET", b"DELETE"])
async def test_who_speaks_plain_http_where_tls_is_spoken_is_told_to_use_https(
    config: Callable[..., ServeConfig],
    certificates: Files,
    caplog: pytest.LogCaptureFixture,
    method: bytes,
) -> None:
    context = certificates.client_context(show=False)
    async with served(config(tls=certificates.config())) as url:
        for _ in range(3):
            assert await ask(url.replace("https", "http"), context, method) == f"400 {USE_HTTPS}\n"
        assert await ask(url, context) == "200 hello"
    assert caplog.messages == [f"a client at 127.0.0.1 was told: {USE_HTTPS}"]


async def test_who_speaks_tls_where_plain_http_is_spoken_is_told_to_use_http(
    config: Callable[..., ServeConfig], certificates: Files, caplog: pytest.LogCaptureFixture
) -> None:
    context = certificates.client_context(show=False)
    async with served(config(tls=TlsConfig())) as url:
        for _ in range(3):
            said = await ask(url.replace("http", "https"), context)
            assert said.endswith(f": {USE_HTTP}")
        assert await ask(url, context) == "200 hello"
    assert caplog.messages == [f"a client at 127.0.0.1 was told: {USE_HTTP}"]


async def test_what_is_neither_ends_without_a_word_in_the_log(
    config: Callable[..., ServeConfig], certificates: Files, caplog: pytest.LogCaptureFixture
) -> None:
    for tls in (TlsConfig(), certificates.config()):
        async with served(config(tls=tls)) as url:
            stream = await connect(url.replace("https", "http"))
            await stream.send_all(b"\0\1\2\3 nothing that anybody speaks\r\n\r\n")
            with trio.move_on_after(5):
                while await stream.receive_some():
                    pass
            await trio.aclose_forcefully(stream)
    assert caplog.messages == []


async def test_an_alert_in_place_of_an_answer_says_that_tls_is_spoken() -> None:
    """Others answer so who are spoken to in plain HTTP."""

    async def alert(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(bytes.fromhex("15030100020246"))

    async with serving(alert) as origin, Pool() as pool:
        with pytest.raises(UpstreamError, match=USE_HTTPS):
            await pool.fetch(origin, Request(b"GET", b"/", []))
