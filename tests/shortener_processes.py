"""The URL shortener as four real processes: a host and its three plugins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx
import trio

from tests.plugin.running import unused_port
from tests.processes import Running, running

MODULES = {
    "host": ("cpg_trio", "host"),
    "logger": ("cpg_trio.demo.logger",),
    "storage": ("cpg_trio.demo.storage",),
    "api": ("cpg_trio.demo.api",),
}


def nobody() -> str:
    """Return a URL at which there is no host."""
    return f"http://127.0.0.1:{unused_port()}"


class System:
    """The four processes, and others that are started beside them.

    `parts` are those of now, by name; `started` are all that there have been. `environment` is each one's;
    `modules` says what `python -m` runs for a name.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        modules: Mapping[str, tuple[str, ...]] = MODULES,
    ) -> None:
        self._nursery = nursery
        self._folder = folder
        self._environment = environment or {}
        self._modules = modules
        self.port = unused_port()
        self.parts: dict[str, Running] = {}
        self.started: list[tuple[str, Running]] = []

    @property
    def host_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, name: str, **environment: str) -> Running:
        part: Running = await self._nursery.start(self._run, name, self._surroundings(name) | environment)
        self.parts[name] = part
        self.started.append((name, part))
        return part

    def _surroundings(self, name: str) -> dict[str, str]:
        own = {"PORT": str(self.port)}
        if name != "host":
            own = {
                "PORT": "0",
                "HOST_URL": self.host_url,
                "HOSTNAME": "127.0.0.1",
                "STORAGE_PATH": str(self._folder / "urls.sqlite3"),
            }
        return own | dict(self._environment)

    async def _run(
        self, name: str, environment: dict[str, str], task_status: trio.TaskStatus[Running]
    ) -> None:
        async with running(*self._modules[name], environment=environment) as part:
            task_status.started(part)
            await trio.sleep_forever()

    async def healthy(self, *names: str) -> None:
        for name in names:
            await self.parts["host"].until(rf"{name}-plugin-[0-9a-f]+ reports HEALTHY")

    async def shorten(self, url: str) -> str:
        async with httpx.AsyncClient(base_url=await self.parts["api"].url()) as http:
            answer = await http.post("/api.v1.API/Shorten", params={"url": url})
            assert answer.status_code == 200, answer.text
            return str(answer.json()["short_code"])

    async def resolve(self, code: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=await self.parts["api"].url()) as http:
            return await http.get("/api.v1.API/Resolve", params={"code": code})
