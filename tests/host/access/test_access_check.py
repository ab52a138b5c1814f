"""The one access check: who calls, and what the caller may, as every edge of a host asks it."""

from __future__ import annotations

from functools import partial

import pytest

from cpg_trio.host.access.access_check import AccessCheck
from cpg_trio.host.access.audit import Action, Audit, AuditEvent
from cpg_trio.host.access.enrolment import Enrolment
from cpg_trio.host.access.identity import Identities, Identity
from cpg_trio.host.access.keys import Keys
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.access.policy import PluginRules, Policy, Rules
from cpg_trio.host.access.rate_limiting import Kind, Rate, RateLimiter, RateLimits
from cpg_trio.host.access.refusal import RefusedError
from cpg_trio.rpc import Code

PEER = Peer("192.0.2.7")
CERTIFIED = Peer("192.0.2.7", ("p.example",))
UNIX = Peer()
ENROLMENT_TOKEN = "e" * 16


class Setting:
    """An access check, and a plugin `p`, which may call `t` and nothing else."""

    def __init__(
        self, *, policy: Policy | None = None, rates: RateLimits | None = None, enrolled: bool = False
    ) -> None:
        self.events: list[AuditEvent] = []
        audit = Audit()
        audit.subscribe(self.events.append)
        self.identities = Identities(Keys(["k" * 32]), clock=lambda: 0.0)
        self.access = AccessCheck(
            self.identities,
            enrolment=Enrolment({"p": ENROLMENT_TOKEN}) if enrolled else None,
            policy=policy,
            audit=audit,
            limiter=RateLimiter(rates or RateLimits(), lambda: 0.0),
        )
        self.plugin, token = self.identities.issue("p", requires=("t",), address=PEER.address)
        self.runtime_id, self.authorization = self.plugin.runtime_id, f"Bearer {token}"

    def authenticate(self, peer: Peer = PEER) -> Identity:
        return self.access.authenticate(self.runtime_id, self.authorization, peer)

    def route(self, service_type: str = "t", peer: Peer = PEER) -> Identity:
        return self.access.admit_routed(self.runtime_id, self.authorization, peer, service_type)

    def told(self) -> list[tuple[Action, bool]]:
        """Return what the audit trail has been told since the last time."""
        told = [(event.action, event.allowed) for event in self.events]
        self.events.clear()
        return told


# Credentials and identity


@pytest.mark.parametrize(
    ("runtime_id", "authorization", "code", "message"),
    [
        ("", "Bearer x", Code.INVALID_ARGUMENT, "X-Plugin-Runtime-ID header required"),
        ("p-1", "", Code.UNAUTHENTICATED, "Authorization: Bearer <token> required"),
        ("p-1", "bearer x", Code.UNAUTHENTICATED, "Authorization: Bearer <token> required"),
        ("p-1", "Bearer x", Code.UNAUTHENTICATED, "invalid token"),
    ],
)
def test_a_call_that_proves_nothing_is_401_and_told_why_on_every_way(
    runtime_id: str, authorization: str, code: Code, message: str
) -> None:
    s = Setting()
    credentials = (runtime_id, authorization, PEER)
    for call in (
        partial(s.access.admit, *credentials, Kind.DISCOVER),
        partial(s.access.admit_routed, *credentials, "t"),
    ):
        with pytest.raises(RefusedError) as refused:
            call()
        assert (refused.value.code, refused.value.message) == (code, message)
        assert (refused.value.status, refused.value.plain) == (401, message)
        (event,) = s.events
        assert (event.subject, event.reason, event.address) == (runtime_id, message, PEER.address)
        assert s.told() == [(Action.AUTHENTICATE, False)]


def test_a_caller_whose_identity_has_ended_is_told_so_in_rpcs() -> None:
    s = Setting()
    s.identities.revoke(s.runtime_id, "it misbehaves")
    with pytest.raises(RefusedError, match="has ended \\(it misbehaves\\): shake hands again") as refused:
        s.authenticate()
    assert (refused.value.status, refused.value.plain) == (401, "invalid token")


def test_an_identity_that_ends_is_no_longer_valid_after_a_wait() -> None:
    s = Setting()
    s.access.check_still_valid(s.authenticate())
    assert s.access.is_valid(s.runtime_id)
    s.identities.revoke(s.runtime_id, "it misbehaves")
    assert not s.access.is_valid(s.runtime_id)
    with pytest.raises(RefusedError, match="it misbehaves"):
        s.access.check_still_valid(s.plugin)


# Rates


def test_a_call_that_proves_nothing_takes_nothing_from_one_that_does_and_costs_few_events() -> None:
    s = Setting(rates=RateLimits(failed_authentication=Rate(0.1, 2), discover=Rate(0.1, 1)))
    refusals = []
    for _ in range(4):
        with pytest.raises(RefusedError) as refused:
            s.access.admit(s.runtime_id, "Bearer x", PEER, Kind.DISCOVER)
        refusals.append((refused.value.status, refused.value.retry_after_s))
    assert refusals == [(401, 0), (401, 0), (429, 10), (429, 10)]
    assert s.told() == [(Action.AUTHENTICATE, False)] * 2
    s.access.admit(s.runtime_id, s.authorization, PEER, Kind.DISCOVER)
    with pytest.raises(RefusedError) as refused:
        s.access.admit(s.runtime_id, s.authorization, PEER, Kind.DISCOVER)
    assert refused.value.message == "rate limit exceeded for discover: try again in 10 s"
    assert refused.value.plain == "Rate limit exceeded"


def test_a_routed_call_is_counted_before_the_policy_is_asked() -> None:
    s = Setting(rates=RateLimits(router=Rate(0.1, 2)))
    statuses = []
    for service_type in ("other", "other", "t"):
        with pytest.raises(RefusedError) as refused:
            s.route(service_type)
        statuses.append(refused.value.status)
    assert statuses == [403, 403, 429]


def test_a_routed_call_that_was_permitted_before_is_counted_too() -> None:
    s = Setting(rates=RateLimits(router=Rate(0.1, 2)))
    s.route()
    s.route()
    with pytest.raises(RefusedError, match="rate limit exceeded for router"):
        s.route()


def test_a_plugin_hears_of_the_end_of_its_identity_whatever_others_do_at_its_address() -> None:
    s = Setting(rates=RateLimits(failed_authentication=Rate(0.1, 1)))
    for status in (401, 429):
        with pytest.raises(RefusedError) as refused:
            s.access.authenticate("q-1", "Bearer x", PEER)
        assert refused.value.status == status
    s.identities.revoke(s.runtime_id, "it misbehaves")
    with pytest.raises(RefusedError, match="it misbehaves"):
        s.authenticate()


# Certificates


def test_a_token_on_a_connection_with_another_plugins_certificate_proves_nothing_on_any_way() -> None:
    s = Setting()
    stolen = Peer(PEER.address, ("q.example",))
    grant = s.identities.issue("p")[0]
    for call in (
        lambda: s.authenticate(stolen),
        lambda: s.route(peer=stolen),
        lambda: s.access.admit_granted(grant, stolen, "logger"),
    ):
        with pytest.raises(RefusedError, match="its certificate is not that of p") as refused:
            call()
        assert (refused.value.code, refused.value.status) == (Code.UNAUTHENTICATED, 401)
    assert s.access.identify(s.runtime_id, s.authorization, stolen) is None
    assert s.access.identify(s.runtime_id, s.authorization, CERTIFIED) == s.plugin


def test_what_was_permitted_with_one_certificate_is_not_permitted_with_another() -> None:
    policy = Policy(Rules(plugins={"p": PluginRules(certificate="p.example")}))
    s = Setting(policy=policy)
    s.route(peer=UNIX)
    s.route(peer=CERTIFIED)
    for peer in (PEER, Peer(PEER.address, ("q.example",))):
        with pytest.raises(RefusedError, match="its certificate is not that of p"):
            s.route(peer=peer)


# Policy


def test_a_routed_call_that_is_permitted_is_one_event_however_often_it_comes() -> None:
    s = Setting()
    for _ in range(3):
        assert s.route() == s.plugin
    assert s.told() == [(Action.CALL, True)]


def test_a_routed_call_that_is_denied_is_an_event_each_time_and_ends_no_other_permission() -> None:
    s = Setting()
    s.route()
    for _ in range(2):
        with pytest.raises(RefusedError) as refused:
            s.route("other")
        assert refused.value.plain == f"permission denied: {s.runtime_id} may not call other"
    s.route()
    assert s.told() == [(Action.CALL, True), (Action.CALL, False), (Action.CALL, False)]


def test_new_rules_hold_for_the_next_routed_call() -> None:
    policy = Policy()
    s = Setting(policy=policy)
    s.route()
    policy._rules = Rules(plugins={"p": PluginRules(calls=[])})
    with pytest.raises(RefusedError, match="may not call t"):
        s.route()


class Changing(Policy):
    """A policy of one's own, which changes its mind without a change of rules."""

    permits = True

    def may_call(self, _plugin: Identity, _service_type: str, /) -> bool:
        return self.permits


class CertificatesOfItsOwn(Policy):
    """A policy that decides about certificates in another way."""

    why = ""

    def why_not_certified(self, _peer: Peer, _self_id: str, /) -> str:
        return self.why


def test_a_policy_of_ones_own_is_asked_for_each_routed_call() -> None:
    policy = Changing()
    s = Setting(policy=policy)
    for permits in (True, False, True):
        policy.permits = permits
        if permits:
            s.route()
        else:
            with pytest.raises(RefusedError, match="may not call t"):
                s.route()
    assert s.told() == [(Action.CALL, True), (Action.CALL, False), (Action.CALL, True)]
    certificates = CertificatesOfItsOwn()
    s = Setting(policy=certificates)
    s.route()
    certificates.why = "it was withdrawn"
    with pytest.raises(RefusedError, match="it was withdrawn"):
        s.route()


class Broken(Policy):
    """A policy of one's own that fails at whatever it is asked."""

    def _fail(self, *_: object) -> bool:
        raise RuntimeError("out of order")

    may_call = may_call_directly = may_use = may_provide = _fail


async def test_a_policy_that_fails_permits_nothing_and_says_so_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    s = Setting(policy=Broken())
    for call in (
        s.route,
        lambda: s.access.check_may_call(s.plugin, "t", Action.DISCOVER),
        lambda: s.access.check_may_call_directly(s.plugin, "t", Action.GRANT),
        lambda: s.access.check_may_use(s.plugin, "logger", Action.GRANT),
        lambda: s.access.check_may_provide(s.plugin, "t", []),
    ):
        with pytest.raises(RefusedError, match="failed to find out whether the call is permitted") as refused:
            call()
        assert (refused.value.code, refused.value.status) == (Code.INTERNAL, 500)
    assert s.told() == []
    assert [line for line in caplog.messages if "the policy failed" in line]


def test_a_service_that_others_provide_is_refused_with_the_time_to_try_again() -> None:
    s = Setting()
    s.access.check_may_provide(s.plugin, "t", ["p"])
    with pytest.raises(RefusedError, match="t is provided by a, b, and no policy says that p may") as refused:
        s.access.check_may_provide(s.plugin, "t", ["b", "p", "a", "b"])
    assert (refused.value.code, refused.value.retry_after_s) == (Code.PERMISSION_DENIED, 1)
    assert s.told() == [(Action.REGISTER, False)]


# Handshakes


def test_a_handshake_counts_for_the_identity_or_the_name_that_it_proves_or_else_for_its_address() -> None:
    s = Setting(rates=RateLimits(handshake=Rate(0.1, 1)), enrolled=True)

    def shake(self_id: str, enrolment_token: str = "", *, proves: bool = False) -> Identity | None:
        credentials = (s.runtime_id, s.authorization) if proves else ("", "")
        return s.access.count_handshake(self_id, *credentials, enrolment_token, PEER)

    assert shake("p") is None  # for the address
    with pytest.raises(RefusedError):
        shake("q")
    assert shake("p", ENROLMENT_TOKEN) is None  # for the name
    assert shake("p", proves=True) == s.plugin  # for the identity
    with pytest.raises(RefusedError, match="rate limit exceeded for handshake"):
        shake("p", proves=True)


def test_a_name_that_nothing_proves_is_no_key_of_a_rate() -> None:
    s = Setting(rates=RateLimits(handshake=Rate(0.1, 1)))
    s.access.count_handshake("q", "", "", "", PEER)
    with pytest.raises(RefusedError, match="rate limit exceeded for handshake"):
        s.access.count_handshake("r", "", "", "", PEER)
    s.access.count_handshake("p", "", "", "", CERTIFIED)  # its certificate proves it


def test_a_handshake_that_proves_another_plugin_proves_nothing() -> None:
    s = Setting()
    assert s.access.count_handshake("q", s.runtime_id, s.authorization, "", PEER) is None


def test_a_plugin_without_its_enrolment_token_is_not_let_in() -> None:
    s = Setting(enrolled=True)
    s.access.check_enrolled(Action.HANDSHAKE, "p", ENROLMENT_TOKEN, PEER)
    with pytest.raises(RefusedError, match="p is not let in: the enrolment token is wrong") as refused:
        s.access.check_enrolled(Action.HANDSHAKE, "p", "x", PEER)
    assert refused.value.code == Code.PERMISSION_DENIED
    assert s.told() == [(Action.HANDSHAKE, False)]
