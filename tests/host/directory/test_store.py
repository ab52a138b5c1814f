"""The state file: what is acknowledged is in it, what is in it comes back, and nothing else is."""

from __future__ import annotations

import itertools
import json
import resource
import shutil
import signal
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from cpg_trio.host import Audit, BaseUrls, Host, HostConfig, Keys, Limits, Policy
from cpg_trio.host.access.access_check import AccessCheck
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.access.policy import Rules, ServiceRules
from cpg_trio.host.directory.endpoint_validation import EndpointValidator
from cpg_trio.host.directory.journal import Journal
from cpg_trio.host.directory.plugin_control import ControlClients
from cpg_trio.host.directory.registration import Registration
from cpg_trio.host.directory.registration_policy import RegistrationPolicy
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.saving import Undo
from cpg_trio.host.directory.unix_sockets import Sockets
from cpg_trio.host.directory.watch_hub import WatchHub
from cpg_trio.host.services.service_registry import RegistryService
from cpg_trio.http import Pool, StartError
from cpg_trio.rpc import AsgiTransport, Code, ConnectError, application
from cpg_trio.store import SqliteStore
from cpg_trio.wire import token_digest
from tests.host.calls import (
    COOKIE,
    DISCOVER,
    HANDSHAKE,
    REGISTER,
    REPORT,
    UNREGISTER,
    VERSIONS,
    Headers,
    WireCaller,
    running,
    runtime_id,
)
from tests.host.cluster.alone import no_forwarding
from tests.processes import Running, assert_no_traceback, running as process

DAY_S = 86_400.0
KEYS = Keys(["k" * 32])


def stored(registration: Registration) -> dict[str, Any]:
    """Return what is stored of a registration."""
    return attrs.asdict(registration, recurse=False, filter=lambda field, _: bool(field.init))


class Wall:
    """The time of day."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def connection_of(journal: Journal) -> sqlite3.Connection:
    assert isinstance(journal.store, SqliteStore)
    return journal.store.connection


class Kept:
    """Identities and a registry that are kept in a file."""

    def __init__(self, path: Path, wall: Wall, limits: Limits | None = None) -> None:
        self.identities = Identities(
            KEYS,
            longest_s=DAY_S,
            limits=limits,
            on_expired=lambda i: self.registry.remove_plugin(i.runtime_id),
        )
        self.registry = Registry()
        self.journal = Journal(SqliteStore(path), self.identities, self.registry, wall_clock=wall)
        self.saved = self.journal.saved

    @property
    def connection(self) -> sqlite3.Connection:
        return connection_of(self.journal)

    def plugin(self, self_id: str = "p", service_type: str = "t") -> tuple[Registration, str]:
        """Return the registration of a new plugin, and its token."""
        identity, token = self.identities.issue(self_id)
        return self.registry.register(identity.runtime_id, service_type, "1.0.0", "/x/", {}), token

    async def save(self) -> None:
        await self.saved("", lambda: None)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        entries = [(name, self.identities.entry(name)) for name in self.identities._entries]
        registrations = [r for name, _ in entries for r in self.registry.registrations(name)]
        return (
            {name: (e.identity.self_id, e.digest) for name, e in entries if e},
            {r.id: stored(r) for r in registrations},
        )


@asynccontextmanager
async def kept(path: Path, wall: Wall | None = None, limits: Limits | None = None) -> AsyncIterator[Kept]:
    state = Kept(path, wall or Wall(), limits)
    async with state.journal.opened():
        yield state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "host.sqlite3"


def copied(path: Path) -> Path:
    """Return the file as a crash at this moment would leave it."""
    target = path.parent / "crashed"
    target.mkdir()
    for each in path.parent.glob(f"{path.name}*"):
        shutil.copy(each, target)
    return target / path.name


def modes_and_contents(path: Path) -> tuple[list[int], bytes]:
    """Return who may do what with the file and what SQLite keeps beside it, and all that is in them."""
    files = list(path.parent.iterdir())
    return [stat.S_IMODE(each.stat().st_mode) for each in files], b"".join(f.read_bytes() for f in files)


# What is kept


async def test_a_plugin_is_known_by_its_token_and_registered_as_before(path: Path) -> None:
    metadata = {"base_url": "http://h:1", "note": 'ä "quoted" \n 🎈'}
    async with kept(path) as s:
        identity, token = s.identities.issue("My_Plugin")
        before = s.registry.register(
            identity.runtime_id, "t", "1.2.3-beta", "/x/ü", metadata, addresses=("192.0.2.7",)
        )
        await s.save()
    async with kept(path) as s:
        known = s.identities.authenticate(identity.runtime_id, token)
        assert known is not None
        assert (known.runtime_id, known.self_id) == (identity.runtime_id, "My_Plugin")
        (after,) = s.registry.registrations(identity.runtime_id)
        assert stored(after) == stored(before)


async def test_what_is_put_back_has_lapsed_and_what_comes_later_comes_after_it(path: Path) -> None:
    async with kept(path) as s:
        first, _ = s.plugin()
        second, _ = s.plugin()
    async with kept(path) as s:
        assert not s.registry.available("t")
        assert s.registry.health(first.runtime_id).reason == "not heard of since the host began"
        third, _ = s.plugin()
        assert [r.id for r in s.registry.providers("t")] == [first.id, second.id, third.id]
        assert third.sequence > second.sequence
        assert s.registry.available("t")


async def test_what_is_acknowledged_survives_a_crash_at_that_moment(path: Path) -> None:
    async with kept(path) as s:
        registration, _ = s.plugin()
        gone, _ = s.plugin()
        await s.save()
        s.registry.unregister(gone.runtime_id, gone.id)
        await s.save()
        crashed = copied(path)
        before = s.state()
    async with kept(crashed) as s:
        assert s.state() == before
        assert [r.id for r in s.registry.providers("t")] == [registration.id]


async def test_what_nobody_waits_for_is_written_as_well(path: Path) -> None:
    async with kept(path) as s:
        registration, token = s.plugin()
        await s.save()
        s.registry.remove_plugin(registration.runtime_id)
        s.identities.revoke(registration.runtime_id)
    async with kept(path) as s:
        assert s.state() == ({}, {})
        assert s.identities.authenticate(registration.runtime_id, token) is None


async def test_neither_health_nor_registrations_without_an_identity_are_kept(path: Path) -> None:
    async with kept(path) as s:
        s.registry.register("nobody-0", "t", "1.0.0", "/", {})
        await s.save()
    async with kept(path) as s:
        assert s.registry.service_types() == []


async def test_an_identity_lives_as_long_as_if_there_had_been_no_restart(path: Path) -> None:
    wall = Wall()
    async with kept(path, wall) as s:
        registration, token = s.plugin()
    wall.now += 3600
    async with kept(path, wall) as s:
        identity = s.identities.authenticate(registration.runtime_id, token)
        assert identity
        left_s = s.identities.left_s(identity)
        assert left_s == pytest.approx(DAY_S - 3600, abs=60)


async def test_an_identity_that_has_expired_meanwhile_is_dropped_with_what_it_registered(path: Path) -> None:
    wall = Wall()
    async with kept(path, wall) as s:
        s.plugin()
        await s.save()
        wall.now += 10
        late, _ = s.plugin()
    wall.now += DAY_S - 5
    async with kept(path, wall) as s:
        assert list(s.state()[0]) == [late.runtime_id]
        assert [r.id for r in s.registry.providers("t")] == [late.id]
    wall.now -= DAY_S  # it is out of the file as well
    async with kept(path, wall) as s:
        assert list(s.state()[0]) == [late.runtime_id]


async def test_a_clock_that_was_set_back_prolongs_nothing(path: Path) -> None:
    wall = Wall()
    async with kept(path, wall) as s:
        registration, token = s.plugin()
    wall.now -= 1000 * DAY_S
    async with kept(path, wall) as s:
        identity = s.identities.authenticate(registration.runtime_id, token)
        assert identity
        assert s.identities.left_s(identity) <= DAY_S


async def test_what_was_saved_by_a_clock_that_was_ahead_has_no_more_time_than_it_had_then(path: Path) -> None:
    wall = Wall()
    wall.now += 0.9 * DAY_S
    async with kept(path, wall) as s:
        identity, token = s.identities.issue("p", ttl_s=60)
    wall.now -= 0.9 * DAY_S
    async with kept(path, wall) as s:
        assert s.identities.authenticate(identity.runtime_id, token) == identity
        assert 59 < s.identities.left_s(identity) <= 60


async def test_no_token_is_in_the_file_and_nobody_else_may_read_it(path: Path) -> None:
    async with running(HostConfig(store=SqliteStore(path))) as host:
        headers = await host.provider("t")
        modes, contents = modes_and_contents(path)
    assert len(modes) > 1  # the file, and what SQLite keeps beside it
    assert set(modes) == {0o600}
    modes, after = modes_and_contents(path)
    assert modes == [0o600]
    contents += after
    token = headers["Authorization"].removeprefix("Bearer ")
    assert runtime_id(headers).encode() in contents
    assert token_digest(token).hex().encode() in contents
    assert token.rstrip("=").encode() not in contents


_steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["issue", "register", "register", "unregister", "remove", "revoke", "save", "restart"]
        ),
        st.integers(0, 3),
        st.sampled_from("pq"),
        st.dictionaries(
            st.from_regex(r"\A[a-z]{1,8}\Z"), st.text(st.characters(codec="utf-8", exclude_characters="\0"))
        ),
    ),
    max_size=25,
)


@given(_steps)
@settings(max_examples=40)
def test_after_any_history_a_restart_brings_the_same_state_back(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, str, dict[str, str]]]
) -> None:
    path = tmp_path_factory.mktemp("state") / "host.sqlite3"

    async def history() -> None:
        names: list[str] = []
        before: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        remaining = steps
        while remaining:
            async with kept(path) as s:
                assert s.state() == before
                while remaining:
                    (step, index, service_type, metadata), *remaining = remaining
                    if step == "restart":
                        break
                    name = names[index % len(names)] if names else "nobody-0"
                    await take(s, step, name, service_type, metadata, names)
                before = s.state()
        async with kept(path) as s:
            assert s.state() == before

    trio.run(history)


async def take(
    s: Kept, step: str, name: str, service_type: str, metadata: dict[str, str], names: list[str]
) -> None:
    if step == "issue":
        names.append(s.identities.issue("P")[0].runtime_id)
    elif step == "register" and s.identities.entry(name):
        s.registry.register(name, service_type, "1.0.0", "/ä", metadata, addresses=("::1",))
    elif step == "unregister" and (registration := s.registry.provider(service_type, name)):
        s.registry.unregister(name, registration.id)
    elif step == "remove":
        s.registry.remove_plugin(name)
    elif step == "revoke":
        s.identities.revoke(name, "of a reason")
        s.registry.remove_plugin(name)
    elif step == "save":
        await s.save()


async def test_who_was_revoked_does_not_come_back_with_a_token_that_is_still_signed(path: Path) -> None:
    wall = Wall()
    async with kept(path, wall) as s:
        identity, token = s.identities.issue("p")
        s.identities.revoke(identity.runtime_id, "of a reason")
    async with kept(path, wall) as s:
        assert s.identities.authenticate(identity.runtime_id, token) is None
        assert s.identities.why_ended(identity) == "of a reason"
    wall.now += DAY_S + 3601  # nobody could show one any more
    async with kept(path, wall) as s:
        assert s.identities.why_ended(identity) == ""


async def test_what_a_plugin_has_declared_and_where_it_came_from_is_kept(path: Path) -> None:
    async with kept(path) as s:
        identity, token = s.identities.issue("p", provides=("a", "b"), requires=(), address="192.0.2.7")
        foreign, other = s.identities.issue("q")
    async with kept(path) as s:
        assert s.identities.authenticate(identity.runtime_id, token) == identity
        assert s.identities.authenticate(foreign.runtime_id, other) == foreign


async def test_a_registry_that_is_put_back_is_the_same_one(path: Path) -> None:
    async with kept(path) as s:
        first = s.registry.id
    async with kept(path) as s:
        assert s.registry.id == first


VERSION_1 = """
BEGIN;
CREATE TABLE identities (
    runtime_id TEXT PRIMARY KEY, self_id TEXT NOT NULL, expires_at REAL NOT NULL, digest BLOB NOT NULL
) STRICT;
CREATE TABLE registrations (
    id TEXT NOT NULL, runtime_id TEXT NOT NULL REFERENCES identities ON DELETE CASCADE,
    service_type TEXT NOT NULL, version TEXT NOT NULL, endpoint_path TEXT NOT NULL,
    metadata TEXT NOT NULL, sequence INTEGER NOT NULL, address TEXT NOT NULL,
    PRIMARY KEY (runtime_id, service_type)
) STRICT;
PRAGMA application_id = 0x63706774;
PRAGMA user_version = 1;
COMMIT;
"""


async def test_that_a_revocation_was_forgotten_for_want_of_room_is_kept_and_shuts_its_token_out(
    path: Path,
) -> None:
    wall = Wall()
    async with kept(path, wall, Limits(max_ended_identities=1)) as s:
        revoked = [s.identities.issue("p") for _ in range(3)]
        for identity, _ in revoked:
            s.identities.revoke(identity.runtime_id)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM entries WHERE key GLOB 'ended/*'").fetchone() == (1,)
    async with kept(path, wall) as s:
        for identity, token in revoked:
            assert s.identities.authenticate(identity.runtime_id, token) is None


# What each later version has added, as the releases of then did it.
OLD_VERSIONS = (
    VERSION_1,
    """
BEGIN;
ALTER TABLE identities ADD COLUMN provides TEXT;
ALTER TABLE identities ADD COLUMN requires TEXT;
ALTER TABLE identities ADD COLUMN address TEXT NOT NULL DEFAULT 'unknown';
CREATE TABLE ended (
    runtime_id TEXT PRIMARY KEY, self_id TEXT NOT NULL, why TEXT NOT NULL, until REAL NOT NULL
) STRICT;
CREATE TABLE host (id TEXT NOT NULL) STRICT;
INSERT INTO host VALUES ('0123456789abcdef');
UPDATE identities SET provides = '["t", "u"]', requires = '[]', address = '192.0.2.7';
PRAGMA user_version = 2;
COMMIT;
""",
    """
BEGIN;
ALTER TABLE identities ADD COLUMN saved_at REAL NOT NULL DEFAULT 0;
ALTER TABLE host ADD COLUMN not_before REAL NOT NULL DEFAULT 0;
UPDATE host SET not_before = 1799999999.125;
PRAGMA user_version = 3;
COMMIT;
""",
    """
BEGIN;
ALTER TABLE identities ADD COLUMN answers INTEGER NOT NULL DEFAULT 0;
UPDATE identities SET answers = 1;
PRAGMA user_version = 4;
COMMIT;
""",
)


def old_file(path: Path, version: int, now: float, token: str) -> dict[str, str]:
    """Make a file of an old version, with a plugin and one that has ended; return what it had registered."""
    metadata = {"base_url": "http://h:1", "note": 'ä "quoted" \n 🎈'}
    with closing(sqlite3.connect(path)) as connection:
        for number, script in enumerate(OLD_VERSIONS[:version], 1):
            connection.executescript(script)
            if number == 1:
                identity = ("p-0123", "p", now + 60.125, token_digest(token))
                connection.execute("INSERT INTO identities VALUES (?, ?, ?, ?)", identity)
                registration = ("reg-1", "p-0123", "t", "1.0.0", "/", json.dumps(metadata), 7, "::1")
                connection.execute("INSERT INTO registrations VALUES (?, ?, ?, ?, ?, ?, ?, ?)", registration)
                connection.commit()
        if version > 1:
            ended = ("q-0123", "q", "of a reason", now + 4000)
            connection.execute("INSERT INTO ended VALUES (?, ?, ?, ?)", ended)
            connection.commit()
    return metadata


@pytest.mark.parametrize("version", [1, 2, 3, 4])
async def test_a_file_of_an_older_version_is_taken_over_with_all_that_is_in_it(
    path: Path, version: int
) -> None:
    token, wall = "t" * 43 + "=", Wall()
    metadata = old_file(path, version, wall.now, token)
    for _ in range(2):
        async with kept(path, wall) as s:
            known = s.identities.authenticate("p-0123", token)
            assert known
            declared, address = (("t", "u"), "192.0.2.7") if version > 1 else (None, "unknown")
            assert (known.self_id, known.provides, known.address) == ("p", declared, address)
            assert (known.requires, known.answers) == (() if version > 1 else None, version > 3)
            assert s.identities.left_s(known) == pytest.approx(60.125, abs=0.1)
            (registration,) = s.registry.providers("t")
            assert registration == s.registry.provider("t", "p-0123")
            assert (registration.id, registration.sequence, registration.addresses) == ("reg-1", 7, ("::1",))
            assert registration.metadata == metadata
            assert s.identities.why_ended(Identity("q-0123", "q")) == ("of a reason" if version > 1 else "")
            assert s.identities.not_before == (1799999999.125 if version > 2 else 0)
            assert s.registry.id == "0123456789abcdef" or version == 1


async def test_a_file_that_cannot_be_taken_over_is_left_as_it_is(path: Path) -> None:
    old_file(path, 4, Wall.now, "t")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE registrations SET metadata = '{'")
    with pytest.raises(StartError, match="malformed JSON; choose another file with STATE_PATH"):
        async with kept(path):
            raise AssertionError
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (4,)
        assert connection.execute("SELECT runtime_id FROM identities").fetchall() == [("p-0123",)]


# How it is written


class HeldThread:
    """Holds the thread that writes, while the event loop goes on."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.commits = 0
        self._open = threading.Event()
        connection.set_trace_callback(self._statement)

    def open(self) -> None:
        self._open.set()

    def _statement(self, sql: str) -> None:
        assert self._open.wait(20)
        self.commits += sql == "COMMIT"


async def test_the_loop_goes_on_while_the_disk_is_slow_and_what_comes_meanwhile_is_one_commit(
    path: Path,
) -> None:
    saved: list[str] = []

    async def register(s: Kept) -> None:
        registration, _ = s.plugin()
        await s.save()
        saved.append(registration.id)

    async with kept(path) as s, trio.open_nursery() as nursery:
        gate = HeldThread(s.connection)
        nursery.start_soon(register, s)
        await wait_all_tasks_blocked()
        for _ in range(50):
            nursery.start_soon(register, s)
        await wait_all_tasks_blocked()
        assert saved == []
        gate.open()
    assert len(saved) == 51
    assert gate.commits == 2
    async with kept(path) as s:
        assert len(s.registry.providers("t")) == 51


async def test_who_leaves_before_the_answer_leaves_a_change_that_is_written(path: Path) -> None:
    async with kept(path) as s:
        registration, _ = s.plugin()
        with trio.move_on_after(0) as left:
            await s.save()
        assert left.cancelled_caught
    async with kept(path) as s:
        assert s.registry.providers("t")[0].id == registration.id


async def test_all_that_has_changed_is_written_before_a_cancelled_host_ends(path: Path) -> None:
    with trio.CancelScope() as end:
        async with kept(path) as s:
            gate = HeldThread(s.connection)
            first, _ = s.plugin()
            await wait_all_tasks_blocked()  # it is being written
            second, _ = s.plugin()
            end.cancel()
            gate.open()
            await trio.sleep_forever()
    async with kept(path) as s:
        assert [r.id for r in s.registry.providers("t")] == [first.id, second.id]


# A disk that cannot be written


def protect(connection: sqlite3.Connection) -> None:
    """Let nothing be written from now on."""
    connection.execute("PRAGMA query_only = ON")


def release(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only = OFF")


async def test_what_cannot_be_written_is_undone_in_the_opposite_order_and_told(path: Path) -> None:
    undone: list[int] = []
    told: list[str] = []

    async def change(s: Kept, number: int) -> None:
        s.plugin()
        with pytest.raises(ConnectError) as caught:
            await s.saved("", lambda: undone.append(number))
        assert caught.value.code == Code.UNAVAILABLE
        told.append(caught.value.message)

    async with kept(path) as s:
        protect(s.connection)
        gate = HeldThread(s.connection)
        async with trio.open_nursery() as nursery:
            for number in range(4):  # the first is being written, the others wait
                nursery.start_soon(change, s, number)
                await wait_all_tasks_blocked()
            gate.open()
        assert undone == [3, 2, 1, 0]
        assert told == ["the host cannot write its state; nothing has changed"] * 4


async def test_who_has_left_before_the_disk_failed_leaves_no_change_behind(path: Path) -> None:
    async with kept(path) as s:
        protect(s.connection)
        gate = HeldThread(s.connection)
        registration, _ = s.plugin()
        with trio.move_on_after(0):
            await s.saved("", lambda: s.registry.remove_plugin(registration.runtime_id))
        gate.open()
        with pytest.raises(ConnectError):
            await s.save()
        assert s.registry.service_types() == []


async def test_a_failure_is_logged_once_and_what_it_held_up_is_written_when_it_is_over(
    path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with kept(path) as s:
        gone, _ = s.plugin()
        stays, _ = s.plugin()
        await s.save()
        protect(s.connection)
        s.registry.remove_plugin(gone.runtime_id)
        s.identities.revoke(gone.runtime_id)
        for _ in range(3):
            with pytest.raises(ConnectError):
                await s.save()
        release(s.connection)
        gate = HeldThread(s.connection)
        gate.open()
        while not gate.commits:  # nobody waits for it
            await wait_all_tasks_blocked()
            mock_clock.jump(1)
        await s.save()
        crashed = copied(path)
    messages = [record.getMessage() for record in caplog.records if record.name == "cpg_trio.host"]
    assert messages == [
        f"cannot write the host's state to {path}, and tries on: attempt to write a readonly database",
        f"the host's state is written to {path} again",
    ]
    async with kept(crashed) as s:
        assert [r.id for r in s.registry.providers("t")] == [stays.id]


async def test_what_changes_while_nothing_can_be_written_is_written_then_however_much_it_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpg_trio.host.directory.writer._MAX_CHANGED", 20)
    monkeypatch.setattr("cpg_trio.host.directory.writer._MAX_AT_ONCE", 7)
    async with kept(path) as s:
        stays, gone = s.plugin("stays"), s.plugin("gone")
        await s.save()
        s.connection.execute("PRAGMA query_only = ON")
        for number in range(100):
            identity, _ = s.identities.issue(f"p-{number}")
            with pytest.raises(ConnectError):
                await s.saved("", partial(s.identities.forget, identity.runtime_id))
        assert s.journal._writer is not None
        assert len(s.journal._writer._changed) <= 20
        s.identities.forget(gone[0].runtime_id)
        s.registry.remove_plugin(gone[0].runtime_id)
        revoked, token = s.plugin("revoked")
        s.identities.revoke(revoked.runtime_id)
        others = [s.plugin("other") for _ in range(30)]
        s.connection.execute("PRAGMA query_only = OFF")
        await s.save()
        for number in range(5):
            s.plugin(f"later-{number}")
        await s.save()
        before = s.state()
    async with kept(path) as s:
        assert s.state() == before
        assert s.identities.entry(gone[0].runtime_id) is None
        assert s.identities.authenticate(revoked.runtime_id, token) is None
        for registration, its_token in (stays, *others):
            assert s.identities.authenticate(registration.runtime_id, its_token)


async def test_a_file_that_may_not_grow_is_a_disk_that_is_full(path: Path) -> None:
    async with kept(path) as s:
        s.connection.execute("PRAGMA max_page_count = 1")
        identity, _ = s.identities.issue("p")
        metadata = {f"k{index}": "x" * 4000 for index in range(10)}
        s.registry.register(identity.runtime_id, "t", "1.0.0", "/", metadata)
        with pytest.raises(ConnectError):
            await s.save()
        s.connection.execute("PRAGMA max_page_count = 100000")
        await s.save()
    async with kept(path) as s:
        assert s.registry.providers("t")[0].metadata == metadata


class Undoing:
    """A plugin that has registered a service, at a host whose disk fails after something has happened."""

    def __init__(self) -> None:
        self.identities, self.registry = Identities(KEYS), Registry()
        self.plugin, token = self.identities.issue("p")
        self.headers = {"X-Plugin-Runtime-ID": self.plugin.runtime_id, "Authorization": f"Bearer {token}"}
        self.registration = self.registry.register(self.plugin.runtime_id, "t", "1.0.0", "/old/", {})
        self.rules = Rules()
        self.happens: Callable[[Undoing], object] = lambda _: None

    async def fail(self, _: str, undo: Undo) -> None:
        self.happens(self)
        undo()
        raise ConnectError(Code.UNAVAILABLE, "")

    async def post(self, path: str, body: dict[str, Any]) -> int:
        no_sockets = Sockets(None, ControlClients(self.identities, self.registry, Pool()))
        policy = Policy(self.rules)
        access = AccessCheck(self.identities, policy=policy)
        permits = RegistrationPolicy(access, self.identities, self.registry, policy, Audit())
        self.permits, self.policy = permits, policy
        service = RegistryService(
            access,
            self.registry,
            WatchHub(self.registry),
            permits,
            EndpointValidator(BaseUrls.ANY),
            no_sockets,
            Audit(),
            self.fail,
            no_forwarding(),
        )
        transport = AsgiTransport(application([service]))
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
            return (await WireCaller(http).post(path, body, self.headers))[0]


def is_revoked(host: Undoing) -> None:
    host.identities.revoke(host.plugin.runtime_id)
    host.registry.remove_plugin(host.plugin.runtime_id)


def expires(host: Undoing) -> None:
    host.identities.forget(host.plugin.runtime_id)
    host.registry.remove_plugin(host.plugin.runtime_id)


def may_not_provide_it_any_more(host: Undoing) -> None:
    host.policy._rules = Rules(services={"t": ServiceRules(providers=["another"])})
    host.permits.enforce()


def cannot_be_told(host: Undoing) -> None:
    def failing(_plugin: Identity, _service_type: str, /) -> bool:
        raise RuntimeError("the policy is broken")

    host.policy.may_provide = failing  # type: ignore[method-assign]
    host.registry.remove_plugin(host.plugin.runtime_id)


@pytest.mark.parametrize("happens", [is_revoked, expires, may_not_provide_it_any_more, cannot_be_told])
@pytest.mark.parametrize("change", ["register", "unregister"])
async def test_what_a_plugin_may_not_have_any_more_is_not_put_back_by_an_undo(
    change: str, happens: Callable[[Undoing], object]
) -> None:
    host = Undoing()
    host.happens = happens
    if change == "register":
        body = {"serviceType": "t", "version": "2.0.0", "endpointPath": "/new/"}
        assert await host.post(REGISTER, body) == 503
    else:
        assert await host.post(UNREGISTER, {"registrationId": host.registration.id}) == 503
    assert host.registry.service_types() == []


async def test_a_registration_that_could_not_be_removed_is_there_as_before() -> None:
    host = Undoing()
    assert await host.post(UNREGISTER, {"registrationId": host.registration.id}) == 503
    assert host.registry.providers("t") == [host.registration]


# What is revoked


@asynccontextmanager
async def with_state(path: Path) -> AsyncIterator[tuple[Host, sqlite3.Connection]]:
    host = Host(HostConfig(keys=KEYS, store=SqliteStore(path)))
    async with host.application():
        yield host, connection_of(host._journal)


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_revocation_is_on_the_disk_when_it_returns(path: Path, is_known: bool) -> None:  # noqa: FBT001
    identity, token = Identities(KEYS).issue("p")
    async with with_state(path) as (host, connection):
        if is_known:
            assert host.identities.authenticate(identity.runtime_id, token)
        gate, returned = HeldThread(connection), trio.Event()

        async def revoke() -> None:
            await host.revoke_identity(identity.runtime_id)
            returned.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(revoke)
            await wait_all_tasks_blocked()
            assert host.identities.authenticate(identity.runtime_id, token) is None
            assert not returned.is_set()
            gate.open()
        crashed = copied(path)
    async with with_state(crashed) as (host, _):
        assert host.identities.authenticate(identity.runtime_id, token) is None
        assert host.identities.former(identity.runtime_id, token) is not None


async def test_a_revocation_that_cannot_be_written_holds_and_is_written_later(path: Path) -> None:
    async with with_state(path) as (host, connection):
        identity, token = host.identities.issue("p")
        protect(connection)
        with pytest.raises(ConnectError, match="has ended, but that is not in the store yet") as caught:
            await host.revoke_identity(identity.runtime_id)
        assert caught.value.code == Code.UNAVAILABLE
        assert host.identities.authenticate(identity.runtime_id, token) is None
        release(connection)
    async with with_state(path) as (host, _):
        assert host.identities.authenticate(identity.runtime_id, token) is None


async def test_who_waits_for_the_disk_while_the_host_ends_is_told(path: Path) -> None:
    returned: list[str] = []

    async def revoke(host: Host, runtime_id: str) -> None:
        await host.revoke_identity(runtime_id)
        returned.append(runtime_id)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, with_state(path) as (host, connection):
            gate = HeldThread(connection)
            for name in ("a", "b"):
                identity, _ = host.identities.issue(name)
                nursery.start_soon(revoke, host, identity.runtime_id)
                await wait_all_tasks_blocked()
            gate.open()
    assert len(returned) == 2


async def test_what_is_forbidden_while_it_is_written_is_not_acknowledged(path: Path) -> None:
    answers: list[int] = []
    policy = Policy()
    config = HostConfig(keys=KEYS, store=SqliteStore(path), policy=policy)
    async with running(config) as host, trio.open_nursery() as nursery:
        plugin, other = await host.plugin("p"), await host.plugin("q")
        gate = HeldThread(connection_of(host.host._journal))

        async def register() -> None:
            body = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/"}
            answers.append((await host.post(REGISTER, body, plugin))[0])

        nursery.start_soon(register)
        await wait_all_tasks_blocked()
        policy._rules = Rules(services={"t": ServiceRules(providers=["another"])})
        assert (await host.post(REPORT, {"state": 1}, other))[0] == 200
        gate.open()
    assert answers == [403]


@pytest.mark.parametrize("what", ["handshake", "registration"])
async def test_what_is_revoked_while_it_is_written_is_not_acknowledged(path: Path, what: str) -> None:
    answers: list[int] = []
    async with (
        running(HostConfig(keys=KEYS, store=SqliteStore(path))) as host,
        trio.open_nursery() as nursery,
    ):
        plugin = await host.plugin("p")
        gate = HeldThread(connection_of(host.host._journal))

        async def ask() -> None:
            if what == "handshake":
                body = {**COOKIE, **VERSIONS, "selfId": "late"}
                answers.append((await host.post(HANDSHAKE, body))[0])
            else:
                body = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/"}
                answers.append((await host.post(REGISTER, body, plugin))[0])

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        for runtime_id in list(host.host.identities._entries):
            host.host._lifetimes.end(runtime_id, "of a test")
        gate.open()
    assert answers == [503 if what == "handshake" else 401]


async def test_a_revocation_without_a_state_file_waits_for_nothing() -> None:
    host = Host()
    identity, token = host.identities.issue("p")
    await host.revoke_identity(identity.runtime_id)
    assert host.identities.authenticate(identity.runtime_id, token) is None
    await host.revoke_identity(identity.runtime_id)
    await host.revoke_identity("nobody-0")


@asynccontextmanager
async def hosted(path: Path, **environment: str) -> AsyncIterator[tuple[Running, WireCaller]]:
    """Run a host as a process that keeps its state in a file."""
    environment = {"PORT": "0", "STATE_PATH": str(path), **environment}
    async with (
        process("cpg_trio", "host", environment=environment) as part,
        httpx.AsyncClient(base_url=await part.url()) as http,
    ):
        yield part, WireCaller(http)


async def test_while_the_disk_is_full_a_host_refuses_changes_and_serves_on(path: Path) -> None:
    with trio.fail_after(110):
        async with hosted(path) as (part, host):
            provider = await host.plugin("p")
            registration = await host.register(provider, "t", version="1.0.0")
            again = {"serviceType": "t", "version": "2.0.0", "endpointPath": "/new/"}
            other = {"serviceType": "u", "version": "2.0.0", "endpointPath": "/new/"}
            changes: list[tuple[str, dict[str, Any], Headers]] = [
                (HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": "late"}, {}),
                (REGISTER, again, provider),
                (REGISTER, other, provider),
                (UNREGISTER, {"registrationId": registration}, provider),
            ]
            resource.prlimit(part.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            for change in changes * 2:
                assert await host.post(*change) == (503, REFUSED)
                status, answer = await host.post(DISCOVER, {"serviceType": "t"}, provider)
                assert (status, answer["endpoint"]["version"]) == (200, "1.0.0")
            assert (await host.post(DISCOVER, {"serviceType": "u"}, provider))[0] == 404
            not_ready = await host.http.get("/readyz")
            assert not_ready.status_code == 503
            assert not_ready.text.startswith("not ready: its state cannot be written: ")
            assert (await host.http.get("/healthz")).status_code == 200  # to be restarted would not help
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(part.process.pid, resource.RLIMIT_FSIZE, unlimited)
            for change in changes[-1:] + changes[:-1]:
                assert (await host.post(*change))[0] == 200
            assert (await host.http.get("/readyz")).status_code == 200
            await part.end(signal.SIGTERM)
            assert part.output.count("cannot write the host's state") == 1
            assert part.output.count("is written to") == 1
            assert_no_traceback(part.output)


REFUSED = {"code": "unavailable", "message": "the host cannot write its state; nothing has changed"}


# A host that is killed


@attrs.define
class Acknowledged:
    """What a host that is about to be killed has answered."""

    registered: dict[str, Headers] = attrs.field(factory=dict)
    """By the id of the registration, as whom it was registered."""
    unregistered: dict[str, Headers] = attrs.field(factory=dict)
    enough: trio.Event = attrs.field(factory=trio.Event)

    async def come_and_go(self, host: WireCaller, number: int) -> None:
        """Register and unregister until the host is no more."""
        with suppress(httpx.TransportError):
            for turn in itertools.count():
                plugin = await host.plugin(f"p{number}")
                for service_type in (f"t{number}", f"u{number}"):
                    self.registered[await host.register(plugin, service_type)] = plugin
                registration, _ = self.registered.popitem()  # may be gone, or not, until that is answered
                if (await host.post(UNREGISTER, {"registrationId": registration}, plugin))[0] == 200:
                    self.unregistered[registration] = plugin
                if turn == 2:
                    self.enough.set()


async def test_nothing_that_was_acknowledged_is_lost_when_a_host_is_killed(path: Path) -> None:
    known = Acknowledged()
    with trio.fail_after(120):
        many = hosted(path, RATE_LIMITS="handshake=off")  # from one address
        async with many as (part, host), trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(known.come_and_go, host, number)
            await known.enough.wait()
            await part.end(signal.SIGKILL)
        assert len(known.registered) >= 50
        async with hosted(path, LEASE_S="100") as (_, host):
            for registration, plugin in known.unregistered.items():
                assert (await host.post(UNREGISTER, {"registrationId": registration}, plugin))[0] == 404
            for registration, plugin in known.registered.items():
                assert (await host.post(UNREGISTER, {"registrationId": registration}, plugin))[0] == 200


# Files that cannot be had


def foreign_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE somebody (elses INTEGER)")


def later_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id = {0x63706774}")
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.mkdir(), "is a directory; choose"),
        (lambda path: path.write_text("a letter to my aunt" * 100), "file is not a database; choose"),
        (foreign_database, "it is not a state file; choose"),
        (later_version, "it is of a later release (version 99), and this one reads versions 1 to 5; choose"),
    ],
)
async def test_what_is_not_a_state_file_ends_the_start_and_is_left_as_it_is(
    path: Path, make: Callable[[Path], object], reason: str
) -> None:
    make(path)
    before = contents(path)
    with pytest.raises(StartError) as caught:
        async with Host(HostConfig(store=SqliteStore(path))).application():
            raise AssertionError
    assert str(caught.value) == (
        f"cannot keep the host's state in {path}: {reason} another file with STATE_PATH"
    )
    assert contents(path) == before


def contents(path: Path) -> dict[str, bytes]:
    """Return all that is in the folder of a path."""
    return {each.name: each.read_bytes() if each.is_file() else b"" for each in path.parent.iterdir()}


async def test_a_folder_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"in .*/no/host: no such file or directory; choose another file"):
        async with kept(tmp_path / "no" / "host"):
            raise AssertionError


def overwrite(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"x" * (len(content) - 4096))


def meddle(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE entries SET value = x'78' WHERE key GLOB 'plugins/*'")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            overwrite,
            "disk image is malformed; move it away, and plugins will register anew, or choose another",
        ),
        (meddle, " is not valid: Expecting value: line 1 column 1 (char 0)"),
    ],
)
async def test_a_damaged_file_ends_the_start_with_what_to_do(
    path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    async with kept(path) as s:
        s.plugin()
    damage(path)
    with pytest.raises(StartError) as caught:
        async with kept(path):
            raise AssertionError
    assert reason in str(caught.value)


async def test_an_empty_file_is_as_good_as_none(path: Path) -> None:
    await trio.Path(path).touch()
    async with kept(path) as s:
        s.plugin()
        await s.save()


async def test_a_file_that_another_host_uses_ends_the_start_and_harms_nobody(path: Path) -> None:
    in_use = "database is locked; stop the host that uses it, or choose another file with STATE_PATH"
    async with kept(path) as s:
        first, _ = s.plugin()
        await s.save()
        with pytest.raises(StartError) as caught:
            async with kept(path):
                raise AssertionError
        assert in_use in str(caught.value)
        async with process("cpg_trio", "host", environment={"PORT": "0", "STATE_PATH": str(path)}) as part:
            assert await part.end() == 1
            await part.until("\n")
            assert part.output == f"cannot keep the host's state in {path}: {in_use}\n"
        second, _ = s.plugin()
        await s.save()
    async with kept(path) as s:
        assert [r.id for r in s.registry.providers("t")] == [first.id, second.id]
