"""What a host tells a provider of who calls: signed for it, for one method and a short time."""

from __future__ import annotations

import attrs
import pytest

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.assertions import Assertion, Purpose, path_claim, read
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.directory.registry import Health, Registry
from cpg_trio.host.routing import admission as admission_module
from cpg_trio.host.routing.admission import Admission


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
        self.admission = Admission(self.identities, self.registry, wall_clock=self.clock)

    @property
    def digest(self) -> bytes:
        entry = self.identities.entry(self.provider.runtime_id)
        assert entry is not None
        return entry.digest

    def told(self, caller: Identity, method: str = "Get") -> dict[str, str]:
        """Have a caller's call let through; return what its provider is told."""
        path = f"/services/storage/{self.provider.runtime_id}/{method}".encode()
        proof = f"Bearer {self.callers[caller]}".encode()
        route = self.admission.admit(path, b"q=1", caller.runtime_id.encode(), proof, Peer("127.0.0.1"))
        return {name.decode(): value.decode() for name, value in route.identifying}

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
    monkeypatch.setattr(admission_module, "_MOST_TARGET_BYTES", 100_000)
    s = Setting()
    (api, _) = s.callers
    kept = s.admission._targets
    for number in range(100):
        s.told(api, f"m{number % 10}")
        (*_, target) = kept.values()
        s.admission._identifying(attrs.evolve(api, runtime_id=f"api-{number}"), target)
        statements = sum(len(target.statements) for target in kept.values())
        assert statements * admission_module._STATEMENT_BYTES <= kept.kept_bytes <= 100_000
    assert statements > 10


async def test_nothing_of_a_token_is_in_what_a_statement_shows_of_itself() -> None:
    s = Setting()
    (api, _) = s.callers
    s.told(api)
    (target,) = s.admission._targets.values()
    assert str(s.digest) not in repr(target)


async def test_what_plugins_report_does_not_have_the_router_forget_where_paths_lead() -> None:
    s = Setting()
    (api, _) = s.callers
    first = s.told(api)
    (target,) = s.admission._targets.values()
    for number in range(10):
        s.registry.report_health(s.provider.runtime_id, Health(pb.HEALTH_STATE_HEALTHY, f"{number}"))
        s.registry.report_health("another", Health(pb.HEALTH_STATE_UNHEALTHY, f"{number}"))
    assert s.told(api) == first
    assert list(s.admission._targets.values()) == [target]
    s.registry.register("another", "other", "1.0.0", "/", {})
    s.told(api)
    assert target not in s.admission._targets.values()
