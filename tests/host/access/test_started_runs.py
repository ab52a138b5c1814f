"""Runs that a host has started, when they come for their identities: who is which, and who is none."""

from __future__ import annotations

import attrs

from cpg_trio.host import Host
from cpg_trio.host.access import Identity, StartedRuns

TOKEN = "the token of this run"


@attrs.define(eq=False)
class Started:
    """A run."""

    self_id: str = "logger"
    is_settled: bool = False
    runtime_id: str = ""
    described: str = "the plugin logger"
    refusals: list[str] = attrs.field(factory=list)

    def bound(self, identity: Identity) -> None:
        self.runtime_id = identity.runtime_id

    def refused(self, why: str) -> None:
        self.refusals.append(why)


def identity(number: int) -> Identity:
    return Identity(f"logger-{number}", "logger")


def test_a_run_is_known_by_its_token_and_each_time_again() -> None:
    runs, run = StartedRuns(), Started(is_settled=True)
    with runs.expected(run, TOKEN):
        assert not runs.why_not("logger", TOKEN)
        for number in (1, 2):
            runs.bind(identity(number), TOKEN)
            assert runs.run_of(f"logger-{number}") is run
        assert runs.run_of("logger-1") is None, "it has one identity"
    assert not runs.proves("logger", TOKEN), "its token is good for as long as it lasts"


def test_nobody_else_gets_a_name_that_is_reserved() -> None:
    runs = StartedRuns()
    with runs.reserved("logger"), runs.expected(Started(), TOKEN):
        assert "an enrolment token is needed" in runs.why_not("logger", "")
        assert "this enrolment token is not one" in runs.why_not("logger", "another")
        assert not runs.why_not("storage", "")
    assert not runs.why_not("logger", "")


async def test_a_token_of_before_does_not_bring_an_identity_of_a_reserved_name_back() -> None:
    host = Host()
    identity, token = host.identities.issue("logger")
    host.identities.forget(identity.runtime_id)  # it was idle
    with host._started.reserved("logger"):
        assert host.identities.authenticate(identity.runtime_id, token) is None
    assert host.identities.authenticate(identity.runtime_id, token) == identity


def test_a_run_that_calls_itself_by_another_name_is_told_what_to_write() -> None:
    runs, run = StartedRuns(), Started()
    with runs.expected(run, TOKEN):
        assert 'write id = "other"' in runs.why_not("other", TOKEN)
        assert 'write id = "other"' in run.refusals[0]


def test_who_comes_by_a_name_is_a_run_that_has_no_identity_yet() -> None:
    runs, first, second = StartedRuns(), Started(), Started()
    with runs.expected(first, None), runs.expected(second, None):
        for number in (1, 2, 3):
            runs.bind(identity(number), "")
        assert (first.runtime_id, second.runtime_id) == ("logger-1", "logger-2")
        assert runs.run_of("logger-3") is None


def test_a_run_that_comes_by_its_name_may_come_again_until_it_has_registered() -> None:
    runs, run = StartedRuns(), Started()
    with runs.expected(run, None):
        for number in (1, 2):  # the first answer was lost on the way
            runs.bind(identity(number), "")
        assert run.runtime_id == "logger-2"


def test_a_stranger_of_its_name_does_not_take_the_place_of_a_run_that_has_registered() -> None:
    runs, run = StartedRuns(), Started()
    with runs.expected(run, None):
        runs.bind(identity(1), "")
        run.is_settled = True
        runs.bind(identity(2), "")
        assert run.runtime_id == "logger-1"
        assert runs.run_of("logger-2") is None
