"""What people meet first: a mistake is named where it is made, and what works says what it does."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import trio

from cpg_trio import Plugin, run
from cpg_trio.cli._host import TABLE
from cpg_trio.cli._serve_host import serve_host
from cpg_trio.demo.storage import main as storage
from cpg_trio.host import Capability
from cpg_trio.http import StartError
from cpg_trio.plugin import HealthState
from cpg_trio.rpc import Context, application
from cpg_trio.settings import settle
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.demo.shortener import shortener
from tests.plugin.running import echo_plugin, hosting, plugged, until, unused_port
from tests.processes import assert_no_traceback, running
from tests.rpc.echo import Echo

CLASS: Any = Echo
NOBODY: Any = object()
ROOT = Path(__file__).parents[1]


async def host(stop: trio.Event) -> None:
    await serve_host(settle(TABLE, {}, os.environ), stop)


@pytest.fixture
def plugin() -> Plugin:
    return Plugin("p", version="1.0.0")


# Declaring


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda p: p.provide("kv", CLASS), r"Echo is a class: .* Echo\(\)"),
        (lambda p: p.provide("kv", object()), "object does not derive from a generated service"),
        (lambda p: p.provide("kv", Echo(), middleware=lambda _: None), "middleware of kv returned None"),
        (
            lambda p: p.require("kv").client(EchoServiceClient("", NOBODY)),
            "such as EchoServiceClient",
        ),
        (lambda p: p.capability("kv").client(EchoServiceClient("", NOBODY)), "such as EchoServiceClient"),
        (lambda _: application([CLASS]), "Echo is a class"),
        (lambda _: Capability.of("kv", "1.0.0", CLASS), "Echo is a class"),
        (run, "takes a function, as in run.plugin.serve., and not a Plugin"),
        (lambda p: run(p.serve()), "takes a function, as in run.plugin.serve., and not a coroutine"),
    ],
)
def test_what_is_given_in_place_of_something_else_is_named(
    plugin: Plugin, mistake: Callable[[Plugin], object], said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        mistake(plugin)


def test_a_health_that_is_no_state_is_refused(plugin: Plugin) -> None:
    with pytest.raises(TypeError, match=r"99 is no HealthState: give one, as in HealthState\.DEGRADED"):
        plugin.set_health(99)  # type: ignore[arg-type]
    plugin.set_health(HealthState.HEALTHY)


async def test_what_is_declared_too_late_for_the_host_to_hear_of_it_is_refused() -> None:
    plugin = echo_plugin()
    async with hosting() as (served, url), plugged(plugin, url):
        await until(served, lambda: served.registry.available("echo"))
        for late in (
            lambda: plugin.provide("late", Echo()),
            lambda: plugin.require("late"),
            lambda: plugin.capability("late"),
        ):
            with pytest.raises(RuntimeError, match=r"comes before serve\(\)"):
                late()
    plugin.provide("between", Echo())


# Running

AUTHOR = """
    import logging, sys
    from cpg_trio import Plugin, run
    from tests.rpc.echo import Echo

    log = logging.getLogger("mine")
    plugin = Plugin("mine", version="1.0.0")
    plugin.provide("echo", Echo())

    async def main(stop):
        log.info("mine is here")
        log.debug("but not this")
        logging.getLogger("httpx").info("a request")
        logging.getLogger("httpx").warning("a library's warning")
        await plugin.serve(stop)

    sys.exit(run(main))
"""


async def test_an_authors_own_log_is_in_the_log_of_run_and_that_of_libraries_is_not(tmp_path: Path) -> None:
    async with program(tmp_path, AUTHOR, HOST_URL=f"http://127.0.0.1:{unused_port()}") as process:
        await process.until(r"\d mine is here\n")
        await process.until("a library's warning")
        await process.until("mine listening on")
        assert await process.end(signal.SIGTERM) == 0
    assert "but not this" not in process.output
    assert "a request" not in process.output


def program(folder: Path, text: str, **environment: str) -> Any:
    (folder / "author.py").write_text(dedent(text))
    return running("author", environment={"PYTHONPATH": f"{folder}:{ROOT}", **environment}, cwd=folder)


LEAVES_EARLY = """
    import gc, sys
    import trio
    from cpg_trio.http import Pool
    from cpg_trio.rpc import ConnectError
    from tests._gen.echo.v1 import echo_pb2 as pb
    from tests._gen.echo.v1.echo_trio import EchoServiceClient
    from tests.rpc.echo import Echo
    from tests.plugin.running import echo_plugin, hosting, plugged, until
    from tests.test_first_steps import Quitting

    async def requests():
        while True:
            yield pb.SumRequest(number=1)
            await trio.sleep(0.001)

    async def leave(client):
        async with client.count(pb.CountRequest(to=100000)) as stream:
            async for message in stream:
                break
        with trio.move_on_after(0.05):
            async with client.count(pb.CountRequest(to=99)) as stream:
                async for message in stream:
                    pass
        assert (await client.sum(requests())).sum == 1
        try:
            await client.sum(requests(), timeout_s=0.0)
        except ConnectError:
            pass
        gc.collect()
        await trio.sleep(0.05)
        gc.collect()

    async def main():
        caller = echo_plugin("caller", "other")
        echo = caller.require("echo")
        provider = echo_plugin("provider", public=True, service=Quitting())
        async with hosting() as (host, url), plugged(provider, url) as at, plugged(caller, url):
            await echo.wait_available()
            await leave(echo.client(EchoServiceClient))
            async with Pool() as pool:
                await leave(EchoServiceClient(at, pool))

    trio.run(main)
    print("left")
"""


class Quitting(Echo):
    """Answers a stream of requests before it has ended."""

    async def sum(self, requests: AsyncIterator[pb.SumRequest], _ctx: Context, /) -> pb.SumResponse:
        return pb.SumResponse(sum=(await anext(requests)).number)


async def test_a_stream_that_is_left_early_leaves_nothing_to_the_garbage_collector(tmp_path: Path) -> None:
    environment = {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}
    async with program(tmp_path, LEAVES_EARLY, **environment) as process:
        assert await process.end() == 0, process.output
        await process.until("left\n")
    assert "Warning" not in process.output, process.output


async def test_who_stops_a_process_with_a_call_in_flight_is_told_what_it_waits_for(tmp_path: Path) -> None:
    text = """
        import sys
        from functools import partial
        from cpg_trio.http import serve
        from cpg_trio.process import run

        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass

        async def main(stop):
            async def tell(bound):
                print("listening on", *bound, flush=True)

            import trio
            async with trio.open_nursery() as nursery:
                bound = await nursery.start(partial(serve, app, stop=stop))
                await tell(bound)

        sys.exit(run(main))
    """
    async with program(tmp_path, text) as process:
        host, _, port = (await process.url()).removeprefix("http://").partition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await stream.receive_some()
            process.process.send_signal(signal.SIGINT)
            await process.until("waiting for the calls in flight on 1 connection for 9 s at most")
            process.process.send_signal(signal.SIGINT)
            assert await process.end() == 128 + signal.SIGINT


# Files


@pytest.mark.parametrize(
    ("main", "variable", "said"),
    [
        (host, "STATE_PATH", "cannot keep the host's state in {}: is a directory"),
        (host, "CPG_HOST_KEY_FILE", "cannot keep the host's key in {}: is a directory"),
        (host, "POLICY_FILE", "POLICY_FILE: {}: is a directory"),
        (host, "ENROLMENT_TOKENS_FILE", "ENROLMENT_TOKENS_FILE: {}: is a directory"),
        (host, "TLS_CA", "cannot use {} for TLS: is a directory"),
        (echo_plugin().serve, "ENROLMENT_TOKEN_FILE", "cannot read {}: is a directory"),
        (storage, "STORAGE_PATH", "cannot keep URLs in {}: it is a directory"),
    ],
)
async def test_a_directory_where_a_file_is_needed_is_said_to_be_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    main: Callable[[trio.Event], Awaitable[None]],
    variable: str,
    said: str,
) -> None:
    monkeypatch.setenv("PORT", "0")
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(StartError, match=re.escape(said.format(tmp_path))):
        await main(trio.Event())


# Terminals


async def test_a_terminal_without_a_letter_gets_another_for_it(tmp_path: Path) -> None:
    environment = {"PYTHONIOENCODING": "latin-1:strict", "PYTHONUTF8": "0"}
    async with shortener(tmp_path / "urls") as system:
        environment["API_URL"] = system.api
        async with running(
            "cpg_trio.demo.client", "shorten", "https://e.x/", environment=environment
        ) as client:
            assert await client.end() == 0
            await client.until(r"\? Shortened URL")
    assert_no_traceback(client.output)


@pytest.mark.parametrize(
    "command",
    [("cpg_trio", "host", "--help"), ("cpg_trio.demo.client", "--help"), ("cpg_trio.demo.storage", "--help")],
)
async def test_help_is_there_on_any_terminal(command: tuple[str, ...]) -> None:
    async with running(
        *command, environment={"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
    ) as process:
        assert await process.end() == 0
        await process.until("usage: ")


# Scripts


@pytest.mark.parametrize("script", ["setup.sh", "run.sh", "test.sh", "cleanup.sh"])
@pytest.mark.parametrize(
    ("docker", "said"),
    [
        (None, "docker is not installed"),
        ('[ "$1" = version ]', "docker has no `docker compose` (version 2)"),
        ('[ "$1" = compose ]', "the Docker engine does not answer"),
    ],
)
def test_a_script_says_what_of_docker_is_missing(
    tmp_path: Path, script: str, docker: str | None, said: str
) -> None:
    for program in ("bash", "dirname", "env"):
        (tmp_path / program).symlink_to(_which(program))
    if docker is not None:
        (tmp_path / "docker").write_text(f"#!{_which('bash')}\n{docker}\n")
        (tmp_path / "docker").chmod(stat.S_IRWXU)
    done = subprocess.run(
        [ROOT / "containers" / script],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr


def _which(program: str) -> str:
    found = (Path(folder) / program for folder in os.environ["PATH"].split(":"))
    return str(next(path for path in found if path.exists()).resolve())
