"""What a host keeps of what others send takes no more memory than its limits say; and the limits fit it."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cpg_trio import HealthState, versions
from cpg_trio._memory import Memory, memory_of_process, resident_bytes
from cpg_trio.call_context import CallContext
from cpg_trio.call_record import Call, CallKind, Calls
from cpg_trio.host import Audit, Host, HostConfig, Keys, LeaseConfig, Limits, Rate, RateLimits
from cpg_trio.host.access.identity import Identities
from cpg_trio.host.access.memory import OTHER_BYTES, PRICES, estimate, fitted
from cpg_trio.host.access.rate_limiting import Kind, RateLimiter
from cpg_trio.host.admin import EventLog
from cpg_trio.host.admin.plugins import Plugins
from cpg_trio.host.capabilities.grants import Grants
from cpg_trio.host.capabilities.logger import host_logger
from cpg_trio.host.directory.leases import Liveness
from cpg_trio.host.directory.registration import Health
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.watch import Watch
from cpg_trio.host.directory.watch_hub import WatchHub
from cpg_trio.host.routing import SharedRoom
from cpg_trio.host.routing.direct_statistics import DirectCounter
from cpg_trio.http import ServeConfig
from cpg_trio.http.server.capacity import CONNECTION_BYTES, fitted_to_memory
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.statistics import CallTable

MIB, GIB = 2**20, 2**30
COUNT = 200
DEGRADED = HealthState.DEGRADED


def long(begin: str, number: int, length: int = 128) -> str:
    """Return a name of the greatest length, another object each time."""
    return f"{begin}{number}".ljust(length, "x")


def read(watch: Watch) -> None:
    """Read a watch's news, as its task does."""
    watch._take(watch._next()[0])


@contextmanager
def measured() -> Iterator[Callable[[], int]]:
    """Within the block, tell how many bytes have been taken in it."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    def taken() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    try:
        yield taken
    finally:
        tracemalloc.stop()


# What each limit comes to: each structure with the longest names, and how many bytes it says that it holds.


def follow(stack: ExitStack, held: Identities, registry: Registry) -> None:
    """Have what operators see of plugins kept as well."""
    liveness = Liveness(registry, LeaseConfig(), _no_probe, lambda _, __: None)
    stack.enter_context(Plugins(held, registry, liveness, EventLog(most=1)).following())


async def _no_probe(_: str) -> bool:
    return True


def identities(stack: ExitStack) -> tuple[Any, int]:
    held, registry = Identities(), Registry()
    follow(stack, held, registry)
    for number in range(COUNT):
        identity, _token = held.issue(long("p", number), address=f"2001:db8:{number:x}:f:f:f:f:ffff")
        registry.report_health(identity.runtime_id, Health(DEGRADED))
        for _renewal in range(5):
            held.renew(identity)
    return (held, registry), 0


def declarations(_: ExitStack) -> tuple[Any, int]:
    held = Identities()
    for number in range(COUNT):
        types = tuple(long(f"t{number}-", each) for each in range(10))
        held.issue(long("p", number), provides=types, requires=tuple(f"{number}-{n}" for n in range(10)))
    return held, held._declared.total


def ended(_: ExitStack) -> tuple[Any, int]:
    held = Identities()
    for number in range(COUNT):
        held.revoke(held.issue(long("p", number))[0].runtime_id, long("of ", number))
    return held, 0


def registrations(stack: ExitStack) -> tuple[Any, int]:
    held, registry = Identities(), Registry()
    follow(stack, held, registry)
    for number in range(COUNT):
        if not number % 50:
            owner, _token = held.issue("p")
        version, path = f"1.0.0-{number}".ljust(64, "a"), long("/", number, 256)
        registry.register(
            owner.runtime_id, long("t", number), version, path, {}, addresses=(f"::{number:x}",)
        )
    return registry, 0


def metadata(_: ExitStack) -> tuple[Any, int]:
    registry = Registry()
    for number in range(COUNT):
        said = {f"k{entry}": f"v{number}-{entry}" + "é" * (entry % 3) for entry in range(20)}
        registry.register(f"p-{number}", "t", "1.0.0", "/", said)
    return registry, registry._metadata_bytes.total


def health(_: ExitStack) -> tuple[Any, int]:
    registry = Registry()
    for number in range(COUNT):
        missing = tuple(f"t{number}-{each}" for each in range(20))
        registry.report_health(f"p-{number}", Health(DEGRADED, long("r", number, 500) + "💥", missing))
    return registry, registry._health_bytes.total


def watches(stack: ExitStack) -> tuple[Any, int]:
    registry = Registry()
    hub = WatchHub(registry)
    for number in range(COUNT):
        watch = stack.enter_context(hub.watch(long("p", number, 145)))
        watch.subscribe(f"t-{number}")
        for each in range(40):  # providers that come and go, of which it is told
            provider = long(f"q{number}-", each, 145)
            registry.register(provider, f"t-{number}", "1.0.0", "/", {})
            read(watch)
            registry.remove_plugin(provider)
    return (hub, registry), 0


def subscriptions(stack: ExitStack) -> tuple[Any, int]:
    registry = Registry()
    hub = WatchHub(registry)
    for number in range(COUNT):
        if not number % 100:
            watch = stack.enter_context(hub.watch(f"p-{number}"))
        service_type, provider = long("t", number), long("q", number, 145)
        watch.subscribe(service_type, f"1.0.0-{number}".ljust(64, "a"))
        registry.register(provider, service_type, "2.0.0", "/", {})
        read(watch)
        registry.remove_plugin(provider)
        read(watch)
    versions._parsed.cache_clear()  # which has bounds of its own
    return (hub, registry), 0


def watched_providers(stack: ExitStack) -> tuple[Any, int]:
    registry = Registry()
    hub = WatchHub(registry)
    watch = stack.enter_context(hub.watch("p"))
    subscribed = COUNT // 20
    for number in range(subscribed):
        service_type = long("t", number)
        watch.subscribe(service_type, max_providers=20)
        for each in range(40):  # of which it is told, and which go one after the other
            registry.register(long(f"q{number}-", each, 145), service_type, "1.0.0", "/", {})
            read(watch)
            if each >= 20:
                registry.remove_plugin(long(f"q{number}-", each - 20, 145))
                read(watch)
    for number in range(subscribed):
        for each in range(20, 40):
            registry.remove_plugin(long(f"q{number}-", each, 145))
    return (hub, registry), subscribed * PRICES["max_all_subscriptions"]


def version_ranges(stack: ExitStack) -> tuple[Any, int]:
    hub = WatchHub(Registry())
    for number in range(COUNT):
        if not number % 100:
            watch = stack.enter_context(hub.watch(f"p-{number}"))
        text = ",".join(f"!={number}.{part}.0-{number}ab" for part in range(8))
        watch.subscribe(long("t", number), "", text)
    return hub, hub.range_bytes.total + COUNT * PRICES["max_all_subscriptions"]


def grants(_: ExitStack) -> tuple[Any, int]:
    held, capability = Identities(), host_logger()
    given = Grants(Keys(), held, Audit(), {capability.type: capability}, 600)
    for number in range(COUNT // 10):
        owner, _token = held.issue(long("p", number))
        for _grant in range(10):
            given.issue(owner, capability)
    return (held, given), 0


def direct_reports(_: ExitStack) -> tuple[Any, int]:
    tally = DirectCounter()
    for number in range(COUNT):
        said = pb.DirectCalls(
            provider_id=long("q", number, 145),
            service_type=long("t", number),
            series=2**60 + number,
            calls=2**40 + number,
            failed=2**39 + number,
            in_flight=number,
        )
        tally.report(long("p", number, 145), [said])
    return tally, 0


def call_series(_: ExitStack) -> tuple[Any, int]:
    calls = Calls()
    table = CallTable(calls, room=partial(SharedRoom, 2 * COUNT))
    for slot in range(7):
        table.roll()
        for number in range(COUNT):
            caller, provider = long("p", number, 145), long("q", number, 145)
            call = Call(CallKind.ROUTED, caller, provider, long("t", number), long("m", number, 256))
            call.context = CallContext("id", f"00-{slot}{number:031x}-{1:016x}-01")
            call.succeed(200, "not_found")
            call.duration_s = 99.0 - 10 * slot
            call.request_bytes, call.response_bytes = 2**40 + number, 2**50 + number
            calls.ended.tell(call)
    assert len(table._totals) == COUNT
    return (table, calls), 0


def rate_keys(_: ExitStack) -> tuple[Any, int]:
    slow = Rate(0.001, 5)
    rates = RateLimiter(RateLimits(**{kind.name.lower(): slow for kind in Kind}))
    for kind in Kind:
        for number in range(COUNT):
            rates.take(kind, long("p", number, 145))
    return rates, 0


@pytest.mark.parametrize(
    ("limit", "fill"),
    [
        ("max_identities", identities),
        ("max_declared_bytes", declarations),
        ("max_ended_identities", ended),
        ("max_registrations", registrations),
        ("max_metadata_bytes", metadata),
        ("max_health_bytes", health),
        ("max_watches", watches),
        ("max_all_subscriptions", subscriptions),
        ("max_watched_providers", watched_providers),
        ("max_version_range_bytes", version_ranges),
        ("max_grants", grants),
        ("max_direct_reports", direct_reports),
        ("max_call_series", call_series),
        ("max_rate_keys", rate_keys),
    ],
)
async def test_what_a_limit_lets_in_takes_no_more_than_its_price(
    limit: str, fill: Callable[[ExitStack], tuple[Any, int]]
) -> None:
    counts = {
        "max_declared_bytes": "max_identities",
        "max_metadata_bytes": "max_registrations",
        "max_health_bytes": "max_identities",
        "max_version_range_bytes": "",
    }
    with ExitStack() as stack, measured() as taken:
        kept, held_bytes = fill(stack)
        price = COUNT * PRICES.get(counts.get(limit, limit), 0) + held_bytes
        # each of these has a plugin or an identity as well, which have prices of their own
        background_task = {
            "metadata": 500 * COUNT,
            "registrations": COUNT // 50 * PRICES["max_identities"],
            "health": 0,
            "grants": COUNT // 10 * PRICES["max_identities"],
        }
        assert taken() <= price + background_task.get(fill.__name__, 0)
        del kept


async def test_what_the_supervision_of_a_plugin_takes_is_no_more_than_its_price() -> None:
    registry = Registry()

    async def probe(_: str) -> bool:
        return True

    async with trio.open_nursery() as nursery:
        await nursery.start(Liveness(registry, LeaseConfig(), probe, lambda _, __: None).run)
        with measured() as taken:
            for number in range(COUNT):
                registry.register(long("p", number, 145), "t", "1.0.0", "/", {})
            await wait_all_tasks_blocked()
            assert taken() <= COUNT * (PRICES["max_plugins"] + PRICES["max_registrations"])
        nursery.cancel_scope.cancel()


def test_each_limit_of_what_is_kept_has_a_price() -> None:
    per_one_or_passing = {
        "max_registrations_per_plugin",
        "max_metadata_bytes_per_plugin",
        "max_watches_per_plugin",
        "max_subscriptions",
        "max_message_bytes",
        "max_routed_body_bytes",
    }
    assert set(PRICES) | per_one_or_passing == {field.name for field in attrs.fields(Limits)}


# Limits that fit


@pytest.mark.parametrize("memory", [192 * MIB, 256 * MIB, 512 * MIB, GIB, 4 * GIB, 2**60])
@pytest.mark.parametrize("resident", [60 * MIB, 80 * MIB])
def test_what_is_kept_stays_below_three_quarters_of_the_memory_that_there_is(
    memory: int, resident: int
) -> None:
    limits = fitted(Limits(), 10_000, Memory(memory, "a test"), resident)
    kept = sum(estimate(limits.limits, limits.max_connections).values())
    assert kept + OTHER_BYTES + resident <= 0.75 * memory


def test_limits_that_fit_stay_as_they_are_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(max_identities=100, max_watches=7)
    small = fitted(limits, 100, Memory(8 * GIB, "a test"), 60 * MIB)
    assert (small.limits, small.max_connections, small.factor) == (limits, 100, 1)
    small.tell()
    assert caplog.messages == []


def test_limits_that_are_too_large_are_reduced_in_proportion_and_one_line_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    small = fitted(Limits(), 10_000, Memory(256 * MIB, "the container's control group"), 60 * MIB)
    assert small.limits.max_identities / Limits().max_identities == pytest.approx(small.factor, rel=0.01)
    assert small.max_connections / 10_000 == pytest.approx(small.factor, rel=0.01)
    assert small.limits.max_message_bytes == Limits().max_message_bytes
    small.tell()
    (line,) = caplog.messages
    assert "three quarters of the 256 MiB that the container's control group lets this process have" in line
    assert f"LIMITS=max_identities={small.limits.max_identities}," in line
    assert f" MAX_CONNECTIONS={small.max_connections}." in line


def test_a_host_of_192_mib_has_room_for_a_fleet_of_fifty_plugins_at_one_address() -> None:
    small = fitted(Limits(), 10_000, Memory(192 * MIB, "a test"), 65 * MIB)
    for name, needed in (
        ("max_identities", 50),
        ("max_plugins", 50),
        ("max_registrations", 150),
        ("max_watches", 50),
        ("max_all_subscriptions", 200),
        ("max_metadata_bytes", 50 * 9_500),
    ):
        assert getattr(small.limits, name) * 0.75 >= needed
    assert small.max_connections >= 150


def test_the_memory_that_is_too_small_for_anything_leaves_something_of_each_limit() -> None:
    tiny = fitted(Limits(max_watches=1), 5, Memory(16 * MIB, "a test"), 60 * MIB)
    assert min(getattr(tiny.limits, name) for name in PRICES) == tiny.max_connections == 1


def test_a_plugin_takes_as_many_connections_as_half_of_its_memory_has_room_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, memory = ServeConfig(), Memory(192 * MIB, "the container's control group")
    fits = fitted_to_memory(config, memory, 56 * MIB)
    assert fits.max_connections * CONNECTION_BYTES == 40 * MIB
    (line,) = caplog.messages
    assert line.startswith("1024 connections are taken at once, not 10000, as the container's control group")
    assert fitted_to_memory(fits, memory, 56 * MIB) is fits
    assert fitted_to_memory(config, memory, 190 * MIB).max_connections == 16
    assert fitted_to_memory(config, Memory(4 * GIB, "the machine"), 56 * MIB) is config


# The memory that there is


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1, V2, V2_AT = "memory.limit_in_bytes", "memory.max", "sys/fs/cgroup"


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/\n", f"sys/fs/cgroup/{V2}": "1000\n"},
        {"proc/self/cgroup": "0::/a/b\n", f"sys/fs/cgroup/a/b/{V2}": "1000\n"},
        {
            "proc/self/cgroup": "0::/a/b\n",
            f"sys/fs/cgroup/a/{V2}": "1000\n",
            f"sys/fs/cgroup/a/b/{V2}": "max\n",
        },
        {
            "proc/self/cgroup": "0::/a/b\n",
            f"sys/fs/cgroup/a/{V2}": "1000\n",
            f"sys/fs/cgroup/a/b/{V2}": "2000\n",
        },
        {"proc/self/cgroup": "4:cpu,memory:/a\n0::/\n", f"sys/fs/cgroup/memory/a/{V1}": "1000\n"},
        # a container that sees the path of the machine, and its own group at the root
        {"proc/self/cgroup": "4:memory:/docker/0123\n", f"sys/fs/cgroup/memory/{V1}": "1000\n"},
        {"proc/self/cgroup": "0::/../../x\n", f"sys/fs/cgroup/{V2}": "1000\n"},
    ],
)
def test_the_limit_of_a_container_is_found_in_either_version(tmp_path: Path, files: dict[str, str]) -> None:
    assert memory_of_process(written(tmp_path, files)) == Memory(1000, "the container's control group")


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n"},
        {"proc/self/cgroup": "0::/\n", f"sys/fs/cgroup/{V2}": "max\n"},
        {"proc/self/cgroup": "4:memory:/\n", f"sys/fs/cgroup/memory/{V1}": "9223372036854771712\n"},
        {"proc/self/cgroup": "nonsense\n0\n\n"},
    ],
)
def test_without_such_a_limit_the_machine_is_the_limit(tmp_path: Path, files: dict[str, str]) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_of_process(written(tmp_path, files)).limit == machine


@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_process_counts_without_what_is_reserved_and_not_used(name: str) -> None:
    program = (
        "import resource; from cpg_trio._memory import *;"
        f"resource.setrlimit(resource.{name}, (2**30, 2**30));"
        "found = memory_of_process(); print(found.source, found.limit, resident_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    source, limit, resident = done.stdout.split()
    assert source == name
    assert 0 < int(resident) < int(limit) <= 2**30


def test_a_process_knows_what_it_has() -> None:
    assert MIB < resident_bytes() < 100 * GIB


async def test_a_host_goes_by_what_fits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small = Memory(resident_bytes() * 2 + 256 * MIB, "a test")
    monkeypatch.setattr("cpg_trio.host.access.memory.memory_of_process", lambda: small)
    host = Host(HostConfig(limits=Limits(max_watches=100_000)))
    assert host.registry._limits.max_plugins < Limits().max_plugins
    assert host._config.serve.max_connections < ServeConfig().max_connections
    async with host.application():
        assert [line for line in caplog.messages if line.startswith("limits are reduced")]


# What the documentation says


def test_the_table_of_what_is_kept_says_what_each_limit_comes_to_and_all_of_them() -> None:
    text = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    table = text.partition("### Memory")[2]
    said = dict(re.findall(r"\(`(max_\w+)`\) \| (\d+) MiB", table))
    kept = estimate(Limits(), ServeConfig().max_connections)
    assert said == {name: f"{size / MIB:.0f}" for name, size in kept.items()}
    others = sum(map(int, re.findall(r"\| (\d+) MiB \|", table))) - sum(map(int, said.values()))
    assert others * MIB == OTHER_BYTES
    total = f"**{(sum(kept.values()) + OTHER_BYTES) / MIB:,.0f} MiB**"
    assert f"| **all of it** | | | {total} |" in table
