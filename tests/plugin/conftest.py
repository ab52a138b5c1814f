"""What the tests of plugins are given."""

from __future__ import annotations

import pytest
from trio.testing import MockClock


@pytest.fixture
def virtual_time() -> MockClock:
    """A clock that jumps to the next deadline once nothing else happens, so that a wait takes no time.

    Hosts and plugins run in the process of the test, on real sockets. What one sends the other has at once,
    so nothing is on its way any more when all tasks have been waiting for a moment of real time.
    """
    return MockClock(autojump_threshold=0.01)
