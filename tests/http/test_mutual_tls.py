"""With mutual TLS a plugin is who its certificate says, on every way into a host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx
import pytest
import trio
import trustme
from trio_websocket import ConnectionRejected

from cpg_trio import wire
from cpg_trio.host import Host, HostConfig, PluginRules, Policy, Rules
from cpg_trio.http import Clients, ServeConfig
from cpg_trio.http.server.config import Http1Engine
from cpg_trio.plugin import Plugin, RefusedError
from cpg_trio.plugin._websocket import open_websocket
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.certificates import Files
from tests.host.calls import COOKIE, DISCOVER, HANDSHAKE, REPORT, VERSIONS, Headers
from tests.host.capabilities.brokering import BROKER, LOGGER, bearer
from tests.plugin.running import echo_plugin, hosting, plugged

LOCAL = ("localhost", "127.0.0.1")


@attrs.frozen
class Setting:
    """A host with mutual TLS, and an authority that issues certificates."""

    host: Host
    url: str
    issue: Callable[..., Files]

    def client(self, files: Files | None) -> httpx.AsyncClient:
        """Return a client that shows a certificate, or none."""
        trusting = self.issue("nobody") if files is None else files
        context = trusting.client_context(show=files is not None)
        return httpx.AsyncClient(base_url=self.url, verify=context)

    async def shake_hands(self, self_id: str, files: Files | None) -> httpx.Response:
        async with self.client(files) as http:
            return await http.post(HANDSHAKE, json={**COOKIE, **VERSIONS, "selfId": self_id})


@pytest.fixture
def issue(tmp_path: Path) -> Callable[..., Files]:
    ca, numbers = trustme.CA(), iter(range(100))

    def issue(*names: str) -> Files:
        return Files.write(tmp_path, ca, *names, *LOCAL, name=f"c{next(numbers)}")

    return issue


@asynccontextmanager
async def setting(
    issue: Callable[..., Files],
    policy: Policy | None = None,
    clients: Clients = Clients.OPTIONAL,
    *,
    http1_engine: Http1Engine = Http1Engine.OWN,
) -> AsyncIterator[Setting]:
    serve = ServeConfig(tls=issue("host").config(clients), http1_engine=http1_engine)
    with trio.fail_after(30):
        async with hosting(HostConfig(serve=serve, policy=policy or Policy())) as (host, url):
            yield Setting(host, url, issue)


def proof(answer: httpx.Response) -> Headers:
    said = answer.json()
    return {
        wire.RUNTIME_ID_HEADER: said["runtimeId"],
        wire.AUTHORIZATION_HEADER: f"Bearer {said['runtimeToken']}",
    }


@pytest.mark.parametrize("name", ["mine", "spiffe://example.org/ns/a/mine", "mine.plugins.example.org"])
async def test_who_has_a_certificate_of_its_name_gets_an_identity(
    issue: Callable[..., Files], name: str
) -> None:
    async with setting(issue) as s:
        assert (await s.shake_hands("mine", issue(name))).status_code == 200


@pytest.mark.parametrize("name", ["other", "spiffe://example.org/other", "xmine", "mine-2"])
async def test_nobody_takes_another_name_than_its_certificates(
    issue: Callable[..., Files], name: str
) -> None:
    async with setting(issue) as s:
        answer = await s.shake_hands("mine", issue(name))
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
        assert answer.json()["message"] == "mine is not let in: its certificate is not that of mine"
        assert len(s.host.identities) == 0


@pytest.mark.parametrize("names", [(), ("127.0.0.1",)])
async def test_a_certificate_that_names_nobody_is_nobodys(tmp_path: Path, names: tuple[str, ...]) -> None:
    ca = trustme.CA()
    nameless = Files.write(tmp_path, ca, *names, name="nameless")
    mine = Files.write(tmp_path, ca, "mine", *LOCAL, name="mine")

    def of_one_authority(*_: str) -> Files:
        return mine

    async with setting(of_one_authority, clients=Clients.REQUIRED) as s:
        assert (await s.shake_hands("mine", nameless)).status_code == 403
        headers = proof(await s.shake_hands("mine", mine))
        async with s.client(nameless) as http:
            assert (await http.post(REPORT, json={"state": 1}, headers=headers)).status_code == 401


async def test_a_stolen_grant_is_worth_nothing_with_another_certificate(issue: Callable[..., Files]) -> None:
    async with setting(issue) as s:
        mine, thiefs = issue("mine"), issue("thief")
        headers = proof(await s.shake_hands("mine", mine))
        async with s.client(mine) as http:
            asked = await http.post(BROKER, json={"capabilityType": "logger"}, headers=headers)
        grant = asked.json()["grant"]
        for files, status in ((mine, 200), (thiefs, 401)):
            async with s.client(files) as http:
                path = grant["endpointUrl"].removeprefix(s.url) + LOGGER
                answer = await http.post(path, json={"message": "hi"}, headers=bearer(grant))
                assert answer.status_code == status, answer.text


async def test_where_no_certificate_is_demanded_who_has_none_is_let_in(issue: Callable[..., Files]) -> None:
    async with setting(issue) as s:
        assert (await s.shake_hands("mine", None)).status_code == 200


async def test_where_one_is_demanded_by_the_host_who_has_none_does_not_get_through_to_it(
    issue: Callable[..., Files],
) -> None:
    async with setting(issue, clients=Clients.REQUIRED) as s:
        with pytest.raises(httpx.TransportError):
            await s.shake_hands("mine", None)
        assert (await s.shake_hands("mine", issue("mine"))).status_code == 200


async def test_where_one_is_demanded_by_the_policy_no_other_will_do(issue: Callable[..., Files]) -> None:
    needed = "spiffe://example.org/it"
    policy = Policy(Rules(plugins={"mine": PluginRules(certificate=needed)}))
    async with setting(issue, policy) as s:
        for files in (None, issue("mine"), issue("spiffe://example.org/it/too")):
            assert (await s.shake_hands("mine", files)).status_code == 403
        assert (await s.shake_hands("mine", issue(needed))).status_code == 200
        assert (await s.shake_hands("other", None)).status_code == 200


@pytest.mark.parametrize("http1_engine", Http1Engine)
async def test_a_stolen_token_is_worth_nothing_with_another_certificate(
    issue: Callable[..., Files],
    http1_engine: Http1Engine,
) -> None:
    async with setting(issue, http1_engine=http1_engine) as s:
        mine, thiefs = issue("mine"), issue("thief")
        headers = proof(await s.shake_hands("mine", mine))
        for files, good in ((mine, True), (thiefs, False)):
            async with s.client(files) as http:
                status = (await http.post(REPORT, json={"state": 1}, headers=headers)).status_code
                assert (status != 401) == good
                status = (await http.post(DISCOVER, json={"serviceType": "t"}, headers=headers)).status_code
                assert (status != 401) == good
                routed = await http.post("/services/t/nobody-0/M", headers=headers)
                assert (routed.status_code != 401) == good
            if good:
                async with open_websocket(f"{s.url}/watch", headers, [], ssl_context=files.client_context):
                    pass
            else:
                with pytest.raises(ConnectionRejected) as refused:
                    async with open_websocket(
                        f"{s.url}/watch", headers, [], ssl_context=files.client_context
                    ):
                        pass
                assert refused.value.status_code == 401


async def test_a_host_and_its_plugins_work_together_with_a_certificate_each(
    issue: Callable[..., Files],
) -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    required = Clients.REQUIRED
    async with setting(issue, clients=required) as s:
        as_caller = ServeConfig(tls=issue("caller").config(required))
        as_echo = ServeConfig(tls=issue("spiffe://example.org/echo-plugin").config(required))
        async with (
            plugged(caller, s.url, serve=as_caller),
            plugged(echo_plugin(), s.url, serve=as_echo) as plugin_url,
        ):
            await echo.wait_available()
            answer = await echo.client(EchoServiceClient).echo(EchoRequest(text="x"))
            assert answer.text == "x"
            assert plugin_url.startswith("https://")


async def test_a_direct_call_goes_by_tls_to_who_has_the_name_of_the_url(issue: Callable[..., Files]) -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    required = Clients.REQUIRED
    async with setting(issue, clients=required) as s:
        as_caller = ServeConfig(tls=issue("caller").config(required))
        as_echo = ServeConfig(tls=issue("echo-plugin").config(required))
        async with (
            plugged(caller, s.url, serve=as_caller, direct_calls=True, heartbeat_s=0.05),
            plugged(echo_plugin(), s.url, serve=as_echo),
        ):
            await echo.wait_available()
            client = echo.client(EchoServiceClient)

            async def until_direct() -> None:
                while not s.host.statistics().direct.calls:
                    assert (await client.echo(EchoRequest(text="x"))).text == "x"

            with trio.fail_after(20):
                await until_direct()


async def test_a_plugin_whose_certificate_is_anothers_says_why_it_ends(issue: Callable[..., Files]) -> None:
    async with setting(issue) as s:
        wrong = ServeConfig(tls=issue("other").config())
        expected = pytest.RaisesExc(RefusedError, match="its certificate is not that of echo-plugin")
        with pytest.RaisesGroup(expected):
            async with plugged(echo_plugin(), s.url, serve=wrong):
                await trio.sleep_forever()
