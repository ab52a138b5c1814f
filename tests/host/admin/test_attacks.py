"""What attackers get from the admin addresses of a host, and from everything else for what is served there.

The host is a real one. The methods are those of the protocol, so one that is added is attacked as well.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from cpg_trio import wire
from cpg_trio.host import (
    AdminConfig,
    AdminTokens,
    AuditEvent,
    Enrolment,
    Host,
    HostConfig,
    LeaseConfig,
    RateLimits,
)
from cpg_trio.host.admin import AdminAddress, open_gate
from cpg_trio.http import ServeConfig
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2
from tests import _wire
from tests._wire import Response, dial, dial_http2, request
from tests.host.admin.addresses import BEARER, OTHER, TOKEN, Admin, ask, logged_in, page
from tests.host.admin.test_gate import Behind
from tests.plugin.running import hosting

SERVICE = "/cpgtrio.admin.v1.AdminService"
METHODS = [
    f"{SERVICE}/{method.name}" for method in admin_pb2.DESCRIPTOR.services_by_name["AdminService"].methods
]
PAGES = [
    *("/", "/plugins", "/plugins/secret-plugin", "/services", "/calls", "/capabilities", "/configuration"),
    *("/events", "/live", "/static/app.js", "/login", "/logout", "/login.css", "/?once=x"),
]
PATHS = [*METHODS, *PAGES]
EVIL = "http://evil.example"
JSON = {"content-type": "application/json"}
NAME = "secret-plugin"
ENROLMENT = "enrolment-token-of-the-plugin-itself"


@attrs.frozen
class Setting:
    """A host whose plugins' and admin addresses are on TCP, and a plugin with an identity."""

    host: Host
    url: str
    admin: str
    plugin: dict[str, str]
    runtime_id: str
    audited: list[AuditEvent]

    def refusals(self) -> int:
        return sum(not event.allowed for event in self.audited)

    def is_whole(self) -> bool:
        """Whether nothing has been done to the plugin."""
        return self.host.identities.entry(self.runtime_id) is not None


@asynccontextmanager
async def setting(**more: Any) -> AsyncIterator[Setting]:
    config = HostConfig(
        admin=AdminConfig(bind=["127.0.0.1:0"], tokens=AdminTokens([TOKEN])),
        enrolment=Enrolment({NAME: ENROLMENT}),
        probe_bind="127.0.0.1:0",
        rates=RateLimits(failed_authentication=None),
        leases=LeaseConfig(lease_s=600),
        **more,
    )
    async with hosting(config) as (host, url):
        audited: list[AuditEvent] = []
        host.audit.subscribe(audited.append)
        identity, token = host.identities.issue(NAME, provides=("secret-service",))
        host.registry.register(identity.runtime_id, "secret-service", "1.0.0", "/", {})
        plugin = {wire.RUNTIME_ID_HEADER: identity.runtime_id, "authorization": f"Bearer {token}"}
        yield Setting(host, url, host.admin_addresses[0], plugin, identity.runtime_id, audited)


def revocation(runtime_id: str) -> bytes:
    return json.dumps({"plugin": runtime_id}).encode()


async def status(url: str) -> Response:
    """Ask as an operator does."""
    return await ask(url, f"{SERVICE}/GetStatus", {**BEARER, **JSON}, method="POST", body=b"{}")


def tells(response: Response) -> bool:
    """Whether a response tells anything of the host and its plugins."""
    return any(text in response.body for text in (b"secret", b"1.0.0", b"runtimeId", TOKEN.encode()))


# Without what lets one in


async def test_no_method_and_no_page_answers_who_proves_nothing_or_something_else() -> None:
    async with setting() as s:
        cookie = (await logged_in(s.admin))["cookie"]
        secret = cookie.partition("=")[2]
        proofs: list[dict[str, str]] = [
            {},
            {"authorization": f"Bearer {OTHER}"},
            s.plugin,
            {"authorization": f"Bearer {ENROLMENT}"},
            {"cookie": cookie[:-1]},
            {"cookie": f"cpg-trio-admin={secret}"},
            {"cookie": f"__Host-{cookie}"},
            {"authorization": f"Bearer {secret}"},
            {"authorization": f"Basic {TOKEN}"},
            {
                "x-forwarded-for": "127.0.0.1",
                "x-real-ip": "127.0.0.1",
                "forwarded": "for=127.0.0.1",
            },
        ]
        body = revocation(s.runtime_id)
        for proof in proofs:
            for path in PATHS:
                for method in ("GET", "POST"):
                    sent = body if method == "POST" else b""
                    response = await ask(s.admin, path, {**proof, **JSON}, method=method, body=sent)
                    assert not tells(response), (proof, path, method)
                    assert response.status in {401, 403, 429} or path.startswith("/login"), (proof, path)
        assert s.is_whole()


async def test_a_cookie_is_good_for_the_address_that_has_given_it_alone() -> None:
    async with setting() as s, setting() as other:
        browser = await logged_in(s.admin)
        by_name = "localhost:" + s.admin.rpartition(":")[2]
        for url, host in ((other.admin, ""), (s.admin, by_name), (s.admin, "127.0.0.1")):
            response = await ask(url, "/plugins", {**browser, "origin": url}, host=host)
            assert response.status in {401, 403}
            name = url.rpartition(":")[2]
            renamed = browser["cookie"].partition("=")[2]
            fields = {**browser, "origin": url, "cookie": f"cpg-trio-admin-{name}={renamed}"}
            response = await ask(url, f"{SERVICE}/GetStatus", fields, method="POST", host=host)
            assert response.status in {401, 403}
        assert (await ask(s.admin, "/plugins", browser)).status != 401


async def test_a_cookie_that_has_ended_lets_nobody_in() -> None:
    async with setting() as s:
        browser = await logged_in(s.admin)
        await ask(s.admin, "/logout", browser, method="POST")
        for path in PATHS:
            fields = {**browser, **JSON}
            assert not tells(await ask(s.admin, path, fields, method="POST", body=revocation(s.runtime_id)))
        assert s.is_whole()


async def test_each_refusal_is_in_the_audit_trail_without_the_token() -> None:
    async with setting() as s:
        for path in METHODS:
            await ask(s.admin, path, {"authorization": f"Bearer {OTHER}", **JSON}, method="POST", body=b"{}")
        refused = [event for event in s.audited if not event.allowed]
        assert [event.target for event in refused] == METHODS
        assert all(event.address == "127.0.0.1" for event in refused)
        assert all(OTHER not in event.as_json() for event in refused)


# Through other ports


async def test_the_ports_of_probes_and_of_metrics_have_nothing_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with setting(metrics_bind="127.0.0.1:0") as s:
        probes = re.findall(r"probes are answered on (\S+)", caplog.text)
        for url in (*probes, *s.host.metrics_urls):
            for path in PATHS:
                for method in ("GET", "POST"):
                    body = revocation(s.runtime_id) if method == "POST" else b""
                    response = await ask(url, path, {**BEARER, **JSON}, method=method, body=body)
                    assert response.status == 404, (url, path, method)
                    assert not tells(response)
        assert len(probes) == 1
        assert s.is_whole()


async def test_the_port_of_the_plugins_has_nothing_of_it() -> None:
    async with setting() as s:
        body = revocation(s.runtime_id)
        for headers in ({}, BEARER, s.plugin, {**s.plugin, "cookie": "cpg-trio-admin=x"}):
            for path in PATHS:
                for method in ("GET", "POST"):
                    sent = body if method == "POST" else b""
                    response = await ask(s.url, path, {**headers, **JSON}, method=method, body=sent)
                    assert response.status == 404, (path, method)
                    assert not tells(response)
        async with dial_http2(s.url) as wire_:
            for path in METHODS:
                stream = await wire_.request(path, ("authorization", BEARER["authorization"]), method="POST")
                assert (await wire_.response(stream)).status == 404
        for path in METHODS:
            routed = f"/services/secret-service/{s.runtime_id}{path}"
            assert not tells(await ask(s.url, routed, {**BEARER, **JSON}, method="POST", body=b"{}"))
        assert s.is_whole()


async def test_admin_addresses_have_nothing_of_the_port_of_the_plugins() -> None:
    """An operator's token is no way to an identity."""
    async with setting() as s:
        for path in (
            "/connectplugin.v1.HandshakeService/Handshake",
            "/connectplugin.v1.ServiceRegistry/RegisterService",
            f"/services/secret-service/{s.runtime_id}/x",
            "/capabilities/logger/x",
            "/watch",
        ):
            response = await ask(s.admin, path, {**BEARER, **JSON}, method="POST", body=b"{}")
            assert response.status == 404, path


# Pages of others


@asynccontextmanager
async def browsers() -> AsyncIterator[tuple[Setting, list[tuple[str, dict[str, str]]]]]:
    """Run a host; yield the addresses that browsers have, each with the cookie of one that was let in."""
    async with setting() as s, open_gate(AdminAddress.of_url(s.admin, TOKEN)) as gate:
        behind = Behind(gate, Admin((), [], trio.Event()))
        cookies = [(s.admin, await logged_in(s.admin)), (behind.url, await behind.browser())]
        yield s, [(url, {"cookie": fields["cookie"]}) for url, fields in cookies]


VISIT = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
FOREIGN = [
    {"origin": EVIL},
    {"origin": "null"},
    {"origin": EVIL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "empty"},
    {"origin": EVIL, "sec-fetch-site": "cross-site", **VISIT},
    {"origin": "http://127.0.0.1:1", "sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    {"origin": "http://localhost", "sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    {"sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "object"},
]


async def test_a_page_of_somebody_else_can_do_nothing_even_with_the_cookie() -> None:
    kinds = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
    async with browsers() as (s, addresses):
        body = revocation(s.runtime_id)
        by_form = f"/plugins/{s.runtime_id}/revoke"
        attempts = [(path, FOREIGN[0], "application/json") for path in METHODS]
        attempts += [(by_form, FOREIGN[0], kind) for kind in kinds]
        attempts += [(path, fields, kinds[0]) for path in (by_form, "/logout") for fields in FOREIGN]
        for url, cookie in addresses:
            for path, fields, kind in attempts:
                headers = {**cookie, **fields, "content-type": kind}
                response = await ask(url, path, headers, method="POST", body=body)
                assert response.status == 403, (url, fields, path)
                assert not tells(response)
                assert response.header(b"access-control-allow-origin") is None
        assert s.is_whole()
        for url, cookie in addresses:  # and nobody was logged out
            assert (await ask(url, "/plugins", page(url, **cookie))).status == 200


async def test_a_page_of_somebody_else_reads_nothing_either() -> None:
    async with browsers() as (_, addresses):
        for url, cookie in addresses:
            for fields in FOREIGN:
                response = await ask(url, "/plugins", {**cookie, **fields})
                assert response.status == 403, fields
                assert not tells(response)


async def test_a_change_names_its_page() -> None:
    """A browser that sends neither `Origin` nor `Sec-Fetch-Site` with a POST is none that is known."""
    async with browsers() as (s, addresses):
        for url, cookie in addresses:
            body = revocation(s.runtime_id)
            response = await ask(url, f"{SERVICE}/RevokePlugin", {**cookie, **JSON}, method="POST", body=body)
            assert response.status == 403
        assert s.is_whole()


async def test_a_link_of_somebody_else_shows_a_page_in_a_window_of_its_own() -> None:
    link = {"sec-fetch-site": "cross-site", **VISIT}
    async with browsers() as (_, addresses):
        for url, cookie in addresses:
            assert (await ask(url, "/plugins", {**cookie, **link})).status not in {401, 403}
            without = await ask(url, "/plugins", {**link, "accept": "text/html"})  # as SameSite has it
            assert without.status == 401


async def test_a_page_asks_before_a_fetch_and_is_told_no() -> None:
    asks = {"origin": EVIL, "access-control-request-method": "POST"}
    async with browsers() as (_, addresses):
        for url, _cookie in addresses:
            response = await ask(url, METHODS[0], asks, method="OPTIONS")
            assert response.status == 403
            assert not any(name.startswith(b"access-control") for name, _ in response.headers)


@pytest.mark.parametrize(
    "rebound",
    [
        *("evil.example", "evil.example.", "evil.example:80", "127.0.0.1.evil.example"),
        *("localhost.evil.example", "a_b", "0x7f000001"),
    ],
)
async def test_a_name_that_was_pointed_at_this_machine_gets_nothing(rebound: str) -> None:
    """DNS rebinding: the page's origin is its name, and so is `Host`."""
    async with browsers() as (s, addresses):
        for url, cookie in addresses:
            for path in (METHODS[0], "/plugins", "/?once=x"):
                own = {**cookie, "origin": f"http://{rebound}", "sec-fetch-site": "same-origin"}
                for headers in (cookie, own):
                    method = "POST" if path in METHODS else "GET"
                    response = await ask(url, path, headers, method=method, host=rebound)
                    assert response.status == 403, (url, path, method)
                    assert not tells(response)
                    assert response.header(b"set-cookie") is None
        assert s.is_whole()


async def test_a_list_of_any_host_opens_the_plugins_port_and_not_the_admin_address() -> None:
    serve = ServeConfig(allowed_hosts=["*"], allowed_origins=["*"])
    async with setting(serve=serve) as s:
        evil = {"origin": EVIL, **BEARER}
        assert (await ask(s.url, "/healthz", {"origin": EVIL}, host="evil.example")).status == 200
        assert (await ask(s.admin, METHODS[0], evil, method="POST")).status == 403
        assert (await ask(s.admin, METHODS[0], BEARER, method="POST", host="evil.example")).status == 403


async def test_a_websocket_of_a_page_is_refused() -> None:
    async with browsers() as (_, addresses):
        for url, cookie in addresses:
            for path in ("/live", "/watch", f"{SERVICE}/WatchEvents"):
                response = await ask(url, path, {**cookie, "origin": EVIL, **_wire.HANDSHAKE})
                assert response.status in {403, 404}


# Messages


SMUGGLED = [
    b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
    b"content-length: 5\r\ncontent-length: 6\r\n",
    b"transfer-encoding: chunked, identity\r\n",
    b"transfer-encoding : chunked\r\n",
    b"transfer-encoding: xchunked\r\n",
    b"x: y\r\n folded\r\n",
    b"x: y\nz: w\r\n",
    b"host: evil.example\r\n",
]


async def test_a_message_that_could_be_two_is_refused() -> None:
    async with browsers() as (s, addresses):
        hidden = request("POST", f"{SERVICE}/RevokePlugin", {**BEARER, **JSON}, revocation(s.runtime_id))
        for url, cookie in addresses:
            for lines in SMUGGLED:
                async with dial(url) as wire_:
                    host = url[7:].encode()
                    await wire_.send(
                        b"POST /x HTTP/1.1\r\nhost: %b\r\ncookie: %b\r\norigin: %b\r\n%b\r\n0\r\n\r\n"
                        % (host, cookie["cookie"].encode(), url.encode(), lines)
                        + hidden
                    )
                    assert (await wire_.response()).status in {400, 501}, lines
                    await wire_.rest()
        assert s.is_whole()


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/static/../../../etc/passwd",
            "/static/%2e%2e/%2e%2e/etc/passwd",
            "/static/..%2f..%2fetc%2fpasswd",
        ),
        *("/static/..\\..\\etc\\passwd", "/static//etc/passwd", "/static/%2fetc%2fpasswd"),
        *("/static/app.js%00.html", "/static/.", "/static/", "//evil.example/x", "/static/%ff"),
    ],
)
async def test_no_path_leads_out_of_the_static_files(path: str) -> None:
    async with setting() as s:
        async with dial(s.admin) as wire_:
            await wire_.send(request("GET", path, {**BEARER}).replace(b"localhost", s.admin[7:].encode()))
            response = await wire_.response()
        assert response.status in {400, 404}
        assert b"root:" not in response.body


async def test_slow_and_endless_requests_hold_nobody_up() -> None:
    async with setting() as s, trio.open_nursery() as nursery:

        async def endless() -> None:
            async with dial(s.admin) as wire_:
                chunked = {**BEARER, **JSON, "transfer-encoding": "chunked"}
                await wire_.send(request("POST", METHODS[0], chunked))
                while True:
                    await wire_.send(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
                    await trio.sleep(0.01)

        async def survives() -> None:
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                await endless()

        for _ in range(5):
            nursery.start_soon(survives)
        for _ in range(10):
            assert (await status(s.admin)).status == 200


# Room


async def test_a_host_without_room_for_connections_answers_operators_and_the_other_way_round() -> None:
    async with setting(serve=ServeConfig(max_connections=4)) as s:
        held: list[trio.SocketStream] = []
        for url, count in ((s.url, 12), (s.admin, 80)):
            for _ in range(count):
                stream = await _wire.connect(url)
                assert isinstance(stream, trio.SocketStream)
                await stream.send_all(b"GET / HTTP/1.1\r\n")
                held.append(stream)
            assert (await status(s.admin)).status == 200
        assert (await ask(s.url, "/healthz")).status in {200, 503}
        for stream in held:
            await trio.aclose_forcefully(stream)


async def test_readers_of_events_are_bounded_and_the_stop_ends_them_at_once() -> None:
    envelope = b'\0\0\0\0\x0f{"follow":true}'
    streaming = {**BEARER, "content-type": "application/connect+json"}
    refused: list[bytes] = []
    async with trio.open_nursery() as nursery, setting() as s:
        followers, begun = 40, trio.Event()

        async def follow() -> None:
            nonlocal followers
            async with dial(s.admin) as wire_:
                sent = request("POST", f"{SERVICE}/WatchEvents", streaming, envelope)
                await wire_.send(sent.replace(b"localhost", s.admin[7:].encode()))
                assert (await wire_.head()).status == 200
                first = await wire_.some()
                if b"resource_exhausted" in first:
                    refused.append(first)
                followers -= 1
                if not followers:
                    begun.set()
                await wire_.rest()

        for _ in range(followers):
            nursery.start_soon(follow)
        await begun.wait()
        assert len(refused) == 8
        assert (await status(s.admin)).status == 200
        began = trio.current_time()
    assert trio.current_time() - began < 5
