"""The lines that the log has of routed calls."""

from __future__ import annotations

import re
from io import StringIO

import pytest

from cpg_trio.call_context import CallContext
from cpg_trio.call_record import Call, CallKind, Calls
from cpg_trio.host.routing.call_log import CallLog, go_duration
from cpg_trio.logs import configure_logging, flush
from tests.host.routed import Recorder, routing


async def test_each_call_is_logged_at_its_start_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cpg_trio.router")
    async with routing() as s:
        await s.call(s.head(path=s.path("echo.v1.Echo/Say?secret=1")))
    start, end = (r.getMessage() for r in caplog.records if r.name == "cpg_trio.router")
    assert start == f"[ROUTER] {s.caller} → {s.provider} /Say (service: echo)"
    assert re.fullmatch(rf"\[ROUTER\] {s.caller} → {s.provider} /Say 200 \(duration: [0-9.]+(µs|ms|s)\)", end)


async def test_a_failed_call_is_logged_without_its_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cpg_trio.router")
    async with routing(Recorder(b"garbage\r\n\r\n")) as s:
        await s.call(s.head(path=s.path("M?secret=1")))
    end = [r.getMessage() for r in caplog.records if r.name == "cpg_trio.router"][-1]
    assert re.fullmatch(rf"\[ROUTER\] {s.caller} → {s.provider} /M FAILED: .+ \(duration: .+\)", end)
    assert "secret" not in caplog.text


async def test_refusals_of_strangers_are_logged_and_cannot_forge_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "cpg_trio.router")
    async with routing() as s:
        no_id = s.head().replace(b"X-Plugin-Runtime-ID", b"X-Other")
        for request in (
            s.head(path="/services/echo"),
            no_id,
            s.head().replace(b"Authorization: Bearer", b"Authorization: Basic"),
            s.head().replace(s.token.encode(), b"bad"),
            s.head().replace(s.caller.encode(), b"\x85\x9bforged"),
        ):
            await s.call(request)
    assert [r.getMessage() for r in caplog.records if r.name == "cpg_trio.router"] == [
        "[ROUTER] Invalid path: /services/echo (parts: 1)",
        f"[ROUTER] Missing X-Plugin-Runtime-ID header for {s.path()}",
        f"[ROUTER] Missing/invalid Authorization header for {s.path()} (caller: {s.caller})",
        f"[ROUTER] Invalid token for caller: {s.caller}",
        r"[ROUTER] Invalid token for caller: \x85\x9bforged",
    ]
    assert s.token not in caplog.text
    assert all(record.getMessage().isprintable() for record in caplog.records)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0004295, "429.5µs"),
        (0.000001, "1µs"),
        (0.0012, "1.2ms"),
        (0.25, "250ms"),
        (2.0, "2s"),
        (61.234, "61.23s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, written: str) -> None:
    assert go_duration(seconds) == written


def logged(share: float, *calls: Call) -> list[str]:
    """Return the request ids of the lines that the log has of calls, which begin and then end."""
    events, stream = Calls(), StringIO()
    configure_logging(stream=stream)
    log = CallLog(events, share)
    for call in calls:
        events.begun.tell(call)
        events.end(call)
    flush()
    del log
    return re.findall(r" id=(\S+)\n", stream.getvalue())


def made(request_id: str, status: int = 200, code: str = "ok") -> Call:
    call = Call(CallKind.ROUTED, "a", "b", "echo", "Say", context=CallContext(request_id))
    call.succeed(status, code)
    return call


def test_the_lines_of_a_call_end_with_its_request_id() -> None:
    assert logged(1, made("one"), made("two")) == ["one", "one", "two", "two"]


def test_both_lines_of_a_share_of_the_calls_are_logged() -> None:
    names = [f"r-{index}" for index in range(4000)]
    found = logged(0.1, *map(made, names))
    assert found == [name for name in names if name in set(found) for _ in range(2)]
    assert 300 < len(set(found)) < 500
    assert set(found) == set(logged(0.1, *map(made, reversed(names))))
    assert set(found) < set(logged(0.3, *map(made, names)))


def test_a_call_that_fails_is_logged_though_others_are_not() -> None:
    broken = made("broken")
    broken.failure = "it broke"
    refused, lacking = made("refused", 403, "permission_denied"), made("lacking", 200, "not_found")
    assert logged(0, made("fine"), broken, refused, lacking) == ["broken", "refused", "lacking"]
