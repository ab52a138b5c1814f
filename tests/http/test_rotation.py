"""Keys, tokens and certificates are changed under load, and no call through the router fails."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from cpg_trio.host import Action, Host, HostConfig, Keys
from cpg_trio.http import Clients, ServeConfig
from cpg_trio.plugin import Plugin
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.certificates import Files
from tests.plugin.running import echo_plugin, eventually, hosting, plugged

CALLERS = 4
_PLAIN = ServeConfig()


@attrs.define
class Load:
    """Callers that call all the time, each the next call when the one before is answered."""

    client: EchoServiceClient
    nursery: trio.Nursery
    answered: int = 0

    def add_caller(self) -> None:
        """Have somebody more call all the time, who needs a connection more."""
        self.nursery.start_soon(self._call)

    async def _call(self) -> None:
        while True:
            text = str(self.answered)
            assert (await self.client.echo(EchoRequest(text=text), timeout_s=10)).text == text
            self.answered += 1

    async def more(self, calls: int = 50) -> None:
        """Wait until so many more calls have been answered."""
        enough = self.answered + calls
        await eventually(lambda: self.answered >= enough)


@asynccontextmanager
async def under_load(config: HostConfig, serve: ServeConfig = _PLAIN) -> AsyncIterator[tuple[Host, Load]]:
    """Run a host and two plugins, of which one calls the other. A call that fails raises here."""
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    with trio.fail_after(60):
        async with (
            hosting(config) as (host, url),
            plugged(caller, url, serve=serve),
            plugged(echo_plugin(), url, serve=serve),
        ):
            await echo.wait_available()
            async with trio.open_nursery() as nursery:
                load = Load(echo.client(EchoServiceClient), nursery)
                for _ in range(CALLERS):
                    load.add_caller()
                await load.more()
                yield host, load
                await load.more()
                nursery.cancel_scope.cancel()


def counting(host: Host, action: Action) -> Callable[[], int]:
    """Return how many events of a kind there have been from now on."""
    seen: list[str] = []
    host.audit.subscribe(lambda event: seen.append(event.subject) if event.action is action else None)
    return lambda: len(seen)


async def test_tokens_are_renewed_many_times() -> None:
    async with under_load(HostConfig(token_ttl_s=2.0)) as (host, load):
        renewals = counting(host, Action.RENEW)
        for number in range(1, 5):
            await eventually(partial(lambda number: renewals() >= number, number))
            await load.more(10)


async def test_keys_are_changed_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    config = HostConfig(keys=Keys(path=path), token_ttl_s=2.0)
    async with under_load(config) as (host, load):
        renewals = counting(host, Action.RENEW)
        for _ in range(2):
            before = renewals()
            await put_in_front(path, secrets.token_urlsafe(32))
            await eventually(partial(lambda before: renewals() >= before + 4, before))
            await load.more()
        assert len((await trio.Path(path).read_text()).split()) == 2


async def put_in_front(path: Path, key: str) -> None:
    """Put a new key in front of the one that signs, and take those away that are older."""
    newest = (await trio.Path(path).read_text()).split()[0]
    draft = path.with_name("draft")
    await trio.Path(draft).write_text(f"{key}\n{newest}\n")
    await trio.Path(draft).chmod(0o600)
    await trio.Path(draft).rename(path)


# The servers of the host and the provider, and the clients of the host and the caller.
_USERS_OF_FILES = 4


async def test_certificates_are_changed_again_and_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ca, names = trustme.CA(), ("localhost", "127.0.0.1", "caller", "echo-plugin")
    files = Files.write(tmp_path, ca, *names)
    serve = ServeConfig(tls=files.config(Clients.REQUIRED))
    async with under_load(HostConfig(serve=serve), serve) as (_, load):
        for number in range(1, 3):
            files.issue(ca, *names)
            while reloads(caplog) < _USERS_OF_FILES * number:
                load.add_caller()
                await load.more(100)


def reloads(caplog: pytest.LogCaptureFixture) -> int:
    return sum("read anew" in record.getMessage() for record in caplog.records)
