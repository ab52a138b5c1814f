"""Calls that a healthy provider can answer do not fail, and outages do not grow."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from cpg_trio import CallPolicy, Retry
from cpg_trio.rpc import Code, ConnectError
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.chaos.fleet import Fleet, fleet
from tests.chaos.test_once import WORKERS, Stage, stage
from tests.chaos.trial import LEASE_S, tell

AGAIN = CallPolicy(retry=Retry(idempotent=True))
CONSUMERS = 8
PAUSE_S = 0.03
OUTAGE_S = 10.0
PER_S = 25.0  # calls of each of ten consumers
MOST_LOAD = 1.2  # of the calls, with the retries

Call = Callable[[EchoServiceClient], Awaitable[None]]


async def _unary(client: EchoServiceClient) -> None:
    await client.echo(pb.EchoRequest(text="x"))


async def _server_stream(client: EchoServiceClient) -> None:
    async with client.count(pb.CountRequest(to=3)) as stream:
        await _first(aiter(stream))


async def _client_stream(client: EchoServiceClient) -> None:
    async def numbers() -> AsyncIterator[pb.SumRequest]:
        for number in range(3):
            yield pb.SumRequest(number=number)

    await client.sum(numbers())


async def _bidi(client: EchoServiceClient) -> None:
    async def texts() -> AsyncIterator[pb.HTTPChatRequest]:
        yield pb.HTTPChatRequest(text="x")

    async with client.http_chat(texts()) as stream:
        await _first(aiter(stream))


async def _first(messages: AsyncIterator[object]) -> None:
    """Read a stream to its end; it counts as long as it has not begun."""
    await anext(messages)
    try:
        async for _ in messages:
            pass
    except ConnectError:
        pass


KINDS: dict[str, Call] = {
    "unary": _unary,
    "server stream": _server_stream,
    "client stream": _client_stream,
    "bidi": _bidi,
}


@attrs.define
class Load:
    """Calls of one kind, made one after another, and how they ended."""

    ended: Counter[str] = attrs.field(factory=Counter)

    async def run(self, kind: str, client: EchoServiceClient) -> None:
        while True:
            try:
                await KINDS[kind](client)
            except ConnectError as error:
                self.ended[f"{kind}: {error.code.value} ({error.message})"] += 1
            else:
                self.ended[f"{kind}: ok"] += 1
            await trio.sleep(PAUSE_S)

    @property
    def failures(self) -> dict[str, int]:
        return {how: times for how, times in self.ended.items() if not how.endswith(": ok")}


@asynccontextmanager
async def loading(clients: list[EchoServiceClient], kinds: list[str]) -> AsyncIterator[Load]:
    """Have clients make calls for a block, of the kinds in turn."""
    load = Load()
    async with trio.open_nursery() as nursery:
        for number, client in enumerate(clients):
            nursery.start_soon(load.run, kinds[number % len(kinds)], client)
        yield load
        nursery.cancel_scope.cancel()
    tell(f"{load.ended.most_common()}")


async def _kill(it: Stage) -> None:
    it.send("second", signal.SIGKILL)
    await it.start("second")


async def _reset(it: Stage) -> None:
    for _ in range(10):
        tell(f"{it.cutter.cut_all()} connections are reset")
        await trio.sleep(0.1)


async def _stall(it: Stage) -> None:
    it.send("second", signal.SIGSTOP)
    await trio.sleep(3 * LEASE_S)
    it.send("second", signal.SIGCONT)


async def _restart(it: Stage) -> None:
    it.send("second", signal.SIGTERM)
    await it.system.parts["second"].end()
    await it.start("second")


@pytest.mark.parametrize("way", ["routed", "direct"])
@pytest.mark.parametrize("fault", [_kill, _reset, _stall, _restart])
async def test_no_idempotent_call_fails_while_a_provider_is_healthy(
    tmp_path: Path, fault: Callable[[Stage], Awaitable[None]], way: str
) -> None:
    async with stage(tmp_path, WORKERS, CONSUMERS, direct=way == "direct", policy=AGAIN) as it:
        async with loading([caller.client for caller in it.callers], list(KINDS)) as load:
            await trio.sleep(0.5)
            await fault(it)
            await trio.sleep(1)
        failures, calls = load.failures, load.ended.total()
    assert failures == {}
    assert calls > CONSUMERS * 10


@pytest.mark.parametrize("way", ["routed", "direct"])
async def test_no_call_fails_when_a_provider_is_drained_or_leaves(way: str) -> None:
    async with fleet(3, CONSUMERS, direct=way == "direct") as running:
        async with loading([consumer.client for consumer in running.consumers], list(KINDS)) as load:
            await trio.sleep(0.5)
            drained, *_ = (p.runtime_id for p in running.host.registry.providers("echo"))
            running.host.registry.drain(drained, "as the test has it")
            await trio.sleep(1)
            running.host.registry.undrain(drained)
            await trio.sleep(0.5)
            running.replicas_stop["replica-1"].set()
            await trio.sleep(1)
        failures = load.failures
    assert failures == {}


async def _outage(running: Fleet, *names: str) -> tuple[dict[str, int], int, Counter[str]]:
    """Have replicas fail under load; return what arrived at each, the calls made, and their ends."""
    before = running.calls
    async with trio.open_nursery() as nursery:
        for consumer in running.consumers:
            nursery.start_soon(partial(consumer.load, PER_S))
        await trio.sleep(2)
        for consumer in running.consumers:
            consumer.ended.clear()
        for name in names:
            running.replicas[name].error = Code.UNAVAILABLE
        began, before = trio.current_time(), running.calls
        await trio.sleep(OUTAGE_S)
        offered = running.calls - before
        arrived = {name: replica.since(began) for name, replica in running.replicas.items()}
        nursery.cancel_scope.cancel()
    tell(f"{offered} calls in {OUTAGE_S:g} s arrived as {arrived}, and ended as {dict(running.ended)}")
    return arrived, offered, running.ended


@pytest.mark.parametrize("way", ["routed", "direct"])
async def test_an_outage_of_one_provider_is_no_flood_for_the_others(way: str) -> None:
    async with fleet(3, 10, direct=way == "direct", policy=AGAIN) as running:
        arrived, offered, ended = await _outage(running, "replica-0")
    assert arrived["replica-1"] + arrived["replica-2"] <= MOST_LOAD * offered
    assert sum(arrived.values()) <= MOST_LOAD * offered
    assert set(ended) == {"ok"}


@pytest.mark.parametrize("way", ["routed", "direct"])
async def test_an_outage_of_all_providers_is_not_multiplied_by_retries(way: str) -> None:
    async with fleet(3, 10, direct=way == "direct", policy=AGAIN) as running:
        arrived, offered, _ = await _outage(running, "replica-0", "replica-1", "replica-2")
    assert sum(arrived.values()) <= MOST_LOAD * offered


async def test_without_a_budget_an_outage_is_multiplied() -> None:
    """The load that the budget keeps away is there without it."""
    retry = Retry(idempotent=True, budget=1.0, wait_initial_s=0.01)
    policy = CallPolicy(retry=retry, breaking=attrs.evolve(CallPolicy().breaking, max_ejected=0.0))
    async with fleet(3, 10, direct=False, policy=policy) as running:
        arrived, offered, _ = await _outage(running, "replica-0", "replica-1", "replica-2")
    assert sum(arrived.values()) > 1.5 * offered
