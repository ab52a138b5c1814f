"""`python -m cpg_trio.demo`: a host and three plugins in one process.

It prints what happens, checks itself by shortening and resolving a URL, and serves until Ctrl-C. It names the
address of its dashboard, and `cpg-trio status` finds it. With `--once` it ends after the check; the exit
status is 0 only if the check passed. `HTTP_SERVER` and `XDG_RUNTIME_DIR` are the only environment variables
that it reads.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import httpx
import trio

from cpg_trio._admin_socket import socket_path
from cpg_trio._cell import Cell
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.demo._narrator import Narrator
from cpg_trio.demo.api import api_plugin
from cpg_trio.demo.logger import logger_plugin
from cpg_trio.demo.storage import DEFAULT_PATH, storage_plugin
from cpg_trio.host import DEFAULT_PORT, AdminConfig, Host, HostConfig
from cpg_trio.host.admin import AdminAddress, open_gate
from cpg_trio.http import UNIX, BindError, ServeConfig
from cpg_trio.logs import use_handler
from cpg_trio.plugin import Plugin, PluginConfig
from cpg_trio.process import config_from_environment, run

EXAMPLE_URL = 'https://example.com/?q="plugins & nurseries"#100%'
_READY_S = 30.0
_DASHBOARD_S = 60 * 60.0  # for which the address of the dashboard is good
_Serve = Callable[..., Awaitable[None]]  # with `bind` and `task_status`


@attrs.define
class Demo:
    """One run of the demo."""

    narrator: Narrator
    once: bool
    storage_path: Path
    serve: ServeConfig = attrs.field(factory=ServeConfig)
    failed: bool = False
    """Whether it has ended since the check failed."""

    async def run(self, stop: trio.Event) -> None:
        """Run until `stop` is set, or with `once` until the check is done. Raises: StartError."""
        self.serve = config_from_environment({"HTTP_SERVER": os.environ.get("HTTP_SERVER", "")})
        self.narrator.title("cpg_trio demo: a host and three plugins in one process")
        host = Host(HostConfig(serve=self.serve, admin=self._admin()))
        host_stop, plugins_stop = trio.Event(), trio.Event()
        async with open_plain_nursery() as nursery, storage_plugin(self.storage_path) as storage:
            host_url = await self._start(nursery, "host", DEFAULT_PORT, partial(host.serve, host_stop))
            async with open_plain_nursery() as plugins:
                serve = partial(self._start_plugin, plugins, host_url, plugins_stop)
                # Each plugin starts before the one that it requires: the order does not matter.
                api_url = await serve(api_plugin(), "api", 8083)
                await serve(storage, "storage", 8082)
                await serve(logger_plugin(), "logger", 8081)
                async with _dashboard(host) as dashboard:
                    await _unless(stop, partial(self._story, host, api_url, dashboard, stop))
                plugins_stop.set()
            host_stop.set()

    def _admin(self) -> AdminConfig | None:
        """Return where the host is seen and steered: by a socket that `cpg-trio status` finds."""
        if self.once:
            return None
        return AdminConfig(socket=socket_path("{port}", os.environ), socket_is_required=False)

    async def _start_plugin(
        self, nursery: trio.Nursery, host_url: str, stop: trio.Event, plugin: Plugin, name: str, port: int
    ) -> str:
        async def serve(bind: str, task_status: trio.TaskStatus[tuple[str, ...]]) -> None:
            config = PluginConfig(bind=bind, host_url=host_url, hostname="127.0.0.1", serve=self.serve)
            await plugin.serve(stop, config=config, task_status=task_status)

        return await self._start(nursery, name, port, serve)

    async def _start(
        self, nursery: trio.Nursery, name: str, port: int, serve: Callable[..., Awaitable[None]]
    ) -> str:
        """Start a part on its usual port, or on a free one if that is taken; return its URL."""
        try:
            bound: tuple[str, ...] = await nursery.start(partial(serve, bind=f"127.0.0.1:{port}"))
        except BindError:
            bound = await nursery.start(partial(serve, bind="127.0.0.1:0"))
            self.narrator.say(f"          port {port} is taken: {name} is at {bound[0]}")
        return bound[0]

    async def _story(self, host: Host, api_url: str, dashboard: str, stop: trio.Event) -> None:
        waiting = ""
        with trio.move_on_after(_READY_S) as limit:
            async for waiting in _what_is_missing(host, ("logger", "storage", "api")):
                self.narrator.progress(f"… waiting for {waiting}")
        self.narrator.progress("")
        if limit.cancelled_caught:
            self.narrator.say(f"The plugins are not healthy after {_READY_S:g} s: waiting for {waiting}.")
            self.failed = True
            return
        self.narrator.title("All healthy. Shortening and resolving a URL, through the host's router:")
        code = await self._check(api_url)
        if not code:
            self.failed = True
        elif not self.once:
            self._invite(api_url, code, dashboard)
            await stop.wait()

    async def _check(self, api_url: str) -> str:
        """Shorten and resolve a URL, and print the result; return the code, or "" for a failure."""
        try:
            async with httpx.AsyncClient(base_url=f"{api_url}/api.v1.API/", trust_env=False) as http:
                shortened = _good(await http.post("Shorten", params={"url": EXAMPLE_URL}))
                code = str(shortened["short_code"])
                resolved = _good(await http.get("Resolve", params={"code": code}))
        except httpx.HTTPError as error:
            self.narrator.title(f"✗ The check failed: {error}")
            return ""
        passed = resolved == {"url": EXAMPLE_URL}
        self.narrator.title(f"✓ {EXAMPLE_URL} ⇄ {code}" if passed else f"✗ It resolved to {resolved}")
        return code if passed else ""

    def _invite(self, api_url: str, code: str, dashboard: str) -> None:
        say = self.narrator.say
        if dashboard:
            say("Look at it: the dashboard (the address is good for one browser), or the terminal:\n")
            say(f"  {dashboard}")
            say("  cpg-trio status\n")
        say("Try it yourself:\n")
        say(f'  curl -X POST "{api_url}/api.v1.API/Shorten?url=https://example.com"')
        say(f'  curl "{api_url}/api.v1.API/Resolve?code={code}"')
        say("  # and as a Connect client does:")
        say("  curl -H 'content-type: application/json' \\")
        say(f'       -d \'{{"code": "{code}"}}\' {api_url}/api.v1.API/Resolve')
        say(f"\nThe URLs are kept in {self.storage_path.resolve()}. Ctrl-C stops.\n")


def _good(response: httpx.Response) -> dict[str, str]:
    """Return the decoded answer. Raises: httpx.HTTPError with the answer if its status is not 2xx."""
    if not response.is_success:
        raise httpx.HTTPError(f"{response.url.path} answered {response.status_code}: {response.text.strip()}")
    return dict(response.json())


@asynccontextmanager
async def _dashboard(host: Host) -> AsyncIterator[str]:
    """Yield an address that lets one browser in to the dashboard; empty if the host has no admin socket."""
    sockets = [each.removeprefix(UNIX) for each in host.admin_addresses if each.startswith(UNIX)]
    if not sockets:
        yield ""
        return
    async with open_gate(AdminAddress.of_socket(sockets[0])) as gate:
        yield gate.one_time_address(_DASHBOARD_S)


async def _what_is_missing(host: Host, service_types: Sequence[str]) -> AsyncIterator[str]:
    """Yield at each change which services are not healthy, and why; end when all are."""
    changes = Cell(0)
    host.registry.changes.add(lambda _: changes.set(changes.value + 1))
    async for _ in changes.reader():
        missing = [why for each in service_types if (why := _why_not_healthy(host, each))]
        if not missing:
            return
        yield ", ".join(missing)


def _why_not_healthy(host: Host, service_type: str) -> str:
    """Return a service type, with what its provider reports; empty if a provider is healthy."""
    reports = [host.registry.health(each.runtime_id) for each in host.registry.providers(service_type)]
    if any(report.state == pb.HEALTH_STATE_HEALTHY for report in reports):
        return ""
    reasons = [report.reason for report in reports if report.reason]
    return f"{service_type} ({reasons[0]})" if reasons else service_type


async def _unless(stop: trio.Event, story: Callable[[], Awaitable[None]]) -> None:
    """Run `story` until it ends or `stop` is set."""
    async with trio.open_nursery() as nursery:

        async def interrupt() -> None:
            await stop.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(interrupt)
        await story()
        nursery.cancel_scope.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="cpg_trio.demo", description="A host and three plugins in one process."
    )
    parser.add_argument("--once", action="store_true", help="end after the self-check; status 0 if it passed")
    parser.add_argument(
        "--storage",
        type=Path,
        default=DEFAULT_PATH,
        metavar="FILE",
        help="file in which storage keeps its URLs (default: %(default)s)",
    )
    chosen = parser.parse_args(arguments)
    narrator = Narrator()
    use_handler(narrator)
    demo = Demo(narrator, once=chosen.once, storage_path=chosen.storage)
    status = run(demo.run)
    return status or int(demo.failed)


if __name__ == "__main__":
    sys.exit(main())
