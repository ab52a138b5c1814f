"""A plugin that comes through a balancer proves its base URL: the host asks there who it is."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio

from cpg_trio.assertions import Purpose, verify
from cpg_trio.host import BaseUrls, HostConfig
from cpg_trio.host.access import Identity, RefusedError
from cpg_trio.host.directory import address_proof
from cpg_trio.host.directory.endpoint_validation import EndpointValidator
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.wire import token_digest
from tests.host.calls import REGISTER, Caller, Headers, in_proto, running, runtime_id
from tests.http.peers import Peer, serving, url_of
from tests.names import names_of
from tests.plugin.running import unused_port

PROVED = HostConfig(base_urls=BaseUrls.PROVED)
BALANCER = ("192.0.2.7", 40000)
HELD_S = 0.05


class Answering:
    """What answers at an address: it says that it is the plugin of a runtime id."""

    def __init__(self, runtime_id: str = "") -> None:
        self.runtime_id = runtime_id
        self.heads: list[bytes] = []
        self.now = self.most = 0
        self.held_s = 0.0

    async def __call__(self, peer: Peer) -> None:
        while head := await peer.receive_head():
            self.heads.append(head)
            self.now += 1
            self.most = max(self.most, self.now)
            await trio.sleep(self.held_s)
            self.now -= 1
            await peer.send(in_proto(pb.GetPluginInfoResponse(metadata={"runtime_id": self.runtime_id})))


async def register(host: Caller, plugin: Headers, url: str, control_url: str = "", name: str = "t") -> Any:
    metadata = {"base_url": url, **({"control_url": control_url} if control_url else {})}
    body = {"serviceType": name, "version": "1.0.0", "endpointPath": "/", "metadata": metadata}
    return await host.post(REGISTER, body, plugin)


async def test_a_plugin_that_answers_at_its_url_is_registered_wherever_it_calls_from() -> None:
    peer = Answering()
    async with serving(peer) as origin, running(PROVED, BALANCER) as host:
        plugin = await host.plugin("p")
        peer.runtime_id = runtime_id(plugin)
        assert (await register(host, plugin, url_of(origin)))[0] == 200
    (head,) = peer.heads
    (shown,) = re.findall(rb"(?i)authorization: Bearer ([^\r]+)", head)
    digest = token_digest(plugin["Authorization"].removeprefix("Bearer "))
    said = verify(shown.decode(), [digest], Purpose.CONTROL, runtime_id(plugin), time.time())
    assert said.path == "/connectplugin.v1.PluginIdentity/GetPluginInfo"


async def test_the_address_that_answers_for_a_name_is_the_one_that_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer = Answering()
    with names_of(monkeypatch) as names:
        async with serving(peer) as origin, running(PROVED, BALANCER) as host:
            names.known["p.test"] = ["127.0.0.2", "127.0.0.1"]  # nothing listens at the first
            plugin = await host.plugin("p")
            peer.runtime_id = runtime_id(plugin)
            assert (await register(host, plugin, f"http://p.test:{origin.port}"))[0] == 200
            assert host.host.registry.discover("t")[0].address == "127.0.0.1"


async def test_at_the_address_that_it_calls_from_nobody_is_asked() -> None:
    async with running(PROVED, BALANCER) as host:
        assert (await register(host, await host.plugin("p"), "http://192.0.2.7:1"))[0] == 200


async def test_a_plugin_with_a_port_for_its_host_is_asked_there() -> None:
    peer = Answering()
    async with serving(peer) as control, running(PROVED, BALANCER) as host:
        plugin = await host.plugin("p")
        peer.runtime_id = runtime_id(plugin)
        public = f"http://127.0.0.1:{unused_port()}"
        assert (await register(host, plugin, public, url_of(control)))[0] == 200


async def refusal(handler: Callable[[Peer], Awaitable[None]]) -> tuple[int, str, str]:
    """Return the status, the message and the Retry-After of a registration at what answers so."""
    async with serving(handler) as origin, running(PROVED, BALANCER) as host:
        plugin = await host.plugin("p")
        metadata = {"base_url": url_of(origin)}
        body = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/", "metadata": metadata}
        answer = await host.http.post(REGISTER, json=body, headers=plugin)
        assert not host.host.registry.provides("t")
        return answer.status_code, answer.json()["message"], answer.headers.get("retry-after", "")


async def refused(handler: Callable[[Peer], Awaitable[None]]) -> str:
    """Return why a registration is refused at what answers so."""
    status, message, retry_after = await refusal(handler)
    assert (status, retry_after) == (403, "1")
    assert "BASE_URLS=any" in message
    return message


async def test_an_answer_of_another_plugin_or_of_no_plugin_is_none() -> None:
    assert "does not say that it is this plugin" in await refused(Answering("other-0"))
    assert "does not say that it is this plugin" in await refused(Answering(""))

    async def not_found(peer: Peer) -> None:
        while await peer.receive_head():
            await peer.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    assert "404" in await refused(not_found)


async def test_where_nothing_listens_or_answers_nothing_is_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(address_proof, "_ASK_S", 0.1)

    async def silent(peer: Peer) -> None:
        await peer.receive_head()
        await peer.receive_head()

    assert "within 0.1 s" in await refused(silent)
    async with running(PROVED, BALANCER) as host:
        url = f"http://127.0.0.1:{unused_port()}"
        status, answer = await register(host, await host.plugin("p"), url)
        assert (status, answer["code"]) == (403, "permission_denied")


async def test_no_redirect_is_followed() -> None:
    async with serving(elsewhere := Answering()) as target:

        async def redirecting(peer: Peer) -> None:
            while await peer.receive_head():
                where = f"HTTP/1.1 307 Temporary Redirect\r\nlocation: {url_of(target)}/\r\n"
                await peer.send(f"{where}content-length: 0\r\n\r\n".encode())

        await refused(redirecting)
    assert not elsewhere.heads


async def test_an_answer_without_an_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    async def endless(peer: Peer) -> None:
        nonlocal sent
        await peer.receive_head()
        await peer.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        while True:
            await peer.send(b"4000\r\n%b\r\n" % bytes(0x4000))
            sent += 0x4000

    assert "larger than" in await refused(endless)
    assert sent < 16 * 1024 * 1024  # what the kernel holds of it


async def test_few_questions_are_asked_at_once_for_a_plugin_and_at_an_address() -> None:
    peer = Answering()
    peer.held_s = HELD_S
    async with serving(peer) as origin, running(PROVED, BALANCER) as host:
        for plugins, most in ((1, 2), (10, 4)):
            peer.most = 0
            me = [await host.plugin("p") for _ in range(plugins)]
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    plugin, name = me[number % plugins], f"t{number}"
                    nursery.start_soon(partial(register, host, plugin, url_of(origin), name=name))
            assert peer.most == most


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8082",
        "http://localhost:8082",
        "http://[::1]:8082",
        "http://[::ffff:127.0.0.1]:8082",
        "http://169.254.1.2:8082",
        "http://[fe80::1]:8082",
        "http://0.0.0.0:8082",
        "http://[::]:8082",
    ],
)
@pytest.mark.parametrize("handshake", ["", "127.0.0.1", "192.0.2.7"])
async def test_an_address_of_one_machine_is_refused_by_name_where_hosts_share_a_directory(
    url: str, handshake: str
) -> None:
    for policy in (BaseUrls.PROVED, BaseUrls.CALLER):
        plugin = Identity("p-1", "p", address=handshake)
        with pytest.raises(RefusedError, match="only one machine reaches") as refused:
            await EndpointValidator(policy, shared=True).check(url, "", plugin)
        assert url in refused.value.message
        assert "BASE_URLS=any" in refused.value.message
    assert await EndpointValidator(BaseUrls.ANY, shared=True).check(url, "", plugin) in ("", url)


async def test_an_address_of_the_hosts_machine_that_others_reach_is_taken_in_a_shared_directory() -> None:
    plugin = Identity("p-1", "p", address="192.0.2.7")
    await EndpointValidator(BaseUrls.CALLER, shared=True).check("http://192.0.2.7:1", "", plugin)
