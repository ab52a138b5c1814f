"""What pages of somebody else's get in a browser that is let in to the dashboard."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from string import Template

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.running import Shortener, window

# A page that tries all that a page can, and keeps what it learns in `seen`.
EVIL = Template("""\
<!doctype html><title>evil</title>
<iframe name="sink"></iframe><iframe name="framed" src="$target/plugins"></iframe>
<form id="form" method="post" action="$target/plugins/api-plugin/revoke" target="sink"></form>
<script>
const target = "$target", seen = {}, waits = [];
const attempt = (name, work) => waits.push(
  work().catch(() => "nothing").then((got) => { seen[name] = got; }));
const load = (tag, path) => () => new Promise((loaded, failed) => {
  const element = document.createElement(tag);
  element.onload = () => loaded("loaded");
  element.onerror = failed;
  element.src = target + path;
  document.body.append(element);
});
const post = (path, type, body) => () => fetch(target + path, {
  method: "POST", mode: "no-cors", credentials: "include", headers: {"content-type": type}, body,
}).then((answer) => answer.type);
attempt("read", () => fetch(target + "/plugins", {credentials: "include"}).then((answer) => answer.text()));
attempt("preflight", () => fetch(target + "/cpgtrio.admin.v1.AdminService/RevokePlugin", {
  method: "POST", credentials: "include", headers: {"content-type": "application/json"},
  body: '{"plugin":"api-plugin"}',
}).then((answer) => answer.text()));
attempt("form", post("/plugins/api-plugin/revoke", "application/x-www-form-urlencoded", "reason=x"));
attempt("rpc", post("/cpgtrio.admin.v1.AdminService/RevokePlugin", "text/plain", '{"plugin":"api-plugin"}'));
attempt("beacon", async () => navigator.sendBeacon(target + "/plugins/api-plugin/revoke", "a=b") && "sent");
attempt("script", load("script", "/static/dashboard.js"));
attempt("picture", load("img", "/static/icon.svg"));
attempt("socket", () => new Promise((opened, failed) => {
  const socket = new WebSocket(target.replace("http", "ws") + "/live");
  socket.onopen = () => opened("opened");
  socket.onerror = failed;
}));
document.getElementById("form").submit();
Promise.all(waits).then(() => { document.title = "done"; });
</script>
""")


@contextmanager
def serving(body: bytes) -> Iterator[int]:
    """Serve a page on loopback, as another program of this machine does; yield the port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("host", ["evil.localhost", "127.0.0.1"])
def test_a_page_of_somebody_else_learns_nothing_and_changes_nothing(
    browser: Browser, shared: Shortener, host: str
) -> None:
    """One is of another site, the other of the same: its cookies are sent to another port of an address."""
    with window(browser, shared.open_dashboard()) as operator:
        operator.live()
        with serving(EVIL.substitute(target=operator.origin).encode()) as port:
            evil = operator.context.new_page()
            evil.goto(f"http://{host}:{port}/")
            expect(evil).to_have_title("done")
            seen = evil.evaluate("seen")
            evil.wait_for_timeout(500)  # for the form, whose answer the page cannot see
            framed = [frame.url for frame in evil.frames[1:]]
            evil.close()
        assert seen.pop("beacon") == "sent"  # which is all that a page is told of it
        assert set(seen.values()) == {"nothing"}, seen
        assert not any("/plugins" in url and "chrome-error" not in url for url in framed[1:]), framed
        operator.go("/events?kind=revoked")
        expect(operator.page.locator("#event-rows tr, #event-rows li")).to_have_count(0)
        operator.go("/plugins/api-plugin")
        expect(operator.page.locator("#plugin_state")).to_contain_text("healthy")


def test_a_link_in_a_page_of_somebody_else_leads_to_the_dashboard_and_gives_it_no_hold(
    browser: Browser, shared: Shortener
) -> None:
    with window(browser, shared.open_dashboard()) as operator:
        body = f'<a href="{operator.origin}/plugins" target="_blank" rel="opener">plugins</a>'
        with serving(body.encode()) as port:
            evil = operator.context.new_page()
            evil.goto(f"http://evil.localhost:{port}/")
            with operator.context.expect_page() as opened:
                evil.get_by_text("plugins").click()
            shown = opened.value
            shown.wait_for_load_state()
            assert shown.evaluate("window.opener") is None
            expect(shown.locator("body")).to_contain_text(
                "has not been let in"
            )  # no cookie from another site
            shown.goto(f"{operator.origin}/plugins")
            expect(shown.locator("h1, caption, table").first).to_be_visible()
            evil.close()


def test_a_browser_that_has_no_cookie_sees_nothing(browser: Browser, shared: Shortener) -> None:
    with window(browser, shared.open_dashboard()) as operator:
        cookie, *others = operator.context.cookies()
        assert not others
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
        assert operator.page.evaluate("document.cookie") == ""
        with browser.new_context() as other:
            stranger = other.new_page()
            answer = stranger.goto(f"{operator.origin}/plugins")
            assert answer is not None
            assert answer.status == 401
            expect(stranger.locator("body")).not_to_contain_text("api-plugin")
