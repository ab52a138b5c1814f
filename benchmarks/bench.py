"""The parameters of a run, and rounds in which all proxies take turns."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs

from .peers import Peer, Proxy, started
from .upstream import upstream

T = TypeVar("T")
K = TypeVar("K")


@attrs.frozen(kw_only=True)
class Bench:
    """The parameters of a run."""

    folder: Path
    """Folder for all files of the run, on a disk."""
    cores: tuple[int, int]
    """The proxies run on the first, the load and the provider on the second."""
    peers: Sequence[Peer]
    rounds: int
    seconds: int
    """Duration of one load."""
    connections: Sequence[int]
    idle_connections: int
    idle_s: float
    watchers: int
    changes: int
    plugins: int
    """The most that are simulated at several hosts; 0: as many as the part has."""

    @property
    def proxy_core(self) -> int:
        return self.cores[0]

    @property
    def load_core(self) -> int:
        return self.cores[1]

    def subfolder(self, *names: str) -> Path:
        """Create and return a folder of this name."""
        folder = self.folder.joinpath(*names)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def hosts(self) -> list[Peer]:
        """The peers that are our host."""
        return [peer for peer in self.peers if peer.is_host]

    @asynccontextmanager
    async def proxies(self, *more: Peer) -> AsyncIterator[dict[Peer, Proxy]]:
        """Run the provider, and all proxies in front of it at once."""
        async with AsyncExitStack() as stack:
            provider = await stack.enter_async_context(upstream(self.subfolder("provider"), self.load_core))
            yield {
                peer: await stack.enter_async_context(
                    started(peer, provider, self.subfolder(peer.name), self.proxy_core)
                )
                for peer in (*more, *self.peers)
            }

    async def take_turns(
        self, subjects: Sequence[K], measure: Callable[[K], Awaitable[T]]
    ) -> dict[K, list[T]]:
        """Measure each subject once in each round, in a different order each time."""
        measured: dict[K, list[T]] = {subject: [] for subject in subjects}
        for turn in range(self.rounds):
            first = turn % len(subjects)
            for subject in (*subjects[first:], *subjects[:first]):
                measured[subject].append(await measure(subject))
        return measured


@attrs.frozen
class Report:
    """The results of a part."""

    name: str
    tables: str
    """In Markdown."""
    figures: Mapping[str, Any]
    """For programs: medians over the rounds, by peer."""
    excerpts: Mapping[str, str] = attrs.field(factory=dict)
    """Further tables by the name of their place, for other pages."""


def median(samples: Sequence[T], value: Callable[[T], float]) -> float:
    """Return the median of a value over the rounds."""
    return statistics.median(map(value, samples))
