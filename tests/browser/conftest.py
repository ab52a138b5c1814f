"""A browser for all tests, and the example before it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.running import Shortener, shortener

expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert found, "there is no chromium"
    with sync_playwright() as playwright:
        # Its sandbox does not work for root and in many containers; all that it sees is our own.
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def example() -> Iterator[Shortener]:
    """The example, which a test may break."""
    with tempfile.TemporaryDirectory() as folder, shortener(Path(folder)) as running:
        running.start_all()
        yield running


@pytest.fixture(scope="session")
def shared() -> Iterator[Shortener]:
    """The example with calls, which nobody breaks."""
    with tempfile.TemporaryDirectory() as folder, shortener(Path(folder)) as running:
        running.lease_s = 60  # nothing lapses here, however busy the machine is
        running.start_all()
        running.call()
        yield running
