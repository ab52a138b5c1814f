"""All services that a plugin or a session requires. A plugin's are known before it runs; a session's grow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextvars import copy_context

import trio

from cpg_trio._cell import Cell
from cpg_trio._listeners import Listeners
from cpg_trio.calls import CallPolicy
from cpg_trio.plugin._required_service import RequiredService
from cpg_trio.versions import Requirement


class Dependencies(Mapping[str, RequiredService]):
    """Dependencies by service type, in the order in which they were required. None is ever removed."""

    def __init__(self, *dependencies: RequiredService) -> None:
        self._by_type = {each.service_type: each for each in dependencies}
        self._added = Listeners[RequiredService]("dependencies")
        self.count: Cell[int] = Cell(len(dependencies))
        """How many there are, for tasks to wait on."""

    def __getitem__(self, service_type: str) -> RequiredService:
        return self._by_type[service_type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_type)

    def __len__(self) -> int:
        return len(self._by_type)

    def add(self, dependency: RequiredService) -> None:
        """Add one, of a type that none has."""
        self._by_type[dependency.service_type] = dependency
        self.count.set(len(self))
        self._added.tell(dependency)

    def agreeing(
        self, service_type: str, *, version: str, min_version: str, policy: CallPolicy | None
    ) -> RequiredService | None:
        """Return the dependency on a service, None if there is none yet.

        What is not said, which is no version or no policy, is as it was required. Raises: ValueError if what
        is said is something else; wire.InvalidError for a version that is not valid.
        """
        if (known := self.get(service_type)) is None:
            return None
        asked = Requirement.parse(min_version, version)
        if (version or min_version) and asked != known.requirement:
            raise ValueError(
                f"{service_type} is required already, with version {str(known.requirement) or 'any'}"
            )
        if policy not in (None, known.policy):
            raise ValueError(f"{service_type} is required already, with another policy")
        return known

    async def for_each(self, task: Callable[[RequiredService], Awaitable[object]]) -> None:
        """Run a task for each of them, also for those that are added meanwhile, until cancelled."""
        async with trio.open_nursery() as nursery:
            here = copy_context()  # and not that of whoever adds one, which may be that of a call

            def start(dependency: RequiredService) -> None:
                here.run(nursery.start_soon, task, dependency)

            with self._added.added(start):
                for dependency in self.values():
                    start(dependency)
                await trio.sleep_forever()
