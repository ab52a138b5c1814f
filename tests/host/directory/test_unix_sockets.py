"""A host that shares a directory with its plugins: which Unix sockets it connects to, and which not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from google.protobuf.message import Message

from cpg_trio.host import Host, HostConfig, LeaseConfig
from cpg_trio.http import BindError
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import Code, ConnectError
from cpg_trio.store import SqliteStore
from tests.descriptors import none_left
from tests.host.calls import COOKIE, HANDSHAKE, REGISTER, VERSIONS, Headers, WireCaller, runtime_id
from tests.http.peers import OK, Peer, answer_ok, at_socket
from tests.plugin.running import hosting, unused_port

NOWHERE = f"http://127.0.0.1:{unused_port()}"


class Plugin:
    """What answers at a plugin's socket, or another's: who it is, and to all other calls `ok`."""

    def __init__(self) -> None:
        self.runtime_id = ""
        self.seen: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        while head := await peer.receive_head():
            self.seen.append(head.partition(b" HTTP")[0])
            await peer.send(self.answer(head))

    def answer(self, head: bytes) -> bytes:
        if b"PluginIdentity" not in head and b"PluginControl" not in head:
            return OK
        said: Message = pb.GetHealthResponse(state=pb.HEALTH_STATE_HEALTHY)
        if b"/GetPluginInfo " in head:
            known_as = {"runtime_id": self.runtime_id} if self.runtime_id else {}
            said = pb.GetPluginInfoResponse(self_id="t-plugin", metadata=known_as)
        body = said.SerializeToString()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\ncontent-length: %d\r\n\r\n" % len(body)
        return head + body


@asynccontextmanager
async def calling(folder: Path) -> AsyncIterator[WireCaller]:
    """Call a host through its socket, as a plugin does that speaks only the wire protocol."""
    transport = httpx.AsyncHTTPTransport(uds=str(folder / "host.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
        yield WireCaller(http)


@pytest.fixture
def config(short_path: Path) -> HostConfig:
    return HostConfig(socket_dir=short_path)


async def register(call: WireCaller, headers: Headers, socket: str, base_url: str = NOWHERE) -> None:
    metadata = {"base_url": base_url, "socket": socket}
    status, _ = await call.post(
        REGISTER,
        {"serviceType": "t", "version": "1.0.0", "endpointPath": "/t/", "metadata": metadata},
        headers,
    )
    assert status == 200


async def call_it(call: WireCaller, provider: Headers) -> tuple[int, bytes]:
    """Call a provider through the router, as another plugin."""
    path = f"/services/t/{runtime_id(provider)}/Method"
    response = await call.http.post(path, headers=await call.plugin("caller"))
    return response.status_code, response.content


def socket_path(host: Host, plugin: Headers) -> str:
    (registration,) = host.registry.registrations(runtime_id(plugin))
    sockets = registration.addresses[:-1]
    assert ("socket" in registration.metadata) == bool(sockets)
    return "".join(sockets).removeprefix("unix:")


async def test_a_plugin_that_answers_at_the_socket_that_it_names_is_called_there(
    short_path: Path, config: HostConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    plugin, path = Plugin(), str(short_path / "t.sock")
    async with hosting(config) as (host, _), calling(short_path) as call, at_socket(path, plugin):
        me = await call.plugin("t-plugin")
        plugin.runtime_id = runtime_id(me)
        await register(call, me, "t.sock")
        assert socket_path(host, me) == path
        assert await call_it(call, me) == (200, b"ok")
        assert plugin.seen[-1] == b"POST /t/Method"
        await host.shut_down_plugin(runtime_id(me))
        assert plugin.seen[-1] == b"POST /connectplugin.v1.PluginControl/Shutdown"
    assert f"Registered service: t v1.0.0 of {runtime_id(me)} through unix:{path}" in caplog.text


async def test_a_socket_that_the_host_cannot_look_at_is_not_refused_for_good(
    short_path: Path, config: HostConfig
) -> None:
    plugin, path = Plugin(), str(short_path / "t.sock")
    async with hosting(config) as (host, _), calling(short_path) as call, at_socket(path, plugin):
        me = await call.plugin("t-plugin")
        plugin.runtime_id = runtime_id(me)
        metadata = {"base_url": NOWHERE, "socket": "t.sock"}
        with none_left(), pytest.raises(ConnectError, match="cannot look at a socket now") as caught:
            await host._sockets.accept(plugin.runtime_id, metadata, None)
        assert caught.value.code == Code.UNAVAILABLE
        await register(call, me, "t.sock")
        assert socket_path(host, me) == path


async def test_the_host_tells_of_its_socket_only_if_it_has_one_and_who_it_is_in_any_case(
    short_path: Path, config: HostConfig
) -> None:
    async def metadata(call: WireCaller) -> Any:
        return (await call.post(HANDSHAKE, {**COOKIE, **VERSIONS}))[1]["serverMetadata"]

    told = []
    for _ in range(2):
        async with hosting(config) as (_, url), httpx.AsyncClient(base_url=url) as http:
            by_tcp = await metadata(WireCaller(http))
            async with calling(short_path) as call:
                assert await metadata(call) == by_tcp
            assert by_tcp["socket"] == "host.sock"
            told.append(by_tcp["host_id"])
        assert not (short_path / "host.sock").exists()
    assert told[0] != told[1]
    async with hosting() as (_, url), httpx.AsyncClient(base_url=url) as http:
        assert {"socket", "host_id"} & set(await metadata(WireCaller(http))) == {"host_id"}


@pytest.mark.parametrize(
    "name",
    [
        "../outside.sock",
        "{outside}",
        "link.sock",
        "file.sock",
        "folder.sock",
        "none.sock",
        "dead.sock",
        "host.sock",
        "mute.sock",
        "others.sock",
        "..",
        ".hidden.sock",
        "a\nb.sock",
        "x" * 129,
    ],
)
async def test_no_plugin_leads_the_host_to_a_socket_that_is_not_its_own(
    short_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    outside, folder = short_path / "outside.sock", short_path / "shared"
    folder.mkdir()
    (folder / "link.sock").symlink_to(outside)
    (folder / "file.sock").touch()
    (folder / "folder.sock").mkdir()
    liar, other, mute = Plugin(), Plugin(), Plugin()
    async with (
        hosting(HostConfig(socket_dir=folder)) as (host, _),
        calling(folder) as call,
        at_socket(str(outside), liar),
        at_socket(str(folder / "others.sock"), other),
        at_socket(str(folder / "mute.sock"), mute),
    ):
        with trio.socket.socket(trio.socket.AF_UNIX) as dead:
            await dead.bind(str(folder / "dead.sock"))
        me = await call.plugin("t-plugin")
        liar.runtime_id = runtime_id(me)
        other.runtime_id = "other-0123456789abcdef"
        await register(call, me, name.format(outside=outside))
        assert socket_path(host, me) == ""
        assert (await call_it(call, me))[0] == 502
    assert liar.seen == []
    assert not any(b"/t/" in head for head in [*other.seen, *mute.seen])
    assert f"{runtime_id(me)} is called by TCP, not at its socket '" in caplog.text


async def test_a_registration_that_does_not_come_through_the_hosts_socket_names_none(
    short_path: Path, config: HostConfig, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = Plugin()
    async with (
        hosting(config) as (host, url),
        httpx.AsyncClient(base_url=url) as http,
        at_socket(str(short_path / "t.sock"), plugin),
    ):
        me = await WireCaller(http).plugin("t-plugin")
        plugin.runtime_id = runtime_id(me)
        await register(WireCaller(http), me, "t.sock")
        assert socket_path(host, me) == ""
    assert plugin.seen == []
    assert "did not come through the host's own socket" in caplog.text


async def test_a_host_without_a_directory_takes_no_socket(caplog: pytest.LogCaptureFixture) -> None:
    async with hosting() as (host, url), httpx.AsyncClient(base_url=url) as http:
        me = await WireCaller(http).plugin("t-plugin")
        await register(WireCaller(http), me, "t.sock")
        assert socket_path(host, me) == ""
    assert "this host has no SOCKET_DIR" in caplog.text


async def test_a_socket_that_is_swapped_for_a_link_leads_nowhere(short_path: Path) -> None:
    outside, folder = short_path / "outside.sock", short_path / "shared"
    folder.mkdir()
    plugin, secret = Plugin(), Plugin()
    config = HostConfig(socket_dir=folder)
    async with hosting(config) as (_, _), calling(folder) as call, at_socket(str(outside), secret):
        me = await call.plugin("t-plugin")
        plugin.runtime_id = runtime_id(me)
        async with at_socket(str(folder / "t.sock"), plugin):
            await register(call, me, "t.sock")
        (folder / "t.sock").unlink()
        (folder / "t.sock").symlink_to(outside)
        assert (await call_it(call, me))[0] == 502
    assert secret.seen == []


async def test_a_socket_that_is_gone_is_no_reason_to_suspect_a_plugin_that_answers_by_tcp(
    short_path: Path, config: HostConfig
) -> None:
    plugin, path = Plugin(), short_path / "t.sock"
    async with hosting(config) as (host, _), calling(short_path) as call, trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, lambda stream: answer_ok(Peer(stream)), 0)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        me = await call.plugin("t-plugin")
        plugin.runtime_id = runtime_id(me)
        async with at_socket(str(path), plugin):
            await register(call, me, "t.sock", url)
        path.unlink()
        assert await call_it(call, me) == (200, b"ok")
        assert host.registry.available("t")
        nursery.cancel_scope.cancel()


async def test_a_host_that_begins_anew_looks_at_each_socket_again(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = short_path / "shared"
    folder.mkdir()
    config = HostConfig(
        socket_dir=folder, store=SqliteStore(short_path / "state"), leases=LeaseConfig(probe_timeout_s=1.0)
    )
    plugins = {name: Plugin() for name in ("t", "gone", "taken")}
    async with trio.open_nursery() as nursery:
        headers: dict[str, Headers] = {}
        async with hosting(config), calling(folder) as call:
            for name, plugin in plugins.items():
                headers[name] = await call.plugin("t-plugin")
                plugin.runtime_id = runtime_id(headers[name])
                await nursery.start(_at, str(folder / f"{name}.sock"), plugin)
                await register(call, headers[name], f"{name}.sock")
        (folder / "gone.sock").unlink()
        plugins["taken"].runtime_id = "somebody-0123456789abcdef"
        async with hosting(config) as (host, _), calling(folder) as call:
            assert socket_path(host, headers["t"]) == str(folder / "t.sock")
            assert await call_it(call, headers["t"]) == (200, b"ok")
            for name in ("gone", "taken"):
                assert socket_path(host, headers[name]) == ""
                assert f"{runtime_id(headers[name])} is called by TCP" in caplog.text
        nursery.cancel_scope.cancel()


async def _at(path: str, plugin: Plugin, task_status: trio.TaskStatus[None]) -> None:
    async with at_socket(path, plugin):
        task_status.started()
        await trio.sleep_forever()


async def test_a_plugin_at_the_hosts_socket_may_name_any_url_of_its_machine_and_no_other(
    short_path: Path, config: HostConfig
) -> None:
    metadata = {"base_url": "http://192.0.2.1:8081"}
    elsewhere = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/", "metadata": metadata}
    async with hosting(config), calling(short_path) as call:
        me = await call.provider("t", "http://127.0.0.2:8081")
        assert (await call.post(REGISTER, elsewhere, me))[0] == 403


async def test_a_host_listens_where_it_is_told_to_or_says_why_not(short_path: Path) -> None:
    with pytest.raises(BindError, match=r"host\.sock: no such file or directory; make its directory first"):
        await Host(HostConfig(socket_dir=short_path / "none")).serve(bind="127.0.0.1:0")
    async with hosting(HostConfig(socket_dir=short_path)):
        with pytest.raises(BindError, match=r"host\.sock: address already in use"):
            await Host(HostConfig(socket_dir=short_path)).serve(bind="127.0.0.1:0")
