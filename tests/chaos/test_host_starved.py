"""A host that is held up, or lacks what it needs: descriptors, room on its disk, quick names, the time."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import Code, ConnectError
from tests.chaos.shimmed import Clock
from tests.chaos.trial import ALL_WELL, AVAILABLE, ITSELF, PLUGINS, START_S, UNAVAILABLE, tell, trial
from tests.shortener_processes import MODULES

SHIMMED = {name: ("tests.chaos.shimmed", *module) for name, module in MODULES.items()}
FILES = 100  # of the host, of which its plugins and clients need half
CROWD = 3 * FILES
SLOW_S = 20.0
DAY_S = 86400.0
OFF_S = 600.0


async def test_a_host_that_is_stopped_for_more_than_two_leases_evicts_nobody(tmp_path: Path) -> None:
    async with trial(tmp_path) as t:
        before = [t.runtime_id(name) for name in PLUGINS]
        t.send("host", signal.SIGSTOP)
        await trio.sleep(2.5 * t.lease_s)
        t.send("host", signal.SIGCONT)
        await t.all_is_well()
        await trio.sleep(t.lease_s)  # and nobody is evicted late
        assert [t.runtime_id(name) for name in PLUGINS] == before
        assert " is gone" not in t.system.parts["host"].output


async def test_a_host_without_descriptors_blames_no_plugin_and_is_well_when_it_has_some(
    tmp_path: Path,
) -> None:
    modules = {"host": ("tests.abuse.confinement", *MODULES["host"])}
    environment = {"CONFINED_FILES": str(FILES)}
    async with trial(tmp_path, modules=modules, environment=environment) as t:
        before = [t.runtime_id(name) for name in PLUGINS]
        async with crowd(t.system.port):
            await trio.sleep(2 * t.lease_s)
            assert [t.runtime_id(name) for name in PLUGINS] == before
        await t.all_is_well()
        for word in ("has lapsed", " is gone"):
            assert word not in t.system.parts["host"].output


@asynccontextmanager
async def crowd(port: int) -> AsyncIterator[None]:
    """Open more connections than a host has descriptors for, and open anew what it closes."""

    async def hold() -> None:
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.1)
                continue
            async with stream:
                try:
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        for _ in range(CROWD):
            nursery.start_soon(hold)
        yield
        nursery.cancel_scope.cancel()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of 8 MiB. Skips the test where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount`")
    if done.returncode:
        pytest.skip(f"nothing can be mounted: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(disk: Path) -> Path:
    """Leave no room on a disk; return the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                pass
    return ballast


async def test_on_a_full_disk_nothing_acknowledged_is_lost_and_all_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        environment = {
            "STATE_PATH": str(disk / "host.sqlite3"),
            "STORAGE_PATH": str(disk / "urls.sqlite3"),
        }
        async with trial(tmp_path, environment=environment) as t:
            session = await t.observer.session()
            numbers = iter(range(99))

            async def register() -> str:
                """Register another service; return its type."""
                request = pb.RegisterServiceRequest(
                    service_type=f"kept-{next(numbers)}",
                    version="1.0.0",
                    endpoint_path="/",
                    metadata={"ballast": "x" * 2000},
                )
                await session.registry.register_service(request, timeout_s=START_S)
                return request.service_type

            ballast = _fill(disk)
            acknowledged: list[str] = []
            with pytest.raises(ConnectError) as caught:
                while True:  # what is allocated already is used up at some time
                    acknowledged.append(await register())
            assert caught.value.code == Code.UNAVAILABLE
            tell(f"after {len(acknowledged)} registrations: {caught.value.message}")
            await t.becomes(UNAVAILABLE, t.observer.told, "storage")  # it cannot keep anything, either
            assert await t.observer.told("logger") == AVAILABLE  # what is registered goes on
            ballast.unlink()
            await t.all_is_well(within_s=2 * t.bound_s)
            acknowledged.append(await register())
            await t.kill("host")
            await t.start("host")
            known = [await t.observer.known(service_type) for service_type in acknowledged]
            assert all(known)
            await t.all_is_well()


async def test_names_that_resolve_slowly_hold_up_nobody_else(tmp_path: Path) -> None:
    environment = {"SHIM_RESOLVER_S": str(SLOW_S)}
    async with trial(tmp_path, modules={"host": SHIMMED["host"]}, environment=environment) as t:
        session = await t.observer.session()

        async def register(number: int) -> None:
            """Register at a name of which nothing is heard."""
            metadata = {"base_url": f"http://p{number}.slow.test:1"}
            request = pb.RegisterServiceRequest(
                service_type=f"slow-{number}", version="1.0.0", endpoint_path="/", metadata=metadata
            )
            with pytest.raises(ConnectError):
                await session.registry.register_service(request, timeout_s=t.lease_s)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(45):
                nursery.start_soon(register, number)
        await t.all_is_well()
        await t.restart("logger")  # a connection that has to be made
        await t.all_is_well()
        calls = [call for call in t.writer.calls if call.began > began]
        assert max(call.seconds for call in calls) < t.bound_s


async def test_a_clock_that_jumps_a_day_and_back_is_no_matter(tmp_path: Path) -> None:
    clock = Clock.at(tmp_path / "clock")
    async with trial(tmp_path, modules=SHIMMED, environment=clock.environment) as t:
        before = [t.runtime_id(name) for name in PLUGINS]
        for offset_s in (DAY_S, 0.0, -DAY_S, 0.0):
            clock.set(offset_s)
            tell(f"the clock is {offset_s} s off")
            await t.all_is_well()
            await trio.sleep(t.lease_s / 2)
        assert [t.runtime_id(name) for name in PLUGINS] == before


async def test_a_plugin_whose_clock_is_ten_minutes_off_is_told_so_and_stays_registered(
    tmp_path: Path,
) -> None:
    clock = Clock.at(tmp_path / "clock")
    async with trial(tmp_path, modules={"storage": SHIMMED["storage"]}, environment=clock.environment) as t:
        before = t.runtime_id("storage")
        clock.set(OFF_S)
        await trio.sleep(2.5 * t.lease_s)
        assert await t.offered("storage") == ITSELF
        assert t.runtime_id("storage") == before
        assert await t.observer.picture(*PLUGINS) == ALL_WELL
        assert "clock" in t.system.parts["storage"].output + t.system.parts["host"].output
        clock.set(0.0)
        await t.all_is_well()
