"""Whether a plugin can call through its host now, and why not. No tasks, no I/O."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cpg_trio import _clock
from cpg_trio._lines import one_line
from cpg_trio._listeners import Listeners

if TYPE_CHECKING:
    from cpg_trio.plugin._session import Session


class HostLink:
    """What a plugin's tasks and calls have found of the way to its host.

    A host to which nothing can be sent counts as away at once, until something comes from it again. One that
    is stopped, or behind a network that drops everything, gives no sign: it counts as away when nothing has
    come from it for a lease.
    """

    def __init__(self) -> None:
        self.session: Session | None = None
        """The session now; None before the first, and between two."""
        self.stopping: bool = False
        """The plugin does not follow its host any more. Its calls in flight finish, and may make calls."""
        self.ended: bool = False
        """The plugin has stopped, and makes no calls."""
        self.changes: Listeners[None] = Listeners[None]("the link to the host")
        """Told when it may have become another one. Time passes without a change: see `holds_until`."""
        self._trouble = ""
        self._heard_at = -math.inf

    def start(self) -> None:
        """Note that the plugin begins to run."""
        self.stopping = self.ended = False
        self._trouble = ""
        self._change()

    def begin(self, session: Session) -> None:
        """Note that there is a session now: the host has just given it."""
        self.session, session.hosts.link = session, self
        self._trouble = ""
        self._heard_at = _clock.current_time()
        self._change()

    def lose(self) -> None:
        """Note that the session has ended."""
        self.session = None
        self._change()

    def stop(self) -> None:
        """Note that the plugin has begun to stop, and learns nothing more."""
        self.stopping = True
        self._change()

    def end(self) -> None:
        """Note that the plugin has stopped."""
        self.stopping = self.ended = True
        self.session = None
        self._change()

    def heard(self) -> None:
        """Note that something has come from the host."""
        self._heard_at = _clock.current_time()
        if self._trouble:
            self._trouble = ""
            self._change()

    def unreachable(self, why: str) -> None:
        """Note that nothing can be sent to the host."""
        if not self._trouble:
            self._trouble = one_line(why) or "it does not answer"
            self._change()

    @property
    def trouble(self) -> str:
        """Why the host cannot be reached, as far as is known; empty if it can be."""
        if self._trouble:
            return self._trouble
        if not self.stopping and self.session is not None and _clock.current_time() >= self._lapses_at:
            return f"nothing has come from it for {self.session.lease_s:g} s"
        return ""

    @property
    def holds_s(self) -> float:
        """In how many seconds the host counts as away if nothing comes from it; infinite if it does."""
        if self.session is None or self.stopping or self.trouble:
            return math.inf
        return self._lapses_at - _clock.current_time()

    @property
    def _lapses_at(self) -> float:
        return self._heard_at + (self.session.lease_s if self.session is not None else 0.0)

    def _change(self) -> None:
        self.changes.tell(None)
