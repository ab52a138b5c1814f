"""The commands about plugins that a host runs, as a user types them, for a host with real plugins."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from cpg_trio.cli._app import run
from cpg_trio.host import Host, HostConfig, LeaseConfig
from cpg_trio.host.admin import AdminConfig
from cpg_trio.host.supervision import Phase, PluginSpec, RestartPolicy
from tests.host.admin.test_managed import File
from tests.host.supervision.launching import UNLIMITED, Launches, hosting, provider, spec, until


class Terminal(io.StringIO):
    """Standard output and error, or an input that somebody types, of a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@attrs.define
class Operator:
    """Somebody who types commands for a host."""

    host: Host
    file: File
    monkeypatch: pytest.MonkeyPatch

    async def run(self, *words: str, typed: str = "", terminal: bool = False) -> tuple[int, str, str]:
        """Run a command; return its status, its output and its errors."""
        out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
        with self.monkeypatch.context() as patch:
            patch.setenv("NO_COLOR", "1")
            patch.setattr(sys, "stdin", Terminal(typed) if terminal else io.StringIO(typed))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            at = self.host.admin_addresses[0].removeprefix("unix:")
            status = await trio.to_thread.run_sync(run, [*words, "--admin", at])
        return status, out.getvalue(), err.getvalue()


@asynccontextmanager
async def operating(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operator]:
    """Run a host with a logger, which storage requires."""
    config = HostConfig(
        rates=UNLIMITED,
        leases=LeaseConfig(lease_s=15.0),
        admin=AdminConfig(socket=directory / "admin" / "s"),
    )
    async with hosting(config) as host:
        logger = spec("logger", provider("logger"), provides=("logger",))
        storage = spec(
            "storage",
            provider("storage", requires=("logger",)),
            provides=("storage",),
            requires=("logger",),
            source="platform.toml:7",
        )
        host.plugins.source = file = File(logger, storage)
        await host.plugins.add(logger, storage)
        yield Operator(host, file, monkeypatch)


async def test_a_plan_is_shown_and_then_carried_out(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with operating(short_path, monkeypatch) as operator:
        logger, storage = operator.file.specs
        thumbs = spec("thumbs", provider("thumbs"), provides=("thumbs",), source="platform.toml:12")
        operator.file.specs = [logger, attrs.evolve(storage, replicas=2), thumbs]
        status, out, _ = await operator.run("apply", "--plan")
        assert status == 0
        assert out.startswith("platform.toml: 2 changes, 1 plugin stays as it is\n")
        assert re.search(r"^thumbs +\+ add +platform.toml:12$", out, re.MULTILINE)
        assert re.search(r"^storage +~ scale +1 to 2 replicas +platform.toml:7$", out, re.MULTILINE)
        assert "thumbs" not in operator.host.plugins.specs()
        status, _, err = await operator.run("apply")
        assert (status, "say --yes" in err) == (2, True)
        status, out, err = await operator.run("apply", typed="n\n", terminal=True)
        assert (status, "nothing was done" in err) == (1, True)
        assert "thumbs" not in operator.host.plugins.specs()
        status, out, _ = await operator.run("apply", "--yes")
        assert (status, out.splitlines()[-1]) == (0, "done: 2 changes")
        assert [each.phase for each in operator.host.plugins.replicas("storage")] == [Phase.READY] * 2
        assert operator.host.plugins.replicas("thumbs")[0].phase is Phase.READY
        status, out, _ = await operator.run("apply")
        assert (status, out) == (0, "platform.toml: nothing has to be done, 3 plugins stay as they are\n")
        assert (await operator.run("apply", "--plan", "--json"))[1].startswith("{")


async def test_a_plugin_that_others_require_is_not_removed_without_force(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with operating(short_path, monkeypatch) as operator:
        status, out, err = await operator.run("remove", "logger")
        assert status == 1
        assert "storage is left without logger" in out
        assert "logger is not removed, as storage would be left without a service" in err
        assert (await operator.run("impact", "logger"))[:2] == (0, out)
        assert json.loads((await operator.run("impact", "logger", "--json"))[1])["impact"]["refused"]
        assert set(operator.host.plugins.specs()) == {"logger", "storage"}
        status, out, _ = await operator.run("remove", "storage", typed="y\n", terminal=True)
        assert (status, out.splitlines()[-1]) == (0, "storage is removed")
        status, out, _ = await operator.run("remove", "logger", "--yes")
        assert status == 0
        assert out.splitlines() == [
            "without logger nobody loses anything",
            "logger: nobody is left who provides it",
            "logger is removed",
        ]
        assert not operator.host.plugins.specs()


async def test_a_plugin_is_removed_by_force(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with operating(short_path, monkeypatch) as operator:
        status, out, _ = await operator.run("remove", "logger", "--force", "--yes", "--json")
        assert (status, json.loads(out)["losers"][0]["plugin"]) == (0, "storage")
        assert set(operator.host.plugins.specs()) == {"storage"}


async def test_plugins_are_added_replaced_restarted_and_scaled(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with operating(short_path, monkeypatch) as operator:
        for words in (("restart", "storage"), ("replace", "storage"), ("scale", "storage", "0")):
            status, _, err = await operator.run(*words)
            assert (status, err.count("\n"), "say --yes" in err) == (2, 1, True)
        for words in (("restart", "storage", "--yes"), ("replace", "storage-plugin"[:7], "-y")):
            status, out, _ = await operator.run(*words)
            assert (status, out) == (0, "storage: ready for 0 s, a task\n")
        status, out, _ = await operator.run("scale", "storage", "2")
        assert (status, out) == (0, "storage: 2 of 2 replicas ready\n")
        status, out, _ = await operator.run("scale", "storage", "1", "--yes")
        assert status == 0
        assert len(operator.host.plugins.replicas("storage")) == 1
        operator.file.specs = [*operator.file.specs, spec("thumbs", provider("thumbs"))]
        status, out, _ = await operator.run("add", "thumbs")
        assert (status, out) == (0, "thumbs: ready for 0 s, a task\n")
        status, _, err = await operator.run("add", "thumbs")
        assert (status, err.count("\n")) == (1, 1)
        assert "there is a plugin thumbs already" in err


async def test_one_that_does_not_get_ready_is_said_in_a_line_and_is_not_left(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with operating(short_path, monkeypatch) as operator:
        bad = spec("thumbs", Launches(refuses="no such file: ./thumbs"), source="platform.toml:12")
        operator.file.specs = [*operator.file.specs, bad]
        status, out, err = await operator.run("add", "thumbs")
        assert (status, out) == (1, "")
        assert err == "cpg-trio: platform.toml:12: thumbs: no such file: ./thumbs\n"
        assert "thumbs" not in operator.host.plugins.specs()


async def test_lines_are_shown_with_their_time_and_as_documents(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with operating(short_path, monkeypatch) as operator:
        for number in range(5):
            operator.host.plugins.output.add("logger", 1, f"line {number}\x1b[2J\r")
        status, out, _ = await operator.run("logs", "logger", "--lines", "2")
        assert status == 0
        assert [line.split("  ", 1)[1] for line in out.splitlines()] == ["line 3\\x1b[2J", "line 4\\x1b[2J"]
        status, out, _ = await operator.run("logs", "logger", "--json")
        assert [json.loads(line)["sequence"] for line in out.splitlines()][:2] == ["1", "2"]
        status, _, err = await operator.run("logs", "nobody")
        assert (status, err) == (1, "cpg-trio: this host runs no plugin 'nobody': it runs logger, storage\n")
        assert (await operator.run("logs", "logger", "--lines", "0"))[0] == 2


async def test_the_story_of_a_crash_loop_says_what_to_do(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with operating(short_path, monkeypatch) as operator:
        launches = Launches(dies="exit status 3: No module named 'PIL'")
        policy = RestartPolicy(first_s=600.0, most_s=600.0, loop_after=1)
        thumbs = PluginSpec(name="thumbs", launcher=launches, restart=policy)
        await operator.host.plugins.add(thumbs, wait=False)
        await until(operator.host, lambda: operator.host.plugins.replicas("thumbs")[0].looping)
        status, out, _ = await operator.run("status")
        assert status == 3
        assert "thumbs is in a crash loop: exit status 3: No module named 'PIL' (" in out.splitlines()[0]
        assert "cpg-trio logs thumbs" in out
        status, out, _ = await operator.run("plugins", "thumbs")
        assert status == 0
        assert re.search(r"^backing off for .*: thumbs: crash loop: exit status 3", out)
        assert "managed    thumbs, launched as test" in out
        assert re.search(r"looping +thumbs: crash loop", out)
