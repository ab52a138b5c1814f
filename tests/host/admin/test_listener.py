"""Where the admin application is served, and to whom."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cpg_trio.asgi import Receive, Scope, Send
from cpg_trio.host import Rate, RateLimits
from cpg_trio.host.admin import AdminConfig, AdminTokens
from cpg_trio.http import ServeConfig, StartError
from cpg_trio.http.channel import PeerProcess, SocketChannel
from tests import _wire
from tests._wire import dial, dial_http2, request
from tests.certificates import Files
from tests.host.admin.addresses import BEARER, OTHER, TOKEN, admin, ask, logged_in, page
from tests.http.apps import START, chunk

NOBODY = 65534


# The Unix socket


async def test_a_socket_is_for_its_user_alone_and_is_removed_at_the_stop(short_path: Path) -> None:
    path = short_path / "mine" / "{port}.sock"
    async with admin(socket=path, bind=None) as served:
        bound = short_path / "mine" / "8080.sock"
        assert served.urls == (f"unix:{bound}",)
        assert stat.S_IMODE(bound.stat().st_mode) == 0o600
        assert stat.S_IMODE(bound.parent.stat().st_mode) == 0o700
        response = await ask(served.url, "/x", {}, method="POST", body=b"abc")
        assert response.body == f"POST /x by uid {os.geteuid()}: abc".encode()
        await ask(served.url)
        assert served.admitted() == [f"uid {os.geteuid()}"]  # once
    assert not bound.exists()


async def test_a_process_of_another_user_is_refused_and_recorded(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SocketChannel, "peer_process", PeerProcess(uid=4242, pid=1))
    async with admin(socket=short_path / "a" / "s", bind=None) as served:
        response = await ask(served.url, headers=BEARER)
        assert response.status == 403
        assert b"not for user 4242" in response.body
        assert served.refusals() == [
            "the admin socket is for the user of the host and for root, not for user 4242"
        ]


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's process needs root")
async def test_the_kernel_says_who_connects(short_path: Path) -> None:
    """A process of another user that finds the modes opened is refused all the same."""
    path = short_path / "a" / "s"
    script = (
        "import os, socket; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        f"s.connect({str(path)!r}); s.sendall(b'GET / HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n'); print(s.recv(999))"
    )
    await trio.Path(short_path).chmod(0o755)
    async with admin(socket=path, bind=None) as served:
        refused = await trio.run_process(
            [sys.executable, "-c", script], capture_stdout=True, capture_stderr=True, check=False
        )
        assert b"PermissionError" in refused.stderr
        path.parent.chmod(0o755)
        path.chmod(0o666)
        answered = await trio.run_process([sys.executable, "-c", script], capture_stdout=True)
        assert b"403" in answered.stdout
        assert len(served.refusals()) == 1


async def test_a_directory_that_others_may_change_is_refused(short_path: Path) -> None:
    open_to_all = short_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    link = short_path / "link"
    link.symlink_to(short_path)
    (short_path / "file").touch()
    for folder, why in (
        (open_to_all, "others may write"),
        (link, "not a directory"),
        (short_path / "file", "not a directory"),
        (short_path / "missing" / "deeper", "no such file"),
    ):
        with pytest.raises(StartError, match=why) as raised:
            async with admin(socket=folder / "s", bind=None):
                pass
        assert "ADMIN_SOCKET" in str(raised.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's directory needs root")
async def test_a_directory_of_another_user_is_refused(short_path: Path) -> None:
    theirs = short_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(StartError, match=f"belongs to user {NOBODY}"):
        async with admin(socket=theirs / "s", bind=None):
            pass


async def test_the_socket_of_a_dead_host_is_replaced_and_that_of_a_live_one_is_not(short_path: Path) -> None:
    path = short_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with admin(socket=path, bind=None) as first:
        with pytest.raises(StartError, match="already in use"):
            async with admin(socket=path, bind=None):
                pass
        assert (await ask(first.url)).status == 200


async def test_a_host_can_do_without_a_socket_that_nobody_has_named(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    socket_path = short_path / "missing" / "deeper" / "s"
    async with admin(socket=socket_path, bind=None, socket_is_required=False) as served:
        assert served.urls == ()
    assert "there is no admin socket" in caplog.text


# Tokens


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": f"Bearer {OTHER}"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer  {TOKEN}"},
        {"authorization": "Bearer "},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer " + "x" * 10_000},
        {"authorization": "Bearer \xe4" * 40},
        {"cookie": f"cpg-trio-admin={TOKEN}"},
        {"x-plugin-runtime-id": "p", "authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nobody_gets_in_by_tcp_without_the_token(headers: dict[str, str], method: str) -> None:
    async with admin() as served:
        response = await ask(served.url, "/x", headers, method=method)
        assert response.status == 401
        assert response.header(b"www-authenticate") == b"Bearer"
        assert TOKEN.encode() not in response.body
        assert b"unauthenticated" in response.body
        assert len(served.refusals()) == 1
        assert not served.admitted()


async def test_who_shows_the_token_gets_in_and_is_recorded_once() -> None:
    async with admin() as served:
        for _ in range(3):
            response = await ask(served.url, "/x", BEARER)
            assert response.body == b"GET /x by token from 127.0.0.1: "
        assert served.admitted() == ["token from 127.0.0.1"]
        assert all(TOKEN not in event.as_json() for event in served.audited)


async def test_the_token_opens_http2_as_well() -> None:
    async with admin() as served, dial_http2(served.url) as wire:
        stream = await wire.request("/x", ("authorization", BEARER["authorization"]))
        assert (await wire.response(stream)).status == 200
        stream = await wire.request("/x")
        assert (await wire.response(stream)).status == 401


async def test_wrong_tokens_have_a_rate_beyond_which_nothing_is_recorded_and_the_right_one_passes(
    virtual_time: MockClock,
) -> None:
    async with admin(rates=RateLimits(failed_authentication=Rate(0.001, 3))) as served:
        statuses = [(await ask(served.url, headers={"authorization": "Bearer x"})).status for _ in range(6)]
        assert statuses == [401] * 3 + [429] * 3
        assert len(served.refusals()) == 3
        assert (await ask(served.url, headers=BEARER)).status == 200


async def test_the_file_of_tokens_is_read_again_when_it_changes(
    tmp_path: Path, virtual_time: MockClock
) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# operators\n{TOKEN}\n")
    path.chmod(0o600)
    other = {"authorization": f"Bearer {OTHER}"}
    async with admin(tokens=AdminTokens(path)) as served:
        browser = await logged_in(served.url)
        assert (await ask(served.url, headers=BEARER)).status == 200
        assert (await ask(served.url, headers=other)).status == 401
        path.write_text(f"{OTHER}\n")
        await trio.sleep(2)
        assert (await ask(served.url, headers=BEARER)).status == 401
        assert (await ask(served.url, headers=other)).status == 200
        assert (await ask(served.url, headers=browser)).status == 401  # its token is valid no more


@pytest.mark.parametrize("tokens", [[], ["short"], ["x" * 31], ["x " * 20], ["ä" * 40], ["x" * 32] * 11])
def test_tokens_that_are_none_are_refused_and_not_quoted(tokens: list[str]) -> None:
    with pytest.raises(ValueError, match="each of 32 to") as raised:
        AdminTokens(tokens)
    assert not any(token in str(raised.value) for token in tokens)


def test_a_file_of_tokens_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(TOKEN)
    path.chmod(0o644)
    with pytest.raises(ValueError, match="everybody may read it"):
        AdminTokens(path)


def test_an_address_needs_a_token() -> None:
    with pytest.raises(ValueError, match="needs an admin token"):
        AdminConfig(bind=["127.0.0.1:9090"])


async def test_no_plaintext_leaves_the_machine_unless_that_is_allowed() -> None:
    with pytest.raises(StartError, match="ADMIN_BIND=127"):
        async with admin(bind="0.0.0.0:0"):
            pass
    async with admin(bind="0.0.0.0:0", allow_plaintext=True) as served:
        assert (await ask(served.url.replace("0.0.0.0", "127.0.0.1"), headers=BEARER)).status == 200


async def test_admin_addresses_have_the_certificate_of_the_host(
    certificates: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wire, "TRUST", [certificates.client_context()])
    async with admin(bind="0.0.0.0:0", serving=ServeConfig(tls=certificates.config())) as served:
        url = served.url.replace("0.0.0.0", "127.0.0.1")
        assert url.startswith("https:")
        assert (await ask(url, headers=BEARER)).status == 200
        browser = await logged_in(url)
        assert browser["cookie"].startswith("__Host-")
        assert (await ask(url, headers=browser)).body == b"GET / by browser from 127.0.0.1: "


# Limits


async def test_a_request_comes_whole_and_has_a_size() -> None:
    async with admin() as served:
        assert (await ask(served.url, headers=BEARER, method="POST", body=b"x" * 65536)).status == 200
        for headers in ({}, {"transfer-encoding": "chunked"}):
            async with dial(served.url) as wire:
                sent = request("POST", "/", {**BEARER, **headers}, b"" if headers else b"x" * 65537)
                await wire.send(sent + (b"10001\r\n" + b"x" * 65537 if headers else b""))
                assert (await wire.response()).status == 413


async def test_a_body_that_does_not_come_is_not_waited_for(virtual_time: MockClock) -> None:
    async with admin() as served, dial(served.url) as wire:
        await wire.send(request("POST", "/", {**BEARER, "content-length": "100"}) + b"x")
        began = trio.current_time()
        assert await wire.rest() == b""
        assert trio.current_time() - began < 10


async def test_who_is_not_let_in_is_answered_before_the_body_is_read() -> None:
    async with admin() as served, dial(served.url) as wire:
        await wire.send(request("POST", "/", {"content-length": "100"}))
        assert (await wire.response()).status == 401


async def test_a_stranger_with_all_connections_does_not_keep_an_operator_out() -> None:
    async with admin() as served, trio.open_nursery() as nursery:
        holding: list[trio.SocketStream] = []
        for _ in range(80):
            stream = await _wire.connect(served.url, address="127.0.0.9")
            assert isinstance(stream, trio.SocketStream)
            await stream.send_all(b"GET / HTTP/1.1\r\n")
            holding.append(stream)
        for _ in range(5):
            assert (await ask(served.url, headers=BEARER)).status == 200
        for stream in holding:
            nursery.start_soon(trio.aclose_forcefully, stream)


async def test_the_stop_does_not_wait_for_a_stream() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await chunk(send, b"event")
        await trio.sleep_forever()

    async with admin(app) as served, dial(served.url) as wire:
        await wire.send(request("GET", "/events", BEARER))
        assert (await wire.head()).status == 200
        served.stop.set()
        with trio.fail_after(5):
            await wire.rest()


async def test_websockets_are_refused() -> None:
    async with admin() as served:
        response = await ask(served.url, "/x", {**BEARER, **_wire.HANDSHAKE})
        assert response.status == 404


# Browsers


async def test_a_browser_logs_in_with_the_token_and_has_a_cookie_from_then_on() -> None:
    async with admin() as served:
        fields = page(served.url)
        form = await ask(served.url, "/plugins?a=<b>", {"accept": "text/html"})
        assert form.status == 401
        assert b'value="/plugins?a=&lt;b&gt;"' in form.body
        assert (await ask(served.url, "/login.css")).header(b"content-type") == b"text/css"
        assert (await ask(served.url, "/login", fields)).status == 200
        browser = await logged_in(served.url)
        assert (
            await ask(served.url, "/plugins", browser)
        ).body == b"GET /plugins by browser from 127.0.0.1: "
        changed = await ask(served.url, "/drain", browser, method="POST", body=b"plugin=x")
        assert changed.body == b"POST /drain by browser from 127.0.0.1: plugin=x"
        left = await ask(served.url, "/logout", browser, method="POST")
        assert left.status == 303
        assert b"Max-Age=0" in (left.header(b"set-cookie") or b"")
        assert (await ask(served.url, "/plugins", browser)).status == 401
        assert not served.refusals()
        assert served.admitted() == ["browser from 127.0.0.1"] * 2  # the login, and the first use


async def test_a_cookie_tells_scripts_and_other_sites_nothing() -> None:
    async with admin() as served:
        form = b"token=" + TOKEN.encode()
        fields = page(served.url)
        response = await ask(served.url, "/login", fields, method="POST", body=form)
        cookie = response.header(b"set-cookie") or b""
        name, _, rest = cookie.partition(b"=")
        assert name == b"cpg-trio-admin-" + served.url.rpartition(":")[2].encode()
        value, *attributes = rest.split(b"; ")
        assert len(value) >= 43  # 256 bits
        assert set(attributes) == {b"Path=/", b"HttpOnly", b"SameSite=Strict"}


async def test_a_wrong_token_in_the_form_is_refused_and_shown_again() -> None:
    async with admin() as served:
        for form in (b"token=" + OTHER.encode(), b"token=", b"", b"\xff", b"&".join([b"a=b"] * 50)):
            response = await ask(served.url, "/login", page(served.url), method="POST", body=form)
            assert response.status in {400, 401}
            assert response.header(b"set-cookie") is None
            assert OTHER.encode() not in response.body
        assert len(served.refusals()) == 3


@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/\\evil.example", "x", "/%0d%0aset-cookie:a=b"]
)
async def test_the_login_leads_nowhere_else(target: str) -> None:
    async with admin() as served:
        form = f"token={TOKEN}&next={target}".encode()
        response = await ask(served.url, "/login", page(served.url), method="POST", body=form)
        assert response.header(b"location") == b"/"


async def test_a_session_ends_when_it_is_not_used(virtual_time: MockClock) -> None:
    async with admin() as served:
        browser = await logged_in(served.url)
        await trio.sleep(7.9 * 3600)
        assert (await ask(served.url, headers=browser)).status == 200
        await trio.sleep(7.9 * 3600)
        assert (await ask(served.url, headers=browser)).status == 200
        await trio.sleep(8.1 * 3600)
        assert (await ask(served.url, headers=browser)).status == 401


async def test_sessions_are_bounded_and_the_one_that_is_used_stays() -> None:
    async with admin(rates=RateLimits(failed_authentication=None)) as served:
        used, unused = await logged_in(served.url), await logged_in(served.url)
        for _ in range(99):
            await ask(served.url, headers=used)
            await logged_in(served.url)
        assert (await ask(served.url, headers=used)).status == 200
        assert (await ask(served.url, headers=unused)).status == 401


async def test_each_response_tells_browsers_what_a_page_may_do() -> None:
    async with admin() as served:
        browser = await logged_in(served.url)
        for headers in ({}, BEARER, browser, {"accept": "text/html"}, {"origin": "http://evil.example"}):
            response = await ask(served.url, headers=headers)
            policy = response.header(b"content-security-policy") or b""
            assert b"default-src 'self'" in policy
            assert b"frame-ancestors 'none'" in policy
            assert b"unsafe" not in policy
            assert response.header(b"x-content-type-options") == b"nosniff"
            assert response.header(b"x-frame-options") == b"DENY"
            assert response.header(b"referrer-policy") == b"same-origin"
            assert response.header(b"cache-control") == b"no-store"
            assert response.header(b"access-control-allow-origin") is None
            assert response.header(b"set-cookie") is None  # the application's is dropped
