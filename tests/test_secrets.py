"""No secret is in anything that is written: logs, errors, answers, representations, files of the state."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from cpg_trio import wire
from cpg_trio.host import Enrolment, Host, HostConfig, Keys
from cpg_trio.host.access.keys import Claims
from cpg_trio.host.routing.routes import Statement
from cpg_trio.http import Request
from cpg_trio.http.client.request import PreparedRequest
from cpg_trio.plugin import Plugin, PluginConfig
from cpg_trio.rpc import ClientConfig, HttpRequest
from cpg_trio.store import SqliteStore
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests._wire import dial_http2
from tests.cli.ended import ended
from tests.host.calls import COOKIE, HANDSHAKE, REGISTER, VERSIONS, WireCaller
from tests.plugin.running import echo_plugin, eventually, hosting, plugged
from tests.processes import running

SECRET = "planted-{}-" + "s3cr3t" * 4
JWT = "eyJ"  # with which every signed token begins


class TellTale(Keys):
    """Keys that remember what they have signed."""

    def __init__(self) -> None:
        super().__init__([SECRET.format("host-key")])
        self.signed: list[str] = []

    def sign(self, claims: Claims) -> str:
        token = super().sign(claims)
        self.signed.append(token)
        return token


def search(where: str, written: str, secrets: list[str]) -> None:
    for secret in [*secrets, "planted-", "s3cr3t", JWT]:
        assert secret not in written, f"{secret} is in {where}"


async def test_nothing_that_host_and_plugins_log_has_a_secret_in_it_whatever_goes_wrong(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    keys, enrolment = TellTale(), SECRET.format("enrolment")
    config = HostConfig(
        keys=keys,
        enrolment=Enrolment({"caller": enrolment, "echo-plugin": enrolment}),
        store=SqliteStore(tmp_path / "state"),
        token_ttl_s=0.5,
    )
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    async with (
        hosting(config) as (host, url),
        plugged(caller, url, enrolment_token=enrolment),
        plugged(echo_plugin(), url, enrolment_token=enrolment) as plugin_url,
    ):
        await echo.wait_available()
        await echo.client(EchoServiceClient).echo(EchoRequest(text="x"))
        said = [await misbehave(url, host, enrolment), await misbehave_at(plugin_url)]
        seen = len(keys.signed)
        await eventually(lambda: len(keys.signed) >= seen + 2)  # a renewal of each
    written = [formatted(record) for record in caplog.records]
    search("the log", "\n".join(written), keys.signed)
    search("an answer", "\n".join(said), keys.signed)
    search("the state", contents(tmp_path), keys.signed)
    assert any("[AUDIT]" in line for line in written)


def contents(folder: Path) -> str:
    return "".join(file.read_bytes().decode("latin-1") for file in folder.iterdir())


def formatted(record: logging.LogRecord) -> str:
    return logging.Formatter("%(name)s %(message)s").format(record)


async def misbehave(url: str, host: Host, enrolment: str) -> str:
    """Do what is refused, with secrets in every place that a request has; return what was answered."""
    wrong = SECRET.format("wrong")
    me, token = host.identities.issue("p")
    proof = {wire.RUNTIME_ID_HEADER: me.runtime_id, wire.AUTHORIZATION_HEADER: f"Bearer {token}"}
    answers = []
    async with httpx.AsyncClient(base_url=url) as http:
        shaken = {**COOKIE, **VERSIONS, "selfId": "caller"}
        for headers in ({wire.ENROLMENT_HEADER: wrong}, {wire.ENROLMENT_HEADER: enrolment + "x"}, {}):
            answers.append((await http.post(HANDSHAKE, json=shaken, headers=headers)).text)
        for value in (f"Bearer {wrong}", f"Bearer {token}x", f"Basic {wrong}", wrong):
            headers = {**proof, wire.AUTHORIZATION_HEADER: value}
            answers.append((await http.post(REGISTER, json={}, headers=headers)).text)
            answers.append((await http.get("/services/echo/x-0/M", headers=headers)).text)
            answers.append((await http.get("/watch", headers=headers)).text)
        body = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/"}
        elsewhere = {**body, "metadata": {"base_url": "http://user:hunter2@192.0.2.1/"}}
        _, refused = await WireCaller(http).post(REGISTER, elsewhere, proof)
        answers.append(str(refused))
        await host.revoke_identity(me.runtime_id)
        answers.append((await http.post(REGISTER, json=body, headers=proof)).text)
    return "\n".join(answers)


async def misbehave_at(plugin_url: str) -> str:
    """Ask a plugin for what it gives to its host alone; return what was answered."""
    wrong = {wire.AUTHORIZATION_HEADER: f"Bearer {SECRET.format('control')}"}
    paths = ("PluginControl/Shutdown", "PluginControl/GetHealth", "PluginIdentity/SetRuntimeIdentity")
    async with httpx.AsyncClient(base_url=plugin_url) as http:
        answers = [await http.post(f"/connectplugin.v1.{path}", json={}, headers=wrong) for path in paths]
        answers.append(await http.post("/echo.v1.EchoService/Echo", json={"text": ""}, headers=wrong))
    return "\n".join(answer.text for answer in answers)


async def test_no_secret_is_in_a_representation() -> None:
    host = Host(HostConfig(keys=TellTale(), enrolment=Enrolment({"p": SECRET.format("enrolment")})))
    identity, token = host.identities.issue("p")
    entry = host.identities.entry(identity.runtime_id)
    config = PluginConfig(enrolment_token=SECRET.format("enrolment"))
    for each in (host, host._config, identity, entry, config, attrs.asdict(identity)):
        search(type(each).__name__, repr(each), [token])


def test_no_secret_of_a_call_is_in_a_representation() -> None:
    shown = f"Bearer {SECRET.format('token')}"
    raw = [(b"authorization", shown.encode())]
    request = Request(b"GET", b"/", raw)
    for each in (
        request,
        PreparedRequest.of(request, b"h"),
        HttpRequest("GET", "http://h/", [("authorization", shown)], b""),
        ClientConfig(headers={"authorization": shown}),
        Statement(shown.encode(), b"", 0.0),
    ):
        search(type(each).__name__, repr(each), [])


async def test_no_process_writes_a_secret_that_it_was_given(tmp_path: Path) -> None:
    enrolment = tmp_path / "enrolment"
    await trio.Path(enrolment).write_text(f"logger-plugin {SECRET.format('enrolment')}\n")
    await trio.Path(enrolment).chmod(0o600)
    environment = {
        "PORT": "0",
        "CPG_HOST_KEY": f"{SECRET.format('first')},{SECRET.format('second')}",
        "ENROLMENT_TOKENS_FILE": str(enrolment),
    }
    with trio.fail_after(60):
        async with running("cpg_trio", "host", environment=environment) as host:
            joining = {"PORT": "0", "HOST_URL": await host.url(), "HOSTNAME": "127.0.0.1"}
            wrong = {**joining, "ENROLMENT_TOKEN": SECRET.format("wrong")}
            async with running("cpg_trio.demo.logger", environment=wrong) as refused:
                assert await refused.end() == 1
                search("the log", await refused.whole_output(), [])
            right = {**joining, "ENROLMENT_TOKEN": SECRET.format("enrolment")}
            async with running("cpg_trio.demo.logger", environment=right) as logger:
                await logger.until("Registered service: logger")
                assert await logger.end(signal.SIGTERM) == 0
                search("the log", await logger.whole_output(), [])
            assert await host.end(signal.SIGTERM) == 0
            search("the log", await host.whole_output(), [])


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CPG_HOST_KEY", "planted-short"),
        ("ENROLMENT_TOKENS", "a=planted"),
        ("ENROLMENT_TOKENS", "a/b=planted-s3cr3t-planted"),
    ],
)
def test_what_makes_no_sense_is_refused_without_a_word_of_it(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "0")
    monkeypatch.setenv(variable, value)
    done = ended(capsys, "host")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(variable)
    assert "planted" not in done.err


async def test_no_level_of_a_log_shows_the_fields_of_http2(caplog: pytest.LogCaptureFixture) -> None:
    secret = SECRET.format("token")
    for logger in ("", "h2", "hpack", "hpack.hpack", "hpack.table", "hypercorn"):
        caplog.set_level(logging.DEBUG, logger=logger)
    async with hosting() as (_, url), dial_http2(url) as wire_:
        stream = await wire_.request("/services/a/b/c", ("authorization", f"Bearer {secret}"))
        assert (await wire_.response(stream)).status == 401
    search("the log", caplog.text, [secret])
