"""The programs in the guide to calling plugins from outside: they run as they are written there."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trio

from cpg_trio import Context
from tests._gen.echo.v1.echo_pb2 import EchoRequest, EchoResponse
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import echo_plugin, hosting, is_healthy, plugged, until, unused_port
from tests.rpc.echo import Echo

PAGE = (Path(__file__).parents[1] / "docs/guides/calling-from-outside.md").read_text()


class Greeter(Echo):
    async def echo(self, request: EchoRequest, ctx: Context, /) -> EchoResponse:
        assert ctx.caller is not None
        return EchoResponse(text=f"Hello, {request.text}! ({ctx.caller.name})")


class GreeterClient(EchoServiceClient):
    greet = EchoServiceClient.echo


@asynccontextmanager
async def greeting(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Run a host with a greeter; yield its URL."""
    modules = {
        "greeter.protos.greeter.v1.greeter_pb2": SimpleNamespace(
            GreetRequest=lambda name: EchoRequest(text=name)
        ),
        "greeter.protos.greeter.v1.greeter_trio": SimpleNamespace(GreeterClient=GreeterClient),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    async with hosting() as (host, url), plugged(echo_plugin(service=Greeter(), service_type="greeter"), url):
        await until(host, lambda: is_healthy(host, "greeter"))
        yield url


def program(name: str, **replaced: str) -> Any:
    """Return the `main` of the program with a session of some name, in which some words are others."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (code,) = [each for each in blocks if "async def main" in each and f'name="{name}"' in each]
    for before, after in {"trio.run(main)": "pass", **replaced}.items():
        assert before in code
        code = code.replace(before, after)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["main"]


async def test_the_script_prints_what_the_plugin_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with greeting(monkeypatch) as url:
        await program("script", **{"http://localhost:8080": url})()
    assert capsys.readouterr().out == "Hello, Ada! (script)\n"


async def test_the_gateway_answers_browsers_and_says_when_nobody_greets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = f"127.0.0.1:{unused_port()}"
    async with httpx.AsyncClient() as http, trio.open_nursery() as nursery:

        async def answer() -> httpx.Response | None:
            try:
                return await http.get(f"http://{own}/Ada")
            except httpx.ConnectError:
                return None

        async with greeting(monkeypatch) as url:
            monkeypatch.setenv("HOST_URL", url)
            nursery.start_soon(program("gateway", **{"127.0.0.1:8000": own}))
            await _listening(own)
            answered = await answer()
            assert answered is not None
            assert (answered.status_code, answered.text) == (200, "Hello, Ada! (gateway)")
        answered = await answer()
        assert answered is not None
        assert (answered.status_code, answered.text) == (503, "unavailable")
        nursery.cancel_scope.cancel()


async def _listening(address: str) -> None:
    host, _, port = address.rpartition(":")
    with trio.fail_after(30):
        while True:
            try:
                stream = await trio.open_tcp_stream(host, int(port))
            except OSError:
                await trio.sleep(0.02)
            else:
                await stream.aclose()
                return
