"""The pages without a browser: what each shows, whatever there is on the host."""

from __future__ import annotations

import re

import pytest
from google.protobuf.message import Message

from cpg_trio import HealthState
from cpg_trio.host import Health, HostConfig
from cpg_trio.host.admin import Event
from cpg_trio.host.admin.dashboard._rendering import Renderer
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.settings import Setting
from tests.host.admin.dashboard.pages import PATHS, Element, all_pages, browsing, parsed

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>\u202e'&{{7*7}}"


def rows(page: Element, id_: str = "rows") -> list[str]:
    return [row.text for row in page.one(id=id_).all("tr")]


def names(page: Element) -> list[str]:
    return [row.one("bdi").text for row in page.one(id="rows").all("th")]


async def test_each_page_renders_for_a_host_without_plugins() -> None:
    async with browsing() as browser:
        for path, page in await all_pages(browser):
            assert page.one("h1").text, path
            assert page.one(id="sentence").text == "healthy 0 plugins, 0 services, nothing is wrong"
        assert "No plugin is here yet" in (await browser.get("/")).one(id="graph").text


async def test_the_header_says_what_is_wrong_on_each_page() -> None:
    async with browsing() as browser:
        storage = browser.operator.plugin("storage", "logger")
        browser.operator.report(storage, Health(HealthState.DEGRADED, "no logger", ("logger",)))
        for path in PATHS:
            page = await browser.get(path)
            assert "degraded" in page.one(id="sentence").text
            assert "storage-plugin waits for logger" in page.one(id="sentence").text
            assert page.one("head").one("title").text.startswith("◐ ")


async def test_the_overview_draws_who_requires_whom_and_what_is_missing() -> None:
    async with browsing() as browser:
        browser.operator.plugin("storage", "logger")
        browser.operator.plugin("api", "storage")
        page = await browser.get("/")
        nodes = {
            node.one("title").text
            for node in page.one(id="graph").all("a")
            if "node" in str(node.attributes["class"])
        }
        assert {node.partition(":")[0] for node in nodes} == {"api-plugin", "storage-plugin", "logger"}
        listed = [item.text for item in page.one("ul", class_="edges").all("li")]
        assert listed[0] == "api-plugin → storage-plugin: no calls"
        assert listed[1].startswith("storage-plugin → logger: missing (nobody provides it")


def assert_harmless(page: Element) -> None:
    """Assert that there is nothing on a page that runs, but our own script."""
    assert {script.attributes.get("src") for script in page.all("script")} <= {"/static/dashboard.js"}
    assert not list(page.all("img"))
    for element in page.all():
        assert not any(name.startswith("on") or name == "style" for name in element.attributes)
        assert not (element.attributes.get("href") or "").lower().startswith("javascript")


async def test_what_others_choose_is_shown_as_text_and_nothing_else() -> None:
    config = HostConfig(settings=[Setting(HOSTILE, HOSTILE, "flag", HOSTILE)])
    async with browsing(config) as browser:
        operator = browser.operator
        identity, _ = operator.host.identities.issue(HOSTILE, provides=("logger",), requires=(HOSTILE,))
        operator.host.registry.register(identity.runtime_id, "logger", "1.0.0", "/", {"key": HOSTILE})
        operator.report(identity.runtime_id, Health(HealthState.DEGRADED, HOSTILE, (HOSTILE,)))
        operator.host.admin.events.add(Event(kind=pb.EVENT_KIND_REFUSED, text=HOSTILE, name=HOSTILE))
        pages = await all_pages(browser)
        assert len(pages) == len(PATHS) + 5
        for path, page in pages:
            assert_harmless(page)
            assert "{{7*7}}" in page.text, path


def filled(message: Message) -> Message:
    """Fill each text of a message, however deep, with what a stranger might send."""
    for field in message.DESCRIPTOR.fields:
        many = field.is_repeated
        if field.type == field.TYPE_STRING:
            if many:
                getattr(message, field.name).append(HOSTILE)
            else:
                setattr(message, field.name, HOSTILE)
        elif field.type == field.TYPE_ENUM:
            setattr(message, field.name, 1)
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            filled(getattr(message, field.name).add() if many else getattr(message, field.name))
        elif not many and field.cpp_type != field.CPPTYPE_MESSAGE:
            setattr(message, field.name, 1)
    return message


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("plugin", pb.Plugin()),
        ("service", pb.Service()),
        ("series", pb.CallSeries()),
        ("in_flight", pb.CallInFlight()),
        ("failure", pb.FailedCall()),
        ("slow", pb.SlowCall()),
        ("grant", pb.Grant()),
        ("setting", pb.Setting()),
        ("event", pb.Event()),
        ("health", pb.HealthChange()),
        ("managed", pb.ManagedPlugin()),
        ("replica", pb.Replica()),
        ("line", pb.LogLine()),
    ],
)
def test_each_row_shows_each_text_as_text(kind: str, message: Message) -> None:
    row = parsed(Renderer().row(kind, filled(message), HOSTILE))
    assert_harmless(row)
    assert "{{7*7}}" in row.text


async def test_a_plugin_has_a_page_with_its_story_under_its_id_its_name_and_a_beginning_of_the_id() -> None:
    async with browsing() as browser:
        storage = browser.operator.plugin("storage", "logger")
        browser.operator.report(storage, Health(HealthState.DEGRADED, "no logger", ("logger",)))
        browser.operator.plugin("api", "storage")
        for name in (storage, "storage-plugin", storage[:-3]):
            page = await browser.get(f"/plugins/{name}")
            assert page.one("h1").text == "storage-plugin"
            assert re.match(r"degraded for \d+ s: no logger", page.one(id="plugin_state").text)
            assert storage in page.one(id="plugin_facts").text
            assert "logger ✗ missing" in page.one(id="plugin_dependencies").text
            assert "it says that it lacks it" in page.one(id="plugin_dependencies").text
            assert "api-plugin storage no calls" in page.one(id="plugin_callers").text
            states = [item.one("span", class_="text").text for item in page.one(id="health-rows").all("li")]
            assert states[0] == "no logger"
            assert len(list(page.one(id="event-rows").all("li"))) >= 3


async def test_a_page_that_there_is_not_says_so() -> None:
    async with browsing() as browser:
        for path in ("/nothing", "/plugins/a/b/c", "/plugins/a/melt", "/static/../app.py", "/static/"):
            page = await browser.get(path, 404)
            assert page.one(class_="dialog").text.startswith("Not Found")
        assert "'nobody'" in (await browser.get("/plugins/nobody", 404)).one(class_="dialog").text


async def test_a_name_that_means_several_plugins_says_which() -> None:
    async with browsing() as browser:
        ids = [browser.operator.host.identities.issue("twin")[0].runtime_id for _ in range(2)]
        page = await browser.get("/plugins/twin", 400)
        assert all(runtime_id in page.one(class_="dialog").text for runtime_id in ids)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_refused(method: str) -> None:
    async with browsing() as browser:
        answer = await browser.http.request(method, "/")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD, POST"


async def test_a_table_is_sorted_by_the_address() -> None:
    async with browsing() as browser:
        for name in ("b", "c", "a"):
            browser.operator.plugin(name)
        browser.operator.report(browser.operator.plugin("bad"), Health(HealthState.UNHEALTHY, "x"))
        for query, expected in (
            ("", ["a", "b", "bad", "c"]),
            ("?sort=name&dir=desc", ["c", "bad", "b", "a"]),
            ("?sort=state", ["bad", "a", "b", "c"]),
            ("?sort=nothing&page=x", ["a", "b", "bad", "c"]),
        ):
            page = await browser.get(f"/plugins{query}")
            assert [name.partition("-")[0] for name in names(page)] == expected, query


async def test_the_head_of_a_sorted_column_says_so_and_turns_it_around() -> None:
    async with browsing() as browser:
        page = await browser.get("/plugins?q=a&sort=name&page=3")
        head = page.one("th", aria_sort="ascending")
        assert head.one("a").attributes["href"] == "?q=a&sort=name&dir=desc"
        others = [a.attributes["href"] for th in page.all("th", class_="number") for a in th.all("a")]
        assert "?q=a&sort=p95&dir=desc" in others


async def test_a_table_is_filtered_by_the_address() -> None:
    async with browsing() as browser:
        browser.operator.plugin("storage", "logger")
        browser.operator.plugin("api")
        assert len(names(await browser.get("/plugins?q=stor"))) == 1
        assert len(names(await browser.get("/plugins?state=healthy"))) == 2
        page = await browser.get("/plugins?state=lapsed&q=%22%3E")
        assert names(page) == []
        assert page.one(type="search").attributes["value"] == '">'
        assert page.one("option", selected=None).text == "lapsed"
        assert rows(await browser.get("/services?q=log"))[0].startswith("logger missing")


async def test_events_are_filtered_by_kind_and_plugin_and_the_newest_is_first() -> None:
    async with browsing() as browser:
        logger, storage = browser.operator.plugin("logger"), browser.operator.plugin("storage")
        page = await browser.get(f"/events?kind=registered&q={logger}")
        (event,) = page.one(id="event-rows").all("li")
        assert "provides logger" in event.text
        first = next((await browser.get("/events")).one(id="event-rows").all("li"))
        assert storage[:19] in first.text


async def test_secrets_and_sources_are_shown_as_the_view_says_them() -> None:
    settings = [Setting("HOST_KEY", "(secret)", "environment", "key"), Setting("PORT", "", "default", "port")]
    async with browsing(HostConfig(settings=settings)) as browser:
        assert rows(await browser.get("/configuration")) == [
            "HOST_KEY (secret) environment key",
            "PORT not set default port",
        ]
        assert len(rows(await browser.get("/configuration?q=host"))) == 1


async def test_a_thousand_plugins_are_shown_in_pages_of_bounded_weight(mock_clock: object) -> None:
    async with browsing() as browser:
        for number in range(1000):
            browser.operator.plugin(f"p{number:03}", f"p{(number + 1) % 1000:03}")
        for path, page in await all_pages(browser):
            answer = await browser.http.get(path)
            assert len(answer.content) < 250_000, path
            assert sum(1 for _ in page.all("tr")) < 110, path
        page = await browser.get("/plugins?page=10")
        assert page.one(id="pager").text == "← previous 901 to 1000 of 1000"
        assert len(names(page)) == 100
        assert (await browser.get("/plugins?page=999")).one(id="pager").text == page.one(id="pager").text
        drawn = (await browser.get("/")).one(id="graph")
        assert "40 of 1000 are drawn" in drawn.text
        around = (await browser.get("/?about=p500-")).one(id="graph")
        assert "3 of 1000 are drawn" in around.text


async def test_too_many_fields_in_an_address_are_refused() -> None:
    async with browsing() as browser:
        await browser.get(f"/plugins?{'&'.join(f'a{n}=1' for n in range(30))}", 400)


async def test_a_file_has_a_type_and_a_validator() -> None:
    async with browsing() as browser:
        page = await browser.get("/")
        linked = [link.attributes["href"] for link in page.all("link")]
        for path in ["/favicon.ico", *linked, *(script.attributes["src"] for script in page.all("script"))]:
            answer = await browser.http.get(str(path))
            assert answer.status_code == 200
            assert answer.headers["content-type"].split(";")[0] in {
                "text/css",
                "text/javascript",
                "image/svg+xml",
            }
            assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
            again = await browser.http.get(str(path), headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")


async def test_each_action_is_confirmed_and_then_done_by_who_acts() -> None:
    async with browsing() as browser:
        runtime_id = browser.operator.plugin("logger")
        browser.operator.plugin("storage", "logger")
        page = await browser.get(f"/plugins/{runtime_id}/drain")
        assert "it is the only provider; required by storage-plugin" in page.one(class_="dialog").text
        assert page.one("form", class_="act").attributes["method"] == "post"
        assert browser.operator.get("logger-plugin").plugin.state == pb.PLUGIN_STATE_HEALTHY
        done = await browser.post(f"/plugins/{runtime_id}/drain", reason="update")
        assert (
            f"{runtime_id} gets no new calls. There are 0 calls in flight." in done.one(class_="dialog").text
        )
        assert browser.operator.get("logger-plugin").plugin.reason == "drained by uid 1000: update"
        assert "Undo the drain" in (await browser.get(f"/plugins/{runtime_id}")).text
        await browser.post(f"/plugins/{runtime_id}/undrain")
        assert browser.operator.get("logger-plugin").plugin.state == pb.PLUGIN_STATE_HEALTHY
        await browser.post(f"/plugins/{runtime_id}/revoke")
        assert browser.operator.get("logger-plugin").plugin.state == pb.PLUGIN_STATE_GONE


async def test_an_action_that_cannot_be_done_says_why() -> None:
    async with browsing() as browser:
        runtime_id = browser.operator.plugin("logger")
        page = await browser.post(f"/plugins/{runtime_id}/undrain", 409)
        assert "is not drained" in page.one(class_="dialog").text
        page = await browser.post(f"/plugins/{runtime_id}/shutdown", 400, grace="-1")
        assert "the grace period must be a whole number" in page.one(class_="dialog").text
        assert "no grant" in (await browser.post("/capabilities/x/revoke", 404)).one(class_="dialog").text
        await browser.post("/plugins", 404)
        await browser.post("/plugins/nobody/drain", 404)
        assert (await browser.http.post("/plugins/x/drain", content=b"x" * 70_000)).status_code == 400


async def test_an_id_may_hold_any_character() -> None:
    async with browsing() as browser:
        identity, _ = browser.operator.host.identities.issue("a/b?c#d%20")
        page = await browser.get("/plugins")
        link = page.one("a", title=identity.runtime_id)
        assert (await browser.get(str(link.attributes["href"]))).one("h1").text == "a/b?c#d%20"


async def test_files_are_reloaded_and_log_levels_set_on_pages() -> None:
    async with browsing() as browser:
        assert "Reload files" in (await browser.get("/configuration")).one("main").text
        await browser.get("/configuration/reload")
        assert "no files" in (await browser.post("/configuration/reload")).one(class_="dialog").text
        await browser.get("/configuration/log-level")
        done = await browser.post(
            "/configuration/log-level", logger="cpg_trio.router", level="debug", minutes="5"
        )
        assert "The level of cpg_trio.router is debug for 5 min." in done.one(class_="dialog").text
        done = await browser.post("/configuration/log-level", logger="cpg_trio.router", level="")
        assert "The level of cpg_trio.router is what it was." in done.one(class_="dialog").text
        await browser.post("/configuration/log-level", 400, level="loud")
        await browser.post("/configuration/log-level", 400, level="debug", minutes="x")


async def test_plugins_that_are_gone_are_not_among_those_that_are_there() -> None:
    async with browsing() as browser:
        browser.operator.plugin("logger")
        await browser.post(f"/plugins/{browser.operator.plugin('storage')}/revoke")
        page = await browser.get("/")
        assert page.one(id="sentence").text == "healthy 1 plugin, 1 service, nothing is wrong"
        assert page.one(id="tiles").one("a", href="/plugins").text == "1"
        assert page.one(id="tiles").one("a", href="/plugins?state=gone").text == "1 gone"


async def test_a_plugin_that_calls_itself_and_one_that_is_called_back_are_drawn() -> None:
    async with browsing() as browser:
        browser.operator.plugin("one", "two", "one")
        browser.operator.plugin("two", "one")
        graph = (await browser.get("/")).one(id="graph")
        paths = [
            str(path.attributes["d"]) for path in graph.all("path") if "line" in str(path.attributes["class"])
        ]
        assert len(set(paths)) == 3
        assert len(graph.one("ul", class_="edges").children) >= 3


async def test_a_plugin_that_all_others_call_has_pages_of_bounded_weight() -> None:
    async with browsing() as browser:
        hub = browser.operator.plugin("hub")
        for number in range(500):
            browser.operator.plugin(f"p{number:03}", "hub")
        wide, _ = browser.operator.host.identities.issue("wide", requires=tuple(f"s{n}" for n in range(300)))
        for path in ("/", "/plugins", "/services", f"/plugins/{hub}", f"/plugins/{wide.runtime_id}"):
            assert len((await browser.http.get(path)).content) < 150_000, path
        assert "and 400 more" in (await browser.get(f"/plugins/{hub}")).one(id="plugin_callers").text
        page = await browser.get(f"/plugins/{wide.runtime_id}")
        assert "and 200 more" in page.one(id="plugin_dependencies").text
