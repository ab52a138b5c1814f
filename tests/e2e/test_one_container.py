"""A platform of one file, in one container: its process 1 is the host, which starts all the others."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial

import attrs
import httpx
import pytest
import trio

from tests.e2e.project import Project, eventually, load, resolve, shorten
from tests.processes import assert_no_traceback

PLUGINS = ("logger", "storage", "api")

PROCESSES = """
import json, os
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        stat = open(f"/proc/{pid}/stat").read()
        command = open(f"/proc/{pid}/cmdline").read().replace("\\0", " ").strip()
        uids = next(line for line in open(f"/proc/{pid}/status") if line.startswith("Uid:")).split()[1:]
    except OSError:
        continue
    state = stat.rpartition(")")[2].split()[0]
    found.append({"pid": int(pid), "state": state, "command": command, "uids": uids})
print(json.dumps(found))
"""


@attrs.frozen
class Inside:
    """A process in the container."""

    pid: int
    state: str
    command: str
    uids: list[str]


@pytest.fixture(scope="module")
def one(_built: Project) -> Iterator[Project]:
    """The system in one container, ready."""
    project = Project(f"{_built.name}-one", settings={"COMPOSE_FILE": "compose.one.yaml"})
    try:
        trio.run(project.compose, "build")
        trio.run(project.up)
        yield project
    except BaseException:
        print(trio.run(project.explain))  # noqa: T201 - the report shows it
        raise
    finally:
        trio.run(project.remove)


async def _url(one: Project) -> str:
    port = await one.compose("port", "platform", "8083")
    return f"http://127.0.0.1:{port.split()[0].rpartition(':')[2]}"


async def _admin(one: Project, *arguments: str) -> str:
    return await one.compose("exec", "-T", "platform", "cpg-trio", *arguments)


async def _processes(one: Project) -> list[Inside]:
    return [Inside(**each) for each in json.loads(await one.python("platform", PROCESSES))]


async def _of(one: Project, plugin: str) -> list[int]:
    """Return the ids of the processes that run a plugin."""
    runs = f"cpg_trio.launch.run cpg_trio.demo.{plugin}:"
    return [each.pid for each in await _processes(one) if runs in each.command]


async def _zombies(one: Project) -> list[Inside]:
    return [each for each in await _processes(one) if each.state == "Z"]


async def _has_none(one: Project) -> bool:
    return not await _zombies(one)


async def _until_all_work(one: Project, url: str) -> None:
    async def works() -> bool:
        try:
            async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http:
                await shorten(http, "https://example.com/again")
        except (AssertionError, httpx.HTTPError):
            return False
        return True

    await eventually(works, "it shortens")


async def test_all_of_it_is_there_and_has_no_rights_that_it_does_not_need(one: Project) -> None:
    url = await _url(one)
    await _until_all_work(one, url)
    async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http:
        code = await shorten(http, "https://example.com/one")
        assert await resolve(http, code) == "https://example.com/one"
    found = await _processes(one)
    (first,) = [each for each in found if each.pid == 1]
    assert first.command.endswith("cpg-trio up /platform/platform.toml")
    assert {tuple(each.uids) for each in found} == {("10001",) * 4}
    for name in PLUGINS:
        assert len(await _of(one, name)) == 1, name


@pytest.mark.parametrize("name", PLUGINS)
async def test_a_plugin_that_is_killed_comes_back(one: Project, name: str) -> None:
    url = await _url(one)
    (before,) = await _of(one, name)
    await one.compose("exec", "-T", "platform", "python", "-c", f"import os; os.kill({before}, 9)")

    async def is_another() -> bool:
        now = await _of(one, name)
        return len(now) == 1 and now != [before]

    await eventually(is_another, f"another process runs {name}")
    await _until_all_work(one, url)
    await eventually(partial(_has_none, one), "no zombie is left")


async def test_what_another_process_leaves_behind_is_reaped(one: Project) -> None:
    orphan = (
        "import os, time\nif not os.fork():\n os.setsid()\n if not os.fork(): time.sleep(1)\n os._exit(0)\n"
    )
    await one.compose("exec", "-T", "platform", "python", "-c", orphan)
    await trio.sleep(2)
    await eventually(partial(_has_none, one), "no zombie is left")


async def test_a_plugin_is_replaced_under_load_without_a_failed_call(one: Project) -> None:
    url = await _url(one)
    await _until_all_work(one, url)
    async with load([url]) as calls:
        await calls.until_good(20)
        for name in ("storage", "logger"):
            await _admin(one, "replace", name, "--yes")
            await calls.until_good(20)
    assert calls.failures == []


async def test_it_stops_within_seconds_with_status_0_and_starts_again_with_all_that_it_knew(
    one: Project,
) -> None:
    url = await _url(one)
    await _until_all_work(one, url)
    async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http:
        code = await shorten(http, "https://example.com/kept")
    began = time.monotonic()
    await one.compose("stop")
    assert time.monotonic() - began < 10
    (container,) = await one.containers()
    assert container.exit_status == 0
    assert_no_traceback(await one.log("platform"))
    await one.up()
    url = await _url(one)
    await _until_all_work(one, url)
    async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http:
        assert await resolve(http, code) == "https://example.com/kept"
