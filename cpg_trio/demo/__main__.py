"""`python -m cpg_trio.demo`: the platform of `platform.toml`, a host and three plugins, in one process.

It prints what happens, checks itself by shortening and resolving a URL, and serves until Ctrl-C. It names the
address of its dashboard, and `cpg-trio status` finds it. With `--once` it ends after the check; the exit
status is 0 only if the check passed. With `--processes` each plugin has a process of its own. `HTTP_SERVER`
and `XDG_RUNTIME_DIR` are the only environment variables that it reads.
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

from cpg_trio._admin_socket import OFF
from cpg_trio._cell import Cell
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.demo._narrator import Narrator
from cpg_trio.demo.storage import DEFAULT_PATH
from cpg_trio.host import DEFAULT_PORT, Host
from cpg_trio.host.admin import AdminAddress, open_gate
from cpg_trio.host.supervision import LaunchError, PluginSpec
from cpg_trio.http import BindError, StartError
from cpg_trio.http.client.origin import UNIX
from cpg_trio.launch import Platform, ProcessLauncher, TaskLauncher, free_port, is_taken
from cpg_trio.logs import use_handler
from cpg_trio.process import run
from cpg_trio.states import HealthState

EXAMPLE_URL = 'https://example.com/?q="plugins & nurseries"#100%'
_READY_S = 30.0
FILE = Path(__file__).with_name("platform.toml")
_SERVICES = ("logger", "storage", "api")
_PUBLIC = "api"
_DASHBOARD_S = 60 * 60.0  # for which the address of the dashboard is good


@attrs.define
class Demo:
    """One run of the demo."""

    narrator: Narrator
    once: bool
    storage_path: Path
    processes: bool = False
    failed: bool = False
    """Whether it has ended since the check failed."""

    async def run(self, stop: trio.Event) -> None:
        """Run until `stop` is set, or with `once` until the check is done. Raises: StartError."""
        where = "each in its process" if self.processes else "in one process"
        self.narrator.title(f"cpg_trio demo: a host and three plugins {where}")
        platform_stop = trio.Event()
        async with open_plain_nursery() as nursery:
            host, specs = await self._start_host(nursery, platform_stop)
            async with _dashboard(host) as dashboard:
                await _unless(stop, partial(self._story, host, specs, dashboard, stop))
            platform_stop.set()

    async def _start_host(self, nursery: trio.Nursery, stop: trio.Event) -> tuple[Host, Sequence[PluginSpec]]:
        """Start the host of the file on its port, or on a free one; return it, and the file's plugins."""
        for port in (str(DEFAULT_PORT), "0"):
            platform = await Platform.from_file(FILE, self._settings(port), processes=self.processes)
            alone = attrs.evolve(platform, specs=(), source=None)
            try:
                url, *_ = await nursery.start(alone.serve, stop)
            except BindError:
                if port == "0":
                    raise
                continue
            if port == "0":
                self.narrator.say(f"          port {DEFAULT_PORT} is taken: host is at {url}")
            return platform.host, [self._given(spec) for spec in platform.specs]
        raise AssertionError

    def _settings(self, port: str) -> dict[str, str]:
        """Return the settings that come before those of the file."""
        settings = {
            name: os.environ[name] for name in ("HTTP_SERVER", "XDG_RUNTIME_DIR") if name in os.environ
        }
        return {**settings, "PORT": port, **({"ADMIN_SOCKET": OFF} if self.once else {})}

    def _given(self, spec: PluginSpec) -> PluginSpec:
        """Return a plugin of the file with what the demo gives to each: its own file for URLs, its engine."""
        own = {"STORAGE_PATH": str(self.storage_path.absolute())}
        if "HTTP_SERVER" in os.environ:
            own["HTTP_SERVER"] = os.environ["HTTP_SERVER"]
        launcher = _launcher_of(spec)
        launcher = attrs.evolve(launcher, environment={**launcher.environment, **own})
        return attrs.evolve(spec, launcher=launcher)

    async def _story(self, host: Host, specs: Sequence[PluginSpec], dashboard: str, stop: trio.Event) -> None:
        api = next(spec for spec in specs if spec.name == _PUBLIC)
        api_url = ""
        try:
            with trio.move_on_after(_READY_S) as limit:
                async with open_plain_nursery() as nursery:
                    nursery.start_soon(self._tell_what_is_missing, host)
                    await host.plugins.add(*(spec for spec in specs if spec is not api))
                    api_url = await self._start_api(host, api)
        except LaunchError as error:
            raise StartError(str(error)) from error
        finally:
            self.narrator.progress("")
        if limit.cancelled_caught:
            missing = ", ".join(_missing(host))
            self.narrator.say(f"The plugins are not healthy after {_READY_S:g} s: waiting for {missing}.")
            self.failed = True
            return
        self.narrator.title("All healthy. Shortening and resolving a URL, through the host's router:")
        code = await self._check(api_url)
        if not code:
            self.failed = True
        elif not self.once:
            self._invite(api_url, code, dashboard)
            await stop.wait()

    async def _tell_what_is_missing(self, host: Host) -> None:
        changes = Cell(0)
        host.registry.changes.add(lambda _: changes.set(changes.value + 1))
        async for _ in changes.reader():
            if not (missing := _missing(host)):
                return
            self.narrator.progress(f"… waiting for {', '.join(missing)}")

    async def _start_api(self, host: Host, api: PluginSpec) -> str:
        """Start the public plugin on its port, or on a free one; return its URL when it is ready."""
        launcher = _launcher_of(api)
        try:
            await host.plugins.add(api)
        except LaunchError:
            if not is_taken(launcher.port or 0):
                raise
        else:
            return f"http://127.0.0.1:{launcher.port}"
        with free_port() as port:
            url = f"http://127.0.0.1:{port}"
            self.narrator.say(f"          port {launcher.port} is taken: api is at {url}")
            await host.plugins.add(attrs.evolve(api, launcher=attrs.evolve(launcher, port=port)))
        return url

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


def _launcher_of(spec: PluginSpec) -> TaskLauncher | ProcessLauncher:
    """Return the launcher of a plugin of the file."""
    assert isinstance(spec.launcher, TaskLauncher | ProcessLauncher)  # noqa: S101 - the file has no others
    return spec.launcher


def _missing(host: Host) -> Sequence[str]:
    """Return which services are not healthy, and why."""
    return [why for each in _SERVICES if (why := _why_not_healthy(host, each))]


def _why_not_healthy(host: Host, service_type: str) -> str:
    """Return a service type, with what its provider reports; empty if a provider is healthy."""
    reports = [host.registry.health(each.runtime_id) for each in host.registry.providers(service_type)]
    if any(report.state is HealthState.HEALTHY for report in reports):
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
    parser.add_argument("--processes", action="store_true", help="run each plugin in a process of its own")
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
    demo = Demo(narrator, once=chosen.once, storage_path=chosen.storage, processes=chosen.processes)
    status = run(demo.run)
    return status or int(demo.failed)


if __name__ == "__main__":
    sys.exit(main())
