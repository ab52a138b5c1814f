"""One compose project for the whole run, which leaves nothing behind however the run ends."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from types import FrameType

import pytest
import trio

from tests.e2e.project import Project

_RUNNING: list[Project] = []


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="session")
def _built() -> Iterator[Project]:
    project = Project()
    _RUNNING.append(project)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        trio.run(project.run, "./setup.sh")
        yield project
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # nothing is to keep us from cleaning up
        trio.run(project.remove)
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
async def project(_built: Project) -> Project:
    """The system, ready, with one container of each service."""
    await _built.bring_up()
    return _built


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Stop at a test that was interrupted; add what the containers have written to one that failed."""
    report = yield
    if call.excinfo is not None and _is_interrupt(call.excinfo.value):
        item.session.shouldstop = "interrupted"
    elif report.failed and _RUNNING:
        report.sections.append(("containers", trio.run(_RUNNING[0].explain)))
    return report


def _is_interrupt(error: BaseException) -> bool:
    """Whether an interrupt has come out of a nursery, which pytest takes for any other error."""
    return isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt) is not None
