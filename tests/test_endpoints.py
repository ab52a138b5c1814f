"""Every endpoint of a host and of a plugin, tried with everything that proves nothing.

The tables have all that there is, which is compared with what the protocol says: an endpoint that is added is
in one of them, or is said to be open.
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
from cpg_trio.assertions import Purpose
from cpg_trio.host import Host, HostConfig, Keys
from cpg_trio.host.access.keys import Claims
from cpg_trio.protos.connectplugin.health.v1 import health_pb2
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2
from tests._wire import HANDSHAKE as UPGRADE, dial
from tests.host.calls import Headers
from tests.plugin.running import echo_plugin, hosting, plugged, until
from tests.plugin.signing import digest_of, signed

KEY = "k" * 32
PACKAGE = "connectplugin.v1"
OPEN = {f"/{PACKAGE}.HandshakeService/Handshake", "/connectplugin.health.v1.HealthService/Check"}
OPEN |= {"/connectplugin.health.v1.HealthService/Watch"}
OF_PLUGINS = {"PluginIdentity", "PluginControl"}
BROKER = f"{PACKAGE}.CapabilityBroker/RequestCapability"


@attrs.frozen
class Setting:
    """A host on a socket, with a provider of `t`, and a plugin `me` that attackers would like to be."""

    host: Host
    url: str
    me: str
    token: str
    other: str
    other_token: str
    provider: str

    def proof(self, token: str) -> Headers:
        return {wire.RUNTIME_ID_HEADER: self.me, wire.AUTHORIZATION_HEADER: f"Bearer {token}"}


@asynccontextmanager
async def setting() -> AsyncIterator[Setting]:
    async with hosting(HostConfig(keys=Keys([KEY]))) as (host, url):
        me, token = host.identities.issue("me")
        other, other_token = host.identities.issue("other")
        provider, _ = host.identities.issue("t-plugin")
        host.registry.register(provider.runtime_id, "t", "1.0.0", "/t/", {"base_url": "http://127.0.0.1:1"})
        yield Setting(host, url, me.runtime_id, token, other.runtime_id, other_token, provider.runtime_id)


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
    s.host.identities.revoke(s.me)
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


async def granted(s: Setting, path: str, headers: Headers) -> tuple[int, str]:
    """Use a grant of the plugin's with what is no grant's token."""
    request = {"capabilityType": "logger"}
    async with httpx.AsyncClient(base_url=s.url) as http:
        other = {wire.RUNTIME_ID_HEADER: s.other, wire.AUTHORIZATION_HEADER: f"Bearer {s.other_token}"}
        answer = await http.post(f"/{BROKER}", json=request, headers=other)
        path = answer.json()["grant"]["endpointUrl"].removeprefix(s.url)
    return await post(s, f"{path}/capability.logger.v1.Logger/Log", headers)


async def routed(s: Setting, path: str, headers: Headers) -> tuple[int, str]:
    return await post(s, path.format(provider=s.provider), headers)


Try = Callable[[Setting, str, Headers], Awaitable[tuple[int, str]]]

ENDPOINTS: dict[str, Try] = {
    f"/{PACKAGE}.PluginLifecycle/ReportHealth": post,
    f"/{PACKAGE}.ServiceRegistry/RegisterService": post,
    f"/{PACKAGE}.ServiceRegistry/UnregisterService": post,
    f"/{PACKAGE}.ServiceRegistry/DiscoverService": post,
    f"/{PACKAGE}.ServiceRegistry/WatchService": stream,
    f"/{PACKAGE}.CapabilityBroker/RequestCapability": post,
    f"/broker/{PACKAGE}.CapabilityBroker/RequestCapability": post,
    "/watch": websocket,
    "/services/t/{provider}/M": routed,
    "/services/t/nobody-0/M": routed,
    "/capabilities": granted,
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
            if ENDPOINTS[path] in (stream, websocket, granted):
                return  # which have tests of their own, and answer a token with no end, or not at all
            status, _ = await ENDPOINTS[path](s, path, s.proof(s.token))
            assert status != 401


# What a plugin serves


@attrs.frozen
class PluginSetting:
    """A plugin that has registered, and another that has been replaced."""

    host: Host
    url: str
    me: str
    digest: bytes
    former: str
    former_digest: bytes
    other: str
    other_digest: bytes


@asynccontextmanager
async def plugin_setting() -> AsyncIterator[PluginSetting]:
    async with hosting() as (host, host_url), plugged(echo_plugin(), host_url, heartbeat_s=0.05) as url:
        await until(host, lambda: host.registry.available("echo"))
        former = host.registry.discover("echo")[0].runtime_id
        former_digest = digest_of(host, former)
        await host.revoke_identity(former)
        await until(host, lambda: host.registry.available("echo"))
        me = host.registry.discover("echo")[0].runtime_id
        other, _ = host.identities.issue("other")
        yield PluginSetting(
            host,
            url,
            me,
            digest_of(host, me),
            former,
            former_digest,
            other.runtime_id,
            digest_of(host, other.runtime_id),
        )


Sign = Callable[[PluginSetting, str, Purpose], str]
"""Returns what is shown for a path and a purpose."""


def for_another_plugin(s: PluginSetting, path: str, purpose: Purpose) -> str:
    return signed(s.other_digest, purpose, s.other, path)


def in_anothers_name(s: PluginSetting, path: str, purpose: Purpose) -> str:
    return signed(s.other_digest, purpose, s.me, path)


def for_another_method(s: PluginSetting, path: str, purpose: Purpose) -> str:
    return signed(s.digest, purpose, s.me, f"{path}Other")


def for_another_purpose(s: PluginSetting, path: str, purpose: Purpose) -> str:
    other = Purpose.CONTROL if purpose is not Purpose.CONTROL else Purpose.CALLER
    return signed(s.digest, other, s.me, path)


def expired_statement(s: PluginSetting, path: str, purpose: Purpose) -> str:
    return signed(s.digest, purpose, s.me, path, for_s=-31)


def to_a_former_identity(s: PluginSetting, path: str, purpose: Purpose) -> str:
    return signed(s.former_digest, purpose, s.former, path)


def forged_statement(s: PluginSetting, path: str, purpose: Purpose) -> str:
    return signed(wire.token_digest("a guess"), purpose, s.me, path)


def truncated_statement(s: PluginSetting, path: str, purpose: Purpose) -> str:
    return signed(s.digest, purpose, s.me, path)[:-1]


def no_statement(_: PluginSetting, __: str, ___: Purpose) -> str:
    return "x"


STATEMENTS = [
    for_another_plugin,
    in_anothers_name,
    for_another_method,
    for_another_purpose,
    expired_statement,
    to_a_former_identity,
    forged_statement,
    truncated_statement,
    no_statement,
]
ECHO = "/echo.v1.EchoService"
OF_PLUGIN: dict[str, Purpose] = {
    f"/{PACKAGE}.PluginControl/GetHealth": Purpose.CONTROL,
    f"/{PACKAGE}.PluginControl/Shutdown": Purpose.CONTROL,
    f"/{PACKAGE}.PluginIdentity/GetPluginInfo": Purpose.CONTROL,
    f"/{PACKAGE}.PluginIdentity/SetRuntimeIdentity": Purpose.CONTROL,
    f"{ECHO}/Echo": Purpose.CALLER,
    f"{ECHO}/Count": Purpose.CALLER,
}


def test_every_method_of_a_plugin_is_in_the_table() -> None:
    services = connectplugin_pb2.DESCRIPTOR.services_by_name
    methods = {
        f"/{services[name].full_name}/{method.name}"
        for name in OF_PLUGINS
        for method in services[name].methods
    }
    assert methods <= set(OF_PLUGIN)


def shown(purpose: Purpose, statement: str, direct: bool) -> Headers:  # noqa: FBT001
    if purpose is Purpose.CALLER and not direct:
        return {wire.CALLER_HEADER: statement}
    name = {wire.RUNTIME_ID_HEADER: "caller-1"} if direct else {}
    return {wire.AUTHORIZATION_HEADER: f"Bearer {statement}", **name}


@pytest.mark.parametrize("direct", [False, True], ids=["host", "direct"])
async def test_no_endpoint_of_a_plugin_answers_who_proves_nothing(direct: bool) -> None:  # noqa: FBT001
    with trio.fail_after(60):
        async with plugin_setting() as s, httpx.AsyncClient(base_url=s.url) as http:
            for path, usual in OF_PLUGIN.items():
                if direct and usual is Purpose.CONTROL:
                    continue  # nobody is granted that
                purpose = Purpose.DIRECT if direct else usual
                tried = [{}, *(shown(usual, sign(s, path, purpose), direct) for sign in STATEMENTS)]
                for headers in tried:
                    answer = await http.post(path, json={}, headers=headers)
                    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), (
                        path,
                        headers,
                    )
            assert s.host.registry.discover("echo")[0].runtime_id == s.me
            right = {wire.CALLER_HEADER: signed(s.digest, Purpose.CALLER, s.me, f"{ECHO}/Echo", subject="c")}
            assert (await http.post(f"{ECHO}/Echo", json={}, headers=right)).status_code == 200


def test_nothing_here_starts_another_process() -> None:
    """So nobody inherits a secret, and no port counts as a plugin's because somebody listens on it.

    But for launchers, whose business it is, what they are checked with, and what runs neither host nor
    plugin: a browser, which inherits no secret, a compiler of protos, and pip, which builds a wheel.
    """
    starting = {"subprocess", "multiprocessing", "pty", "webbrowser"}
    calls = {"fork", "system", "posix_spawn", "execv", "run_process"}
    package = Path(cpg_trio.__file__).parent
    others = ("cli/_dashboard.py", "codegen/project.py", "scaffold/package.py", "testing/launched.py")
    but = {*(package / "launch").glob("*.py"), *(package / name for name in others)}
    for path in set(package.rglob("*.py")) - but:
        source = path.read_text(encoding="utf-8")
        if not any(word in source for word in starting | calls):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                assert not starting & {alias.name.partition(".")[0] for alias in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in starting, path
            elif isinstance(node, ast.Attribute):
                assert node.attr not in calls, path
