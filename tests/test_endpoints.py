"""Every endpoint of a host, tried with everything that proves nothing.

The table has all that a host serves, which is compared with what the protocol says there is: an endpoint that
is added is in it, or is said to be open.
"""

from __future__ import annotations

import ast
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx
import pytest
import trio

import cpg_trio
from cpg_trio import wire
from cpg_trio._gen.connectplugin.health.v1 import health_pb2
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2
from cpg_trio.host import Host, HostConfig, Keys
from cpg_trio.host.keys import Claims
from tests._wire import HANDSHAKE as UPGRADE
from tests._wire import dial

from .host.calls import Headers
from .plugin.running import hosting

KEY = "k" * 32
PACKAGE = "connectplugin.v1"
OPEN = {f"/{PACKAGE}.HandshakeService/Handshake", "/connectplugin.health.v1.HealthService/Check"}
OPEN |= {"/connectplugin.health.v1.HealthService/Watch"}
OF_PLUGINS = {"PluginIdentity", "PluginControl"}


@attrs.frozen
class Setting:
    """A host on a socket, with a provider of `t`, and a plugin `me` that attackers would like to be."""

    host: Host
    url: str
    me: str
    token: str
    other_token: str
    provider: str

    def proof(self, token: str) -> Headers:
        return {wire.RUNTIME_ID_HEADER: self.me, wire.AUTHORIZATION_HEADER: f"Bearer {token}"}


@asynccontextmanager
async def setting() -> AsyncIterator[Setting]:
    async with hosting(HostConfig(keys=Keys([KEY]))) as (host, url):
        me, token = host.identities.issue("me")
        _, other_token = host.identities.issue("other")
        provider, _ = host.identities.issue("t-plugin")
        host.registry.register(provider.runtime_id, "t", "1.0.0", "/t/", {"base_url": "http://127.0.0.1:1"})
        yield Setting(host, url, me.runtime_id, token, other_token, provider.runtime_id)


# What proves nothing


def nothing(_: Setting) -> Headers:
    return {}


def name_alone(s: Setting) -> Headers:
    return {wire.RUNTIME_ID_HEADER: s.me}


def token_alone(s: Setting) -> Headers:
    return {wire.AUTHORIZATION_HEADER: f"Bearer {s.token}"}


def anothers(s: Setting) -> Headers:
    return s.proof(s.other_token)


def expired(s: Setting) -> Headers:
    return s.proof(Keys([KEY]).sign(Claims(s.me, "me", 1e9)))


def forged(s: Setting) -> Headers:
    return s.proof(Keys().sign(Claims(s.me, "me", 4e9)))


def truncated(s: Setting) -> Headers:
    return s.proof(s.token[:-1])


def revoked(s: Setting) -> Headers:
    s.host.revoke_identity(s.me)
    return s.proof(s.token)


PROOFS = [nothing, name_alone, token_alone, anothers, expired, forged, truncated, revoked]
REFUSED = {400, 401}  # without a name it is the request that makes no sense, as on other hosts


# What there is


async def post(s: Setting, path: str, headers: Headers) -> tuple[int, str]:
    async with httpx.AsyncClient(base_url=s.url) as http:
        answer = await http.post(path, json={}, headers=headers)
        return answer.status_code, answer.text


async def stream(s: Setting, path: str, headers: Headers) -> tuple[int, str]:
    async with httpx.AsyncClient(base_url=s.url) as http:
        content = json.dumps({"serviceType": "t"}).encode()
        frame = b"\0" + len(content).to_bytes(4, "big") + content
        headers = {**headers, "content-type": "application/connect+json"}
        answer = await http.post(path, content=frame, headers=headers)
        assert answer.content[0] == 2  # the end, and nothing before it
        error = json.loads(answer.content[5:])["error"]
        return {"unauthenticated": 401, "invalid_argument": 400}[error["code"]], error["message"]


async def websocket(s: Setting, path: str, headers: Headers) -> tuple[int, str]:
    async with dial(s.url) as wire_:
        answer = await wire_.get(path, {**UPGRADE, **{k.lower(): v for k, v in headers.items()}})
        return answer.status, answer.body.decode()


async def routed(s: Setting, path: str, headers: Headers) -> tuple[int, str]:
    return await post(s, path.format(provider=s.provider), headers)


Try = Callable[[Setting, str, Headers], Awaitable[tuple[int, str]]]

ENDPOINTS: dict[str, Try] = {
    f"/{PACKAGE}.PluginLifecycle/ReportHealth": post,
    f"/{PACKAGE}.ServiceRegistry/RegisterService": post,
    f"/{PACKAGE}.ServiceRegistry/UnregisterService": post,
    f"/{PACKAGE}.ServiceRegistry/DiscoverService": post,
    f"/{PACKAGE}.ServiceRegistry/WatchService": stream,
    "/watch": websocket,
    "/services/t/{provider}/M": routed,
    "/services/t/nobody-0/M": routed,
}


def rpcs() -> set[str]:
    """Return the paths of all methods that the protocol has for a host."""
    services = [
        service
        for file in (connectplugin_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR)
        for service in file.services_by_name.values()
        if service.name not in OF_PLUGINS
    ]
    return {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}


def test_every_method_of_a_host_is_in_the_table_or_is_open() -> None:
    assert rpcs() <= set(ENDPOINTS) | OPEN


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
async def test_no_endpoint_answers_who_proves_nothing(path: str, proof: Callable[[Setting], Headers]) -> None:
    with trio.fail_after(30):
        async with setting() as s:
            headers = proof(s)
            before = s.host.registry.revision, len(s.host.identities)
            status, text = await ENDPOINTS[path](s, path, headers)
            assert status in REFUSED
            assert (s.host.registry.revision, len(s.host.identities)) == before
            for secret in (s.token, s.other_token, KEY):
                assert secret not in text


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_each_endpoint_does_answer_who_proves_it(path: str) -> None:
    """Or the test above would hold of a host that answers nobody."""
    with trio.fail_after(30):
        async with setting() as s:
            if ENDPOINTS[path] in (stream, websocket):
                return
            status, _ = await ENDPOINTS[path](s, path, s.proof(s.token))
            assert status != 401


def test_nothing_here_starts_another_process() -> None:
    """So nobody inherits a secret, and no port counts as a plugin's because somebody listens on it."""
    starting = {"subprocess", "multiprocessing", "pty"}
    for path in Path(cpg_trio.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not starting & {alias.name.partition(".")[0] for alias in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in starting, path
            elif isinstance(node, ast.Attribute):
                assert node.attr not in {"fork", "system", "posix_spawn", "execv", "run_process"}, path
