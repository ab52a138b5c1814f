"""Callers of services, and what became of each call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import attrs
import trio

from cpg_trio.calls import CallPolicy, Retry
from cpg_trio.plugin import Dependency, Plugin
from cpg_trio.rpc import ConnectError, fault_of
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.chaos.trial import tell

CALL_S = 10.0
PAUSE_S = 0.05  # between two calls of a caller
_REPEATABLE = Retry(idempotent=True, attempts=100, budget=1.0)
_SHOWN = 20  # failures that are told


@attrs.define
class Caller:
    """Calls a service, with another number each time. Every second call may be repeated."""

    service_type: str
    dependency: Dependency
    client: EchoServiceClient
    numbers: Iterator[int]
    ended: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    def of(cls, plugin: Plugin, service_type: str, numbers: Iterator[int]) -> Caller:
        dependency = plugin.require(service_type, policy=CallPolicy())
        return cls(service_type, dependency, dependency.client(EchoServiceClient), numbers)

    async def call(self, *, repeatable: bool) -> None:
        """Make one call, and note how it ended."""
        kind = "again" if repeatable else "once"
        text = f"{self.service_type} {kind} {next(self.numbers)}"
        retry = _REPEATABLE if repeatable else Retry()
        try:
            answer = await self.client.echo(pb.EchoRequest(text=text), timeout_s=CALL_S, retry=retry)
        except ConnectError as error:
            self.ended[text] = f"{error.code.value}/{fault_of(error)}: {error.message}"
        else:
            assert answer.text == text
            self.ended[text] = "ok"

    async def run(self, stop: trio.Event) -> None:
        """Call until `stop`; the last call ends."""
        for number in count():
            if stop.is_set():
                return
            await self.call(repeatable=bool(number % 2))
            await trio.sleep(PAUSE_S)


@attrs.define
class Ledger:
    """What was called, against what ran."""

    journal: Path
    callers: list[Caller] = attrs.field(factory=list)

    @property
    def ended(self) -> dict[str, str]:
        return {text: how for caller in self.callers for text, how in caller.ended.items()}

    def failures(self) -> dict[str, str]:
        """Return the calls that failed, of those that had to succeed: no provider has seen them, or they may
        be repeated."""
        ran = self._ran()
        return {
            text: how
            for text, how in self.ended.items()
            if how != "ok" and (text.split()[1] == "again" or text not in ran)
        }

    def check(self, *, uncertain: int = 0) -> None:
        """Check that no call ran at a wrong provider or twice, that what was answered ran, and that what had
        to succeed did; `uncertain` calls may have been lost on the way without a trace."""
        ended, ran = self.ended, self._ran()
        wrong = [line for line in self._lines() if line.split()[0] != line.split()[1]]
        twice = {text: times for text, times in ran.items() if times > 1 and text.split()[1] == "once"}
        failed = self.failures()
        tell(
            f"{len(ended)} calls, {sum(how == 'ok' for how in ended.values())} answered, {len(failed)} failed"
        )
        for text, how in list(failed.items())[:_SHOWN]:
            tell(f"  {text}: {how}")
        assert not wrong
        assert not twice
        assert {text for text, how in ended.items() if how == "ok"} <= ran.keys()
        assert not [text for text in failed if text.split()[1] == "again"]
        assert len(failed) <= uncertain

    def _lines(self) -> list[str]:
        return self.journal.read_text().splitlines()

    def _ran(self) -> Counter[str]:
        return Counter(line.split(maxsplit=1)[1] for line in self._lines())
