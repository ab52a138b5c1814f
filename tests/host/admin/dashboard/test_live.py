"""What a page that is open is told: what is new, soon, and nothing else."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import attrs
import pytest
import trio

from cpg_trio import HealthState
from cpg_trio.asgi import Message
from cpg_trio.host import Health
from cpg_trio.host.admin.dashboard import Dashboard, _live
from cpg_trio.host.admin.dashboard._live import PROCESSOR_SHARE, Changes, Pace, Parts
from tests.host.admin.dashboard.pages import Browser, browsing


@attrs.define
class Stream:
    """An answer that is read line by line."""

    messages: trio.MemoryReceiveChannel[Message]
    left: trio.Event
    ended: trio.Event

    async def start(self) -> int:
        return int((await self.messages.receive())["status"])

    async def line(self) -> dict[str, Any]:
        news: dict[str, Any] = json.loads((await self.messages.receive())["body"])
        return news

    async def until(self, wanted: str) -> dict[str, Any]:
        """Return the next line that contains a text."""
        while True:
            news = await self.line()
            if wanted in json.dumps(news):
                return news


@asynccontextmanager
async def following(browser: Browser, page: str) -> AsyncIterator[Stream]:
    admin = browser.operator.host.admin
    app = Dashboard(admin.view, admin.events, admin.actions, admin.managed_actions)
    sending, receiving = trio.open_memory_channel[Message](math.inf)
    stream = Stream(receiving, trio.Event(), trio.Event())

    async def receive() -> Message:
        await stream.left.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/live",
            "raw_path": b"/live",
            "query_string": urlencode({"page": page}).encode(),
            "headers": [],
        }
        await app(scope, receive, sending.send)
        stream.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield stream
        stream.left.set()
        with trio.fail_after(10):
            await stream.ended.wait()


async def test_the_first_line_is_all_that_is_live_and_the_next_only_what_is_new(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with browsing() as browser:
        logger = browser.operator.plugin("logger")
        async with following(browser, "/plugins?sort=name") as stream:
            assert await stream.start() == 200
            first = await stream.line()
            assert first["lists"]["rows"]["order"] == [logger]
            assert set(first["regions"]) == {"sentence", "pulse", "pager"}
            assert first["title"] == "● Plugins · cpg_trio"
            assert first["announcement"] == "healthy"
            nothing = await stream.line()
            assert set(nothing) == {"now", "regions", "lists"}
            assert not nothing["regions"]
            assert not nothing["lists"]
            storage = browser.operator.plugin("storage")
            news = await stream.until(storage)
            assert news["lists"]["rows"]["order"] == [logger, storage]
            assert list(news["lists"]["rows"]["rows"]) == [storage]


async def test_a_change_is_told_within_half_a_second(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live, "PROCESSOR_SHARE", math.inf)  # on a slow machine it is told later
    async with browsing() as browser:
        storage = browser.operator.plugin("storage")
        async with following(browser, "/") as stream:
            await stream.start()
            await stream.line()
            await trio.sleep(1)
            then = trio.current_time()
            browser.operator.report(storage, Health(HealthState.UNHEALTHY, "disk full"))
            news = await stream.until("disk full")
            assert trio.current_time() - then <= 0.5
            assert news["announcement"] == f"unhealthy: {storage}"
            assert "disk full" in news["regions"]["sentence"]
            assert "disk full" in news["lists"]["plugin-rows"]["rows"][storage]


async def test_time_that_passes_is_no_news(autojump_clock: trio.abc.Clock) -> None:
    async with browsing() as browser:
        browser.operator.plugin("storage", "logger")
        async with following(browser, "/plugins") as stream:
            await stream.start()
            await stream.line()
            for _ in range(3):
                assert not (await stream.line())["lists"]


async def test_readers_are_bounded_and_leave_nothing_behind(autojump_clock: trio.abc.Clock) -> None:
    async with browsing() as browser:
        async with trio.open_nursery() as nursery:
            leave = trio.Event()

            async def stay(task_status: trio.TaskStatus[int]) -> None:
                async with following(browser, "/events") as stream:
                    task_status.started(await stream.start())
                    await leave.wait()

            assert {await nursery.start(stay) for _ in range(32)} == {200}
            assert await nursery.start(stay) == 429
            leave.set()
        assert not browser.operator.host.admin.events._readers


async def test_a_page_that_there_is_not_has_no_stream(autojump_clock: trio.abc.Clock) -> None:
    async with browsing() as browser:
        for page in ("/plugins/nobody", "/nothing", "//[", "http://elsewhere.example/"):
            answer = await browser.http.get("/live", params={"page": page})
            assert answer.status_code in {400, 404}, page


async def test_a_stream_ends_with_the_host(autojump_clock: trio.abc.Clock) -> None:
    async with browsing() as browser, following(browser, "/") as stream:
        await stream.start()
        await stream.line()
        browser.operator.host.admin.events.close()
        last = await stream.messages.receive()
        assert not last["more_body"]
        with trio.fail_after(5):
            await stream.ended.wait()


def test_what_was_removed_is_not_remembered() -> None:
    changes = Changes()
    for number in range(100):
        changes.of(Parts({}, {"rows": {str(number): "row"}}))
    assert len(changes._sent) < 10


def test_a_list_that_is_only_sorted_anew_sends_no_row() -> None:
    changes = Changes()
    rows = {"a": "<tr>a</tr>", "b": "<tr>b</tr>"}
    changes.of(Parts({}, {"rows": rows}))
    news = changes.of(Parts({}, {"rows": dict(reversed(rows.items()))}))
    assert news["lists"] == {"rows": {"rows": {}, "order": ["b", "a"]}}


async def test_looks_at_open_pages_cost_a_bounded_share_of_the_processor(
    autojump_clock: trio.abc.Clock,
) -> None:
    pace = Pace()
    then = trio.current_time()

    def look() -> None:
        time.sleep(0.01)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(pace.look, look)
    assert trio.current_time() - then >= 19 * 0.01 / PROCESSOR_SHARE


async def test_a_stream_is_never_begun_for_who_wants_its_head_alone() -> None:
    async with browsing() as browser:
        assert (await browser.http.head("/live")).status_code == 404
