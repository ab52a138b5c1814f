"""The system as containers, driven by `docker compose` and through the published port only."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import httpx
import trio

from cpg_trio._cell import Cell

CONTAINERS = Path(__file__).parents[2] / "containers"
PLUGINS = ("logger", "storage", "api")
SERVICES = ("host", *PLUGINS)
COMMAND_S = 300.0  # the slowest is a build without a cache


@attrs.frozen
class Container:
    """A container, as compose tells of it."""

    service: str
    index: str
    health: str
    exit_status: int

    @classmethod
    def told(cls, line: str) -> Container:
        """Return what a line of `docker compose ps --format json` says."""
        told = json.loads(line)
        index = told["Name"].rpartition("-")[2]
        return cls(told["Service"], index, told["Health"], told["ExitCode"])


@attrs.frozen
class Project:
    """One compose project: a name, images and ports of its own, so that it meets nobody else's."""

    name: str = attrs.field(factory=lambda: f"cpg-e2e-{secrets.token_hex(4)}")
    tag: str = attrs.field(default=attrs.Factory(lambda self: self.name, takes_self=True))
    """The tag of its images."""
    settings: Mapping[str, str] = attrs.field(factory=dict)
    """More variables for compose."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What compose and the scripts are told. Port 0 is any that is free."""
        ours = {"COMPOSE_PROJECT_NAME": self.name, "CPG_TAG": self.tag, "API_PORT": "0"}
        return {**os.environ, **ours, **self.settings}

    async def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command; return what it printed. Raises: AssertionError with that, if it failed."""
        with trio.fail_after(COMMAND_S):
            done = await trio.run_process(
                command,
                cwd=CONTAINERS,
                env=self.environment,
                check=False,
                capture_stdout=True,
                capture_stderr=True,
                start_new_session=True,  # an interrupt is for the tests, which then clean up
            )
        out, errors = done.stdout.decode(), done.stderr.decode()
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{out}{errors}"
        return subprocess.CompletedProcess(command, done.returncode, out, errors)

    async def compose(self, *arguments: str) -> str:
        """Run `docker compose`; return what it printed."""
        return (await self.run("docker", "compose", *arguments)).stdout

    async def up(self, *arguments: str) -> None:
        """Start what does not run, and wait until it is ready."""
        await self.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", "60", *arguments)

    async def bring_up(self) -> None:
        """Have one ready container of each service, whatever there is."""
        one_each = [f"--scale={name}=1" for name in SERVICES]
        await self.compose("up", "--detach", "--no-build", *one_each, *SERVICES)
        for name in SERVICES:  # `up --wait` would fail for those that are not ready yet again
            await self.until_health(name, "healthy")

    async def python(self, service: str, program: str) -> str:
        """Run a program in a service's container; return what it printed."""
        return await self.compose("exec", "-T", service, "python", "-c", program)

    async def log(self, service: str) -> str:
        """Return what a service has written."""
        return await self.compose("logs", "--no-log-prefix", service)

    async def until(self, service: str, pattern: str, *, after: str = "") -> None:
        """Wait until a service writes something that matches, after what it had written."""

        async def written() -> bool:
            log = (await self.log(service)).removeprefix(after)
            return re.search(pattern, log) is not None

        await eventually(written, f"{service} writes {pattern!r}")

    async def until_health(self, service: str, health: str) -> None:
        """Wait until the health check of a service's containers says so."""

        async def said() -> bool:
            return {c.health for c in await self.containers() if c.service == service} == {health}

        await eventually(said, f"{service} is {health}")

    async def health_of_storage(self) -> str:
        """Return what storage has reported last."""
        return str(re.findall(r"storage-plugin-[0-9a-f]+ reports (\w+)", await self.log("host"))[-1])

    async def until_storage_is_healthy(self) -> None:
        """Wait until storage reports that it has all that it requires, after whatever happened before."""

        async def reported() -> bool:
            return await self.health_of_storage() == "HEALTHY"

        await eventually(reported, "storage reports HEALTHY")

    async def containers(self) -> Sequence[Container]:
        """Return all containers, those that have ended as well."""
        lines = (await self.compose("ps", "--all", "--format", "json")).splitlines()
        return [Container.told(line) for line in lines]

    async def api_urls(self) -> Sequence[str]:
        """Return where each replica of the api is published."""
        replicas = [c.index for c in await self.containers() if c.service == "api"]
        ports = [await self.compose("port", "--index", index, "api", "8083") for index in replicas]
        return [f"http://127.0.0.1:{port.split()[0].rpartition(':')[2]}" for port in ports]

    @asynccontextmanager
    async def http(self) -> AsyncIterator[httpx.AsyncClient]:
        """Yield a client of the api."""
        (url,) = await self.api_urls()
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http:
            yield http

    async def explain(self) -> str:
        """Return what tells why something failed."""
        shown = await self.run("docker", "compose", "ps", "--all", check=False)
        logs = await self.run("docker", "compose", "logs", "--timestamps", "--tail", "100", check=False)
        return shown.stdout + shown.stderr + logs.stdout + logs.stderr

    async def remove(self) -> None:
        """Remove everything that bears the project's name. Raises: AssertionError if that left something."""
        down = ("down", "--volumes", "--remove-orphans", "--timeout", "2")
        await self.run("docker", "compose", "--profile", "tools", *down, check=False)
        if images := await self._mine("images"):
            await self.run("docker", "rmi", "--force", *images, check=False)
        kinds = (["ps", "--all"], ["network", "ls"], ["volume", "ls"], ["images"])
        left = [thing for kind in kinds for thing in await self._mine(*kind)]
        assert not left, f"left behind: {left}"

    async def _mine(self, *kind: str) -> Sequence[str]:
        """Return the ids of the things of a kind that bear the project's name."""
        label = f"label=com.docker.compose.project={self.name}"
        listed = await self.run("docker", *kind, "--quiet", "--filter", label)
        return sorted(set(listed.stdout.split()))


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until something holds, a minute at most."""
    with trio.move_on_after(60):
        while not await condition():  # noqa: ASYNC110 - compose tells of nothing that it is not asked for
            await trio.sleep(0.2)
        return
    raise AssertionError(f"within a minute it never came to this: {what}")


async def shorten(http: httpx.AsyncClient, url: str) -> str:
    answer = await http.post("/api.v1.API/Shorten", params={"url": url})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["short_code"])


async def resolve(http: httpx.AsyncClient, code: str) -> str:
    answer = await http.get("/api.v1.API/Resolve", params={"code": code})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["url"])


@attrs.define
class Load:
    """Callers that shorten URLs without a pause, and what they were answered."""

    shortened: dict[str, str] = attrs.field(factory=dict)
    """URLs, by their codes."""
    failures: list[str] = attrs.field(factory=list)
    good_in_a_row: Cell[int] = attrs.field(factory=lambda: Cell(0))

    async def call(self, http: httpx.AsyncClient, url: str) -> None:
        answer = await http.post("/api.v1.API/Shorten", params={"url": url})
        if answer.status_code == 200:
            self.shortened[answer.json()["short_code"]] = url
            self.good_in_a_row.set(self.good_in_a_row.value + 1)
        else:
            self.failures.append(f"{answer.status_code} {answer.text}")
            self.good_in_a_row.set(0)

    async def until_good(self, calls: int) -> None:
        """Wait for so many more calls in a row that all succeed."""
        self.good_in_a_row.set(0)
        with trio.fail_after(60):
            async for good in self.good_in_a_row.reader():
                if good >= calls:
                    return

    async def until_it_fails(self) -> None:
        """Wait for a call that fails."""
        with trio.fail_after(60):
            async for _ in self.good_in_a_row.reader():
                if self.failures:
                    return


@asynccontextmanager
async def load(urls: Sequence[str], callers: int = 4) -> AsyncIterator[Load]:
    """Call the api at these URLs for as long as the block lasts; wait for what is in flight at its end."""
    state, stop = Load(), trio.Event()

    async def caller(number: int) -> None:
        base_url = urls[number % len(urls)]
        async with httpx.AsyncClient(base_url=base_url, timeout=20, trust_env=False) as http:
            count = 0
            while not stop.is_set():
                await state.call(http, f"https://example.com/{number}/{count}")
                count += 1

    async with trio.open_nursery() as nursery:
        for number in range(callers):
            nursery.start_soon(partial(caller, number))
        yield state
        stop.set()
