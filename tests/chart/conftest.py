"""What tests of the chart share."""

from __future__ import annotations

import pytest

from tests.plugin.running import unused_port as find_unused_port


@pytest.fixture
def unused_port() -> int:
    return find_unused_port()
