"""Fixtures for tests of plugins, which pytest finds by itself (entry point `pytest11`).

plugin_host         a host in memory, in virtual time
plugin_host_config  how it is configured: define a fixture of this name for another `HostConfig`

A test that uses `plugin_host`, by itself or by another fixture, is run by pytest-trio, with the clock
`trio.testing.MockClock(autojump_threshold=0)` unless it asks for a clock of its own.

pytest loads this in all projects of an environment, so it imports nothing until a fixture is used.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cpg_trio.host import HostConfig
    from cpg_trio.testing import MemoryHost

_HOST = "plugin_host"


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Have pytest-trio run the tests that use a host, in virtual time."""
    if not _has_pytest_trio(config):
        return
    for item in items:
        if _HOST in getattr(item, "fixturenames", ()) and _is_async(item):
            item.add_marker(pytest.mark.trio(run=_run_in_virtual_time), append=False)


@pytest.fixture
def plugin_host_config() -> HostConfig | None:
    """Return how `plugin_host` is configured: as every host is, without a configuration."""
    return None


@pytest.fixture
async def plugin_host(
    _plugin_host_can_run: None, plugin_host_config: HostConfig | None
) -> AsyncIterator[MemoryHost]:
    """Yield a host in memory, as `cpg_trio.testing.open_host` does, in virtual time."""
    from cpg_trio.testing import open_host  # noqa: PLC0415 - see above

    async with open_host(plugin_host_config) as host:
        yield host


@pytest.fixture
def _plugin_host_can_run(request: pytest.FixtureRequest) -> None:
    if not _has_pytest_trio(request.config):
        pytest.fail(f"{_HOST} needs pytest-trio: pip install pytest-trio", pytrace=False)
    if not _is_async(request.node):
        pytest.fail(f"{_HOST} is for tests that are async functions", pytrace=False)


def _has_pytest_trio(config: pytest.Config) -> bool:
    try:
        config.getini("trio_mode")
    except ValueError:
        return False
    return True


def _is_async(item: pytest.Item) -> bool:
    function = getattr(item, "obj", None)
    return inspect.iscoroutinefunction(inspect.unwrap(function)) if callable(function) else False


def _run_in_virtual_time(main: Callable[[], Awaitable[Any]], *, clock: Any = None, **options: Any) -> Any:
    import trio.testing  # noqa: PLC0415 - see above

    return trio.run(main, clock=clock or trio.testing.MockClock(autojump_threshold=0), **options)
