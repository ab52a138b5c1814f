"""Clocks of virtual time."""

from __future__ import annotations

import time

from trio.testing import MockClock, active_thread_count

_LOOK_S = 0.001
_MOST_S = 3.0  # a thread that works for longer waits for something, and that may be for time to pass


def jumping_clock(autojump_threshold: float = 0.0) -> MockClock:
    """Return a clock that jumps to the next deadline once nothing happens, and no thread works for a task.

    Trio's own jumps although a thread works: on a busy machine, deadlines pass before it has done anything.
    """
    clock = MockClock(autojump_threshold=autojump_threshold)
    jump = clock._autojump
    waited_s = 0.0

    def jump_unless_a_thread_works() -> None:
        nonlocal waited_s
        if active_thread_count() and waited_s < _MOST_S:
            time.sleep(_LOOK_S)
            waited_s += _LOOK_S
        else:
            waited_s = 0.0
            jump()

    vars(clock)["_autojump"] = jump_unless_a_thread_works  # which Trio calls; its class cannot have others
    return clock
