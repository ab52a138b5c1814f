"""What an operator sees of plugins that a host runs, and does with them, in a browser."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from playwright.sync_api import Browser, expect

from tests.browser.running import Shortener, shortener, window
from tests.browser.test_dashboard import assert_accessible
from tests.processes import Running, running

PLATFORM = """
[host]
port = {port}

[plugins.logger]
plugin = "cpg_trio.demo.logger:logger_plugin"

[plugins.thumbs]
command = ["/bin/sh", "thumbs.sh"]
ready = "running"
restart = {{ first = "0.2s", most = "1s" }}
"""
BROKEN = "echo 'thumbs begins'; echo \"No module named 'PIL' <b>\" >&2; sleep 0.2; exit 3\n"
MENDED = "echo 'thumbs works'; exec sleep 1000\n"


@attrs.define
class Platform:
    """A host and its plugins from one file, of which one ends again and again."""

    setting: Shortener
    folder: Path

    def write(self, script: str) -> None:
        (self.folder / "thumbs.sh").write_text(script)


@pytest.fixture
def platform() -> Iterator[Platform]:
    with tempfile.TemporaryDirectory() as folder, shortener(Path(folder)) as setting:
        made = Platform(setting, Path(folder))
        (made.folder / "platform.toml").write_text(PLATFORM.format(port=setting.system.port))
        made.write(BROKEN)

        async def start() -> None:
            up: Running = await setting._nursery.start(_up, setting)
            await up.until("logger +ready")
            await up.until("crash loop")

        setting.do(start)
        yield made


async def _up(setting: Shortener, task_status: trio.TaskStatus[Running]) -> None:
    environment = {"ADMIN_SOCKET": str(setting.socket)}
    async with running("cpg_trio", "up", environment=environment, cwd=setting.folder) as process:
        task_status.started(process)
        await trio.sleep_forever()


def test_a_plugin_that_ends_again_and_again_is_seen_and_mended(browser: Browser, platform: Platform) -> None:
    with window(browser, platform.setting.open_dashboard()) as seen:
        page = seen.page
        seen.live()
        expect(page.locator("#sentence")).to_contain_text("thumbs is in a crash loop: exit status 3")
        assert_accessible(page)
        page.locator("#problems").get_by_role("link", name="thumbs").click()
        expect(page).to_have_url(re.compile("/managed/thumbs$"))
        seen.live()
        expect(page.locator("#replica-rows")).to_contain_text("crash loop")
        expect(page.locator("#line-rows")).to_contain_text("No module named 'PIL' <b>")
        runs = page.locator("#replica-rows td[data-label=runs]")
        before = int(runs.inner_text())
        expect(runs).not_to_have_text(str(before))  # it goes on, and so does the page
        assert_accessible(page)
        page.emulate_media(color_scheme="dark")
        assert_accessible(page)
        platform.write(MENDED)
        page.get_by_role("link", name="Restart…").click()
        page.get_by_label("Reason").fill("mended")
        assert_accessible(page)
        page.get_by_role("button", name="Restart thumbs").click()
        expect(page.locator("main")).to_contain_text("thumbs is restarted")
        page.get_by_role("link", name="Go on").click()
        seen.live()
        expect(page.locator("#line-rows")).to_contain_text("thumbs works")
        expect(page.locator("#sentence")).to_contain_text("nothing is wrong")
        expect(page.locator("#event-rows")).to_contain_text("restart, by uid")


def test_the_plugins_of_a_host_are_a_table_at_any_width_and_one_is_removed(
    browser: Browser, platform: Platform
) -> None:
    with window(browser, platform.setting.open_dashboard(), viewport={"width": 400, "height": 800}) as seen:
        page = seen.page
        seen.go("/plugins")
        expect(page.locator("#managed-rows")).to_contain_text("1 of 1 ready")
        for path in ("/plugins", "/managed/thumbs", "/managed/logger/scale", "/managed/logger/remove"):
            seen.go(path)
            wide = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide <= 0, path
            assert_accessible(page)
        seen.go("/managed/thumbs/remove")
        expect(page.locator("main")).to_contain_text("Nobody loses anything without it.")
        page.get_by_role("button", name="Remove thumbs").click()
        expect(page.locator("main")).to_contain_text("thumbs is removed")
        page.get_by_role("link", name="Go on").click()
        expect(page.locator("#managed-rows")).not_to_contain_text("thumbs")
