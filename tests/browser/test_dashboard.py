"""What an operator sees of the example, and does with it, in a browser."""

from __future__ import annotations

import re

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from cpg_trio._human import span
from tests.browser.running import Shortener, window

PATHS = ("/", "/plugins", "/services", "/calls", "/capabilities", "/configuration", "/events")


def node(page: Page, name: str) -> Locator:
    return page.locator("a.node").filter(has_text=f"{name}")


def assert_accessible(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    serious = [each for each in found if each["impact"] in {"serious", "critical"}]
    assert not serious, (page.url, [(each["id"], each["nodes"][0]["html"]) for each in serious])


def problem(page: Page, text: str) -> Locator:
    return page.locator(".problem").filter(has=page.get_by_text(re.compile(f"^{re.escape(text)}")))


def test_a_plugin_that_dies_is_seen_and_so_is_its_return(browser: Browser, example: Shortener) -> None:
    with window(browser, example.open_dashboard()) as seen:
        page = seen.page
        seen.live()
        expect(page.locator("#sentence")).to_contain_text("nothing is wrong")
        expect(page).to_have_title(re.compile("^● "))
        page.evaluate("window.same = true")  # gone if the page were loaded anew
        example.kill("logger")
        expect(page.locator("#sentence")).to_contain_text("storage-plugin waits for logger")
        expect(page.locator("#sentence")).to_contain_text("degraded")
        expect(page).to_have_title(re.compile("^◐ "))
        expect(problem(page, "logger-plugin (")).to_contain_text("lapsed")
        expect(node(page, "storage-plugin")).to_contain_text("degraded")
        expect(page.locator("#event-rows")).to_contain_text("lapsed")
        expect(page.locator("#announced")).to_contain_text("degraded: storage-plugin")
        assert_accessible(page)
        page.emulate_media(color_scheme="dark")
        assert_accessible(page)
        example.start("logger")
        expect(page.locator("#sentence")).to_contain_text("nothing is wrong")
        expect(node(page, "storage-plugin")).to_contain_text("healthy")
        expect(page.locator("#problems")).to_be_empty()
        assert page.evaluate("window.same")


def test_what_an_operator_asks_first_is_answered(browser: Browser, example: Shortener) -> None:
    example.call()
    with window(browser, example.open_dashboard()) as seen:
        page = seen.page
        expect(page.locator("#graph .label").nth(1)).to_contain_text("/s")  # the logger is called as well
        example.kill("logger")
        # Which plugin is down, and since when?
        down = problem(page, "logger-plugin (").locator(".since")
        expect(down).to_contain_text(re.compile(r"for \d+ s"))
        # How many are degraded?
        expect(page.locator("#tiles")).to_contain_text("1 degraded")
        # Who calls whom?
        expect(page.locator("#graph-list")).to_contain_text("api-plugin → storage-plugin")
        # Which calls fail, and with what?
        seen.go("/calls?q=logger")
        expect(page.locator("#failure-rows")).to_contain_text("unavailable")
        expect(page.locator("#rows tr").filter(has_text="logger/Log").first).to_contain_text("storage-plugin")
        # What is slow?
        seen.go("/calls")
        expect(page.locator("#slow-rows tr").first).to_contain_text(re.compile(r"\d (ms|s)"))
        # Why is it degraded?
        seen.go("/plugins/storage-plugin")
        expect(page.locator("#plugin_state")).to_contain_text("waiting for logger")
        expect(page.locator("#plugin_dependencies")).to_contain_text("logger ✗ missing")
        # Who was refused?
        assert httpx.post(f"{example.system.host_url}/services/storage/x/Store").status_code == 401
        seen.go("/events?kind=refused")
        expect(page.locator("#event-rows")).to_contain_text("refused")
        expect(page.locator("#event-rows")).to_contain_text("127.0.0.1")


def test_calls_are_on_the_edges_and_in_the_tables(browser: Browser, shared: Shortener) -> None:
    with window(browser, shared.open_dashboard()) as seen:
        page = seen.page
        expect(page.locator("#graph .label").first).to_contain_text("/s")
        expect(page.locator("#pulse")).to_contain_text("p95")
        page.get_by_text("The same as a list").click()
        listed = page.locator(".edges li").filter(has_text="api-plugin → storage-plugin")
        expect(listed).to_contain_text(re.compile(r"\d/s, p95 .*s"))
        expect(page.locator("details")).to_have_attribute("open", "")  # and stays open over updates
        seen.go("/calls")
        row = page.locator("#rows tr").filter(has_text="storage/Store")
        expect(row.first).to_contain_text("ok")


def test_a_plugin_is_drained_and_gets_calls_again(browser: Browser, example: Shortener) -> None:
    with window(browser, example.open_dashboard()) as seen:
        page = seen.page
        node(page, "logger-plugin").click()
        expect(page.locator("h1")).to_have_text("logger-plugin")
        page.get_by_role("link", name="Drain…").click()
        expect(page.locator(".dialog")).to_contain_text("it is the only provider")
        page.get_by_label("Reason").fill("an update")
        page.get_by_role("button", name=re.compile("^Drain")).click()
        expect(page.locator("h1")).to_have_text("Done")
        page.get_by_role("link", name="Go on").click()
        expect(page.locator("#plugin_state")).to_contain_text("draining")
        expect(page.locator("#plugin_state")).to_contain_text("an update")
        page.get_by_role("link", name="Undo the drain…").click()
        page.get_by_role("button", name=re.compile("^Undo")).click()
        page.get_by_role("link", name="Go on").click()
        expect(page.locator("#plugin_state")).to_contain_text("healthy")


def test_a_plugin_that_is_shut_down_ends(browser: Browser, example: Shortener) -> None:
    with window(browser, example.open_dashboard()) as seen:
        page = seen.page
        seen.go("/plugins/api-plugin/shutdown")
        page.get_by_label("Seconds").fill("1")
        page.get_by_role("button", name=re.compile("^Shut down")).click()
        expect(page.locator(".dialog")).to_contain_text("was asked to stop")
        assert example.do(example.system.parts["api"].end) == 0
        seen.go("/plugins/api-plugin")
        expect(page.locator("#plugin_state")).to_contain_text("gone")


def test_a_host_that_is_lost_is_a_banner_until_it_is_back(browser: Browser, example: Shortener) -> None:
    with window(browser, example.open_dashboard()) as seen:
        page = seen.page
        seen.live()
        expect(page.locator("#lost")).to_be_hidden()
        example.kill("host")
        expect(page.locator("#lost")).to_contain_text("The connection to the host is lost")
        expect(page.locator("#live-word")).to_have_text("not live")
        expect(page.locator("#plugin-rows")).to_contain_text("api-plugin")  # what was then is still there
        example.start_host()
        expect(page.locator("#lost")).to_be_hidden()
        seen.live()
        expect(page.locator("#sentence")).to_contain_text("3 plugins, 3 services, nothing is wrong")
        seen.faults.clear()  # the console names each request that failed


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_axe_finds_nothing_serious(browser: Browser, shared: Shortener, scheme: str, width: int) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with window(browser, shared.open_dashboard(), **options) as seen:
        for path in (*PATHS, "/plugins/storage-plugin", "/plugins/storage-plugin/shutdown", "/nothing"):
            seen.go(path)
            if path != "/nothing" and not path.endswith("shutdown"):
                seen.live()
            assert_accessible(seen.page)
            wide = seen.page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide <= 0, f"{path} is wider than the window"
        seen.faults = [fault for fault in seen.faults if "404" not in fault]  # of the last page


def test_all_can_be_reached_with_the_keyboard(browser: Browser, shared: Shortener) -> None:
    with window(browser, shared.open_dashboard()) as seen:
        page = seen.page
        seen.live()
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.textContent.trim().slice(0, 40)"))
            style = page.evaluate(
                "getComputedStyle(document.activeElement).outlineStyle + document.activeElement.tagName"
            )
            assert not style.startswith("none") or style.endswith(("a", "BODY", "HTML")), style
        assert any("storage-plugin" in text for text in reached)
        assert "The same as a list" in reached
        seen.go("/plugins/storage-plugin")
        page.get_by_role("link", name="Drain…").focus()
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_contain_text("Drain")
        page.get_by_role("link", name="Cancel").focus()
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("storage-plugin")


def test_focus_and_selection_stay_over_live_updates(browser: Browser, example: Shortener) -> None:
    with window(browser, example.open_dashboard()) as seen:
        page = seen.page
        seen.go("/plugins")
        seen.live()
        link = page.locator("#rows a").filter(has_text="storage-plugin")
        link.focus()
        example.kill("logger")
        expect(page.locator("#rows")).to_contain_text("lapsed")
        expect(page.locator("#rows tr").filter(has_text="storage-plugin")).to_contain_text("degraded")
        expect(link).to_be_focused()


def test_without_javascript_the_tables_are_there(browser: Browser, shared: Shortener) -> None:
    with window(browser, shared.open_dashboard(), java_script_enabled=False) as seen:
        page = seen.page
        for path in PATHS:
            seen.go(path)
            expect(page.locator("h1")).not_to_be_empty()
            expect(page.locator("#sentence")).to_contain_text("nothing is wrong")
        seen.go("/plugins")
        expect(page.locator("#rows tr")).to_have_count(3)
        page.get_by_role("columnheader", name="plugin").get_by_role("link").click()
        expect(page.locator("th[aria-sort=ascending]")).to_contain_text("plugin")
        page.get_by_label("Filter").fill("storage")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("#rows tr")).to_have_count(1)
        expect(page).to_have_url(re.compile(r"\?q=storage&.*sort=name"))


def test_the_page_counts_time_in_the_words_of_the_host(browser: Browser, shared: Shortener) -> None:
    with window(browser, shared.open_dashboard()) as seen:
        for seconds in (-1, 0, 59.9, 60, 3599, 3600, 86_399, 86_400, 1_000_000):
            assert seen.page.evaluate(f"span({seconds})") == span(seconds)
