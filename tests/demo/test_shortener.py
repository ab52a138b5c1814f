"""The URL shortener as people see it: over plain HTTP, over Connect, and when things are away."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from cpg_trio.demo._urls import MAX_URL_BYTES
from cpg_trio.demo.api import API, api_plugin
from cpg_trio.demo.logger import logger_plugin
from cpg_trio.demo.storage import storage_plugin
from cpg_trio.plugin import Plugin
from cpg_trio.protos.api.v1.api_pb2 import ResolveRequest, ShortenRequest
from cpg_trio.protos.api.v1.api_trio import APIClient
from cpg_trio.protos.logger.v1.logger_pb2 import LogRequest
from cpg_trio.protos.logger.v1.logger_trio import LoggerClient
from cpg_trio.protos.storage.v1.storage_pb2 import GetRequest, StoreRequest
from cpg_trio.protos.storage.v1.storage_trio import StorageClient
from cpg_trio.rpc import ClientConfig, Code, ConnectError, application
from tests._wire import dial
from tests.demo.shortener import Shortener, shortener
from tests.plugin.running import DEGRADED, hosting, is_healthy, plugged, state_of, until
from tests.rpc.echo import in_process

URLS = [
    "https://example.com",
    "http://localhost:8083/x",
    "https://e.x/?q=\"quoted\"&r='single'",
    "https://e.x/?a=1&b=2",
    "https://e.x/#fragment",
    "https://e.x/100%25?x=%zz",
    "https://e.x/a b  c",
    "https://e.x/grüße/日本語/🦊",
    "HTTPS://user:pw@e.x:8443/p;q?r+s",
    "https://e.x/\\back{slash}<>|^`",
    "https://e.x/" + "x" * 8180,
    "https://e.x/" + "ü" * 4000,
]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Shortener]:
    async with shortener(tmp_path / "urls.sqlite3") as system:
        yield system


async def test_any_url_round_trips_over_plain_http_and_over_connect(running: Shortener) -> None:
    for url in URLS:
        shortened = await running.shorten(url)
        assert shortened.status_code == 200
        assert shortened.headers["content-type"] == "application/json"
        answer = shortened.json()
        assert answer == {"short_code": answer["short_code"], "url": url}
        assert re.fullmatch(r"[0-9a-f]{8}", answer["short_code"])
        assert (await running.resolve(answer["short_code"])).json() == {"url": url}
        for config in (ClientConfig(codec="json"), ClientConfig(codec="proto")):
            api = APIClient(running.api, running.http, config)
            code = (await api.shorten(ShortenRequest(url=url))).short_code
            assert (await api.resolve(ResolveRequest(code=code))).url == url


async def test_a_url_that_is_typed_as_it_is_read_round_trips(running: Shortener) -> None:
    async with dial(running.api) as wire:
        await wire.send(
            "POST /api.v1.API/Shorten?url=https://e.x/ü☃ HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        )
        shortened = json.loads((await wire.response()).body)
    assert shortened["url"] == "https://e.x/ü☃"
    assert (await running.resolve(shortened["short_code"])).json() == {"url": "https://e.x/ü☃"}


async def test_the_answer_to_curl_is_spelled_as_users_of_the_reference_know_it(running: Shortener) -> None:
    answer = await running.shorten("https://example.com")
    assert re.fullmatch(r'\{"short_code": "[0-9a-f]{8}", "url": "https://example.com"\}', answer.text)


async def test_a_connect_call_with_json_is_spelled_as_connect_says(running: Shortener) -> None:
    answer = await running.http.post(f"{running.api}/api.v1.API/Shorten", json={"url": "https://e.x"})
    assert set(answer.json()) == {"shortCode", "url"}


async def test_the_api_answers_any_method(running: Shortener) -> None:
    for method in ("GET", "POST", "PUT"):
        url = f"{running.api}/api.v1.API/Shorten"
        answer = await running.http.request(method, url, params={"url": "https://e.x"})
        assert answer.status_code == 200, method


@pytest.mark.parametrize(
    "url",
    [
        "example.com",
        "/path",
        "ftp://e.x",
        "javascript:alert(1)",
        "https://",
        "https:///path",
        "https://e.x:port",
        "https://e.x:0",
        "https://[::1",
        "https://exa mple.com",
        "https://<script>",
        "http://a\\b",
        "https://e.x\u2028",
        " https://e.x",
        "https://e.x/\nSet-Cookie: x",
        "https://e.x/\0",
        "https://e.x/" + "x" * MAX_URL_BYTES,
    ],
)
async def test_what_is_no_absolute_http_url_is_an_invalid_argument(url: str) -> None:
    class NoStorage:
        async def store(self, *_: object, **__: object) -> None:
            pytest.fail("it was stored")

    api = API(NoStorage())  # type: ignore[arg-type]
    async with in_process(application([api])) as http:
        response = await http.post("http://x/api.v1.API/Shorten", json={"url": url})
    assert response.status_code == 400
    assert response.json()["code"] == "invalid_argument"


async def test_a_bad_url_is_a_400_in_text_over_plain_http(running: Shortener) -> None:
    answer = await running.shorten("ftp://e.x")
    assert (answer.status_code, answer.text) == (400, "url must be an absolute http or https URL\n")


# Plugin, method, path; status, text.
SURFACE = [
    ("api", "POST", "/api.v1.API/Shorten", 400, "Missing url parameter\n"),
    ("api", "POST", "/api.v1.API/Shorten?url=", 400, "Missing url parameter\n"),
    ("api", "GET", "/api.v1.API/Resolve", 400, "Missing code parameter\n"),
    ("api", "GET", "/api.v1.API/Resolve?code=zzz", 404, "Not found: not found\n"),
    ("api", "GET", "/api.v1.API/Resolve?code=%ff", 400, "The query is not UTF-8\n"),
    ("api", "GET", "/api.v1.API/Nope", 404, "404 page not found\n"),
    ("storage", "GET", "/storage.v1.Storage/Store?code=c&url=u", 405, "Method not allowed\n"),
    ("storage", "POST", "/storage.v1.Storage/Store?code=c", 400, "Missing code or url\n"),
    ("storage", "GET", "/storage.v1.Storage/Get", 400, "Missing code\n"),
    ("storage", "GET", "/storage.v1.Storage/Get?code=zzz", 404, "Not found\n"),
    ("storage", "POST", "/storage.v1.Storage/Store?code=c&url=u", 200, '{"success": true}'),
    ("storage", "GET", "/storage.v1.Storage/Get?code=c", 200, '{"url": "u"}'),
    ("logger", "POST", "/logger.v1.Logger/Log?message=hello", 200, '{"success": true}'),
    ("logger", "GET", "/logger.v1.Logger/Log", 200, '{"success": true}'),
]


async def test_the_http_surface(running: Shortener) -> None:
    await running.http.post(f"{running.storage}/storage.v1.Storage/Store?code=c&url=u")
    for plugin, method, path, status, text in SURFACE:
        answer = await running.http.request(method, getattr(running, plugin) + path)
        assert (answer.status_code, answer.text) == (status, text), path
        if status != 200:
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"


async def test_storage_answers_typed_clients_in_codes(running: Shortener) -> None:
    storage = StorageClient(running.storage, running.http)
    for request in (StoreRequest(), StoreRequest(code="c")):
        with pytest.raises(ConnectError) as caught:
            await storage.store(request)
        assert caught.value.code == Code.INVALID_ARGUMENT
    with pytest.raises(ConnectError) as caught:
        await storage.get(GetRequest(code="zzz"))
    assert caught.value.code == Code.NOT_FOUND
    with pytest.raises(ConnectError) as caught:
        await APIClient(running.api, running.http).resolve(ResolveRequest())
    assert caught.value.code == Code.INVALID_ARGUMENT


async def test_a_hand_made_call_and_a_typed_one_both_pass_the_router(running: Shortener) -> None:
    caller, token = running.host.identities.issue("by-hand")
    headers = {"X-Plugin-Runtime-ID": caller.runtime_id, "Authorization": f"Bearer {token}"}
    endpoint = running.host_url + running.host.registry.discover("storage")[0].endpoint_url
    stored = await running.http.post(
        f"{endpoint}/Store", params={"code": "c1", "url": "u&v"}, headers=headers
    )
    assert stored.json() == {"success": True}
    typed = StorageClient(endpoint, running.http, ClientConfig(headers=headers))
    assert (await typed.get(GetRequest(code="c1"))).url == "u&v"


async def test_each_step_is_in_the_log(running: Shortener, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cpg_trio")
    await running.shorten("https://example.com/logged")
    text = caplog.text
    assert re.search(r"\[ROUTER\] api-plugin-\S+ → storage-plugin-\S+ /Store \(service: storage\)", text)
    assert re.search(r"\[ROUTER\] storage-plugin-\S+ → logger-plugin-\S+ /Log \(service: logger\)", text)
    assert re.search(r"\[LOG\] STORE [0-9a-f]{8} → https://example.com/logged", text)


async def test_a_line_of_the_log_cannot_be_forged(
    running: Shortener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "cpg_trio.demo.logger")
    await LoggerClient(running.logger, running.http).log(LogRequest(message="a\n2026/11/23 [LOG] b\x1b[31m"))
    assert caplog.messages[-1] == "[LOG] a\\n2026/11/23 [LOG] b\\x1b[31m"


async def test_storage_goes_on_without_a_logger_and_says_that_it_is_degraded(tmp_path: Path) -> None:
    async with (
        httpx.AsyncClient() as http,
        hosting() as (host, url),
        storage_plugin(tmp_path / "x") as storage,
        plugged(storage, url, accept_unsigned=True) as storage_url,
    ):
        await until(host, lambda: state_of(host, "storage") == DEGRADED)
        client = StorageClient(storage_url, http)
        await client.store(StoreRequest(code="c", url="u"))
        async with plugged(logger_plugin(), url):
            await until(host, lambda: is_healthy(host, "storage"))
            assert (await client.get(GetRequest(code="c"))).url == "u"
        await until(host, lambda: state_of(host, "storage") == DEGRADED)
        await client.store(StoreRequest(code="d", url="u"))


async def test_the_api_says_what_failed_and_nothing_of_how() -> None:
    async with (
        httpx.AsyncClient() as http,
        hosting() as (host, url),
        plugged(api_plugin(), url) as api_url,
    ):
        await until(host, lambda: state_of(host, "api") == DEGRADED)
        shortened = await http.post(f"{api_url}/api.v1.API/Shorten?url=https://e.x")
        assert (shortened.status_code, shortened.text) == (503, "Storage failed: storage is not available\n")
        resolved = await http.get(f"{api_url}/api.v1.API/Resolve?code=c")
        assert (resolved.status_code, resolved.text) == (503, "storage is not available\n")


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        (Code.NOT_FOUND, Code.NOT_FOUND),
        (Code.UNAVAILABLE, Code.UNAVAILABLE),
        (Code.UNIMPLEMENTED, Code.UNAVAILABLE),
        (Code.DEADLINE_EXCEEDED, Code.DEADLINE_EXCEEDED),
        (Code.INTERNAL, Code.INTERNAL),
        (Code.DATA_LOSS, Code.INTERNAL),
    ],
)
async def test_storages_errors_become_the_apis_own(code: Code, seen: Code) -> None:
    class Failing:
        async def get(self, *_: object, **__: object) -> None:
            raise ConnectError(code, "secret: /var/lib/urls.sqlite3")

    with pytest.raises(ConnectError) as caught:
        await API(Failing()).resolve(ResolveRequest(code="c"), None)  # type: ignore[arg-type]
    assert caught.value.code == seen
    assert "secret" not in caught.value.message


class Taken:
    """A storage in which the first codes are taken."""

    def __init__(self, taken: int) -> None:
        self.taken = taken
        self.codes: list[str] = []

    async def store(self, request: StoreRequest, **_: object) -> None:
        self.codes.append(request.code)
        if len(self.codes) <= self.taken:
            raise ConnectError(Code.ALREADY_EXISTS, "the code is taken")


async def test_a_code_that_is_taken_is_given_to_nobody_else() -> None:
    storage = Taken(3)
    answer = await API(storage).shorten(ShortenRequest(url="https://e.x"), None)  # type: ignore[arg-type]
    assert len(set(storage.codes)) == 4
    assert answer.short_code == storage.codes[-1]


async def test_the_search_for_a_free_code_ends() -> None:
    with pytest.raises(ConnectError) as caught:
        await API(Taken(10**6)).shorten(ShortenRequest(url="https://e.x"), None)  # type: ignore[arg-type]
    assert caught.value.code == Code.RESOURCE_EXHAUSTED


def test_each_plugin_is_a_few_lines_of_declaration() -> None:
    for plugin in (api_plugin(), logger_plugin()):
        assert isinstance(plugin, Plugin)
