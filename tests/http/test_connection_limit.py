"""Whose connections make room for others when a server is nearly full."""

from __future__ import annotations

import random

import attrs
import pytest

from cpg_trio.http.server.connection_limit import Activity, ConnectionLimit, Slot

IDLE, WAITING, BUSY = Activity

MOST = 100
HOSTILE, OTHER = "address:192.0.2.1", "address:192.0.2.2"


@attrs.define(eq=False)
class Connection:
    """A connection as the limit sees it."""

    slot: Slot
    activity: Activity = WAITING
    evicted: bool = False

    def evict(self) -> None:
        self.evicted = True


@attrs.define
class Server:
    limit: ConnectionLimit = attrs.field(factory=lambda: ConnectionLimit(MOST))
    connections: list[Connection] = attrs.field(factory=list)

    def connect(self, key: str, activity: Activity = WAITING, identity: str = "") -> Connection | None:
        slot = self.limit.admit(key)
        if slot is None:
            return None
        connection = Connection(slot, activity)
        slot.client = connection
        if identity:
            slot.prove(identity)
        self.connections.append(connection)
        return connection

    def fill(self, key: str, activity: Activity, identity: str = "", count: int = 3 * MOST) -> None:
        """Have a client open all the connections that it can."""
        for _ in range(count):
            self.connect(key, activity, identity)

    @property
    def alive(self) -> int:
        return sum(not connection.evicted for connection in self.connections)


every_activity = pytest.mark.parametrize("activity", list(Activity), ids=lambda s: s.name)


@every_activity
@pytest.mark.parametrize("identity", ["", "plugin-1"])
def test_a_client_that_holds_all_that_it_can_keeps_no_other_address_out(
    activity: Activity, identity: str
) -> None:
    server = Server()
    server.fill(HOSTILE, activity, identity)
    for _ in range(MOST // 4):
        connection = server.connect(OTHER)
        assert connection is not None
        connection.activity = BUSY
    assert sum(not c.evicted for c in server.connections if c.slot.holder.key == OTHER) == MOST // 4


@every_activity
@pytest.mark.parametrize("identity", ["", "plugin-1"])
def test_a_client_that_holds_all_that_it_can_keeps_no_identity_out_at_its_own_address(
    activity: Activity, identity: str
) -> None:
    server = Server()
    server.fill(HOSTILE, activity, identity)
    connections = [server.connect(HOSTILE, BUSY, "plugin-2") for _ in range(5)]
    server.fill(HOSTILE, activity, identity)
    assert all(connection is not None and not connection.evicted for connection in connections)


def test_an_identity_gets_in_beside_a_flood_from_its_own_address_if_it_is_quick_to_prove_itself() -> None:
    server = Server()
    server.fill(HOSTILE, BUSY)
    connection = server.connect(HOSTILE)
    assert connection is not None
    server.fill(HOSTILE, BUSY, count=MOST // 10 - 1)
    assert not connection.evicted
    connection.slot.prove("plugin-2")
    server.fill(HOSTILE, BUSY)
    assert not connection.evicted


@every_activity
def test_while_there_is_room_one_client_may_have_all(activity: Activity) -> None:
    server = Server()
    server.fill(HOSTILE, activity, count=MOST - MOST // 10)
    assert server.alive == MOST - MOST // 10


def test_calls_in_flight_of_one_address_are_not_ended_for_others_of_the_same() -> None:
    """As when all come through one proxy."""
    server = Server()
    server.fill(HOSTILE, BUSY, count=MOST - MOST // 10)
    first = list(server.connections)
    server.fill(HOSTILE, BUSY)
    assert not any(connection.evicted for connection in first)
    assert server.alive == MOST


def test_idle_connections_go_before_any_call() -> None:
    server = Server()
    server.fill(OTHER, BUSY, "plugin-1", count=MOST // 2)
    server.fill(HOSTILE, IDLE, count=MOST - MOST // 10 - MOST // 2)
    server.fill(OTHER, WAITING, count=MOST // 5)
    assert not any(c.evicted for c in server.connections if c.slot.holder.key == "plugin-1")


def test_those_that_are_idle_for_the_longest_time_go_first() -> None:
    server = Server()
    server.fill(HOSTILE, IDLE, count=MOST - MOST // 10)
    server.fill(OTHER, IDLE, count=10)
    assert [c.evicted for c in server.connections[:11]] == [True] * 10 + [False]


def test_a_known_client_with_few_connections_keeps_them_while_strangers_fill_the_server() -> None:
    server = Server()
    server.fill("address:198.51.100.1", IDLE, "plugin-1", count=5)
    known = list(server.connections)
    for number in range(200):
        server.fill(f"address:192.0.2.{number}", random.Random(number).choice([IDLE, WAITING]), count=3)
    assert not any(connection.evicted for connection in known)


def test_a_connection_that_has_just_come_is_not_closed_before_those_with_many_streams() -> None:
    server = Server()
    hostile = [server.connect(HOSTILE, WAITING) for _ in range(4)]
    fresh = server.connect(HOSTILE, WAITING)
    for streams in range(1, 60):
        for connection in hostile:
            assert connection is not None
            connection.slot.open_streams(streams)
    assert fresh is not None
    assert not fresh.evicted
    server.fill(HOSTILE, WAITING, count=20)
    assert not fresh.evicted


@pytest.mark.parametrize("identity", ["", "plugin-1"])
def test_streams_count_as_connections(identity: str) -> None:
    server = Server()
    hostile = [server.connect(HOSTILE, BUSY, identity) for _ in range(3)]
    opened = [c.slot.open_streams(n) for n in range(1, 100) for c in hostile if c is not None]
    assert len(server.limit) <= MOST
    assert not all(opened)
    assert server.connect(OTHER) is not None
    assert server.connect(HOSTILE, BUSY, "plugin-2") is not None


@every_activity
def test_a_stream_for_which_there_is_no_room_costs_no_other_connection_of_its_address(
    activity: Activity,
) -> None:
    server = Server()
    server.fill(HOSTILE, activity, count=40)
    hostile = server.connections[-1]
    for streams in range(2, 200):
        hostile.slot.open_streams(streams)
    assert server.alive == 40
    assert len(server.limit) == MOST - MOST // 10


def test_a_stream_that_has_ended_makes_room() -> None:
    server = Server()
    connection = server.connect(HOSTILE, BUSY)
    assert connection is not None
    assert connection.slot.open_streams(MOST - MOST // 10)
    assert not connection.slot.open_streams(MOST)
    assert connection.slot.open_streams(1)
    assert len(server.limit) == 1


def test_a_server_for_few_takes_as_many_as_it_says() -> None:
    server = Server(ConnectionLimit(2))
    assert server.connect(HOSTILE, BUSY) is not None
    assert server.connect(HOSTILE, BUSY) is not None
    assert server.connect(HOSTILE, BUSY) is None


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_the_limit_holds_and_the_books_balance(seed: int) -> None:
    rng = random.Random(seed)
    server = Server(ConnectionLimit(rng.choice([1, 3, 10, 40])))
    for _ in range(2000):
        alive = [c for c in server.connections if not c.slot.gone]
        chosen = rng.choice(alive) if alive else None
        match rng.randrange(5):
            case 0 | 1:
                server.connect(f"address:192.0.2.{rng.randrange(4)}", rng.choice(list(Activity)))
            case 2 if chosen is not None:
                chosen.slot.prove(f"plugin-{rng.randrange(3)}")
                chosen.activity = rng.choice(list(Activity))
            case 3 if chosen is not None:
                chosen.slot.open_streams(rng.randrange(5))
            case 4 if chosen is not None:
                server.limit.release(chosen.slot)
        left = [c.slot for c in server.connections if not c.slot.gone]
        assert len(server.limit) == sum(slot.weight for slot in left) <= server.limit._most
        assert all(c.slot.gone for c in server.connections if c.evicted)
        for holder in {slot.holder for slot in left}:
            assert holder.weight == sum(slot.weight for slot in left if slot.holder is holder)
    for connection in server.connections:
        server.limit.release(connection.slot)
    assert len(server.limit) == 0
    assert not server.limit._holders
    assert not server.limit._in_reserve
