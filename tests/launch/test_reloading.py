"""Which files a plugin is restarted for, and that their changes are seen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

from cpg_trio.http import StartError
from cpg_trio.launch import reloading
from cpg_trio.launch.platform_file import read_platform
from cpg_trio.launch.reloading import check_installed, watched_paths

PLATFORM = """
[plugins.package]
plugin = "shop.plugin:plugin"
[plugins.module]
plugin = "alone:plugin"
[plugins.script]
command = ["sh", "run.sh", "-v"]
directory = "bin"
[plugins.watching]
command = ["sh"]
watch = ["bin", "alone.py"]
[plugins.elsewhere]
launcher = "external"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("shop/__init__.py", "shop/plugin.py", "alone.py", "bin/run.sh", "platform.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def test_a_plugin_is_restarted_for_its_package_its_script_or_what_it_says(folder: Path) -> None:
    file = folder / "platform.toml"
    file.write_text(PLATFORM)
    assert watched_paths(read_platform(file)) == {
        "package": {folder / "shop"},
        "module": {folder / "alone.py"},
        "script": {folder / "bin/run.sh"},
        "watching": {folder / "bin", folder / "alone.py"},
    }


def replaced(file: Path, text: str) -> None:
    """Put another file in the place of one, as editors do."""
    file.with_suffix(".new").write_text(text)
    file.with_suffix(".new").replace(file)


async def test_changes_of_what_is_watched_are_seen_and_no_others(folder: Path) -> None:
    with trio.fail_after(20):
        async with reloading._watching([folder / "shop", folder / "alone.py"]) as changes:
            replaced(folder / "bin/run.sh", "not watched")
            for file in (folder / "shop/plugin.py", folder / "alone.py"):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(write_again_and_again, file)
                    assert file in await changes.receive()
                    nursery.cancel_scope.cancel()
                while True:  # what was written once more
                    with trio.move_on_after(0.5) as nothing:
                        assert folder / "bin/run.sh" not in await changes.receive()
                    if nothing.cancelled_caught:
                        break


async def write_again_and_again(file: Path) -> None:
    """Nobody tells when the watching has begun."""
    for number in range(1000):
        replaced(file, str(number))
        await trio.sleep(0.3)


def test_without_the_package_that_watches_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    monkeypatch.setattr(reloading, "find_spec", lambda _: None)
    with pytest.raises(StartError, match=re.escape("pip install 'cpg-trio[dev]'")):
        check_installed()
