"""The parameters of a run, and rounds in which all proxies take turns."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs

from .comparison import Figure
from .peers import OURS, Peer, Proxy, started
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
    more_cores: Sequence[int] = ()
    """Others that this may use."""
    peers: Sequence[Peer]
    rounds: int
    seconds: int
    """Duration of one load."""
    connections: Sequence[int]
    idle_connections: int
    idle_s: float
    watchers: int
    changes: int
    against: Peer | None = None
    """Our host at another commit, which is among the peers as well."""
    plugins: int = 0
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
        """The peers that are hosts."""
        return [peer for peer in self.peers if peer.host is not None]

    @property
    def pair(self) -> tuple[Peer, Peer] | None:
        """This tree and the other commit, if there is one."""
        return (OURS, self.against) if self.against else None

    @property
    def commits(self) -> list[Peer]:
        """Our host with default settings: of this tree, and of the other commit if there is one."""
        return [OURS] if self.against is None else [OURS, self.against]

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


class NotMeasurableError(Exception):
    """A part cannot be measured here. Says what it needs."""


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
    chart: str = ""
    """As SVG, if there is one."""
    compared: Sequence[Figure] = ()
    """This tree beside another commit, if there is one."""


def median(samples: Sequence[T], value: Callable[[T], float]) -> float:
    """Return the median of a value over the rounds."""
    return statistics.median(map(value, samples))
