"""A call in flight, without what it would be relayed over."""

from __future__ import annotations

import attrs
import trio


@attrs.frozen(eq=False)
class HeldCall:
    """A call that is a cancel scope."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def cancel(self) -> None:
        self.scope.cancel()

    def note_progress(self) -> None:
        """Do nothing: it has no record."""
