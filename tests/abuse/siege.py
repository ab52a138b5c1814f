"""A host, a public plugin and a well-behaved one, and hostile clients, each a process of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import trio

from tests.abuse.confinement import Confinement, confinement
from tests.abuse.customer import Customer, customer
from tests.plugin.running import unused_port
from tests.processes import Running, assert_no_traceback, running

MEBIBYTE = 1024 * 1024
SECONDS = float(os.environ.get("ABUSE_SECONDS", "5"))
_START_S = 120.0  # a process that has not begun by then hangs
_ENDS_S = 120.0  # the same of an attacker of thousands of tasks, after its time
_HANGS_S = 120.0  # the same of a step of the customer's
_LOG_LINES = 40
_LONGEST_LINE = 10_000  # characters: some names at their longest, and no message


@attrs.define
class Victim:
    """A process that is attacked, and where."""

    name: str
    process: Running
    confined: Confinement
    url: str = ""

    def check(self, memory_bytes: int | None) -> None:
        """Check that it has lived within its memory, and that strangers do not fill its log."""
        assert self.process.process.returncode is None, (
            f"{self.name} has ended: {self.process.output[-2000:]}"
        )
        assert self.confined.kills == 0
        peak, now = self.process.peak_memory_bytes(), self.process.memory_bytes()
        tell(f"{self.name}: at most {peak // MEBIBYTE} MiB, now {now // MEBIBYTE} MiB, {self._cpu_s():.1f} s")
        assert memory_bytes is None or peak <= memory_bytes
        assert_no_traceback(self.process.output, self.name)
        assert max(map(len, self.process.output.splitlines())) <= _LONGEST_LINE

    def _cpu_s(self) -> float:
        """Return how much time of a processor it has had."""
        fields = Path(f"/proc/{self.process.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@attrs.define
class Siege:
    """What a test works with."""

    host: Victim
    plugin: Victim
    customer: Customer
    provider_id: str

    async def attack(self, name: str, *addresses: str, seconds: float = SECONDS) -> dict[str, int]:
        """Attack from these addresses at once, while the customer goes on; return what was answered."""
        tell(f"{name} for {seconds} s")
        answered: dict[str, int] = {}
        async with self.customer.trading(), trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(self._attack, name, address, seconds, answered)
        for kind, count in self.customer.counts.items():
            tell(f"{kind}: {count.succeeded} of {count.succeeded + count.failed} {count.last_error}")
        tell(f"the attacker was answered {answered}")
        return answered

    async def _attack(self, name: str, address: str, seconds: float, answered: dict[str, int]) -> None:
        environment = {
            "HOST_URL": self.host.url,
            "PLUGIN_URL": self.plugin.url,
            "PROVIDER_ID": self.provider_id,
        }
        arguments = ("tests.abuse.attacker", name, str(seconds), address)
        async with running(*arguments, environment=environment) as process:
            with trio.fail_after(_START_S):
                await process.until("attacking")
            with trio.fail_after(seconds + _ENDS_S):
                said = await process.until(r"answered (.*)\n")
            for what, number in json.loads(said[1]).items():
                answered[what] = answered.get(what, 0) + number

    async def recovers(self, within_s: float) -> None:
        """Wait until all that the customer does succeeds again, and the public service answers anybody.

        Time in which one of the three processes has waited for a processor does not count: then the machine
        was slow, and not the host.
        """
        steps = {kind: step for kind, (_, step) in self.customer.steps.items()}
        steps["public calls"] = self.customer.call_publicly
        for kind, step in steps.items():
            began, why = self._own_time(), "not tried"
            with trio.move_on_after(_HANGS_S):
                while why := await self.customer.does(step):
                    assert self._own_time() - began <= within_s, (
                        f"{within_s} s after the attack {kind} fail: {why}"
                    )
                    await trio.sleep(0.2)
            assert not why, f"{_HANGS_S} s after the attack {kind} fail: {why}"

    def _own_time(self) -> float:
        """Return a time in seconds that stands still while there is no processor for us."""
        pids = (os.getpid(), self.host.process.process.pid, self.plugin.process.process.pid)
        return trio.current_time() - sum(map(_waited_s, pids))


def _waited_s(pid: int) -> float:
    """Return for how long a process has waited for a processor; 0 where the kernel does not tell."""
    try:
        fields = Path(f"/proc/{pid}/schedstat").read_text().split()
    except FileNotFoundError:
        return 0.0
    return int(fields[1]) / 1e9


@asynccontextmanager
async def siege(
    *,
    memory_bytes: int | None = None,
    files: int | None = None,
    host: tuple[str, ...] = ("cpg_trio", "host"),
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Siege]:
    """Run a host and a public plugin, each with so much memory and so many descriptors, and a customer."""
    port = unused_port()
    url = f"http://127.0.0.1:{port}"
    own = {"PORT": str(port), **(environment or {})}
    async with AsyncExitStack() as stack:
        victims = [
            await stack.enter_async_context(_victim("the host", host, own, memory_bytes, files)),
            await stack.enter_async_context(
                _victim(
                    "the plugin",
                    ("tests.abuse.victims", "plugin"),
                    {"PORT": "0", "HOST_URL": url, "HOSTNAME": "127.0.0.1", "BIND": "127.0.0.1"},
                    memory_bytes,
                    files,
                )
            ),
        ]
        with trio.fail_after(_START_S):
            for victim in victims:
                victim.url = await victim.process.url()
            found = await victims[0].process.until(r"public-plugin is (public-plugin-[0-9a-f]+)")
        client = await stack.enter_async_context(customer(url, victims[1].url))
        yield Siege(victims[0], victims[1], client, found[1])


@asynccontextmanager
async def _victim(
    name: str,
    module: tuple[str, ...],
    environment: Mapping[str, str],
    memory_bytes: int | None,
    files: int | None,
) -> AsyncIterator[Victim]:
    with confinement(memory_bytes, files) as confined:
        arguments = ("tests.abuse.confinement", *module)
        async with running(*arguments, environment={**environment, **confined.environment}) as process:
            try:
                yield Victim(name, process, confined)
            finally:
                lines = process.output.splitlines()[-_LOG_LINES:]
                sys.stdout.writelines(f"{line[:500]}\n" for line in [f"=== {name}", *lines])


def tell(line: str) -> None:
    """Add a line to the story of a test, which is shown if it fails."""
    sys.stdout.write(f"{trio.current_time() % 1000:8.2f} s  {line}\n")
