"""A watch knows at its begin what any host knew, and is never told of less than before."""

from __future__ import annotations

import pytest
import trio
from trio_websocket import ConnectionClosed

from cpg_trio.host.cluster import barrier
from cpg_trio.store import MemoryStore
from tests.host.calls import runtime_id
from tests.host.cluster.late import Late
from tests.host.cluster.serving import serving_hosts, until
from tests.host.services.test_websocket import JSON, hear, say, subscriptions, watching


@pytest.fixture(autouse=True)
def _has_time_to_catch_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no host give up because the machine is busy."""
    monkeypatch.setattr(barrier, "_MOST_S", 30.0)


async def test_a_new_watch_waits_until_its_host_knows_what_another_has_acknowledged() -> None:
    store = MemoryStore()
    late = Late(store)
    async with serving_hosts(store, late) as (a, b):
        me = await a.calls.plugin("watcher")
        await until(lambda: b.knows(me))
        late.hold()
        provider = await a.calls.provider("t")
        async with watching(b.url, me, JSON) as socket, trio.open_nursery() as nursery:
            await say(socket, subscribe=subscriptions("t"))
            with trio.move_on_after(0.1) as too_soon:
                await hear(socket)
            assert too_soon.cancelled_caught
            assert not b.host.registry.provides("t")
            late.let_go.set()
            update = await hear(socket)
            assert update["events"][0]["endpoint"]["providerId"] == runtime_id(provider)
            assert int(update["revision"]) == b.host.registry.revision
            nursery.cancel_scope.cancel()


async def test_a_stream_of_a_service_begins_with_what_another_host_has_acknowledged() -> None:
    store = MemoryStore()
    late = Late(store)
    async with serving_hosts(store, late) as (a, b):
        me = await a.calls.plugin("watcher")
        await until(lambda: b.knows(me))
        late.hold()
        await a.calls.provider("t")
        async with trio.open_nursery() as nursery:

            async def first() -> None:
                assert await b.calls.first_of_watch("t", me) == "SERVICE_STATE_AVAILABLE"

            nursery.start_soon(first)
            await trio.sleep(0.1)
            late.let_go.set()


async def test_a_watcher_that_knows_more_than_a_host_is_sent_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(barrier, "_MOST_S", 0.2)
    async with serving_hosts() as (a, b):
        me = await a.calls.provider("t")
        await until(lambda: b.is_callable(me))
        seen = b.host.registry.revision
        async with watching(b.url, me, JSON) as socket:
            await say(socket, subscribe=subscriptions("t"), seenRevision=seen)
            assert int((await hear(socket))["revision"]) >= seen
        async with watching(b.url, me, JSON) as socket:
            await say(socket, subscribe=subscriptions("t"), seenRevision=seen + 1000)
            with pytest.raises(ConnectionClosed) as closed:
                await hear(socket)
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1013


async def test_a_host_that_is_cut_off_tells_what_it_knows_at_once() -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.provider("t")
        await until(lambda: b.is_callable(me))
        b.host.standing.cut_off("the store does not answer")
        async with watching(b.url, me, JSON) as socket:
            with trio.fail_after(20):
                await say(socket, subscribe=subscriptions("t"))
                assert (await hear(socket))["events"][0]["state"] == "SERVICE_STATE_AVAILABLE"


async def test_revisions_are_those_of_the_store_and_the_same_at_each_host() -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.plugin("watcher")
        async with watching(a.url, me, JSON) as one, watching(b.url, me, JSON) as other:
            for socket in (one, other):
                await say(socket, subscribe=subscriptions("t"))
                await hear(socket)
            provider = await a.calls.provider("t")
            revisions = [int((await hear(socket))["revision"]) for socket in (one, other)]
            assert revisions[0] <= revisions[1]
            async with watching(b.url, me, JSON) as again:
                await say(again, subscribe=subscriptions("t"), seenRevision=max(revisions))
                update = await hear(again)
                assert int(update["revision"]) >= max(revisions)
                assert update["events"][0]["endpoint"]["providerId"] == runtime_id(provider)
