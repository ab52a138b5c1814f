"""Events are kept for a while. A reader costs little, and is told what it has missed."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
import trio
import trio.testing

from cpg_trio.host import Action
from cpg_trio.host.admin import Event, EventLog
from cpg_trio.host.admin.events import EventReader
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient
from cpg_trio.rpc import Code, ConnectError
from tests.host.admin.operating import operating

HOST, REFUSED = pb.EVENT_KIND_HOST, pb.EVENT_KIND_REFUSED


def happened(log: EventLog, text: str, cause: str = "", kind: pb.EventKind = HOST, name: str = "") -> None:
    log.add(Event(kind=kind, text=text, name=name), cause)


def read(reader: EventReader) -> tuple[list[str], int]:
    events, missed = reader.next()
    return [event.text for event in events], missed


def test_a_reader_gets_each_event_once_from_where_it_begins() -> None:
    log = EventLog()
    for text in "abc":
        happened(log, text)
    with log.reading(after=1) as reader, log.reading() as other:
        assert read(reader) == (["b", "c"], 0)
        happened(log, "d")
        assert read(reader) == (["d"], 0)
        assert read(reader) == ([], 0)
        assert read(other) == (["a", "b", "c", "d"], 0)


def test_a_reader_gets_only_the_plugin_and_the_kinds_that_it_wants() -> None:
    log = EventLog()
    happened(log, "a", name="api")
    happened(log, "b", name="storage")
    happened(log, "c", name="api", kind=REFUSED)
    with log.reading(plugin="api", kinds=[HOST]) as reader:
        assert read(reader) == (["a"], 0)


def test_a_slow_reader_is_told_how_many_of_its_events_it_has_missed() -> None:
    log = EventLog(most=10)
    with log.reading(plugin="api") as reader:
        for i in range(20):
            happened(log, f"{i}", name="api" if i % 2 else "storage")
        assert read(reader) == (["11", "13", "15", "17", "19"], 5)
        assert read(reader) == ([], 0)


def test_a_reader_of_the_host_that_was_here_before_begins_anew() -> None:
    log = EventLog()
    happened(log, "a")
    with log.reading(after=1000) as reader:
        assert read(reader) == (["a"], 0)


def test_a_flood_of_one_address_pushes_out_only_its_own_events() -> None:
    log = EventLog(most=100)
    happened(log, "storage has lapsed", "10.0.0.2")
    for i in range(1000):
        happened(log, f"refused: {i}", "10.0.0.66", kind=REFUSED)
    assert "storage has lapsed" in [event.text for event in log]
    assert len(list(log)) == 100


def test_a_refusal_that_is_repeated_is_one_event_with_a_count() -> None:
    now = [0.0]
    log = EventLog(wall_clock=lambda: now[0])
    for _ in range(3):
        happened(log, "invalid token", "a", kind=REFUSED)
    happened(log, "another", "a", kind=REFUSED)
    assert [(event.text, event.count) for event in log] == [("invalid token", 3), ("another", 1)]
    now[0] += 61
    happened(log, "invalid token", "a", kind=REFUSED)
    assert [event.count for event in log] == [3, 1, 1]


def test_a_text_of_a_stranger_is_one_short_line() -> None:
    log = EventLog()
    happened(log, "x\n" * 10_000)
    (event,) = log
    assert event.text.isprintable()
    assert len(event.text) < 600


def test_a_reader_costs_the_same_however_many_events_there_are() -> None:
    log = EventLog(most=1000)
    happened(log, "first")
    with log.reading() as reader:
        for i in range(1000):
            happened(log, f"{i:050}")
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for i in range(10_000):  # none of which it reads
                happened(log, f"{i:050}")
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # The log's own events are replaced, one for one.
        assert after - before < 1_500_000
        assert read(reader)[1] == 10_001


def test_there_are_only_so_many_readers() -> None:
    log = EventLog()
    with pytest.raises(ConnectError) as caught:
        _read_with_many(log)
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    with log.reading():
        pass


def _read_with_many(log: EventLog, depth: int = 0) -> None:
    if depth < 100:
        with log.reading():
            _read_with_many(log, depth + 1)


async def test_a_stream_follows_until_the_host_stops() -> None:
    async with operating() as operator:
        operator.plugin("logger")
        got: list[pb.EventKind] = []

        async def follow(client: AdminServiceClient) -> None:
            async with client.watch_events(
                pb.WatchEventsRequest(follow=True, plugin="logger-plugin")
            ) as stream:
                async for answer in stream:
                    got.extend(event.kind for event in answer.events)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow, operator.client)
                await trio.testing.wait_all_tasks_blocked()
                assert got == [pb.EVENT_KIND_ADMITTED, pb.EVENT_KIND_REGISTERED]
                operator.host.registry.drain(operator.get("logger").plugin.runtime_id, "update")
                await trio.testing.wait_all_tasks_blocked()
                assert got[2:] == [pb.EVENT_KIND_DRAINING]
                operator.host.admin.stopping()


async def test_a_stream_that_does_not_follow_ends() -> None:
    async with operating() as operator:
        operator.plugin("logger")
        async with operator.client.watch_events(pb.WatchEventsRequest()) as stream:
            events = [event async for answer in stream for event in answer.events]
        assert [event.name for event in events] == ["logger-plugin", "logger-plugin"]


async def test_whoever_is_refused_is_an_event_with_the_address() -> None:
    async with operating() as operator:
        operator.host.audit.denied(
            Action.HANDSHAKE,
            "thumbs-plugin",
            reason="the enrolment token is wrong",
            address="192.0.2.2",
        )
        (event,) = [event for event in operator.host.admin.events if event.kind == REFUSED]
        assert (event.name, event.address) == ("thumbs-plugin", "192.0.2.2")
        assert event.text == "handshake: the enrolment token is wrong"
        assert operator.status().refused == 1
