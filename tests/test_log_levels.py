"""The levels of the log: what `LOG_LEVEL` says, and levels that hold for a while."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cpg_trio.http import StartError
from cpg_trio.logs import LogFormat, TemporaryLevels, configure_logging
from cpg_trio.process import log_from_environment

NAME = "cpg_trio.tests.levels"


@pytest.fixture(autouse=True)
def _logger() -> Iterator[None]:
    logger = logging.getLogger(NAME)  # there is such a logger from now on
    yield
    logger.setLevel(logging.NOTSET)


def test_levels_are_read_by_logger() -> None:
    config = log_from_environment({"LOG_LEVEL": f"WARNING, {NAME}=debug,", "LOG_FORMAT": "json"})
    assert config.levels == {"": logging.WARNING, NAME: logging.DEBUG}
    assert config.format is LogFormat.JSON
    configure_logging(config=config)
    assert logging.getLogger().level == logging.getLogger("cpg_trio").level == logging.WARNING
    assert logging.getLogger(NAME).isEnabledFor(logging.DEBUG)
    assert log_from_environment({"LOG_LEVEL": "", "LOG_FORMAT": ""}).levels == {}


@pytest.mark.parametrize("level", ["loud", "info,x=loud", "x=", "=info", "info=x", "20"])
def test_a_level_that_does_not_exist_is_refused_with_what_to_write(level: str) -> None:
    with pytest.raises(StartError, match=r"^LOG_LEVEL must be like 'info' or 'info,"):
        log_from_environment({"LOG_LEVEL": level})


def test_a_format_that_does_not_exist_is_refused() -> None:
    with pytest.raises(StartError, match="LOG_FORMAT must be 'text' or 'json', not 'xml'"):
        log_from_environment({"LOG_FORMAT": "xml"})


async def test_a_level_holds_for_its_time(autojump_clock: MockClock) -> None:
    logger, levels = logging.getLogger(NAME), TemporaryLevels()
    logger.setLevel(logging.ERROR)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(levels.run)
        levels.set(NAME, "debug", 60)
        await trio.sleep(59)
        assert logger.level == logging.DEBUG
        levels.set(NAME, "warning", 60)  # instead of the first
        await trio.sleep(59)
        assert logger.level == logging.WARNING
        await trio.sleep(2)
        assert logger.level == logging.ERROR
        levels.set(NAME, "debug", 60)
        levels.restore(NAME)
        levels.restore(NAME)
        assert logger.level == logging.ERROR
        await trio.sleep(100)
        nursery.cancel_scope.cancel()


async def test_all_levels_are_what_they_were_when_the_host_ends() -> None:
    root, levels = logging.getLogger(), TemporaryLevels()
    before = root.level, logging.getLogger("cpg_trio").level
    async with trio.open_nursery() as nursery:
        nursery.start_soon(levels.run)
        levels.set("", "debug", 60)
        assert root.level == logging.getLogger("cpg_trio").level == logging.DEBUG
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (root.level, logging.getLogger("cpg_trio").level) == before


async def test_what_makes_no_sense_changes_no_level() -> None:
    levels, logger = TemporaryLevels(), logging.getLogger(NAME)
    with pytest.raises(ValueError, match=r"is not a logger of this process; cpg_trio\.tests\.levels is"):
        levels.set("cpg_trio.tests.level", "debug", 1)
    with pytest.raises(ValueError, match="a level is one of debug, info, warning"):
        levels.set(NAME, "loud", 1)
    for time in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="for a time above 0 s"):
            levels.set(NAME, "debug", time)
    assert logger.level == logging.NOTSET


async def test_the_number_of_loggers_with_another_level_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpg_trio.logs._MOST_CHANGED", 0)
    with pytest.raises(ValueError, match="restore one first"):
        TemporaryLevels().set(NAME, "debug", 1)
