"""The parts as real processes: any start order, nothing that was answered is lost, nothing is held."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from tests._wire import connect
from tests.host.calls import Provider, WireCaller, runtime_id
from tests.http.peers import Peer, serving
from tests.plugin.running import unused_port
from tests.processes import assert_no_traceback, running
from tests.shortener_processes import MODULES, System

MEBIBYTE = 1024 * 1024


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            yield System(nursery, tmp_path)
            nursery.cancel_scope.cancel()


ORDER = ("host", "logger", "storage", "api")


async def assert_all_end_with_status_0(system: System) -> None:
    for name in reversed(ORDER):
        assert await system.parts[name].end(signal.SIGTERM) == 0
    for name, part in system.started:
        assert_no_traceback(part.output, name)


async def test_started_one_after_the_other_in_the_reverse_order_the_parts_work_together(
    system: System,
) -> None:
    for name in reversed(ORDER):
        await (await system.start(name)).url()  # each listens before the next is started
    await system.healthy("logger", "storage", "api")
    code = await system.shorten("https://example.com/?a=1&b=2")
    assert (await system.resolve(code)).json() == {"url": "https://example.com/?a=1&b=2"}
    await assert_all_end_with_status_0(system)


async def test_all_at_once_leads_there_too_and_nothing_that_was_answered_is_lost_in_a_kill(
    system: System,
) -> None:
    for name in ("storage", "api", "host", "logger"):
        await system.start(name)
    await system.healthy("logger", "storage", "api")
    codes = {await system.shorten(f"https://example.com/{index}"): index for index in range(10)}
    await system.parts["storage"].end(signal.SIGKILL)
    await (await system.start("storage")).until("Registered service: storage")
    # Nobody has told the host that the first storage is gone; a host that starts anew knows only the second.
    await system.parts["host"].end(signal.SIGTERM)
    await system.start("host")
    await system.healthy("logger", "storage", "api")
    for code, index in codes.items():
        assert (await system.resolve(code)).json() == {"url": f"https://example.com/{index}"}


async def test_a_killed_host_that_is_started_again_on_its_state_file_knows_everybody_at_once(
    system: System, tmp_path: Path
) -> None:
    state = {"STATE_PATH": str(tmp_path / "host.sqlite3"), "LEASE_S": "3"}
    ours = ("logger", "storage", "api")
    host = await system.start("host", **state)
    for name in ours:
        await (await system.start(name)).url()  # each listens before the next is started
    await system.healthy(*ours)
    code = await system.shorten("https://example.com/")
    async with serving(Provider("raw")) as origin:
        async with httpx.AsyncClient(base_url=await host.url()) as http:
            raw = await WireCaller(http).plugin("raw")
            await WireCaller(http).register(raw, "raw", f"http://127.0.0.1:{origin.port}")
            before = {name: await WireCaller(http).discover(name, raw) for name in (*ours, "raw")}
        await host.end(signal.SIGKILL)
        for name in ours:
            await system.parts[name].until("has lost its host at ")
        host = await system.start("host", **state)
        async with httpx.AsyncClient(base_url=await host.url()) as http:
            for name, provider in before.items():
                assert await WireCaller(http).first_of_watch(name, raw) == "SERVICE_STATE_AVAILABLE"
                assert await WireCaller(http).discover(name, raw) == provider
    assert before["raw"] == runtime_id(raw)
    assert (await system.resolve(code)).json() == {"url": "https://example.com/"}
    for name in ours:
        part = system.parts[name]
        await part.until("has its host back")
        assert part.output.count("Registered service") == 1
        assert "does not know" not in part.output


async def test_in_a_directory_that_they_share_the_parts_call_each_other_by_unix_sockets(
    system: System, short_path: Path
) -> None:
    folder = trio.Path(short_path / "sockets")
    await folder.mkdir()
    # No call gets to a plugin by TCP, whose name is an address where nobody is.
    surroundings = {"SOCKET_DIR": str(folder), "HOSTNAME": "192.0.2.1", "BASE_URLS": "any"}
    for name in ("host", "logger", "api"):
        await system.start(name, **surroundings)
    port = str(unused_port())
    await system.start("storage", **surroundings, PORT=port)
    await system.healthy("logger", "storage", "api")
    code = await system.shorten("https://example.com/")
    await system.parts["logger"].until(f"STORE {code}")
    for name in ("logger", "storage", "api"):
        registered = rf"Registered service: {name} v1.0.0 of \S+ through unix:(\S+) id=\S+\n"
        assert await trio.Path((await system.parts["host"].until(registered))[1]).is_socket()
        await system.parts[name].until(rf" through unix:{re.escape(str(folder))}/host\.sock\n")
    before = system.parts["storage"]
    await before.end(signal.SIGKILL)
    await (await system.start("storage", **surroundings, PORT=port)).until("Registered service: storage")
    await system.parts["host"].until(r"(?s)(Registered service: storage v1.0.0 of \S+ through.*){2}")
    assert len(list(await folder.iterdir())) == 4
    await assert_all_end_with_status_0(system)
    assert list(await folder.iterdir()) == []


async def test_a_host_passes_100_mib_both_ways_and_its_memory_stays_flat() -> None:
    size = 100 * MEBIBYTE

    async def echo(peer: Peer) -> None:
        """Send back what comes, as it comes."""
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        passed = len(peer.received)
        await peer.send(bytes(peer.received))
        while passed < size:
            data = await peer.stream.receive_some()
            passed += len(data)
            await peer.send(bytes(data))

    with trio.fail_after(60):
        async with (
            serving(echo) as origin,
            running(*MODULES["host"], environment={"PORT": "0"}) as host,
            httpx.AsyncClient(base_url=await host.url(), timeout=None) as http,
        ):
            headers = await _identity(http)
            await _register(http, headers, f"http://{origin.host}:{origin.port}")
            path = f"/services/echo/{headers['X-Plugin-Runtime-ID']}/M"
            before = host.peak_memory_bytes()
            assert await _upload_and_count(await host.url(), path, headers, size) == size
            assert host.peak_memory_bytes() - before < 16 * MEBIBYTE


async def _identity(http: httpx.AsyncClient) -> dict[str, str]:
    answer = await http.post(
        "/connectplugin.v1.HandshakeService/Handshake",
        json={
            "coreProtocolVersion": 1,
            "appProtocolVersion": 1,
            "magicCookieKey": "CONNECT_PLUGIN",
            "magicCookieValue": "d3f40b3c2e1a5f8b9c4d7e6a1b2c3d4e",
            "selfId": "echo",
        },
    )
    identity = answer.json()
    return {
        "X-Plugin-Runtime-ID": identity["runtimeId"],
        "Authorization": f"Bearer {identity['runtimeToken']}",
    }


async def _register(http: httpx.AsyncClient, headers: dict[str, str], base_url: str) -> None:
    answer = await http.post(
        "/connectplugin.v1.ServiceRegistry/RegisterService",
        json={
            "serviceType": "echo",
            "version": "1.0.0",
            "endpointPath": "/",
            "metadata": {"base_url": base_url},
        },
        headers=headers,
    )
    assert answer.status_code == 200


async def _upload_and_count(url: str, path: str, headers: dict[str, str], size: int) -> int:
    """Send and receive at once, which a client that sends first cannot do; return the bytes of the answer."""
    lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {size}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    stream = await connect(url)
    async with stream, trio.open_nursery() as nursery:
        await stream.send_all("\r\n".join([*lines, "", ""]).encode())
        nursery.start_soon(partial(_send, stream, size))
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        assert head.startswith(b"HTTP/1.1 200")
        received = len(head.partition(b"\r\n\r\n")[2])
        while data := await stream.receive_some():
            received += len(data)
    return received


async def _send(stream: trio.abc.Stream, size: int) -> None:
    for _ in range(size // MEBIBYTE):
        await stream.send_all(bytes(MEBIBYTE))


async def test_the_lines_of_a_request_are_found_by_its_id_in_the_logs_of_all_that_it_passed(
    tmp_path: Path,
) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            system = System(nursery, tmp_path, environment={"LOG_FORMAT": "json"})
            for name in ORDER:
                await system.start(name)
            await system.healthy("logger", "storage", "api")
            trace = "4bf92f3577b34da6a3ce929d0e0e4736"
            headers = {"x-request-id": "order-7", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
            async with httpx.AsyncClient(trust_env=False) as http:
                url = f"{await system.parts['api'].url()}/api.v1.API/Shorten"
                answer = await http.post(url, params={"url": "https://example.com"}, headers=headers)
            assert answer.headers["x-request-id"] == "order-7"
            for name in ("logger", "storage", "host"):
                await system.parts[name].until("order-7")
            await assert_all_end_with_status_0(system)
            for name, lines in (("logger", 1), ("storage", 1), ("host", 4)):
                entries = [json.loads(line) for line in system.parts[name].output.splitlines()]
                found = [each for each in entries if each.get("request_id") == "order-7"]
                assert len(found) == lines
                assert {each["trace_id"] for each in found} == {trace}
                assert {each["plugin"] for each in found} == {name if name == "host" else f"{name}-plugin"}
                assert all(
                    each["runtime_id"].startswith(f"{name}-plugin-") for each in found if name != "host"
                )
            nursery.cancel_scope.cancel()
