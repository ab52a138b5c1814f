"""Pages about the plugins that a host runs, without a browser: what they show, and what their forms do."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from trio.testing import MockClock

from cpg_trio.host import Host
from cpg_trio.host.admin import acting_as
from cpg_trio.host.admin.dashboard import Dashboard
from cpg_trio.host.supervision import Phase
from cpg_trio.rpc import AsgiTransport
from tests.host.admin.dashboard.pages import Element, parsed
from tests.host.admin.test_managed import SOON, dying
from tests.host.supervision.launching import Launches, hosting, provider, spec, until

HOSTILE = "</li><script>alert(1)</script>\x1b[2J"


class Pages:
    def __init__(self, host: Host, http: httpx.AsyncClient) -> None:
        self.host = host
        self._http = http

    async def get(self, path: str, status: int = 200) -> Element:
        answer = await self._http.get(path)
        assert answer.status_code == status, answer.text
        assert "<script>alert" not in answer.text
        return parsed(answer.text)

    async def post(self, path: str, status: int = 200, **form: str) -> Element:
        answer = await self._http.post(path, data=form)
        assert answer.status_code == status, answer.text
        return parsed(answer.text)


@asynccontextmanager
async def looking() -> AsyncIterator[Pages]:
    async with hosting() as host:
        admin = host.admin
        app = Dashboard(admin.view, admin.events, admin.actions, admin.managed_actions)
        with acting_as("uid 1000"):
            async with httpx.AsyncClient(transport=AsgiTransport(app), base_url="http://admin") as http:
                yield Pages(host, http)


def rows(page: Element, id_: str) -> list[str]:
    return [row.text for row in page.one(id=id_).all("tr")]


async def test_a_plugin_that_has_not_come_is_in_the_tables_and_has_a_page(virtual_time: MockClock) -> None:
    async with looking() as pages:
        await pages.host.plugins.add(
            spec("thumbs", dying(HOSTILE), self_id="thumbs-plugin", provides=("thumbs",), restart=SOON),
            spec("api", Launches(), requires=("thumbs",)),
            wait=False,
        )
        await until(pages.host, lambda: pages.host.plugins.replicas("thumbs")[0].looping)
        pages.host.plugins.output.add("thumbs", 1, HOSTILE)
        table = await pages.get("/plugins")
        assert any(re.match(r"thumbs-plugin backing off ?crash loop: ", row) for row in rows(table, "rows"))
        assert any(row.startswith("thumbs backing off") for row in rows(table, "managed-rows"))
        assert len(rows(await pages.get("/plugins?state=backing-off"), "rows")) == 1
        overview = await pages.get("/")
        assert "thumbs is in a crash loop" in overview.one(id="problems").text
        links = {each.attributes["href"] for each in overview.one(id="graph").all("a")}
        assert {"/managed/thumbs", "/managed/api"} <= links
        for path in ("/managed/thumbs", "/managed/thumbs-plugin", "/plugins/thumbs-plugin"):
            page = await pages.get(path)
            assert "alert(1)" in page.one(id="line-rows").text
            assert "crash loop" in page.one(id="replica-rows").text
            assert "looping" in page.one(id="event-rows").text
        await pages.get("/managed/nobody", 404)


async def test_the_page_of_a_run_shows_what_it_has_written_and_leads_to_how_it_is_run() -> None:
    async with looking() as pages:
        await pages.host.plugins.add(spec("logger", provider("logger")))
        (replica,) = pages.host.plugins.replicas("logger")
        pages.host.plugins.output.add("logger", 1, "hello from the logger")
        page = await pages.get(f"/plugins/{replica.runtime_id}")
        assert "hello from the logger" in page.one(id="line-rows").text
        links = {each.attributes["href"] for each in page.one(id="plugin_state").all("a")}
        assert "/managed/logger" in links


async def test_a_form_asks_before_it_restarts_or_removes() -> None:
    async with looking() as pages:
        await pages.host.plugins.add(spec("logger", provider("logger")))
        for action, button in (("replace", "Replace"), ("restart", "Restart"), ("scale", "Scale")):
            page = await pages.get(f"/managed/logger/{action}")
            assert (
                page.one("button", class_="severe" if action == "restart" else "primary").text
                == f"{button} logger"
            )
        done = await pages.post("/managed/logger/restart", reason="new disk")
        assert "logger is restarted" in done.text
        assert pages.host.plugins.replicas("logger")[0].runs == 2
        assert pages.host.plugins.replicas("logger")[0].phase is Phase.READY
        await pages.post("/managed/logger/scale", 400, replicas="many")
        await pages.post("/managed/nobody/restart", 404)


async def test_what_would_be_lost_is_said_before_a_removal_which_has_to_be_forced_then() -> None:
    async with looking() as pages:
        await pages.host.plugins.add(
            spec("logger", provider("logger"), provides=("logger",)),
            spec("storage", provider("storage", requires=("logger",)), requires=("logger",)),
        )
        page = await pages.get("/managed/logger/remove")
        assert "storage is left without logger" in page.text
        assert list(page.all("input", name="force"))
        refused = await pages.post("/managed/logger/remove", 409)
        assert "storage requires logger" in refused.text
        done = await pages.post("/managed/logger/remove", force="yes")
        assert done.one("a", class_="button primary").attributes["href"] == "/plugins"
        page = await pages.get("/managed/storage/remove")
        assert not list(page.all("input", name="force"))
        await pages.get("/managed/logger", 404)


async def test_a_plugin_is_scaled_and_replaced_by_forms() -> None:
    async with looking() as pages:
        await pages.host.plugins.add(spec("logger", provider("logger")))
        assert "logger has 2 replicas" in (await pages.post("/managed/logger/scale", replicas="2")).text
        assert "logger is replaced" in (await pages.post("/managed/logger/replace")).text
        assert [each.number for each in pages.host.plugins.replicas("logger")] == [1, 2]


@pytest.mark.parametrize("path", ["/managed/logger/drain", "/managed", "/managed/logger/restart/now"])
async def test_there_are_no_other_pages(path: str) -> None:
    async with looking() as pages:
        await pages.get(path, 404)
