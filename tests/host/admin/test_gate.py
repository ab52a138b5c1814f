"""The loopback port by which a browser reaches the admin address of a host."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from cpg_trio.asgi import Receive, Scope, Send, send_response
from cpg_trio.host.admin import AdminAddress, Gate, open_gate, sessions
from cpg_trio.http import BindError, ServeConfig
from tests import _wire
from tests._wire import Response, dial, request
from tests.certificates import Files
from tests.host.admin.addresses import BEARER, OTHER, TOKEN, Admin, admin, ask, page, whoami
from tests.http.apps import START, chunk


@attrs.frozen
class Behind:
    gate: Gate
    host: Admin

    @property
    def url(self) -> str:
        return self.gate.url

    async def open(self, address: str, **more: str) -> Response:
        """Open a one-time address, as a browser does."""
        fields = {"accept": "text/html", "sec-fetch-site": "none", "sec-fetch-mode": "navigate", **more}
        return await ask(self.url, address.removeprefix(self.url), fields)

    async def browser(self) -> dict[str, str]:
        """Return the fields of the requests of a browser that has been let in."""
        cookie = (await self.open(self.gate.one_time_address())).header(b"set-cookie")
        assert cookie is not None
        return page(self.url, cookie=cookie.partition(b";")[0].decode())


@asynccontextmanager
async def gate(short_path: Path, app: Any = whoami) -> AsyncIterator[Behind]:
    async with admin(app, socket=short_path / "a" / "s", bind=None) as host:
        address = AdminAddress.of_socket(host.url.removeprefix("unix:"))
        async with open_gate(address) as opened:
            yield Behind(opened, host)


async def test_a_one_time_address_lets_one_browser_in(short_path: Path) -> None:
    async with gate(short_path) as behind:
        address = behind.gate.one_time_address()
        assert address.startswith("http://127.0.0.1:")
        first = await behind.open(address)
        assert first.status == 200
        assert b'content="0; url=/"' in first.body
        *_, value = (first.header(b"set-cookie") or b"").partition(b"=")
        assert set(value.split(b"; ")[1:]) == {b"Path=/", b"HttpOnly", b"SameSite=Strict"}
        again = await behind.open(address)
        assert again.status == 401
        assert again.header(b"set-cookie") is None


async def test_a_browser_that_is_let_in_reaches_the_host_and_shows_it_nothing_of_its_own(
    short_path: Path,
) -> None:
    seen: list[dict[bytes, bytes]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope["headers"]))
        await whoami(scope, receive, send)

    async with gate(short_path, app) as behind:
        browser = await behind.browser()
        response = await ask(behind.url, "/plugins?a=b", browser)
        assert response.body.startswith(b"GET /plugins by uid ")
        changed = await ask(
            behind.url, "/drain", {**browser, "x-plugin-runtime-id": "p"}, method="POST", body=b"x=y"
        )
        assert changed.body.endswith(b": x=y")
        for name in (b"cookie", b"origin", b"x-plugin-runtime-id", b"authorization"):
            assert all(name not in fields for fields in seen)
        assert response.header(b"set-cookie") is None  # the application's
        assert b"frame-ancestors 'none'" in (response.header(b"content-security-policy") or b"")
        names = [name for name, _ in response.headers]
        assert len(names) == len(set(names))


async def test_of_an_answer_nothing_takes_the_place_of_what_the_gate_says(short_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert [value for name, value in scope["headers"] if name == b"content-length"] == [b"3"]
        mine = [
            (b"content-security-policy", b"mine"),
            (b"access-control-allow-origin", b"*"),
            (b"x-mine", b"1"),
        ]
        await send({**START, "headers": [*mine, (b"set-cookie", b"mine=1")]})
        await send({"type": "http.response.body"})

    async with gate(short_path, app) as behind:
        fields = {**await behind.browser(), "authorization": "Bearer mine", "x-mine": "1"}
        for _ in range(2):
            response = await ask(behind.url, "/drain", fields, method="POST", body=b"x=y")
            assert response.status == 200
            assert response.header(b"x-mine") == b"1"
            assert b"mine" not in (response.header(b"content-security-policy") or b"")
            assert not {b"set-cookie", b"access-control-allow-origin"} & {
                name for name, _ in response.headers
            }


async def test_an_address_that_is_not_used_ends(short_path: Path, virtual_time: MockClock) -> None:
    async with gate(short_path) as behind:
        late, longer = behind.gate.one_time_address(), behind.gate.one_time_address(good_for_s=3600)
        await trio.sleep(121)
        assert (await behind.open(late)).status == 401
        assert (await behind.open(longer)).status == 200


async def test_a_browser_that_is_idle_for_long_is_not_let_in_any_more(
    short_path: Path, virtual_time: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_IDLE_S", 60.0)
    async with gate(short_path) as behind:
        browser = await behind.browser()
        await trio.sleep(59)
        assert (await ask(behind.url, headers=browser)).status == 200
        await trio.sleep(61)
        assert (await ask(behind.url, headers=browser)).status == 401


async def test_a_browser_logs_out(short_path: Path) -> None:
    async with gate(short_path) as behind:
        browser = await behind.browser()
        assert (await ask(behind.url, "/logout", browser)).status == 403  # by a link
        left = await ask(behind.url, "/logout", browser, method="POST")
        assert left.status == 200
        assert b"Max-Age=0" in (left.header(b"set-cookie") or b"")
        assert (await ask(behind.url, headers=browser)).status == 401


async def test_addresses_that_are_not_used_are_bounded(short_path: Path) -> None:
    async with gate(short_path) as behind:
        addresses = [behind.gate.one_time_address() for _ in range(20)]
        assert [(await behind.open(each)).status for each in addresses] == [401] * 4 + [200] * 16


@pytest.mark.parametrize(
    "code", ["", "x", "x" * 10_000, "%00", "\xe4", "' or 1", "&once=", "../../etc/passwd"]
)
async def test_a_code_that_is_none_lets_nobody_in(short_path: Path, code: str) -> None:
    async with gate(short_path) as behind:
        behind.gate.one_time_address()
        async with dial(behind.url) as wire:
            await wire.send(request("GET", f"/?once={code}").replace(b" 1", b"%201"))
            response = await wire.response()
        assert response.status in {400, 401}
        assert response.header(b"set-cookie") is None


async def test_a_host_with_a_token_is_reached_and_the_browser_never_sees_the_token(short_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send_response(send, 200, b"hello", [(b"content-type", b"text/plain")])

    async with admin(app) as host, open_gate(AdminAddress.of_url(host.url, TOKEN)) as opened:
        behind = Behind(opened, host)
        browser = await behind.browser()
        response = await ask(behind.url, headers=browser)
        assert response.body == b"hello"
        assert TOKEN.encode() not in repr(response).encode()
        assert host.admitted() == ["token from 127.0.0.1"]
        assert (
            await ask(behind.url, headers=BEARER)
        ).status == 401  # the token is the host's, not the gate's
    assert TOKEN not in repr(AdminAddress.of_url(host.url, TOKEN))


async def test_a_host_that_does_not_take_the_token_says_so(short_path: Path) -> None:
    async with admin() as host, open_gate(AdminAddress.of_url(host.url, OTHER)) as opened:
        behind = Behind(opened, host)
        response = await ask(behind.url, headers=await behind.browser())
        assert response.status == 502
        assert b"does not accept the token" in response.body


async def test_a_host_with_tls_is_reached(certificates: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    async with admin(serving=ServeConfig(tls=certificates.config())) as host:
        address = AdminAddress.of_url(host.url, TOKEN)
        context = certificates.client_context()
        async with open_gate(address, ssl_context=lambda: context) as opened:
            behind = Behind(opened, host)
            assert (await ask(behind.url, headers=await behind.browser())).status == 200


async def test_a_host_that_is_gone_is_said_to_be(short_path: Path) -> None:
    async with open_gate(AdminAddress.of_socket(short_path / "none")) as opened:
        behind = Behind(opened, Admin((), [], trio.Event()))
        response = await ask(behind.url, headers=await behind.browser())
        assert response.status == 502
        assert b"the host is not there" in response.body


async def test_a_stream_goes_through_as_it_comes_and_ends_with_the_gate(short_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        for number in range(3):
            await chunk(send, b"event %d\n" % number)
        await trio.sleep_forever()

    async with gate(short_path, app) as behind, dial(behind.url) as wire:
        await wire.send(
            request("GET", "/live", await behind.browser()).replace(b"localhost", behind.url[7:].encode())
        )
        assert (await wire.head()).status == 200
        await wire.until(b"event 2\n")


async def test_a_request_has_a_size(short_path: Path) -> None:
    async with gate(short_path) as behind:
        browser = await behind.browser()
        assert (await ask(behind.url, headers=browser, method="POST", body=b"x" * 65537)).status == 413


async def test_a_port_that_is_taken_is_an_error_that_says_so(short_path: Path) -> None:
    async with gate(short_path) as behind:
        port = int(behind.url.rpartition(":")[2])
        with pytest.raises(BindError, match="address already in use"):
            async with open_gate(AdminAddress.of_socket("/x"), port=port):
                pass


@pytest.mark.parametrize("url", ["ftp://x", "http://u:p@x", "http://x/path", "x", "http://x?a=b"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        AdminAddress.of_url(url, TOKEN)


async def test_websockets_are_refused(short_path: Path) -> None:
    async with gate(short_path) as behind:
        browser = await behind.browser()
        assert (await ask(behind.url, "/x", {**browser, **_wire.HANDSHAKE})).status == 404


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's process needs root")
async def test_programs_of_other_users_get_nothing_even_with_the_cookie(
    short_path: Path,
) -> None:
    async with gate(short_path) as behind:
        browser = await behind.browser()
        code = behind.gate.one_time_address().removeprefix(behind.url)
        host, port = behind.url.removeprefix("http://").split(":")
        for path in ("/plugins", code, "/login.css"):
            sent = request("GET", path, {"cookie": browser["cookie"], "connection": "close"})
            script = (
                "import os, socket; os.setgid(65534); os.setuid(65534); s = socket.socket()\n"
                f"s.connect(({host!r}, {port})); s.sendall({sent!r}); print(s.recv(9999))"
            )
            answered = await trio.run_process([sys.executable, "-c", script], capture_stdout=True)
            assert b"HTTP/1.1 403" in answered.stdout, path
            assert b"set-cookie" not in answered.stdout
        assert (await behind.open(code)).status == 200  # it has not been used
