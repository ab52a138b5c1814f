"""Routes, and the statements about callers: signed for one provider and one method, for a short time."""

from __future__ import annotations

import attrs
import pytest

from cpg_trio import HealthState, wire
from cpg_trio.assertions import Assertion, Purpose, path_claim, verify
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.access.refusal import RefusedError
from cpg_trio.host.directory.registration import Health
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.routing import routes as routes_module
from cpg_trio.host.routing.routes import Route, Routes, ServicePath
from tests.host.routed import Recorder, routing, text
from tests.test_paths import TRAVERSALS

# Paths


@pytest.mark.parametrize(
    "path", ["/services/", "/services/echo", "/services/echo/id", "/services//id/M", "/services/echo//M"]
)
async def test_a_path_without_type_provider_and_method_is_400(path: str) -> None:
    async with routing() as s:
        assert text(await s.call(s.head(path=path))) == (
            400,
            "invalid service path format, expected /services/{type}/{provider-id}/{method}\n",
        )


async def test_a_path_that_some_reader_takes_out_of_its_service_is_400() -> None:
    recorder = Recorder()
    async with routing(recorder) as s:
        paths = [s.path(method) for method in TRAVERSALS]
        for path in [*paths, f"/services/..%2fecho/{s.provider}/M", "/services/echo/../M"]:
            assert (await s.call(s.head(path=path))).status == 400, path
    assert recorder.seen == []


async def test_an_unknown_provider_is_404() -> None:
    async with routing() as s:
        assert text(await s.call(s.head(path="/services/echo/echo-zzzz/M"))) == (
            404,
            "provider not found: echo-zzzz\n",
        )


async def test_a_provider_of_another_type_is_404() -> None:
    async with routing() as s:
        assert text(await s.call(s.head(path=f"/services/whatever/{s.provider}/M"))) == (
            404,
            f"provider not found: {s.provider}\n",
        )


async def test_an_unhealthy_provider_is_503_and_a_degraded_one_is_called() -> None:
    async with routing() as s:
        s.host.registry.report_health(s.provider, Health(HealthState.UNHEALTHY))
        assert text(await s.call(s.head())) == (503, "service unavailable (provider unhealthy)\n")
        s.host.registry.report_health(s.provider, Health(HealthState.DEGRADED))
        assert (await s.call(s.head())).status == 200


async def test_a_provider_without_a_base_url_is_404() -> None:
    async with routing() as s:
        s.host.registry.register(s.provider, "echo", "1.0.0", "/", {})
        assert text(await s.call(s.head())) == (404, f"provider endpoint not registered: {s.provider}\n")


@pytest.mark.parametrize("base_url", ["no url", "ftp://h/", "http://", "http://h:99999", "http://u:p@h"])
async def test_a_base_url_that_is_none_is_500(base_url: str) -> None:
    async with routing() as s:
        s.host.registry.register(s.provider, "echo", "1.0.0", "/", {"base_url": base_url})
        assert text(await s.call(s.head())) == (500, "failed to create proxy request\n")


@pytest.mark.parametrize(
    ("endpoint_path", "base_path", "asked", "target"),
    [
        ("/echo.v1.Echo/", "", "M", "/echo.v1.Echo/M"),
        ("/echo.v1.Echo/", "", "M?a=1&b=%20x%2F", "/echo.v1.Echo/M?a=1&b=%20x%2F"),
        ("/echo.v1.Echo/", "", "", "/echo.v1.Echo/"),
        ("/echo.v1.Echo/", "", "a/b/c", "/echo.v1.Echo/a/b/c"),
        ("/echo.v1.Echo/", "", "a/b/", "/echo.v1.Echo/a/b/"),
        ("/echo.v1.Echo/", "", "...;a/.b/c..d/..e", "/echo.v1.Echo/...;a/.b/c..d/..e"),
        ("/echo.v1.Echo/", "/base/", "M", "/base/echo.v1.Echo/M"),
        ("/echo.v1.Echo", "", "M", "/echo.v1.Echo/M"),
        ("/", "", "M", "/M"),
        # what a generated client asks for
        ("/echo.v1.Echo/", "", "echo.v1.Echo/M", "/echo.v1.Echo/M"),
        ("/", "", "echo.v1.Echo/M", "/echo.v1.Echo/M"),
        # nothing is decoded on the way
        ("/p/", "", "http:%2F%2Fa.example%2Fb", "/p/http:%2F%2Fa.example%2Fb"),
        ("/p/", "", "a%2Fb%20c%3Fd", "/p/a%2Fb%20c%3Fd"),
        ("/p/", "", "%23x%25zz%C3%A9", "/p/%23x%25zz%C3%A9"),
        ("/p/", "", 'a"b<c>|~', '/p/a"b<c>|~'),
        ("/p/", "", "M?x='\"<>|{}%zz?&", "/p/M?x='\"<>|{}%zz?&"),
        ("/p/", "", "M?", "/p/M?"),
        ("/p/", "", "M??", "/p/M??"),
        ("/p q#?/", "", "M", "/p%20q%23%3F/M"),
    ],
)
async def test_path_and_query_reach_the_provider_byte_for_byte(
    endpoint_path: str, base_path: str, asked: str, target: str
) -> None:
    recorder = Recorder()
    async with routing(recorder, endpoint_path=endpoint_path, base_path=base_path) as s:
        assert (await s.call(s.head(path=s.path(asked)))).status == 200
    assert recorder.line == f"POST {target} HTTP/1.1".encode()


async def test_several_services_of_a_plugin_are_not_mixed_up() -> None:
    recorder = Recorder()
    async with routing(recorder) as s:
        base_url = s.host.registry.provider("echo", s.provider)
        assert base_url
        for service_type in ("p", "q"):
            s.host.registry.register(
                s.provider, service_type, "1.0.0", f"/{service_type}/", base_url.metadata
            )
        for index in range(40):
            service_type = "pq"[index % 2]
            await s.call(s.head(path=f"/services/{service_type}/{s.provider}/M"))
    assert [seen.split(b" ")[1].decode() for seen in recorder.seen] == ["/p/M", "/q/M"] * 20


async def test_the_address_that_was_checked_is_the_one_that_is_called() -> None:
    recorder = Recorder()
    async with routing(recorder) as s:
        current = s.host.registry.provider("echo", s.provider)
        assert current
        base_url = current.base_url.replace("127.0.0.1", "rebound.invalid")
        s.host.registry.register(
            s.provider, "echo", "1.0.0", "/", {"base_url": base_url}, addresses=("127.0.0.1",)
        )
        assert (await s.call(s.head())).status == 200
    assert dict(recorder.headers)[b"host"].startswith(b"rebound.invalid:")


# Statements


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
        return dict(line.split(": ") for line in statement.lines.decode().splitlines())

    def route(self, method: str = "Get") -> Route:
        """Return the route of a method, kept or found."""
        path = f"/services/storage/{self.provider.runtime_id}/{method}".encode()
        return self.routes.get(path) or self.routes.find(path, ServicePath.parse(path), "api")

    def read(self, told: dict[str, str]) -> Assertion:
        shown = told[wire.CALLER_HEADER.lower()]
        return verify(shown, [self.digest], Purpose.CALLER, self.provider.runtime_id, self.clock())


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
        s.registry.report_health(s.provider.runtime_id, Health(HealthState.HEALTHY, f"{number}"))
        s.registry.report_health("another", Health(HealthState.UNHEALTHY, f"{number}"))
    s.registry.register("another", "storage", "1.0.0", "/", {})
    assert s.told(api) == first
    assert s.route() is route
    s.registry.register(s.provider.runtime_id, "storage", "1.0.0", "/", {"base_url": "http://127.0.0.1:2"})
    assert s.route().origin.port == 2


async def test_the_route_of_a_very_long_path_is_not_kept() -> None:
    s = Setting()
    assert s.route("x" * 600) is not s.route("x" * 600)
    assert s.route("x" * 100) is s.route("x" * 100)


@pytest.mark.parametrize("path", [f"{'t' * 129}/p/M", f"t/{'p' * 146}/M"])
def test_a_path_with_a_name_that_nobody_has_is_malformed(path: str) -> None:
    with pytest.raises(RefusedError, match="invalid service path format"):
        ServicePath.parse(f"/services/{path}".encode())
