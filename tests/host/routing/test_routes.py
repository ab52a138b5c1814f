"""Routes, and the statements about callers: signed for one provider and one method, for a short time."""

from __future__ import annotations

import attrs
import pytest

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.assertions import Assertion, Purpose, path_claim, read
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.directory.registry import Health, Registry
from cpg_trio.host.routing import routes as routes_module
from cpg_trio.host.routing.routes import Route, Routes, ServicePath


@attrs.define
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Setting:
    """A registry with one provider, two callers, and a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.identities = Identities(wall_clock=self.clock, clock=self.clock)
        self.registry = Registry()
        self.provider, self.token = self.identities.issue("storage")
        self.registry.register(
            self.provider.runtime_id, "storage", "1.0.0", "/s.v1.S/", {"base_url": "http://127.0.0.1:1"}
        )
        self.callers = dict(self.identities.issue(name) for name in ("api", "other"))
        self.routes = Routes(self.identities, self.registry, self.clock)

    @property
    def digest(self) -> bytes:
        entry = self.identities.entry(self.provider.runtime_id)
        assert entry is not None
        return entry.digest

    def told(self, caller: Identity, method: str = "Get") -> dict[str, str]:
        """Return what a provider is told of a call."""
        statement = self.routes.statement(caller, self.route(method))
        assert statement.lines == b"".join(b"%b: %b\r\n" % field for field in statement.fields)
        return {name.decode(): value.decode() for name, value in statement.fields}

    def route(self, method: str = "Get") -> Route:
        """Return the route of a method, kept or found."""
        path = f"/services/storage/{self.provider.runtime_id}/{method}".encode()
        return self.routes.get(path) or self.routes.find(path, ServicePath.parse(path), "api")

    def read(self, told: dict[str, str]) -> Assertion:
        shown = told[wire.CALLER_HEADER.lower()]
        return read(shown, [self.digest], Purpose.CALLER, self.provider.runtime_id, self.clock())


async def test_a_provider_is_told_who_calls_which_method() -> None:
    s = Setting()
    for caller in s.callers:
        told = s.told(caller)
        said = s.read(told)
        assert told[wire.CALLER_ID_HEADER.lower()] == caller.runtime_id
        assert (said.subject, said.name) == (caller.runtime_id, caller.self_id)
        assert (said.audience, said.path) == (s.provider.runtime_id, "/s.v1.S/Get")
        assert s.clock() < said.expires_at <= s.clock() + 60


async def test_a_statement_is_made_once_and_anew_well_before_it_expires() -> None:
    s = Setting()
    api, other = s.callers
    first = s.told(api)
    assert s.told(api) == first
    assert s.told(other) != first
    assert s.told(api, "Store") != first
    ends = s.read(first).expires_at
    seen = {tuple(first.items())}
    while s.clock() < ends + 120:
        s.clock.now += 10
        told = s.told(api)
        seen.add(tuple(told.items()))
        assert s.read(told).expires_at >= s.clock() + 30
    assert len(seen) < 10


async def test_when_the_hosts_clock_is_set_what_was_signed_before_is_not_shown_any_more() -> None:
    s = Setting()
    api, _ = s.callers
    for step in (-24 * 60 * 60.0, 24 * 60 * 60.0, -10.0):
        s.told(api)
        s.clock.now += step
        assert s.clock() < s.read(s.told(api)).expires_at <= s.clock() + 60


async def test_when_a_provider_shows_another_token_what_it_is_told_is_signed_with_that() -> None:
    s = Setting()
    (api, _) = s.callers
    first = s.told(api)
    token = s.identities.renew(s.provider)
    assert s.told(api) == first  # it may not have it yet
    assert s.identities.authenticate(s.provider.runtime_id, token)
    assert s.told(api) != first
    assert s.read(s.told(api)).subject == api.runtime_id


async def test_a_very_long_path_does_not_make_a_very_long_statement() -> None:
    s = Setting()
    (api, _) = s.callers
    method = "x" * 50_000
    told = s.told(api, method)
    assert len(told[wire.CALLER_HEADER.lower()]) < 1000
    assert s.read(told).path == path_claim(f"/s.v1.S/{method}".encode()) != s.read(s.told(api)).path


async def test_what_statements_take_is_bounded_over_all_callers_and_methods(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(routes_module, "_MOST_ROUTE_BYTES", 100_000)
    s = Setting()
    (api, _) = s.callers
    kept = s.routes._kept
    for number in range(100):
        s.told(api, f"m{number % 10}")
        (*_, route) = kept.values()
        s.routes.statement(attrs.evolve(api, runtime_id=f"api-{number}"), route)
        statements = sum(len(route.statements) for route in kept.values())
        assert statements * routes_module._STATEMENT_BYTES <= kept.kept_bytes <= 100_000
    assert statements > 10


async def test_nothing_of_a_token_is_in_what_a_statement_shows_of_itself() -> None:
    s = Setting()
    (api, _) = s.callers
    s.told(api)
    assert str(s.digest) not in repr(s.route())


async def test_a_route_is_kept_for_as_long_as_the_registration_that_it_was_found_by() -> None:
    s = Setting()
    (api, _) = s.callers
    first, route = s.told(api), s.route()
    for number in range(10):
        s.registry.report_health(s.provider.runtime_id, Health(pb.HEALTH_STATE_HEALTHY, f"{number}"))
        s.registry.report_health("another", Health(pb.HEALTH_STATE_UNHEALTHY, f"{number}"))
    s.registry.register("another", "storage", "1.0.0", "/", {})
    assert s.told(api) == first
    assert s.route() is route
    assert s.routes.leads(route)
    s.registry.register(s.provider.runtime_id, "storage", "1.0.0", "/", {"base_url": "http://127.0.0.1:2"})
    assert not s.routes.leads(route)
    assert s.route().origin.port == 2
