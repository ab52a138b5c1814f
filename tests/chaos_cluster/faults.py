"""Faults of each tier: hosts, members of etcd, plugins. Each is over when its block is."""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import trio

from tests.chaos_cluster.platform import LEASE_S, HostProcess, Platform

HELD_S = 2 * LEASE_S + 1.0  # that a fault lasts: longer than a lease of a host, and than one of a plugin
Fault: TypeAlias = Callable[[Platform, random.Random], AbstractAsyncContextManager[list[HostProcess]]]
"""Has a fault within the block; yields the hosts that need not agree with the others meanwhile."""


@asynccontextmanager
async def host_killed(it: Platform, rng: random.Random) -> AsyncIterator[list[HostProcess]]:
    host = rng.choice(it.hosts)
    await host.process.end(signal.SIGKILL)
    yield [host]
    await host.process.start()


@asynccontextmanager
async def host_restarted(it: Platform, rng: random.Random) -> AsyncIterator[list[HostProcess]]:
    host = rng.choice(it.hosts)
    await host.process.end(signal.SIGTERM)
    await host.process.start()
    yield []


@asynccontextmanager
async def host_stopped(it: Platform, rng: random.Random) -> AsyncIterator[list[HostProcess]]:
    host = rng.choice(it.hosts)
    host.process.send(signal.SIGSTOP)
    yield [host]
    host.process.send(signal.SIGCONT)


@asynccontextmanager
async def host_cut_off(it: Platform, rng: random.Random) -> AsyncIterator[list[HostProcess]]:
    host = rng.choice(it.hosts)
    host.cut(silent=rng.random() < 0.5)
    yield [host]
    host.heal()


@asynccontextmanager
async def hosts_rolled(it: Platform, rng: random.Random) -> AsyncIterator[list[HostProcess]]:
    for host in rng.sample(it.hosts, len(it.hosts)):
        await host.process.end(signal.SIGTERM)
        await host.process.start()
    yield []


@asynccontextmanager
async def member_killed(it: Platform, rng: random.Random) -> AsyncIterator[list[HostProcess]]:
    number = rng.randrange(len(it.etcd.endpoints))
    it.etcd.kill(number)
    yield []
    it.etcd.start(number)


@asynccontextmanager
async def member_stopped(it: Platform, rng: random.Random) -> AsyncIterator[list[HostProcess]]:
    number = rng.randrange(len(it.etcd.endpoints))
    it.etcd.stop(number)
    yield []
    it.etcd.cont(number)


@asynccontextmanager
async def workers_killed(it: Platform, rng: random.Random) -> AsyncIterator[list[HostProcess]]:
    """One process with a provider of each service is killed, and another started in its place."""
    worker = rng.choice(it.workers)
    await worker.end(signal.SIGKILL)
    await worker.start()
    yield []


@asynccontextmanager
async def workers_restarted(it: Platform, rng: random.Random) -> AsyncIterator[list[HostProcess]]:
    worker = rng.choice(it.workers)
    await worker.end(signal.SIGTERM)
    await worker.start()
    yield []


@asynccontextmanager
async def workers_stopped(it: Platform, rng: random.Random) -> AsyncIterator[list[HostProcess]]:
    worker = rng.choice(it.workers)
    worker.send(signal.SIGSTOP)
    await trio.sleep(rng.uniform(0.2, LEASE_S))
    worker.send(signal.SIGCONT)
    yield []


FAULTS: Mapping[str, Fault] = {
    f.__name__: f
    for f in (
        host_killed,
        host_restarted,
        host_stopped,
        host_cut_off,
        hosts_rolled,
        member_killed,
        member_stopped,
        workers_killed,
        workers_restarted,
        workers_stopped,
    )
}
OF_HOSTS = ("host_killed", "host_restarted", "host_stopped", "host_cut_off", "hosts_rolled")
