"""Three hosts and three members of etcd as containers: whichever ends, calls go on."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from cpg_trio._cell import Cell
from tests.e2e.project import Project, resolve, shorten

HOSTS = ("host-1", "host-2", "host-3")
MEMBERS = ("etcd-1", "etcd-2", "etcd-3")
CALLERS_OF_EACH = 2
STAND_IN = Path(__file__).parents[1] / "k8s" / "etcd"
COMPOSE = Path(__file__).parents[2] / "containers" / "compose.hosts.yaml"
PYTHON = "python:3.13-slim"  # of Debian, and there: the images of the system are built on it
DOCKER = os.environ.get("DOCKER", "docker")


@pytest.fixture(scope="session")
def etcd_image() -> dict[str, str]:
    """What compose is told of the image of etcd.

    The official image, or, where that cannot be pulled or `ETCD_BASE` names an image of Debian, one of that.
    """
    base = os.environ.get("ETCD_BASE") or ("" if _can_pull() else PYTHON)
    if not base:
        return {}
    build = [DOCKER, "build", "--quiet", "--tag=stand-in/etcd:1", f"--build-arg=BASE={base}", str(STAND_IN)]
    subprocess.run(build, check=True)
    return {"ETCD_IMAGE": "stand-in/etcd:1"}


def _can_pull() -> bool:
    image = re.search(r"\$\{ETCD_IMAGE:-(.+?)\}", COMPOSE.read_text())
    assert image
    return subprocess.run([DOCKER, "pull", "--quiet", image[1]], check=False).returncode == 0


@pytest.fixture(scope="session")
def hosts(_built: Project, etcd_image: dict[str, str]) -> Iterator[Project]:
    """The system with three hosts, two of each plugin, all ready."""
    settings = {"COMPOSE_FILE": "compose.hosts.yaml", **etcd_image}
    project = Project(f"{_built.name}-hosts", tag=_built.name, settings=settings)
    try:
        trio.run(project.up)
        yield project
    except BaseException:
        print(trio.run(project.explain))  # noqa: T201 - the report shows it
        raise
    finally:
        trio.run(project.remove)


@attrs.define
class Calls:
    """What callers were answered, who shorten and resolve without a pause."""

    shortened: dict[str, str] = attrs.field(factory=dict)
    """URLs, by the codes that were acknowledged."""
    not_resolved: list[str] = attrs.field(factory=list)
    not_shortened: list[str] = attrs.field(factory=list)
    resolved: Cell[int] = attrs.field(factory=lambda: Cell(0))

    async def until_resolved(self, calls: int) -> None:
        """Wait for so many more calls that resolve."""
        enough = self.resolved.value + calls
        with trio.fail_after(60):
            async for count in self.resolved.reader():
                if count >= enough:
                    return

    async def call_on(self, url: str, number: int, stop: trio.Event) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http:
            known = await shorten(http, f"https://example.com/{number}")
            self.shortened[known] = f"https://example.com/{number}"
            count = 0
            while not stop.is_set():
                await self._resolve(http, known)
                if count % 5 == 0:
                    await self._shorten(http, f"https://example.com/{number}/{count}")
                count += 1

    async def _resolve(self, http: httpx.AsyncClient, code: str) -> None:
        answer = await http.get("/api.v1.API/Resolve", params={"code": code})
        if answer.status_code == 200:
            self.resolved.set(self.resolved.value + 1)
        else:
            self.not_resolved.append(f"{answer.status_code} {answer.text}")

    async def _shorten(self, http: httpx.AsyncClient, url: str) -> None:
        answer = await http.post("/api.v1.API/Shorten", params={"url": url})
        if answer.status_code == 200:
            self.shortened[answer.json()["short_code"]] = url
        else:
            self.not_shortened.append(f"{answer.status_code} {answer.text}")


@asynccontextmanager
async def calling(urls: Sequence[str]) -> AsyncIterator[Calls]:
    """Call each api for as long as the block lasts; wait for what is in flight at its end."""
    calls, stop = Calls(), trio.Event()
    async with trio.open_nursery() as nursery:
        for number in range(CALLERS_OF_EACH * len(urls)):
            nursery.start_soon(calls.call_on, urls[number % len(urls)], number, stop)
        yield calls
        stop.set()


async def _until_works(hosts: Project, name: str) -> None:
    """Wait until a container can do its work, which its health check says a few seconds later."""
    check = ("cpg-trio", "check") if name in HOSTS else ("etcdctl", "endpoint", "health")
    with trio.fail_after(60):
        while True:
            done = await hosts.run("docker", "compose", "exec", "-T", name, *check, check=False)
            if done.returncode == 0:
                return
            await trio.sleep(0.2)


async def test_what_one_api_shortens_the_other_resolves(hosts: Project) -> None:
    one, other = await hosts.api_urls()
    for first, second in ((one, other), (other, one)):
        async with (
            httpx.AsyncClient(base_url=first, timeout=20, trust_env=False) as here,
            httpx.AsyncClient(base_url=second, timeout=20, trust_env=False) as there,
        ):
            assert await resolve(there, await shorten(here, "https://example.com/")) == "https://example.com/"


@pytest.mark.parametrize("ended", [HOSTS, MEMBERS])
async def test_whichever_is_killed_no_call_fails_that_may_be_sent_again(
    hosts: Project, ended: Sequence[str]
) -> None:
    urls = await hosts.api_urls()
    async with calling(urls) as calls:
        await calls.until_resolved(50)
        for name in ended:
            await hosts.compose("kill", name)
            await calls.until_resolved(100)
            await hosts.compose("start", name)
            await _until_works(hosts, name)
            await calls.until_resolved(50)
    assert calls.not_resolved == []
    # A call that may have run is not run again: those that a host has had when it ended.
    assert len(calls.not_shortened) <= CALLERS_OF_EACH * len(urls) * len(ended)
    if ended == MEMBERS:
        assert calls.not_shortened == []
    for url in urls:
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http:
            for code, long in calls.shortened.items():
                assert await resolve(http, code) == long
