"""Processes that are killed, and started again."""

from __future__ import annotations

from pathlib import Path

import pytest

from .observer import NOBODY
from .trial import AVAILABLE, DEGRADED, PLUGINS, UNAVAILABLE, trial


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
