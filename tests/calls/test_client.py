"""The client of a service with several providers: what it sends again, until when, and what it leaves."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress

import attrs
import pytest
import trio
from google.protobuf.duration_pb2 import Duration

from cpg_trio.calls import BreakerState, CallCounts, CallPolicy, Concurrency, Retry
from cpg_trio.calls.budget import RetryBudget
from cpg_trio.calls.client import BalancedClient
from cpg_trio.calls.concurrency import InFlight
from cpg_trio.calls.group import Group
from cpg_trio.http import ConnectFailedError, ConnectionBrokenError
from cpg_trio.rpc import (
    CallError,
    CallTraits,
    Code,
    ConnectError,
    Duplex,
    Fault,
    HttpRequest,
    HttpResponse,
    WholeResponse,
)

IDEMPOTENT = CallTraits(idempotent=True)
CONNECT = "application/connect+proto"
MESSAGE, END = 0, 2
SEPARATOR = b"|"
# A budget for as many retries as a test makes: what a share of the calls allows has tests of its own.
FREE = Retry(budget=1.0)


def frame(content: bytes, flags: int = MESSAGE) -> bytes:
    return struct.pack(">BI", flags, len(content)) + content


def end(code: str = "") -> bytes:
    return frame(json.dumps({"error": {"code": code}} if code else {}).encode(), END)


OK = WholeResponse(200, [("content-type", "application/proto")], b"answer")


def error(code: str, status: int = 500, **fields: str) -> WholeResponse:
    headers = [("content-type", "application/json"), *((k.replace("_", "-"), v) for k, v in fields.items())]
    return WholeResponse(status, headers, json.dumps({"code": code, "message": "m"}).encode())


def undelivered(status: int = 502, fault: str = "provider", **fields: str) -> WholeResponse:
    marks = [("content-type", "text/plain"), ("x-plugin-undelivered", "true"), ("x-plugin-fault", fault)]
    return WholeResponse(status, [*marks, *((k.replace("_", "-"), v) for k, v in fields.items())], b"no")


def unsent() -> ConnectError:
    found = CallError(Code.UNAVAILABLE, "no answer: refused", fault=Fault.PROVIDER)
    found.__cause__ = ConnectFailedError("refused")
    return found


def broken() -> ConnectError:
    found = CallError(Code.UNAVAILABLE, "no answer: reset", fault=Fault.PROVIDER)
    found.__cause__ = ConnectionBrokenError("reset")
    return found


Step = WholeResponse | ConnectError | list[bytes] | float
"""What a provider does: answer, fail, stream chunks, or wait for some seconds and then do the next step."""


class Peer:
    """A provider that does what its script says, and the last step of it again and again."""

    def __init__(self, *script: Step) -> None:
        self.script = list(script)
        self.requests: list[HttpRequest] = []
        self.bodies: list[bytes] = []
        self.ran = 0
        self.open = 0

    async def step(self) -> WholeResponse | list[bytes]:
        await trio.lowlevel.checkpoint()
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, float):
            await trio.sleep(step)
            return await self.step()
        if isinstance(step, ConnectError):
            self.ran += isinstance(step.__cause__, ConnectionBrokenError)
            raise step
        if isinstance(step, list) or ("x-plugin-undelivered", "true") not in step.headers:
            self.ran += 1
        return step

    async def unary(self, request: HttpRequest, _max_bytes: int | None) -> WholeResponse:
        self.requests.append(request)
        found = await self.step()
        assert isinstance(found, WholeResponse)
        return found

    @asynccontextmanager
    async def stream(self, request: HttpRequest) -> AsyncIterator[HttpResponse]:
        self.requests.append(request)
        self.open += 1
        try:
            self.bodies.append(b"")
            if not isinstance(request.body, bytes):
                async for piece in request.body:
                    self.bodies[-1] += piece
            found = await self.step()
            if isinstance(found, list):
                found = WholeResponse(200, [("content-type", CONNECT)], SEPARATOR.join(found))
            async with aclosing(chunks(found.body.split(SEPARATOR))) as body:
                yield HttpResponse(found.status, found.headers, body)
        finally:
            self.open -= 1

    @asynccontextmanager
    async def duplex(self, request: HttpRequest) -> AsyncIterator[Duplex]:
        async with self.stream(request) as response:
            yield Answered(response)


@attrs.frozen
class Answered:
    found: HttpResponse

    async def response(self) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        return self.found


async def chunks(found: list[bytes]) -> AsyncGenerator[bytes, None]:
    for chunk in found:
        await trio.lowlevel.checkpoint()
        if chunk == b"break":
            raise broken()
        yield chunk


class Service:
    """A dependency, as far as its calls need one."""

    def __init__(self, policy: CallPolicy | None = None, **peers: Peer) -> None:
        self.policy = policy or CallPolicy(balance="first", retry=FREE)
        self.group: Group[Peer] = Group("echo", self.policy)
        self.in_flight = InFlight("echo", self.policy.concurrency)
        self.budget = RetryBudget(self.policy.retry.budget)
        self.counts = CallCounts()
        self.answered = self.failed = 0
        self._changed = trio.Event()
        self.update(**peers)
        self.client = BalancedClient(self, lambda peer: peer)

    def update(self, **peers: Peer) -> None:
        self.group.update(peers)
        self._changed.set()
        self._changed = trio.Event()

    def check_callable(self) -> None:
        if not self.group.members:
            raise ConnectError(Code.UNAVAILABLE, "no provider")

    def note_answered(self) -> None:
        self.answered += 1

    def note_failed(self) -> None:
        self.failed += 1

    async def wait_changed(self) -> None:
        await self._changed.wait()

    async def unary(self, traits: CallTraits = IDEMPOTENT, *headers: tuple[str, str]) -> WholeResponse:
        return await self.client.unary(HttpRequest("POST", "/e.E/E", [*headers], b"q", traits), None)

    async def stream(self, traits: CallTraits = IDEMPOTENT, body: Body = b"q") -> bytes:
        async with sending(body, traits) as request, self.client.stream(request) as response:
            return b"".join([chunk async for chunk in response.body])

    async def duplex(self, traits: CallTraits = IDEMPOTENT, body: Body = b"q") -> bytes:
        async with sending(body, traits) as request, self.client.duplex(request) as duplex:
            response = await duplex.response()
            return b"".join([chunk async for chunk in response.body])

    def check_whole(self) -> None:
        """Check that nothing is left of any call."""
        assert self.in_flight.in_flight == self.in_flight.waiting == 0
        assert [member.in_flight for member in self.group.members] == [0] * len(self.group.members)
        assert [member.provider.open for member in self.group.members] == [0] * len(self.group.members)
        for member in self.group.members:
            if member.breaker.state is BreakerState.HALF_OPEN:
                assert member.breaker.admits()


Body = bytes | Callable[[], AsyncGenerator[bytes, None]]


@asynccontextmanager
async def sending(body: Body, traits: CallTraits) -> AsyncIterator[HttpRequest]:
    """Have a request, whose body is closed in the end as a generated client does it."""
    if isinstance(body, bytes):
        yield HttpRequest("POST", "/e.E/E", [], body, traits)
        return
    async with aclosing(body()) as pieces:
        yield HttpRequest("POST", "/e.E/E", [], pieces, traits)


async def three() -> AsyncGenerator[bytes, None]:
    for piece in (b"1", b"2", b"3"):
        await trio.lowlevel.checkpoint()
        yield piece


# What is sent again


@pytest.mark.parametrize(
    "failure", [unsent(), undelivered(), undelivered(503, "host"), undelivered(404, "host")]
)
async def test_what_no_provider_has_seen_goes_to_another_whatever_its_method(
    failure: Step, autojump_clock: object
) -> None:
    bad, good = Peer(failure), Peer(OK)
    service = Service(CallPolicy(balance="first", retry=Retry(budget=0.0)), bad=bad, good=good)
    began = trio.current_time()
    assert (await service.unary(CallTraits())).body == b"answer"
    assert trio.current_time() == began
    assert (bad.ran, good.ran, service.counts.retries) == (0, 1, 1)
    service.check_whole()


FAILURES = [broken(), error("unavailable", 503), error("internal"), error("unknown"), error("data_loss")]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(
    ("traits", "runs"),
    [
        (CallTraits(), 0),
        (IDEMPOTENT, 1),
        (CallTraits(retry=True), 1),
        (CallTraits(idempotent=True, retry=False), 0),
        (CallTraits(retry=Retry(idempotent=True)), 1),
        (CallTraits(retry=Retry()), 0),
    ],
)
async def test_what_may_have_run_is_sent_again_only_if_it_may_run_twice(
    failure: Step, traits: CallTraits, runs: int, autojump_clock: object
) -> None:
    bad, good = Peer(failure), Peer(OK)
    service = Service(bad=bad, good=good)
    with suppress(ConnectError):
        assert ((await service.unary(traits)).status == 200) == bool(runs)
    assert (bad.ran, good.ran) == (1, runs)
    service.check_whole()


@pytest.mark.parametrize("code", ["not_found", "invalid_argument", "unimplemented", "permission_denied"])
async def test_an_answer_of_the_method_is_not_asked_for_again(code: str) -> None:
    service = Service(one=Peer(error(code, 404)), two=Peer(OK))
    assert (await service.unary()).status == 404
    assert (service.counts.retries, service.answered, service.failed) == (0, 1, 0)


async def test_without_a_retry_a_call_is_sent_once_even_if_nobody_has_seen_it() -> None:
    service = Service(one=Peer(undelivered()), two=Peer(OK))
    assert (await service.unary(CallTraits(retry=False))).status == 502
    assert service.failed == 1


async def test_attempts_are_bounded_and_the_last_failure_is_told(autojump_clock: object) -> None:
    peer = Peer(error("internal"))
    service = Service(CallPolicy(retry=Retry(attempts=4, budget=1.0)), one=peer)
    assert (await service.unary()).status == 500
    assert peer.ran == 4 or not service.group.available
    assert service.failed == 1


async def test_an_empty_budget_ends_a_call_that_may_have_run(autojump_clock: object) -> None:
    peer = Peer(error("internal"))
    service = Service(CallPolicy(retry=Retry(budget=0.0)), one=peer)
    assert (await service.unary()).status == 500
    assert peer.ran == 1


# Until when


async def test_what_no_provider_has_seen_is_tried_until_shortly_before_the_deadline(
    autojump_clock: object,
) -> None:
    peer = Peer(undelivered())
    service = Service(one=peer)
    began = trio.current_time()
    with trio.fail_after(5):
        assert (await service.unary(CallTraits())).status == 502
    assert 2.9 < trio.current_time() - began < 5
    assert 4 < len(peer.requests) < 200


async def test_a_call_without_a_deadline_ends_as_well(autojump_clock: object) -> None:
    service = Service(one=Peer(undelivered()))
    assert (await service.unary(CallTraits())).status == 502
    assert trio.current_time() < 60


async def test_another_provider_is_called_as_soon_as_it_is_there(autojump_clock: object) -> None:
    good = Peer(OK)
    service = Service(one=Peer(undelivered()))
    began = trio.current_time()

    async def join() -> None:
        await trio.sleep(3)
        service.update(two=good)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(join)
        with trio.fail_after(8):
            assert (await service.unary(CallTraits())).status == 200
    assert trio.current_time() - began == pytest.approx(3, abs=0.3)


async def test_the_time_that_is_left_is_told_in_each_attempt(autojump_clock: object) -> None:
    bad, good = Peer(2.0, undelivered()), Peer(OK)
    service = Service(bad=bad, good=good)
    with trio.fail_after(5):
        await service.unary(IDEMPOTENT, ("connect-timeout-ms", "5000"))
    told = [dict(peer.requests[0].headers)["connect-timeout-ms"] for peer in (bad, good)]
    assert told == ["5000", "3000"]


def retry_info(seconds: float) -> WholeResponse:
    delay = Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9)).SerializeToString()
    value = b64encode(bytes([10, len(delay)]) + delay).decode().rstrip("=")
    body = {"code": "unavailable", "details": [{"type": "google.rpc.RetryInfo", "value": value}]}
    return WholeResponse(503, [("content-type", "application/json")], json.dumps(body).encode())


@pytest.mark.parametrize(
    "failure",
    [
        error("unavailable", 503, retry_after="2"),
        undelivered(429, "caller", retry_after="2"),
        retry_info(2.0),
    ],
)
@pytest.mark.parametrize(("deadline_s", "status"), [(9, 200), (1, None)])
async def test_a_wait_that_is_asked_for_is_obeyed_and_never_beyond_the_deadline(
    failure: WholeResponse, deadline_s: float, status: int | None, autojump_clock: object
) -> None:
    service = Service(one=Peer(failure, OK))
    began = trio.current_time()
    with trio.fail_after(deadline_s):
        assert (await service.unary()).status == (status or failure.status)
    took_s = trio.current_time() - began
    assert took_s >= 2 if status else took_s == 0


@pytest.mark.parametrize(("traits", "answered"), [(IDEMPOTENT, 5), (CallTraits(), 4)])
async def test_a_provider_without_room_is_avoided_for_as_long_as_it_asks(
    traits: CallTraits, answered: int, autojump_clock: object
) -> None:
    full, other = Peer(error("resource_exhausted", 429, retry_after="30")), Peer(OK)
    service = Service(full=full, other=other)
    for _ in range(5):
        await service.unary(traits)
    assert (full.ran, other.ran) == (1, answered)
    assert all(member.failures == 0 for member in service.group.members)


# Whose failure it is


@pytest.mark.parametrize(
    ("failure", "counts"),
    [
        (undelivered(502, "provider"), True),
        (undelivered(503, "host"), False),
        (undelivered(429, "caller"), False),
        (unsent(), True),
        (error("internal"), True),
        (error("not_found", 404), False),
    ],
)
async def test_only_a_providers_own_failure_counts_against_it(failure: Step, *, counts: bool) -> None:
    service = Service(one=Peer(failure))
    with suppress(ConnectError):
        await service.unary(CallTraits(retry=False))
    (member,) = service.group.members
    assert member.failures == counts


@pytest.mark.parametrize(("wait_s", "counts"), [(3.0, False), (9.98, True)])
async def test_a_deadline_that_a_provider_tells_counts_like_silence(
    wait_s: float, *, counts: bool, autojump_clock: object
) -> None:
    service = Service(one=Peer(wait_s, error("deadline_exceeded", 504)))
    assert (await service.unary()).status == 504
    (member,) = service.group.members
    assert member.failures == counts


async def test_no_provider_is_avoided_for_years(autojump_clock: object) -> None:
    full = Peer(error("resource_exhausted", 429, retry_after="999999999"), OK)
    service = Service(full=full, other=Peer(OK))
    await service.unary()
    await trio.sleep(61)
    await service.unary()
    assert full.ran == 2


@pytest.mark.parametrize(("wait_s", "counts"), [(9.9, False), (10.0, True)])
async def test_silence_counts_against_a_provider_that_had_the_usual_time(
    wait_s: float, *, counts: bool, autojump_clock: object
) -> None:
    service = Service(one=Peer(1000.0, OK))
    with trio.move_on_after(wait_s):
        await service.unary()
    (member,) = service.group.members
    assert member.failures == counts
    service.check_whole()


# Streams

STREAM = [frame(b"a"), frame(b"b"), end()]
BOTH = pytest.mark.parametrize("kind", ["stream", "duplex"])
NOT_BEGUN = [
    broken(),
    unsent(),
    error("unavailable", 503),
    [end("unavailable")],
    [end("internal")],
    [b"break"],
    [frame(b"cut off")[:-2], b"break"],
    undelivered(),
]


@BOTH
@pytest.mark.parametrize("body", [b"q", three], ids=["one", "streamed"])
@pytest.mark.parametrize("failure", NOT_BEGUN)
async def test_a_stream_that_has_not_begun_is_tried_again(
    kind: str, body: Body, failure: Step, autojump_clock: object
) -> None:
    bad, good = Peer(failure), Peer(STREAM)
    service = Service(bad=bad, good=good)
    with trio.fail_after(9):
        assert await getattr(service, kind)(IDEMPOTENT, body) == b"".join(STREAM)
    assert good.ran == 1
    assert body == b"q" or good.bodies == [b"123"]
    service.check_whole()


@BOTH
@pytest.mark.parametrize("rest", [b"break", end("unavailable")])
async def test_a_stream_that_has_begun_is_not_tried_again(kind: str, rest: bytes) -> None:
    bad, good = Peer([frame(b"a"), rest]), Peer(STREAM)
    service = Service(bad=bad, good=good)
    with suppress(ConnectError):
        await getattr(service, kind)()
    assert (bad.ran, good.ran) == (1, 0)
    assert [member.failures for member in service.group.members] == [1, 0]
    service.check_whole()


@BOTH
async def test_a_stream_that_may_not_run_twice_is_sent_once(kind: str) -> None:
    bad, good = Peer([end("internal")]), Peer(STREAM)
    service = Service(bad=bad, good=good)
    assert await getattr(service, kind)(CallTraits()) == end("internal")
    assert (bad.ran, good.ran) == (1, 0)


@BOTH
async def test_a_request_that_is_too_long_to_be_kept_is_not_replayed(kind: str) -> None:
    async def long() -> AsyncGenerator[bytes, None]:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            yield b"x" * 2**15

    bad, good = Peer([end("internal")]), Peer(STREAM)
    service = Service(bad=bad, good=good)
    assert await getattr(service, kind)(IDEMPOTENT, long) == end("internal")
    assert good.ran == 0
    service.check_whole()


@BOTH
async def test_an_abandoned_stream_leaves_nothing_behind(kind: str) -> None:
    service = Service(one=Peer(STREAM))
    request = HttpRequest("POST", "/e.E/E", [], b"q")
    if kind == "stream":
        async with service.client.stream(request) as response:
            assert await anext(response.body)
    else:
        async with service.client.duplex(request):
            pass
    service.check_whole()
    assert [member.failures for member in service.group.members] == [0]


async def test_the_first_message_lifts_the_time_of_a_stream(autojump_clock: object) -> None:
    lifted: list[float] = []
    request = HttpRequest("POST", "/", [], b"q", IDEMPOTENT, lambda: lifted.append(trio.current_time()))
    service = Service(one=Peer(3.0, STREAM))
    began = trio.current_time()
    async with service.client.duplex(request):
        await trio.sleep(9)
    assert lifted == [began + 3]


# Bounds


async def test_a_call_has_a_place_for_all_its_attempts(autojump_clock: object) -> None:
    policy = CallPolicy(concurrency=Concurrency(max_in_flight=1, max_waiting=0), retry=FREE)
    service = Service(policy, one=Peer(5.0, OK))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.unary)
        await trio.sleep(1)
        with pytest.raises(CallError) as caught:
            await service.unary()
    assert (caught.value.code, caught.value.fault) == (Code.RESOURCE_EXHAUSTED, Fault.CALLER)
    service.check_whole()


async def test_a_service_without_providers_fails_at_once_and_leaves_no_place_taken() -> None:
    service = Service()
    for kind in (service.unary, service.stream, service.duplex):
        with pytest.raises(ConnectError, match="no provider"):
            await kind()
    assert service.failed == 3
    service.check_whole()


class Stop(trio.abc.Instrument):
    """Cancels a scope when a task has run for the n-th time."""

    def __init__(self, scope: trio.CancelScope, after: float) -> None:
        self.scope = scope
        self.left = after

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


@pytest.mark.parametrize("kind", ["unary", "stream", "duplex"])
@pytest.mark.parametrize(
    "failure", [broken(), undelivered(), error("internal"), None], ids=["broken", "unseen", "failed", "none"]
)
async def test_a_cancellation_at_each_step_leaves_nothing_behind(
    kind: str, failure: Step | None, autojump_clock: object
) -> None:
    for after in range(1, 200):
        good: Step = OK if kind == "unary" else STREAM
        script = [good] if failure is None else [failure, good]
        policy = CallPolicy(concurrency=Concurrency(max_in_flight=1), retry=FREE)
        service = Service(policy, one=Peer(*script), two=Peer(*script))
        with trio.CancelScope() as scope:
            stop = Stop(scope, after)
            trio.lowlevel.add_instrument(stop)
            try:
                if kind == "unary":
                    await service.unary()
                else:
                    await getattr(service, kind)(IDEMPOTENT, three)
            finally:
                trio.lowlevel.remove_instrument(stop)
        service.check_whole()
        if stop.left > 0:
            break
    assert 1 < after < 199
