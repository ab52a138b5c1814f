"""Makes the pictures of the dashboard that the documentation shows: of the real thing, with real calls.

Run by `nox -s screenshots`; not a test of anything.
"""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.browser.running import Shortener, Window, shortener, window
from tests.shortener_processes import MODULES

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDE = {"viewport": {"width": 1280, "height": 880}, "device_scale_factor": 1.25}
NARROW = {"viewport": {"width": 400, "height": 860}, "device_scale_factor": 1.25}
_MINUTE_MS = 62_000  # after which the figures are of a whole minute


def take(seen: Window, name: str) -> None:
    seen.live()
    seen.page.wait_for_timeout(2_500)
    seen.page.screenshot(path=IMAGES / f"{name}.png")


def test_take_the_pictures(browser: Browser, tmp_path: Path) -> None:
    modules = {**MODULES, "storage2": MODULES["storage"], "api2": MODULES["api"]}
    with shortener(tmp_path, modules=modules) as example:
        example.start_all()
        example.start("storage2", "api2")
        for _ in range(3):
            example.call(0.02)
        with window(browser, example.open_dashboard(), **WIDE, color_scheme="light") as light:
            light.page.wait_for_timeout(_MINUTE_MS)
            example.kill("logger")
            expect(light.page.locator("#problems")).to_contain_text("lapsed")
            take_of_trouble(browser, example, light)


def take_of_trouble(browser: Browser, example: Shortener, light: Window) -> None:
    take(light, "dashboard-light")
    with window(browser, example.open_dashboard(), **WIDE, color_scheme="dark") as dark:
        take(dark, "dashboard-dark")
    with window(browser, example.open_dashboard(), **NARROW, color_scheme="light") as narrow:
        take(narrow, "dashboard-narrow")
    light.page.locator("#plugin-rows tr").filter(has_text="degraded").locator("th a").first.click()
    take(light, "dashboard-plugin")
    light.go("/calls")
    take(light, "dashboard-calls")
