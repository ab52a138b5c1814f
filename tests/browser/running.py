"""The example as processes, its dashboard, and a browser that looks at it.

Playwright is driven from the thread of the test; the processes live in a thread of their own, in which Trio
runs.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect

from tests.processes import Running, running
from tests.shortener_processes import System

T = TypeVar("T")
PLUGINS = ("logger", "storage", "api")
_SOON_S = 90


@attrs.define
class Shortener:
    """The URL shortener as processes, steered from another thread."""

    system: System
    folder: Path
    _token: trio.lowlevel.TrioToken
    _nursery: trio.Nursery
    lease_s: int = 5
    """Short, so that what was killed is missed soon."""

    def do(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run something in the thread of the processes, and wait for it."""

        async def soon() -> T:
            with trio.fail_after(_SOON_S):
                return await function(*args)

        return trio.from_thread.run(soon, trio_token=self._token)

    def start(self, *names: str, **environment: str) -> None:
        async def start() -> None:
            for name in names:
                await self.system.start(name, **environment)

        self.do(start)

    def start_all(self) -> None:
        """Start the host and its plugins, and wait until all is well."""
        self.start_host()
        self.do(self.system.parts["host"].url)
        self.start(*PLUGINS)
        self.do(self.system.healthy, *PLUGINS)

    def start_host(self) -> None:
        self.start("host", ADMIN_SOCKET=str(self.socket), LEASE_S=str(self.lease_s))

    @property
    def socket(self) -> Path:
        return self.folder / "admin" / "s"

    def kill(self, name: str) -> None:
        self.do(self.system.parts[name].end, signal.SIGKILL)

    def call(self, every_s: float = 0.05) -> None:
        """Have clients call the example until the end, whatever it answers."""

        async def call() -> None:
            while True:
                with trio.move_on_after(5), suppress(AssertionError, OSError):
                    await self.system.shorten("https://example.com/")
                await trio.sleep(every_s)

        async def begin() -> None:
            self._nursery.start_soon(call)

        self.do(begin)

    def open_dashboard(self) -> str:
        """Run `cpg-trio dashboard`; return the one-time address that it prints."""

        async def start() -> str:
            arguments = ("cpg_trio", "dashboard", "--no-open", "--admin", str(self.socket))
            gate: Running = await self._nursery.start(_run, arguments)
            return (await gate.until(r"http://\S+once=\S+"))[0]

        return self.do(start)


async def _run(arguments: tuple[str, ...], task_status: trio.TaskStatus[Running]) -> None:
    async with running(*arguments) as process:
        task_status.started(process)
        await trio.sleep_forever()


@contextmanager
def shortener(folder: Path, **options: Any) -> Iterator[Shortener]:
    """Run what a test starts in a thread with Trio, and end it with the block. `options` are of `System`."""
    begun: Future[Shortener] = Future()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            token = trio.lowlevel.current_trio_token()
            begun.set_result(Shortener(System(nursery, folder, **options), folder, token, nursery))
            await trio.sleep_forever()

    def run() -> None:
        with suppress(trio.Cancelled):
            trio.run(main)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield begun.result()
    finally:
        setting = begun.result()
        setting._token.run_sync_soon(setting._nursery.cancel_scope.cancel)
        thread.join()


@attrs.define
class Window:
    """A page, and what went wrong on it: errors of the console, and requests to elsewhere."""

    page: Page
    context: BrowserContext
    origin: str
    faults: list[str] = attrs.field(factory=list)

    def go(self, path: str) -> None:
        self.page.goto(f"{self.origin}{path}")

    def live(self) -> None:
        """Wait until the page is live."""
        expect(self.page.locator("#live")).to_be_visible()
        expect(self.page.locator("#live-word")).to_have_text("live")


@contextmanager
def window(browser: Browser, address: str, **options: Any) -> Iterator[Window]:
    """Open a window at a one-time address; at the end, nothing may have gone wrong on it."""
    context = browser.new_context(**options)
    origin = re.match(r"http://[^/]+", address)
    assert origin
    opened = Window(context.new_page(), context, origin[0])
    page = opened.page

    def note_elsewhere(request: Request) -> None:
        if not request.url.startswith(f"{opened.origin}/"):
            opened.faults.append(f"a request to {request.url}")

    def note_message(said: ConsoleMessage) -> None:
        if said.type == "error":
            opened.faults.append(f"{said.text} {said.location['url']}")

    page.on("pageerror", lambda error: opened.faults.append(f"{error}"))
    page.on("console", note_message)
    page.on("request", note_elsewhere)
    page.goto(address)
    page.wait_for_url(f"{opened.origin}/")
    try:
        yield opened
        assert not opened.faults, opened.faults
    finally:
        context.close()
