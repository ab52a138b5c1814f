"""A plugin that the host starts, with its replicas, and what can be wrong with what is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import attrs
import trio

from cpg_trio.errors import CpgTrioError
from cpg_trio.host.supervision.spec import PluginSpec
from cpg_trio.host.supervision.supervisor import Supervisor


class ManageError(CpgTrioError):
    """What is asked for cannot be done with a plugin now. The message says why, and what to do."""


class UnknownPluginError(ManageError, LookupError):
    """The host starts no plugin of that name."""


@attrs.frozen
class Outdated:
    """A plugin runs its former code, as the one that is there now cannot be run."""

    why: str
    since: float
    """In seconds since 1970."""


@attrs.define(eq=False)
class Managed:
    """A plugin that the host starts."""

    spec: PluginSpec
    supervisors: list[Supervisor] = attrs.field(factory=list)
    """Of the replicas in service."""
    coming: list[Supervisor] = attrs.field(factory=list)
    """Of those that are to be in service, and get no calls before they are."""
    leaving: list[Supervisor] = attrs.field(factory=list)
    """Of those that are being stopped. They finish their calls."""
    changing: str = ""
    """What is being done with it, as in `replaced`; empty if nothing is."""
    outdated: Outdated | None = None
    """Why it runs its former code; None if it does not, as far as is known."""
    stopped: trio.Event = attrs.field(factory=trio.Event)
    """Set when it is not managed any more, and all its runs have ended."""
    reservation: ExitStack = attrs.field(factory=ExitStack)

    @property
    def was_ready(self) -> bool:
        """Whether those that wait for it may start."""
        return any(each.was_ready for each in self.supervisors)

    @property
    def all(self) -> Sequence[Supervisor]:
        """All its replicas, by their numbers."""
        every = [*self.supervisors, *self.coming, *self.leaving]
        return sorted(every, key=lambda each: each.replica.number)

    def take_in(self, supervisors: Sequence[Supervisor]) -> None:
        """Have replicas in service that have come."""
        self.coming = [each for each in self.coming if each not in supervisors]
        self.supervisors += supervisors
        for each in supervisors:
            each.take_over()

    def let_go(self, supervisors: Sequence[Supervisor]) -> None:
        """Have replicas in service no more. Call `stop` of each next."""
        self.supervisors = [each for each in self.supervisors if each not in supervisors]
        self.coming = [each for each in self.coming if each not in supervisors]
        self.leaving += [each for each in supervisors if each not in self.leaving]
        for each in supervisors:
            each.hand_over()

    def forget(self, supervisors: Sequence[Supervisor]) -> None:
        """Forget replicas that have stopped."""
        for group in (self.supervisors, self.coming, self.leaving):
            group[:] = [each for each in group if each not in supervisors]
