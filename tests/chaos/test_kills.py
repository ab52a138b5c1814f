"""Processes that are killed, and started again."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest
import trio

from tests.chaos.observer import NOBODY
from tests.chaos.trial import AVAILABLE, DEGRADED, PLUGINS, UNAVAILABLE, trial
from tests.shortener_processes import MODULES, System


@pytest.mark.parametrize(
    ("name", "meanwhile"),
    [
        ("logger", {"logger": UNAVAILABLE, "storage": DEGRADED, "api": AVAILABLE}),
        ("storage", {"logger": AVAILABLE, "storage": UNAVAILABLE, "api": DEGRADED}),
        ("api", {"logger": AVAILABLE, "storage": AVAILABLE, "api": UNAVAILABLE}),
    ],
)
async def test_a_plugin_that_is_killed_is_not_offered_and_is_part_of_it_again_once_it_is_started(
    tmp_path: Path, name: str, meanwhile: dict[str, str]
) -> None:
    async with trial(tmp_path) as t:
        await t.kill(name)
        await t.becomes(meanwhile, t.observer.picture, *meanwhile)
        assert await t.observer.offered(name) == NOBODY
        if name == "logger":
            assert await t.writer.shorten() == 200  # storing does not depend on it
        await t.start(name)
        await t.all_is_well()


@pytest.mark.parametrize(
    "state_file",
    [pytest.param(None, id="that forgets"), pytest.param("host.sqlite3", id="that remembers")],
)
async def test_a_host_that_is_killed_under_load_and_started_again_has_all_its_plugins_back(
    tmp_path: Path, state_file: str | None
) -> None:
    environment = {"STATE_PATH": str(tmp_path / state_file)} if state_file else {}
    async with trial(tmp_path, writers=4, environment=environment) as t:
        plugins = [t.system.parts[name] for name in PLUGINS]
        await t.kill("host")
        await t.start("host")
        await t.all_is_well()
        assert [part.process.returncode for part in plugins] == [None] * len(plugins)


class Load:
    """Callers of the api, each with one call in flight."""

    def __init__(self, url: str, callers: int) -> None:
        self.callers = callers
        self.answered = 0
        self.failures: list[str] = []
        self._url = url

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(self.callers):
                nursery.start_soon(self._call)

    async def _call(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=20, trust_env=False) as http:
            while True:
                answer = await http.post("/api.v1.API/Shorten", params={"url": "https://example.com"})
                if answer.status_code == httpx.codes.OK:
                    self.answered += 1
                else:
                    self.failures.append(answer.text)

    async def go_on(self, calls: int) -> None:
        """Wait for so many more calls that succeed."""
        wanted = self.answered + calls
        while self.answered < wanted:  # noqa: ASYNC110 - there is no event to wait for
            await trio.sleep(0.02)


async def test_while_one_of_two_storages_lives_only_calls_in_flight_at_the_other_fail(tmp_path: Path) -> None:
    modules = {**MODULES, "second": MODULES["storage"]}
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            system = System(nursery, tmp_path, modules=modules)
            for name in ("host", "logger", "storage", "second"):
                await system.start(name)
            for name in ("logger", "storage", "second"):
                await system.parts[name].until(r"-plugin is healthy\n")
            await (await system.start("api")).until("api-plugin is healthy")
            load = Load(await system.parts["api"].url(), callers=4)
            nursery.start_soon(load.run)
            for kill, name in enumerate(("storage", "second"), 1):
                await load.go_on(20)
                await system.parts[name].end(signal.SIGKILL)
                await load.go_on(20)
                assert len(load.failures) <= kill * load.callers, load.failures
                await (await system.start(name)).until(r"storage-plugin is healthy\n")
            nursery.cancel_scope.cancel()
